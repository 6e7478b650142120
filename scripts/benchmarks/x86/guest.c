/* The PV guest that is measured, on direct paging. Its commands: commands.h.

   Two L4 tables map the same: the one it was built with, and a copy, which serves as user space's and as another process's. */
#include "commands.h"

#define PAGE_RW 2ul
#define ADDRESS 0xffffffffff000ul
#define PAGE __attribute__((aligned(4096)))
#define XEN_SLOTS 256 /* to 271: Xen fills them in */

static unsigned long own_l4, other_l4, l4_copy[512] PAGE;
static char shared_va[4096] PAGE, window[4096] PAGE, kernel_stack[8192];
static unsigned long window_entries[2];

/* --- assembly: the fault's handler, the system call's entry, the way to user space and back ----------------------------- */

__asm__(".globl fault_entry, syscall_entry, in_user_space\n"
        "fault_entry:\n" /* rcx, r11, error code, then an iret frame; the load that faulted has three bytes: skip it */
        "    pop %rcx; pop %r11; add $8, %rsp\n"
        "    addq $3, (%rsp)\n"
        "    push $0; push %rcx; push %r11; push %rax\n"
        "    mov $23, %eax; syscall\n"
        "syscall_entry:\n" /* rcx, r11, then an iret frame; rax: 0 goes straight back, 1 ends user space */
        "    pop %rcx; pop %r11\n"
        "    test %eax, %eax; jnz 1f\n"
        "    push $0x100; push %rcx; push %r11; push %rax\n" /* VGCF_in_syscall */
        "    mov $23, %eax; syscall\n"
        "1:  mov kernel_rsp(%rip), %rsp\n"
        "    pop %rbp; pop %rbx; ret\n"
        "in_user_space:\n" /* (rdi: system calls to make, rsi: its stack) */
        "    push %rbx; push %rbp; mov %rsp, kernel_rsp(%rip)\n"
        "    mov %rdi, %rbx\n"
        "    push $0xe02b; push %rsi; push $2; push $0xe033; lea 2f(%rip), %rax; push %rax\n"
        "    push $0; push $0; push $0; push $0\n"
        "    mov $23, %eax; syscall\n"
        "2:  xor %eax, %eax; syscall\n"
        "    dec %rbx; jnz 2b\n"
        "    mov $1, %eax; syscall\n"
        ".pushsection .bss; .balign 8; kernel_rsp: .quad 0; .popsection\n");
extern char fault_entry[], syscall_entry[];

/* --- what is measured ---------------------------------------------------------------------------------------------------- */

static void hypercalls(unsigned long n)
{
    while (n--)
        hypercall(__HYPERVISOR_xen_version, XENVER_pagesize, 0, 0);
}

/* To another process and its stack, as Linux does it; n is even, so that the guest ends on its own table. */
static void switches(unsigned long n)
{
    while (n--) {
        unsigned long l4 = n & 1 ? other_l4 : own_l4;
        struct mmuext_op ops[2] = { { .cmd = MMUEXT_NEW_BASEPTR, .arg1.mfn = l4 },
                                    { .cmd = MMUEXT_NEW_USER_BASEPTR, .arg1.mfn = other_l4 } };
        hypercall5(__HYPERVISOR_mmuext_op, (long)ops, 2, 0, DOMID_SELF, 0);
        hypercall(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, kernel_stack + sizeof(kernel_stack), 0);
    }
}

/* An entry is changed by a hypercall, which Xen verifies; the page it maps is read. */
static void stores(unsigned long n)
{
    while (n--) {
        hypercall(__HYPERVISOR_update_va_mapping, window, window_entries[n & 1], UVMF_INVLPG);
        *(volatile char *)window;
    }
}

static const struct command commands[] = { { "loop", loop }, { "hypercalls", hypercalls }, { "faults", faults }, { "syscalls", syscalls }, { "switches", switches }, { "stores", stores } };

/* --- setting up ---------------------------------------------------------------------------------------------------------- */

static unsigned long entry_of(start_info_t *info, unsigned long va)
{
    unsigned long *m2p = (unsigned long *)MACH2PHYS_VIRT_START, *table = (unsigned long *)info->pt_base;
    for (int shift = 39; shift > 12; shift -= 9)
        table = (unsigned long *)(m2p[(table[va >> shift & 511] & ADDRESS) >> 12] << 12);
    return table[va >> 12 & 511];
}

static int set_up(start_info_t *info)
{
    static trap_info_t traps[2] = { { .vector = 14, .cs = FLAT_KERNEL_CS } };
    struct callback_register on_syscall = { .type = CALLBACKTYPE_syscall, .address = (unsigned long)syscall_entry };
    unsigned long entry = entry_of(info, (unsigned long)l4_copy);

    console = (void *)(((unsigned long *)MACH2PHYS_VIRT_START)[info->console.domU.mfn] << 12);
    port = info->console.domU.evtchn;
    check(hypercall(__HYPERVISOR_update_va_mapping, shared_va, info->shared_info | 7, UVMF_INVLPG) == 0, 0);
    shared = (shared_info_t *)shared_va;
    traps[0].address = (unsigned long)fault_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_callback_op, CALLBACKOP_register, &on_syscall, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_stack_switch, FLAT_KERNEL_SS, kernel_stack + sizeof(kernel_stack), 0) == 0, 0);

    for (int slot = 0; slot < 512; slot++)
        l4_copy[slot] = slot >> 4 == XEN_SLOTS >> 4 ? 0 : ((unsigned long *)info->pt_base)[slot];
    check(hypercall(__HYPERVISOR_update_va_mapping, l4_copy, entry & ~PAGE_RW, UVMF_INVLPG) == 0, entry);
    own_l4 = (entry_of(info, info->pt_base) & ADDRESS) >> 12;
    other_l4 = (entry & ADDRESS) >> 12;
    struct mmuext_op ops[2] = { { .cmd = MMUEXT_PIN_L4_TABLE, .arg1.mfn = other_l4 },
                                { .cmd = MMUEXT_NEW_USER_BASEPTR, .arg1.mfn = other_l4 } };
    check(hypercall5(__HYPERVISOR_mmuext_op, (long)ops, 2, 0, DOMID_SELF, 0) == 0, other_l4);
    window_entries[0] = entry_of(info, (unsigned long)window);
    window_entries[1] = entry_of(info, (unsigned long)user_stack);
    return SUCCESS;
}

int main(start_info_t *info)
{
    int failed = set_up(info);
    if (failed)
        return failed;
    serve(commands, sizeof(commands) / sizeof(*commands));
}
