/* What looks certain and is not (docs/posted-operations.md): arguments that lie in Xen's own range or are not all there, and a
 * store to a page table that is read-only above the last level alone. Xen refuses each, and so nothing of it may be done. */
#include "guest.h"

#define PRESENT 1ul
#define RW 2ul
#define AVAILABLE (1ul << 9)
#define FRAME 0xffffffffff000ul
#define LINEAR_SLOT 300ul
#define LINEAR (0xffff000000000000ul | LINEAR_SLOT << 39)

static volatile unsigned long page[512] __attribute__((aligned(4096)));
static volatile unsigned long edge[2][512] __attribute__((aligned(4096)));
static volatile int faults;
static start_info_t *info;

__asm__(".globl fault_entry\n"
        "fault_entry:\n" /* goes on behind the store, which is at %rdx */
        "    pop %rcx; pop %r11; add $8, %rsp\n"
        "    incl faults\n"
        "    mov %rdx, (%rsp)\n"
        "    push %rax; push %r11; push %rcx; push $0\n"
        "    mov $23, %eax; syscall\n"
        ".globl store_there\n"
        "store_there:\n" /* (address, value) */
        "    lea 1f(%rip), %rdx; mov %rsi, (%rdi)\n"
        "1:  ret\n");
extern void fault_entry(void), store_there(volatile unsigned long *at, unsigned long value);

struct place {
    unsigned long maddr;
    volatile unsigned long *entry;
};

static struct place place_of(unsigned long va)
{
    unsigned long *m2p = (unsigned long *)MACH2PHYS_VIRT_START, *table = (unsigned long *)info->pt_base, mfn = 0;
    for (int shift = 39; shift > 12; shift -= 9) {
        mfn = (table[va >> shift & 511] & FRAME) >> 12;
        table = (unsigned long *)(m2p[mfn] << 12);
    }
    return (struct place){ mfn << 12 | (va >> 12 & 511) << 3, table + (va >> 12 & 511) };
}

static long update(unsigned long ptr, unsigned long value)
{
    mmu_update_t request = { ptr, value };
    return hypercall5(__HYPERVISOR_mmu_update, (long)&request, 1, 0, DOMID_SELF, 0);
}

/* The table of frames is the guest's to write, by requests, and to read: two of its words are one mmu_update, or one mmuext_op
 * with the third. */
static int requests_in_xens_range(void)
{
    unsigned long *p2m = (unsigned long *)info->mfn_list, *m2p = (unsigned long *)MACH2PHYS_VIRT_START;
    unsigned long first = 0, second = 0, third = 0, all = info->nr_pages;
    for (unsigned long i = 0; i < all && !third; i++) {
        first = p2m[i];
        second = third = 0;
        if (m2p[first + 1] < all && p2m[m2p[first + 1]] == first + 1)
            second = m2p[first + 1];
        if (second && m2p[first + 2] < all && p2m[m2p[first + 2]] == first + 2)
            third = m2p[first + 2];
    }
    check(third, third);
    unsigned long was = m2p[first];
    struct place at = place_of((unsigned long)page);
    unsigned long before = *at.entry;
    long rc = update(first << 12 | MMU_MACHPHYS_UPDATE, at.maddr);
    check(rc == 0, rc);
    rc = update((first + 1) << 12 | MMU_MACHPHYS_UPDATE, before | AVAILABLE);
    check(rc == 0, rc);
    rc = hypercall5(__HYPERVISOR_mmu_update, (long)(m2p + first), 1, 0, DOMID_SELF, 0);
    check(rc == -14, rc);
    check(!(*at.entry & AVAILABLE), *at.entry);
    rc = update(first << 12 | MMU_MACHPHYS_UPDATE, MMUEXT_NEW_USER_BASEPTR);
    check(rc == 0, rc);
    rc = update((first + 1) << 12 | MMU_MACHPHYS_UPDATE, p2m[info->pt_base >> 12]);
    check(rc == 0, rc);
    rc = hypercall5(__HYPERVISOR_mmuext_op, (long)(m2p + first), 1, 0, DOMID_SELF, 0);
    check(rc == -14, rc);
    rc = hypercall(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, m2p + first);
    check(rc == -14, rc);
    check(update(first << 12 | MMU_MACHPHYS_UPDATE, was) == 0, was);
    check(update((first + 1) << 12 | MMU_MACHPHYS_UPDATE, second) == 0, second);
    return SUCCESS;
}

/* The last four bytes of the structure are padding, and Xen copies them, too. */
static int an_argument_that_is_not_all_there(void)
{
    char *timer = (char *)edge[1] - offsetof(struct vcpu_set_singleshot_timer, flags) - sizeof(uint32_t);
    check(hypercall(__HYPERVISOR_update_va_mapping, edge[1], 0, UVMF_INVLPG) == 0, 0);
    long rc = hypercall(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, timer);
    check(rc == -14, rc);
    return SUCCESS;
}

/* Through a table that maps itself, the entry of an L2 is the last of a walk. Xen emulates a store if that one is read-only. */
static int a_store_through_a_linear_table(void)
{
    static trap_info_t traps[2] = { { .vector = 14, .cs = FLAT_KERNEL_CS } };
    unsigned long l4 = ((unsigned long *)info->mfn_list)[info->pt_base >> 12], va = (unsigned long)page;
    struct place at = place_of(va);
    unsigned long before = *at.entry;
    volatile unsigned long *linear = (unsigned long *)(LINEAR | (va >> 9 & 0x7ffffffff8));

    traps[0].address = (unsigned long)fault_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables, 0) == 0, 0);
    long rc = update(l4 << 12 | LINEAR_SLOT << 3, l4 << 12 | PRESENT | 0x24);
    check(rc == 0, rc);
    check(*linear == *at.entry, *linear);
    store_there(at.entry, before | AVAILABLE);
    check(faults == 0 && *at.entry & AVAILABLE, faults);
    store_there(linear, before);
    check(faults == 1, faults);
    check(*at.entry & AVAILABLE, *at.entry);
    rc = update(l4 << 12 | LINEAR_SLOT << 3, 0);
    check(rc == 0, rc);
    return SUCCESS;
}

int main(start_info_t *start)
{
    info = start;
    if (requests_in_xens_range() || an_argument_that_is_not_all_there() || a_store_through_a_linear_table())
        return FAILURE;
    return SUCCESS;
}
