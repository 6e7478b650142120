/* A non-maskable interrupt from outside reaches the handler of the trap table while events are masked, and the guest goes on. */
#include "guest.h"

static volatile int nmis;

__asm__(".globl nmi_entry\n"
        "nmi_entry:\n"
        "    pop %rcx; pop %r11\n"
        "    push %rax; push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %r10; push %r11\n"
        "    call on_nmi\n"
        "    pop %r11; pop %r10; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi; pop %rax\n"
        "    push $0; push %rcx; push %r11; push %rax\n"
        "    mov $23, %eax; syscall\n");
extern void nmi_entry(void);

__attribute__((used)) void on_nmi(void)
{
    nmis++;
}

int main(start_info_t *info)
{
    static trap_info_t traps[2] = { { .vector = 2, .flags = 4, .cs = FLAT_KERNEL_CS } };
    static struct sched_poll forever; /* for no port; and it leaves events masked */
    unsigned long turns = 0;

    (void)info;
    traps[0].address = (unsigned long)nmi_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    print("ready\n");
    while (nmis < 1)
        turns++;
    print("one\n");
    check(turns > 0, turns);
    check(hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &forever, 0) == 0, 0);
    check(nmis == 2, nmis);
    return SUCCESS;
}
