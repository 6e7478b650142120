/* A blocked vCPU sleeps until an event, and its timer's comes when its time has come; each wake-up makes an upcall. */
#include "guest.h"

#define DELAY 50000000ul

static volatile unsigned int upcalls;
static shared_info_t *shared;

extern void upcall_entry(void);

void on_event(void)
{
    upcalls++;
    shared->vcpu_info[0].evtchn_upcall_pending = 0;
}

static unsigned long system_time(void)
{
    struct vcpu_time_info *time = &shared->vcpu_info[0].time;
    unsigned int low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    unsigned long ticks = ((unsigned long)high << 32 | low) - time->tsc_timestamp;
    ticks = time->tsc_shift >= 0 ? ticks << time->tsc_shift : ticks >> -time->tsc_shift;
    return time->system_time + (unsigned long)((unsigned __int128)ticks * time->tsc_to_system_mul >> 32);
}

static char shared_va[4096] __attribute__((aligned(4096)));

int main(start_info_t *info)
{
    struct evtchn_bind_virq bind = { .virq = VIRQ_TIMER };
    struct callback_register callback = { .type = CALLBACKTYPE_event, .address = (unsigned long)upcall_entry };
    struct vcpu_set_singleshot_timer timer = { 0 };
    unsigned long start, end;

    check(hypercall(__HYPERVISOR_update_va_mapping, shared_va, info->shared_info | 7, UVMF_INVLPG) == 0, 0);
    shared = (shared_info_t *)shared_va;
    check(hypercall(__HYPERVISOR_callback_op, CALLBACKOP_register, &callback, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_virq, &bind, 0) == 0, 0);
    start = system_time();
    timer.timeout_abs_ns = start + DELAY;
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, &timer) == 0, 0);
    while (!(((volatile shared_info_t *)shared)->evtchn_pending[0] & 1ul << bind.port)) {
        unsigned int before = upcalls;
        check(hypercall(__HYPERVISOR_sched_op, SCHEDOP_block, 0, 0) == 0, 0);
        check(upcalls != before, upcalls);
        check(upcalls < 20, upcalls);
    }
    end = system_time();
    check(end - start >= DELAY, end - start);
    return SUCCESS;
}
