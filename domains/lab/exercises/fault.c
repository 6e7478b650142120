/* Exercise: the page-fault handler. Write it, and have it checked: xenctl exercise page-fault THIS-FILE

   A process has faulted. It may have touched a page that it has not yet: give it one, empty. It may have written to a page that it shares
   with others since a fork (COPY_ON_WRITE is set in its entry): give it a copy. Or it has no business there.

   What there is to work with is in kernel.h. Of it you need
       fault_address()                     where it happened
       f->error                            FAULT_PRESENT, FAULT_WRITE, FAULT_USER
       is_user(va), *entry_at(va)          whether a process may have a page there, and the entry of its page table
       new_page(), clear_page(page), copy_page(to, from), free_page(page), *users_of(page)
       entry_of(page, flags)               an entry: PRESENT, WRITE, USER;   page_of(entry): back again
       set_entry(va, entry, invalidate)    put it into the page table of the process that runs; `invalidate` if the CPU may know the old one
       skip_or_end(f, why)                 the process did what it may not
   `faults` and `copies` count. */
#include "kernel.h"

void handle_page_fault(struct frame *f)
{
    faults++;
    /* Your code. */
    skip_or_end(f, 0xbad10000);
}
