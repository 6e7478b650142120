/* The PVH guest that is measured, on nested or shadow paging, or on the bare engine. In a domain it obeys commands (commands.h);
   without a start_info it performs one and tells the nanoseconds by hypercall DONE. It is its own kernel in every sense: page
   tables, exceptions and system calls are the CPU's affair.

   Two L4 tables map the same: the one it was started with (pvh_start.S), and a copy, which serves as another process's. */
#define HYPERCALL "vmmcall"
#include "commands.h"
#include <xen/hvm/hvm_op.h>
#include <xen/hvm/params.h>

#define WINDOW 0x8000000000ul /* the second entry of L4 */
#define SHARED 0xfe700000ul
#define PRESENT_WRITE_USER 7ul
#define PAGE __attribute__((aligned(4096)))
#define DONE 63
#define KERNEL_CS 8ul
#define USER_BASE 0x18ul /* SYSRET: SS is 8 more, CS 16 */
#define EFLAGS_IF 0x200
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_FMASK 0xc0000084

extern unsigned long l4[512]; /* pvh_start.S */
extern unsigned int tss[26];
static unsigned long l4_copy[512] PAGE, window_l3[512] PAGE, window_l2[512] PAGE, window_l1[512] PAGE, idt[512] PAGE;
static char first[4096] PAGE, second[4096] PAGE, kernel_stack[4096];

__asm__(".globl fault_entry, syscall_entry, in_user_space\n"
        "fault_entry:\n" /* the load that faulted has three bytes: skip it */
        "    add $8, %rsp\n"
        "    addq $3, (%rsp)\n"
        "    iretq\n"
        "syscall_entry:\n" /* rax: 0 goes straight back, 1 ends user space */
        "    test %eax, %eax; jnz 1f\n"
        "    sysretq\n"
        "1:  mov kernel_rsp(%rip), %rsp\n"
        "    pop %rbp; pop %rbx; ret\n"
        "in_user_space:\n" /* (rdi: system calls to make, rsi: its stack) */
        "    push %rbx; push %rbp; mov %rsp, kernel_rsp(%rip)\n"
        "    mov %rdi, %rbx; mov %rsi, %rsp\n"
        "    lea 2f(%rip), %rcx; mov $2, %r11d; sysretq\n"
        "2:  xor %eax, %eax; syscall\n"
        "    dec %rbx; jnz 2b\n"
        "    mov $1, %eax; syscall\n"
        ".pushsection .bss; .balign 8; kernel_rsp: .quad 0; .popsection\n");
extern char fault_entry[], syscall_entry[];

/* --- what is measured ---------------------------------------------------------------------------------------------------- */

/* To another process and its stack; n is even, so that the guest ends on its own table. */
static void switches(unsigned long n)
{
    while (n--) {
        __asm__ volatile("mov %0, %%cr3" : : "r"(n & 1 ? l4_copy : l4) : "memory");
        *(unsigned long *)(tss + 1) = (unsigned long)(kernel_stack + sizeof(kernel_stack));
    }
}

/* An entry is changed by a store; the page it maps is read. */
static void stores(unsigned long n)
{
    while (n--) {
        *(volatile unsigned long *)window_l1 = (unsigned long)(n & 1 ? first : second) | PRESENT_WRITE_USER;
        __asm__ volatile("invlpg (%0)" : : "r"(WINDOW) : "memory");
        *(volatile char *)WINDOW;
    }
}

/* In the order of bare.py. */
static const struct command commands[] = { { "loop", loop },         { "faults", faults }, { "syscalls", syscalls },
                                           { "switches", switches }, { "stores", stores } };

/* --- setting up ---------------------------------------------------------------------------------------------------------- */

static void wrmsr(unsigned int msr, unsigned long value)
{
    __asm__ volatile("wrmsr" : : "c"(msr), "a"((unsigned int)value), "d"((unsigned int)(value >> 32)));
}

static void set_up_cpu(void)
{
    struct {
        unsigned short limit;
        unsigned long base;
    } __attribute__((packed)) pointer = { sizeof(idt) - 1, (unsigned long)idt };
    unsigned long handler = (unsigned long)fault_entry;

    idt[2 * 14] = (handler & 0xffff) | KERNEL_CS << 16 | 0x8eul << 40 | (handler >> 16 & 0xffff) << 48;
    idt[2 * 14 + 1] = handler >> 32;
    __asm__ volatile("lidt %0" : : "m"(pointer));
    wrmsr(MSR_STAR, USER_BASE << 48 | KERNEL_CS << 32);
    wrmsr(MSR_LSTAR, (unsigned long)syscall_entry);
    wrmsr(MSR_FMASK, EFLAGS_IF);
    l4[1] = (unsigned long)window_l3 | PRESENT_WRITE_USER;
    window_l3[0] = (unsigned long)window_l2 | PRESENT_WRITE_USER;
    window_l2[0] = (unsigned long)window_l1 | PRESENT_WRITE_USER;
    for (int slot = 0; slot < 512; slot++)
        l4_copy[slot] = l4[slot];
}

static unsigned long parameter(unsigned int index)
{
    struct xen_hvm_param param = { .domid = DOMID_SELF, .index = index };
    hypercall(__HYPERVISOR_hvm_op, HVMOP_get_param, &param, 0);
    return param.value;
}

static int set_up_console(void)
{
    struct xen_add_to_physmap map = { .domid = DOMID_SELF, .space = XENMAPSPACE_shared_info, .gpfn = SHARED >> 12 };
    check(hypercall(__HYPERVISOR_memory_op, XENMEM_add_to_physmap, &map, 0) == 0, map.gpfn);
    shared = (shared_info_t *)SHARED;
    console = (struct xencons_interface *)(parameter(HVM_PARAM_CONSOLE_PFN) << 12);
    port = parameter(HVM_PARAM_CONSOLE_EVTCHN);
    return SUCCESS;
}

/* `start_info`: 0 on the bare engine; then `command` is an index and `n` its repetitions. */
int main(void *start_info, unsigned int command, unsigned long n)
{
    set_up_cpu();
    if (!start_info) {
        unsigned long start = __builtin_ia32_rdtsc();
        commands[command].work(n);
        __asm__ volatile("vmcall" : : "a"(DONE), "D"(__builtin_ia32_rdtsc() - start)); /* without SVM there is no VMMCALL */
    }
    if (set_up_console() != SUCCESS)
        return FAILURE;
    serve(commands, sizeof(commands) / sizeof(*commands));
}
