/* With the assist, a store to a read-only page table is an update under Xen's rules; one against the rules changes nothing. */
#include "guest.h"

#define PAGE_RW 2ul
#define AVAILABLE (1ul << 9)

static unsigned long page[512] __attribute__((aligned(4096)));

/* The page tables lie from pt_base on, read-only, each mapped at its virtual address; the L1 of low memory is the last. */
static volatile unsigned long *l1_entry(start_info_t *info, unsigned long va)
{
    unsigned long *m2p = (unsigned long *)MACH2PHYS_VIRT_START, *table = (unsigned long *)info->pt_base;
    for (int shift = 39; shift > 12; shift -= 9) {
        unsigned long entry = table[va >> shift & 511];
        table = (unsigned long *)(m2p[(entry & 0xffffffffff000) >> 12] << 12);
    }
    return table + (va >> 12 & 511);
}

int main(start_info_t *info)
{
    volatile unsigned long *entry = l1_entry(info, (unsigned long)page);
    unsigned long before = *entry;
    long rc;

    check(before & 1, before);
    check(hypercall(__HYPERVISOR_vm_assist, VMASST_CMD_enable, VMASST_TYPE_writable_pagetables, 0) == 0, 0);
    *entry = before | AVAILABLE;
    check(*entry & AVAILABLE, *entry);
    *entry &= ~AVAILABLE;
    check(!(*entry & AVAILABLE), *entry);
    *(volatile unsigned int *)entry = (unsigned int)(before & ~PAGE_RW);
    check(!(*entry & PAGE_RW), *entry);
    *entry = before;
    page[0] = 0x55;
    check(page[0] == 0x55, page[0]);

    /* A writable mapping of a page table: refused, whichever way it is asked for. */
    volatile unsigned long *own = l1_entry(info, (unsigned long)entry);
    rc = hypercall(__HYPERVISOR_update_va_mapping, entry, *own | PAGE_RW, UVMF_INVLPG);
    check(rc == -16, rc);
    check(!(*own & PAGE_RW), *own);
    return SUCCESS;
}
