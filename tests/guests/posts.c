/* Changes of page tables that the process makes at once and tells the core later (docs/posted-operations.md). The guest sees no
 * difference: what it asks for in between, the core decides as if it had been told at once. */
#include "guest.h"

#define PRESENT 1ul
#define RW 2ul
#define DIRTY 0x40ul
#define AVAILABLE (1ul << 9)
#define ROUNDS 200

static volatile unsigned long page[512] __attribute__((aligned(4096)));
static volatile unsigned long other[512] __attribute__((aligned(4096)));
static unsigned long second_l4[512] __attribute__((aligned(4096)));

/* Where the L1 entry for `va` lies, in machine memory and, read-only, in the guest's. */
struct place {
    unsigned long maddr;
    volatile unsigned long *entry;
};

static struct place place_of(start_info_t *info, unsigned long va)
{
    unsigned long *m2p = (unsigned long *)MACH2PHYS_VIRT_START, *table = (unsigned long *)info->pt_base, mfn = 0;
    for (int shift = 39; shift > 12; shift -= 9) {
        mfn = (table[va >> shift & 511] & 0xffffffffff000) >> 12;
        table = (unsigned long *)(m2p[mfn] << 12);
    }
    return (struct place){ mfn << 12 | (va >> 12 & 511) << 3, table + (va >> 12 & 511) };
}

static long update(unsigned long ptr, unsigned long value, unsigned int *done)
{
    mmu_update_t request = { ptr, value };
    return hypercall5(__HYPERVISOR_mmu_update, (long)&request, 1, (long)done, DOMID_SELF, 0);
}

static long extended(unsigned int cmd, unsigned long mfn)
{
    struct mmuext_op op = { .cmd = cmd, .arg1.mfn = mfn };
    return hypercall5(__HYPERVISOR_mmuext_op, (long)&op, 1, 0, DOMID_SELF, 0);
}

static int entries_change(struct place at, unsigned long before)
{
    unsigned long va = (unsigned long)page, mfn = (before & 0xffffffffff000) >> 12;
    for (unsigned long round = 0; round < ROUNDS; round++) {
        unsigned int done = 7;
        long rc = update(at.maddr, before & ~RW, &done);
        check(rc == 0 && done == 1, rc);
        check(!(*at.entry & RW), *at.entry);
        rc = hypercall(__HYPERVISOR_update_va_mapping, va, before | AVAILABLE, UVMF_INVLPG);
        check(rc == 0, rc);
        page[1] = round * 2; /* as an entry of a page table: not present */
        check(page[1] == round * 2 && *at.entry & DIRTY, *at.entry);
        rc = update(at.maddr | MMU_PT_UPDATE_PRESERVE_AD, before & ~DIRTY, 0);
        check(rc == 0 && *at.entry & DIRTY && !(*at.entry & AVAILABLE), *at.entry);
        rc = hypercall(__HYPERVISOR_update_va_mapping, va, 0, UVMF_TLB_FLUSH | UVMF_ALL);
        check(rc == 0 && !(*at.entry & PRESENT), rc);
        if (round % 16 == 0) { /* only a frame that is mapped writable nowhere becomes a page table */
            rc = extended(MMUEXT_PIN_L1_TABLE, mfn);
            check(rc == 0, rc);
            check(extended(MMUEXT_UNPIN_TABLE, mfn) == 0, 0);
        }
        rc = update(at.maddr, before, &done);
        check(rc == 0 && done == 1, rc);
        rc = extended(MMUEXT_PIN_L1_TABLE, mfn);
        check(rc == -22, rc); /* mapped writable again */
    }
    return SUCCESS;
}

/* Lists: done whole, by the core where one entry is not certain or is written twice, and as far as they are permitted. */
static int lists_change(start_info_t *info, struct place at, struct place second)
{
    struct place own = place_of(info, (unsigned long)at.entry);
    unsigned long before = *at.entry, beside = *second.entry;
    for (unsigned long round = 0; round < ROUNDS; round++) {
        unsigned int done = 7;
        mmu_update_t both[] = { { at.maddr, before & ~RW }, { second.maddr | MMU_PT_UPDATE_PRESERVE_AD, beside & ~RW } };
        long rc = hypercall5(__HYPERVISOR_mmu_update, (long)both, 2, (long)&done, DOMID_SELF, 0);
        check(rc == 0 && done == 2, rc);
        check(!(*at.entry & RW) && !(*second.entry & RW), *second.entry);
        mmu_update_t twice[] = { { at.maddr, 0 }, { at.maddr, before } };
        rc = hypercall5(__HYPERVISOR_mmu_update, (long)twice, 2, (long)&done, DOMID_SELF, 0);
        check(rc == 0 && done == 2 && *at.entry & RW, rc);
        mmu_update_t bad[] = { { at.maddr, before & ~RW }, { own.maddr, *own.entry | RW }, { second.maddr, beside } };
        rc = hypercall5(__HYPERVISOR_mmu_update, (long)bad, 3, (long)&done, DOMID_SELF, 0);
        check(rc == -16 && done == 1, rc);
        check(!(*at.entry & RW) && !(*second.entry & RW), *second.entry);
        mmu_update_t again[] = { { at.maddr, before }, { second.maddr, beside } };
        rc = hypercall5(__HYPERVISOR_mmu_update, (long)again, 2, 0, DOMID_SELF, 0);
        check(rc == 0 && *at.entry & RW && *second.entry & RW, rc);
        struct mmuext_op forget[] = { { .cmd = MMUEXT_INVLPG_LOCAL, .arg1.linear_addr = (unsigned long)page },
                                      { .cmd = MMUEXT_INVLPG_LOCAL, .arg1.linear_addr = 1ul << 63 },
                                      { .cmd = MMUEXT_TLB_FLUSH_LOCAL } };
        rc = hypercall5(__HYPERVISOR_mmuext_op, (long)forget, 3, (long)&done, DOMID_SELF, 0);
        check(rc == 0 && done == 3, rc);
        page[3] = other[3] = round * 2;
        unsigned long pfn = (unsigned long)page >> 12, machine = (*at.entry & 0xffffffffff000) | 8;
        mmu_update_t mixed[] = { { machine, ~round }, { second.maddr, beside & ~RW }, { machine + 8, round << 1 } };
        rc = hypercall5(__HYPERVISOR_mmu_update, (long)mixed, 3, (long)&done, DOMID_SELF, 0);
        check(rc == 0 && done == 3 && page[1] == ~round && page[2] == round << 1, pfn);
        check(!(*second.entry & RW), *second.entry);
        check(update(second.maddr, beside, 0) == 0, 0);
    }
    return SUCCESS;
}

/* Stores to parts of an entry, which Xen emulates: a LOCKed one of a byte takes the right to write, one of four drops all. */
static int parts_change(struct place at)
{
    unsigned long before = *at.entry;
    for (int round = 0; round < ROUNDS; round++) {
        asm volatile("lock andb $~2, %0" : "+m"(*(volatile char *)at.entry) : : "memory");
        check((*at.entry & ~0x60ul) == (before & ~RW & ~0x60ul), *at.entry);
        check(hypercall(__HYPERVISOR_update_va_mapping, (long)page, before, UVMF_INVLPG) == 0, 0);
        asm volatile("movl $0, %0" : "=m"(*(volatile unsigned int *)at.entry) : : "memory");
        check(!(*at.entry & 0xffffffff) && *at.entry >> 32 == before >> 32, *at.entry);
        check(hypercall(__HYPERVISOR_update_va_mapping, (long)page, before, UVMF_INVLPG) == 0, 0);
    }
    return SUCCESS;
}

static int tables_change(start_info_t *info)
{
    unsigned long *l4 = (unsigned long *)info->pt_base, *p2m = (unsigned long *)info->mfn_list;
    unsigned long va = (unsigned long)second_l4, first = p2m[info->pt_base >> 12], second = p2m[va >> 12];
    struct place at = place_of(info, va);
    unsigned long before = *at.entry;
    for (int slot = 0; slot < 512; slot++)
        second_l4[slot] = slot < 256 || slot > 271 ? l4[slot] : 0;
    check(hypercall(__HYPERVISOR_update_va_mapping, va, before & ~RW, UVMF_INVLPG) == 0, 0);
    long rc = extended(MMUEXT_PIN_L4_TABLE, second);
    check(rc == 0, rc);
    for (unsigned long round = 0; round < ROUNDS; round++) {
        rc = extended(MMUEXT_NEW_BASEPTR, round & 1 ? first : second);
        check(rc == 0, rc);
        page[2] = round;
        rc = extended(MMUEXT_NEW_USER_BASEPTR, round & 1 ? 0 : second);
        check(rc == 0, rc);
        if (round % 16 == 0) /* it is in use, pinned or not: it stays a table */
            check(hypercall(__HYPERVISOR_update_va_mapping, va, before, UVMF_INVLPG) == -16, 0);
    }
    check(extended(MMUEXT_UNPIN_TABLE, second) == 0, 0);
    rc = hypercall(__HYPERVISOR_update_va_mapping, va, before, UVMF_INVLPG);
    check(rc == 0, rc);
    second_l4[0] = 1;
    return SUCCESS;
}

int main(start_info_t *info)
{
    struct place at = place_of(info, (unsigned long)page);
    struct place own = place_of(info, (unsigned long)at.entry);
    unsigned long before = *at.entry;
    check(before & PRESENT && before & RW, before);
    long rc = update(own.maddr, *own.entry | RW, 0); /* a writable mapping of a page table */
    check(rc == -16, rc);
    if (entries_change(at, before) || lists_change(info, at, place_of(info, (unsigned long)other)) || tables_change(info))
        return FAILURE;
    rc = hypercall(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables, 0);
    check(rc == 0, rc);
    if (parts_change(at))
        return FAILURE;
    return SUCCESS;
}
