/* The kernel's own pager: when no page is left, one of the process that runs goes to the disk, and comes back when it is touched. */
#include "kernel.h"

#define FIRST_SECTOR 1024u  /* of its part of the disk: a sector for each page of the area */
#define ON_DISK 0x800u      /* an entry that is not present: the page is in its sector */

void (*on_page_fault)(struct frame *f) = handle_page_fault;
static u32 hand; /* where it looked last */

static void transfer_page(u32 write, u32 va, u32 page)
{
    u32 done = disk_done + 1, state = interrupts_off();
    disk(write, FIRST_SECTOR + (va - USER_AREA) / PAGE_SIZE, page);
    wait_until(&disk_done, done);
    restore_interrupts(state);
}

/* One page goes: the first that has not been touched since the hand came by. */
void make_room(void)
{
    if (on_page_fault == handle_page_fault)
        finish(0xbad00000);
    for (u32 looked = 0; looked < 2 * USER_PAGES; looked++) {
        u32 va = USER_AREA + hand++ % USER_PAGES * PAGE_SIZE;
        entry one = *entry_at(va);
        if (!(one & PRESENT))
            continue;
        if (one & ACCESSED) {
            set_entry(va, one & ~(entry)ACCESSED, 1);
            continue;
        }
        set_entry(va, ON_DISK, 1);
        transfer_page(1, va, page_of(one));
        free_page(page_of(one));
        return;
    }
    finish(0xbad00000);
}

static void bring_back(struct frame *f)
{
    u32 va = fault_address() & -PAGE_SIZE;
    if (!is_user(va) || *entry_at(va) != ON_DISK) {
        handle_page_fault(f);
        return;
    }
    u32 page = new_page();
    transfer_page(0, va, page);
    set_entry(va, entry_of(page, PRESENT | WRITE | USER), 0);
}

void start_pager(void) { on_page_fault = bring_back; }

/* The balloon: pages that the kernel does without, so that whoever is below has them. */
void inflate_balloon(u32 pages)
{
    while (pages--)
        give_back(new_page());
}
