/* A page fault of the kernel reaches the handler it registered, with cr2, and the access succeeds once the page is there. */
#include "guest.h"

static char page[4096] __attribute__((aligned(4096)));
static unsigned long entry;
static volatile int faults;
static shared_info_t *shared;
static char shared_va[4096] __attribute__((aligned(4096)));

__asm__(".globl fault_entry\n"
        "fault_entry:\n"
        "    pop %rcx; pop %r11; add $8, %rsp\n" /* the error code is of no interest */
        "    push %rax; push %rdi; push %rsi; push %rdx; push %rcx; push %r8; push %r9; push %r10; push %r11\n"
        "    call on_fault\n"
        "    pop %r11; pop %r10; pop %r9; pop %r8; pop %rcx; pop %rdx; pop %rsi; pop %rdi; pop %rax\n"
        "    push $0; push %rcx; push %r11; push %rax\n"
        "    mov $23, %eax; syscall\n");
extern void fault_entry(void);

__attribute__((used)) void on_fault(void)
{
    faults++;
    if (shared->vcpu_info[0].arch.cr2 == (unsigned long)page + 5)
        hypercall(__HYPERVISOR_update_va_mapping, page, entry, UVMF_INVLPG);
}

static unsigned long entry_of(start_info_t *info, unsigned long va)
{
    unsigned long *m2p = (unsigned long *)MACH2PHYS_VIRT_START, *table = (unsigned long *)info->pt_base;
    for (int shift = 39; shift > 12; shift -= 9)
        table = (unsigned long *)(m2p[(table[va >> shift & 511] & 0xffffffffff000) >> 12] << 12);
    return table[va >> 12 & 511];
}

int main(start_info_t *info)
{
    static trap_info_t traps[2] = { { .vector = 14, .cs = FLAT_KERNEL_CS } };

    traps[0].address = (unsigned long)fault_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_update_va_mapping, shared_va, info->shared_info | 7, UVMF_INVLPG) == 0, 0);
    shared = (shared_info_t *)shared_va;
    page[5] = 0x11;
    entry = entry_of(info, (unsigned long)page);
    check(hypercall(__HYPERVISOR_update_va_mapping, page, 0, UVMF_INVLPG) == 0, 0);
    check(*(volatile char *)(page + 5) == 0x11, page[5]);
    check(faults == 1, faults);
    return SUCCESS;
}
