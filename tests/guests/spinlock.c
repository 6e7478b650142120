/* Two vCPUs count together: no update is lost under a spinlock, nor by a locked instruction. Then one sends the other an event, and
   the other goes down and comes up again where it went down. */
#include "guest.h"

#define VCPUS 2
#define EACH 500000ul

static volatile unsigned long counted, locked, stage;
static volatile int lock;
static char shared_va[4096] __attribute__((aligned(4096)));
static char stack[16384] __attribute__((aligned(16)));
static struct vcpu_guest_context second;
static evtchn_port_t ipi;

static void count(void)
{
    for (unsigned long i = 0; i < EACH; i++) {
        while (__atomic_exchange_n(&lock, 1, __ATOMIC_ACQUIRE))
            __asm__ volatile("pause");
        counted++;
        __atomic_store_n(&lock, 0, __ATOMIC_RELEASE);
        __atomic_fetch_add(&locked, 1, __ATOMIC_SEQ_CST);
    }
}

/* Runs on vCPU 1: its upcalls are masked, so a block ends when an event comes, and nothing else happens. */
static void on_second(void)
{
    struct sched_poll poll = { .nr_ports = 1 };

    poll.ports.p = &ipi;
    count();
    stage = 1;
    while (!(((volatile shared_info_t *)shared_va)->evtchn_pending[0] & 1ul << ipi))
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &poll, 0);
    stage = 2;
    hypercall(__HYPERVISOR_vcpu_op, VCPUOP_down, 1, 0);
    stage = 3;
    for (;;)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0);
}

static int await(unsigned long wanted)
{
    for (int i = 0; stage != wanted && i < 10000; i++)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0);
    return stage == wanted;
}

int main(start_info_t *info)
{
    unsigned long *p2m = (unsigned long *)info->mfn_list;
    struct evtchn_bind_ipi bind = { .vcpu = 1 };
    struct evtchn_send send;
    struct vcpu_runstate_info states;

    check(hypercall(__HYPERVISOR_update_va_mapping, shared_va, info->shared_info | 7, UVMF_INVLPG) == 0, 0);
    check(hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_ipi, &bind, 0) == 0, 0);
    ipi = send.port = bind.port;
    second.user_regs.rip = (unsigned long)on_second;
    second.user_regs.rsp = (unsigned long)stack + sizeof(stack) - 8;
    second.user_regs.cs = FLAT_KERNEL_CS;
    second.user_regs.ss = second.kernel_ss = FLAT_KERNEL_SS;
    second.kernel_sp = second.user_regs.rsp;
    second.flags = VGCF_in_kernel;
    second.ctrlreg[3] = p2m[info->pt_base >> 12] << 12;

    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_up, 1, 0) == -22, 0); /* EINVAL: it has no registers yet */
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_initialise, VCPUS, &second) == -2, 0); /* ENOENT */
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_initialise, 1, &second) == 0, 0);
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_initialise, 1, &second) == -17, 0); /* EEXIST */
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_is_up, 1, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_up, 1, 0) == 0, 0);
    count();
    check(await(1), stage);
    check(counted == VCPUS * EACH, counted);
    check(locked == VCPUS * EACH, locked);

    check(hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &send, 0) == 0, 0);
    check(await(2), stage);
    while (hypercall(__HYPERVISOR_vcpu_op, VCPUOP_is_up, 1, 0))
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0);
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_get_runstate_info, 1, &states) == 0, 0);
    check(states.state == RUNSTATE_offline, states.state);
    check(stage == 2, stage);
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_up, 1, 0) == 0, 0);
    check(await(3), stage);
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_down, 1, 0) == 0, 0);
    return SUCCESS;
}
