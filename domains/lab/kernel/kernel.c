/* Processes, demand paging, copy on write, system calls. Nothing here knows what machine is below. */
#include "kernel.h"

struct process processes[PROCESSES];
u32 current, ticks, disk_done, packets_sent;
u32 boot_argument; /* ESI at the start */
u32 first_program[PROCESSES]; /* entry of each process that is there at the start; filled in by who loads the kernel */
u32 pool_pages = (POOL_END - POOL) / PAGE_SIZE; /* fewer on a smaller machine; set by who loads the kernel */
u32 faults, copies;
static u32 alive, sum;
static u32 free_pages[(POOL_END - POOL) / PAGE_SIZE], nr_free;
static u8 users[(POOL_END - POOL) / PAGE_SIZE]; /* of a page: how many entries name it */
u8 was_table[(POOL_END - POOL) / PAGE_SIZE];    /* of a page: whether it has ever been a page table */

u8 *users_of(u32 page) { return &users[(page - POOL) / PAGE_SIZE]; }

u32 new_page(void)
{
    if (nr_free == 0)
        make_room();
    u32 page = free_pages[--nr_free];
    *users_of(page) = 1;
    return page;
}

void free_page(u32 page)
{
    if (--*users_of(page) == 0)
        free_pages[nr_free++] = page;
}

void copy_page(u32 to, u32 from)
{
    u32 count = PAGE_SIZE / 4;
    asm volatile("rep movsl" : "+c"(count), "+D"(to), "+S"(from)::"memory");
}

void clear_page(u32 page)
{
    u32 count = PAGE_SIZE / 4;
    asm volatile("rep stosl" : "+c"(count), "+D"(page) : "a"(0) : "memory");
}

static entry *entries_of(u32 process) { return (entry *)processes[process].table; }
static u32 index_of(u32 va) { return (va - USER_AREA) / PAGE_SIZE; }
entry *entry_at(u32 va) { return entries_of(current) + index_of(va); }
u32 is_user(u32 va) { return va >= USER_AREA && va < STACK_TOP; }

void skip_or_end(struct frame *f, u32 why)
{
    struct process *p = &processes[current];
    if (!(f->cs & 3) || !p->handler)
        finish(why | (f->eip & 0xffff));
    f->eip = p->handler;
}

static u32 new_table(void)
{
    u32 page = new_page();
    was_table[(page - POOL) / PAGE_SIZE] = 1;
    clear_page(page);
    return page;
}

static void make_tables(u32 process)
{
    struct process *p = &processes[process];
    p->root = new_table();
    p->upper = new_table();
    p->last = new_table();
    p->table = new_table();
}

static u32 free_process(void)
{
    for (u32 n = 0; n < PROCESSES; n++)
        if (!processes[n].alive)
            return n;
    return PROCESSES;
}

static void begin(u32 process, u32 parent)
{
    processes[process].alive = 1;
    processes[process].parent = parent;
    alive++;
}

/* Fork: both have all pages, read-only, until one writes. */
static void fork(struct frame *f)
{
    u32 child = free_process();
    if (child == PROCESSES) {
        f->eax = -1;
        return;
    }
    make_tables(child);
    for (u32 n = 0; n < USER_PAGES; n++) {
        entry one = entries_of(current)[n];
        if (!(one & PRESENT))
            continue;
        if (one & WRITE) {
            one = (one & ~(entry)WRITE) | COPY_ON_WRITE;
            change_entry(current, USER_AREA + n * PAGE_SIZE, one);
        }
        ++*users_of(page_of(one));
        fill_entry(entries_of(child) + n, one & ~(entry)(ACCESSED | DIRTY));
    }
    end_changes();
    flush_all();
    begin(child, current);
    processes[child].handler = processes[current].handler;
    processes[child].saved = *f;
    processes[child].saved.eax = 0;
    use_root(child);
    f->eax = child;
}

static void switch_to(struct frame *f, u32 next)
{
    if (next == current)
        return;
    current = next;
    *f = processes[next].saved;
    load_root(next);
}

static u32 next_process(void)
{
    u32 n = current;
    do
        n = (n + 1) % PROCESSES;
    while (!processes[n].alive);
    return n;
}

static void exit_process(struct frame *f)
{
    u32 gone = current;
    sum += f->ebx;
    processes[gone].alive = 0;
    if (--alive == 0)
        finish(sum ^ ticks << 8 ^ faults << 12 ^ copies << 24);
    switch_to(f, next_process());
    for (u32 n = 0; n < USER_PAGES; n++)
        if (entries_of(gone)[n] & PRESENT)
            free_page(page_of(entries_of(gone)[n]));
    drop_root(gone);
    free_page(processes[gone].root);
    free_page(processes[gone].upper);
    free_page(processes[gone].last);
    free_page(processes[gone].table);
}

static void yield(struct frame *f)
{
    processes[current].saved = *f;
    switch_to(f, next_process());
}

static void map(u32 va, u32 pages)
{
    for (u32 n = 0; n < pages; n++, va += PAGE_SIZE) {
        u32 page = new_page();
        clear_page(page);
        change_entry(current, va, entry_of(page, PRESENT | WRITE | USER));
    }
    end_changes();
}

static void unmap(u32 va, u32 pages)
{
    u32 from = va;
    for (u32 n = 0; n < pages; n++, va += PAGE_SIZE)
        if (*entry_at(va) & PRESENT) {
            free_page(page_of(*entry_at(va)));
            change_entry(current, va, 0);
        }
    end_changes();
    if (pages == 1)
        set_entry(from, 0, 1);
    else
        flush_all();
}

static void protect(u32 va, u32 pages, u32 writable)
{
    for (u32 n = 0; n < pages; n++, va += PAGE_SIZE) {
        entry one = *entry_at(va) & ~(entry)(WRITE | COPY_ON_WRITE);
        change_entry(current, va, one | (writable ? WRITE : 0));
    }
    end_changes();
    flush_all();
}

/* Turns round a bit of an entry that no CPU looks at. */
static void mark_entry(u32 va)
{
    change_entry(current, va, *entry_at(va) ^ FOR_SOFTWARE);
    end_changes();
}

enum { BY_BATCH, ONE_BY_ONE, BY_STORE };

/* A bit of MARKED entries, which are there, is set, cleared, set and so on: `batch` changes at a time, or otherwise. */
static void mark_entries(u32 batch, u32 way)
{
    u32 usual = hold_changes(batch);
    for (u32 n = 0; n < ROUNDS * MARKED; n++) {
        u32 va = USER_AREA + n % MARKED * PAGE_SIZE;
        entry one = *entry_at(va) & ~(entry)FOR_SOFTWARE;
        if (n / MARKED % 2 == 0)
            one |= FOR_SOFTWARE;
        if (way == BY_BATCH)
            change_entry(current, va, one);
        else if (way == ONE_BY_ONE)
            set_entry(va, one, 0);
        else
            store_entry(va, one);
    }
    end_changes();
    hold_changes(usual);
}

/* How many pages of the area have been looked at, and written. */
static u32 marks(void)
{
    u32 accessed = 0, dirty = 0;
    for (u32 n = 0; n < USER_PAGES; n++) {
        accessed += !!(entries_of(current)[n] & ACCESSED);
        dirty += !!(entries_of(current)[n] & DIRTY);
    }
    return accessed << 16 | dirty;
}

void wait_until(volatile u32 *counter, u32 value)
{
    while (*counter != value)
        wait_for_interrupt();
}

static void transfer(u32 write, u32 sector, u32 va)
{
    u32 done = disk_done + 1, state = interrupts_off();
    disk(write, sector, page_of(*entry_at(va)));
    wait_until(&disk_done, done);
    restore_interrupts(state);
}

static void sleep(void)
{
    u32 state = interrupts_off();
    wait_until(&ticks, ticks + 1);
    restore_interrupts(state);
}

static void system_call(struct frame *f)
{
    switch (f->eax) {
    case 0: f->eax = current; break;
    case 1: exit_process(f); break;
    case 2: yield(f); break;
    case 3: fork(f); break;
    case 4: sleep(); break;
    case 5: map(f->ecx, f->edx); break;
    case 6: unmap(f->ecx, f->edx); break;
    case 7: protect(f->ecx, f->edx, f->ebx); break;
    case 8: transfer(1, f->ebx, f->ecx); break;
    case 9: transfer(0, f->ebx, f->ecx); break;
    case 10: send_packet(page_of(*entry_at(f->ecx)), f->edx); break;
    case 11: f->eax = look(); break;
    case 12: f->eax = marks(); break;
    case 13: processes[current].handler = f->ebx; break;
    case 14: flush_all(); break;
    case 15: f->eax = faults; break;
    case 16: mark_entry(f->ecx); break;
    case 17: f->eax = disk_status(); break;
    case 20: mark_entries(f->ecx, f->edx); break;
    case 21: start_pager(); break;
    case 22: inflate_balloon(f->ecx); break;
    default: f->eax = -1;
    }
}

void interrupt(u32 vector)
{
    if (vector == TIMER)
        ticks++;
    else if (vector == DISK)
        disk_done++;
    end_of_interrupt(vector);
}

void trap(struct frame *f)
{
    switch (f->vector) {
    case PAGE_FAULT: on_page_fault(f); break;
    case SYSTEM_CALL: system_call(f); break;
    case TIMER: case DISK: case NETWORK: interrupt(f->vector); break;
    default: skip_or_end(f, 0xbad30000 | f->vector << 16);
    }
}

static void enter_user(struct frame *f)
{
    asm volatile("mov %0, %%ds; mov %0, %%es; mov %1, %%esp; popa; add $8, %%esp; iret" ::"r"(f->ss), "r"(f));
}

void run_kernel(void)
{
    for (u32 page = POOL + (pool_pages - 1) * PAGE_SIZE; page >= POOL; page -= PAGE_SIZE)
        free_pages[nr_free++] = page;
    machine_start();
    for (u32 n = 0; n < PROCESSES && first_program[n]; n++) {
        make_tables(n);
        begin(n, n);
        processes[n].saved = (struct frame){ .ebp = n, .eip = first_program[n], .cs = USER_CS, .eflags = 0x202,
                                             .esp = STACK_TOP, .ss = USER_DS };
        use_root(n);
    }
    load_root(0);
    enter_user(&processes[0].saved);
}

/* Entries of traps: the vector, an error code where the CPU pushes none, and all registers. */
asm(".text\n.globl _start\n_start: mov %esi, boot_argument\n mov $kernel_stack_top, %esp\n call run_kernel\n"
    ".macro trap_entry n, coded\n .globl trap\\n\n trap\\n: .if \\coded == 0\n push $0\n .endif\n push $\\n\n jmp common\n .endm\n"
    "trap_entry 0, 0\ntrap_entry 6, 0\ntrap_entry 13, 1\ntrap_entry 14, 1\ntrap_entry 128, 0\n"
    "trap_entry 32, 0\ntrap_entry 33, 0\ntrap_entry 34, 0\n"
    "common: pusha\n push %ds\n push %es\n mov $" NUMBER(KERNEL_DS) ", %eax\n mov %eax, %ds\n mov %eax, %es\n"
    " lea 8(%esp), %eax\n push %eax\n call trap\n add $4, %esp\n pop %es\n pop %ds\n popa\n add $8, %esp\n"
    ".globl trap_return\ntrap_return: iret\n"
    ".bss\n.balign 4096\n.skip 8192\n.globl kernel_stack_top\nkernel_stack_top:\n.text\n");
