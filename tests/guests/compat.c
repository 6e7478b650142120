/* A 32-bit guest: its kernel in ring 1, user space in ring 3 with INT 0x80, page faults, events and page tables of 8-byte entries. */
#include "guest.h"

#ifndef __i386__
#error "of 32 bits alone"
#endif

#define USER 4ull
#define DELAY 20000000ull

static shared_info_t *shared;
static char shared_va[4096] __attribute__((aligned(4096)));
static volatile uint64_t page[512] __attribute__((aligned(4096)));
static char user_page[4096] __attribute__((aligned(4096)));
static volatile unsigned int faults, fault_code, fault_cs, upcalls, calls, call_cs, call_ss;
static uint64_t entry;

__asm__(".globl fault_entry\n"
        "fault_entry:\n" /* error code, eip, cs, eflags */
        "    popl fault_code\n"
        "    pusha; movl 36(%esp), %eax; movl %eax, fault_cs; call on_fault; popa\n"
        "    pushl %eax; movl $23, %eax; int $0x82\n"
        ".globl call_entry\n"
        "call_entry:\n" /* eip, cs, eflags, esp, ss */
        "    movl 4(%esp), %ebx; movl %ebx, call_cs; movl 16(%esp), %ebx; movl %ebx, call_ss; incl calls\n"
        "    cmpl $2, %eax; je 1f\n"
        "    addl $100, %eax\n"
        "    pushl %eax; movl $23, %eax; int $0x82\n"
        "1:  movl kernel_esp, %esp; popl %ebp; popl %edi; popl %esi; popl %ebx; ret\n"
        ".globl to_user\n"
        "to_user:\n" /* (eip, esp): comes back when user space calls with eax 2 */
        "    movl 4(%esp), %ecx; movl 8(%esp), %edx\n"
        "    pushl %ebx; pushl %esi; pushl %edi; pushl %ebp; movl %esp, kernel_esp\n"
        "    pushl $0xe033; pushl %edx; pushl $2; pushl $0xe02b; pushl %ecx; pushl $0\n"
        "    movl $23, %eax; int $0x82\n"
        ".globl user_code, user_end\n"
        "user_code:\n"
        "    movl $7, %eax; int $0x80\n" /* 107 */
        "    subl $105, %eax; int $0x80\n"
        "user_end:\n"
        "    .comm kernel_esp, 4, 4\n");
extern void fault_entry(void), call_entry(void), upcall_entry(void), to_user(const void *eip, void *esp);
extern const char user_code[], user_end[];

__attribute__((used)) void on_fault(void)
{
    faults++;
    if (shared->vcpu_info[0].arch.cr2 == (unsigned long)page + 5)
        hypercall5(__HYPERVISOR_update_va_mapping, (long)page, (long)entry, (long)(entry >> 32), UVMF_INVLPG, 0);
}

void on_event(void)
{
    upcalls++;
    shared->vcpu_info[0].evtchn_upcall_pending = 0;
}

static long map(const void *va, uint64_t value)
{
    return hypercall5(__HYPERVISOR_update_va_mapping, (long)va, (long)value, (long)(value >> 32), UVMF_INVLPG, 0);
}

/* The tables lie from pt_base on, read-only: the L3 of four, then the L2s; each is mapped at its virtual address. */
static volatile uint64_t *l1_entry(start_info_t *info, unsigned long va)
{
    uint64_t *table = (uint64_t *)info->pt_base, found = table[va >> 30];
    const uint32_t *m2p = (const uint32_t *)MACH2PHYS_VIRT_START;
    table = (uint64_t *)(m2p[found >> 12] << 12);
    found = table[va >> 21 & 511];
    return (uint64_t *)(m2p[(found & 0xffffffffff000ull) >> 12] << 12) + (va >> 12 & 511);
}

/* lock cmpxchg8b: whether `*at` was `old`, and is `new` now. */
static int exchanged(volatile uint64_t *at, uint64_t old, uint64_t new)
{
    unsigned char done;
    __asm__ volatile("lock cmpxchg8b %1; setz %0"
                     : "=q"(done), "+m"(*at), "+A"(old)
                     : "b"((uint32_t)new), "c"((uint32_t)(new >> 32))
                     : "memory");
    return done;
}

static int faults_and_tables(start_info_t *info)
{
    volatile uint64_t *at = l1_entry(info, (unsigned long)page);

    entry = *at;
    check((entry & 7) == 3, entry); /* no user bit is forced on it */
    ((volatile char *)page)[5] = 0x11;
    check(map((void *)page, 0) == 0, 0);
    check(((volatile char *)page)[5] == 0x11, 0);
    check(faults == 1 && fault_code == 0 && (fault_cs & 0xffff) == FLAT_RING1_CS, fault_code);
    check(hypercall(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables, 0) == 0, 0);
    *(volatile uint32_t *)at = (uint32_t)entry & ~2u;
    check(!(*at & 2), *at);
    *(volatile uint32_t *)at = (uint32_t)entry;
    check(!exchanged(at, entry ^ 1ull << 40, 0) && exchanged(at, *at, entry | 1ull << 9), 0);
    check(*at & 1ull << 9, *at);
    page[0] = 0x55;
    check(page[0] == 0x55, page[0]);
    check(map((void *)l1_entry(info, (unsigned long)at), *l1_entry(info, (unsigned long)at) | 2) != 0, 0);
    check(*(const uint32_t *)(0xf5800000 + 4 * (uint32_t)(entry >> 12 & 0xffffff)) == (unsigned long)page >> 12, 0);
    return SUCCESS;
}

static int user_space(start_info_t *info)
{
    static char stack[4096] __attribute__((aligned(4096)));
    static trap_info_t traps[2] = { { .vector = 0x80, .flags = 3, .cs = FLAT_KERNEL_CS } };
    static char kernel_stack[1024] __attribute__((aligned(16)));

    traps[0].address = (unsigned long)call_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, kernel_stack + sizeof(kernel_stack), 0) == 0, 0);
    for (unsigned int i = 0; user_code + i < user_end; i++)
        user_page[i] = user_code[i];
    check(map(user_page, *l1_entry(info, (unsigned long)user_page) | USER) == 0, 0);
    check(map(stack, *l1_entry(info, (unsigned long)stack) | USER) == 0, 0);
    to_user(user_page, stack + sizeof(stack));
    check(calls == 2, calls);
    check((call_cs & 0xffff) == FLAT_RING3_CS && call_ss == FLAT_RING3_SS, call_cs);
    return SUCCESS;
}

static int events(void)
{
    struct evtchn_bind_virq bind = { .virq = VIRQ_TIMER };
    struct callback_register callback = { .type = CALLBACKTYPE_event,
                                          .address = { FLAT_KERNEL_CS, (unsigned long)upcall_entry } };
    struct vcpu_time_info *time = &shared->vcpu_info[0].time;
    multicall_entry_t calls[] = {
        { .op = __HYPERVISOR_set_timer_op },
        { .op = __HYPERVISOR_set_debugreg, .args = { 1, 0x1230 } },
        { .op = __HYPERVISOR_get_debugreg, .args = { 1 } },
        { .op = __HYPERVISOR_set_segment_base, .args = { 0, 0 } },
    };
    unsigned int low, high;
    uint64_t end;

    check(hypercall(__HYPERVISOR_callback_op, CALLBACKOP_register, &callback, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_virq, &bind, 0) == 0, 0);
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    end = time->system_time + (((uint64_t)high << 32 | low) - time->tsc_timestamp) + DELAY;
    calls[0].args[0] = (unsigned long)end;
    calls[0].args[1] = (unsigned long)(end >> 32);
    check(hypercall(__HYPERVISOR_multicall, calls, 4, 0) == 0, 0);
    check(calls[0].result == 0 && calls[2].result == 0x1230, calls[2].result);
    check((long)calls[3].result == -38, calls[3].result);
    while (!(((volatile shared_info_t *)shared)->evtchn_pending[bind.port / 32] & 1ul << bind.port % 32)) {
        check(hypercall(__HYPERVISOR_sched_op, SCHEDOP_block, 0, 0) == 0, 0);
        check(upcalls && upcalls < 20, upcalls);
    }
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    check(time->system_time + (((uint64_t)high << 32 | low) - time->tsc_timestamp) >= end, 0);
    return SUCCESS;
}

int main(start_info_t *info)
{
    static trap_info_t traps[2] = { { .vector = 14, .cs = FLAT_KERNEL_CS } };
    char magic[] = "xen-3.0-x86_32p";
    int failed;

    for (unsigned int i = 0; i < sizeof(magic); i++)
        check(info->magic[i] == magic[i], i);
    traps[0].address = (unsigned long)fault_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    check(map(shared_va, info->shared_info | 3) == 0, 0);
    shared = (shared_info_t *)shared_va;
    failed = faults_and_tables(info);
    failed = failed ? failed : user_space(info);
    return failed ? failed : events();
}
