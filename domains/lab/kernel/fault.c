/* The page-fault handler: a page is made on demand, or copied when it is written. */
#include "kernel.h"

static void make_page(u32 va)
{
    u32 page = new_page();
    clear_page(page);
    set_entry(va, entry_of(page, PRESENT | WRITE | USER), 0);
}

/* The page is read-only because others have it, too; the last of them keeps it. */
static void make_own(u32 va, u32 page)
{
    if (*users_of(page) > 1) {
        u32 copy = new_page();
        copies++;
        copy_page(copy, page);
        free_page(page);
        page = copy;
    }
    set_entry(va, entry_of(page, PRESENT | WRITE | USER), 1);
}

void handle_page_fault(struct frame *f)
{
    u32 va = fault_address() & -PAGE_SIZE;
    faults++;
    if (!is_user(va)) {
        skip_or_end(f, 0xbad10000);
        return;
    }
    entry old = *entry_at(va);
    if (!(old & PRESENT))
        make_page(va);
    else if (f->error & FAULT_WRITE && old & COPY_ON_WRITE)
        make_own(va, page_of(old));
    else
        skip_or_end(f, 0xbad20000);
}
