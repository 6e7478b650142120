/* A small 32-bit kernel that knows of no hypervisor: two processes with page tables, demand paging and copy on write, system calls by
   INT 0x80, a timer. PAE: tables of three levels, else of two. It ends with interrupts off and HLT; EBX is a sum of what the
   processes saw. Its machine: 2 MiB of memory, a page at 0x9000 whose first byte is the timer's interrupt line. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#ifdef PAE
typedef u64 entry;
#define UPPER_SHIFT 21
#else
typedef u32 entry;
#define UPPER_SHIFT 22
#endif
#define ENTRIES (4096 / sizeof(entry))
#define PAGE __attribute__((aligned(4096)))
#define USER_AREA 0x40000000u /* private pages, made on demand */
#define SHARED_AREA 0x40010000u /* pages that both processes have, copied when written */
#define FIRST_FREE 0x150000u
#define PROCESSES 2
enum { PRESENT = 1, WRITE = 2, USER = 4, ACCESSED = 0x20, DIRTY = 0x40, OURS = 0x200 };

struct frame { u32 edi, esi, ebp, unused, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss; };
struct table_register { u16 limit; u32 base; } __attribute__((packed));

static PAGE entry top[PROCESSES][ENTRIES], user_l1[PROCESSES][ENTRIES], kernel_l1[ENTRIES];
static u64 gdt[8] __attribute__((aligned(8))), idt[256];
static u32 tss[26];
static PAGE u8 kernel_stack[4096];
static struct frame saved[PROCESSES];
static u32 current, alive = PROCESSES, next_free = FIRST_FREE, ticks, faults, copies, sum;
static volatile u8 *const line = (u8 *)0x9000;
extern u32 entries[];
extern char user_start[];

asm(".text\n.globl _start\n_start: mov $kernel_stack + 4096, %esp\n call main\n"
    ".macro entry n, coded\n .if \\coded == 0\n push $0\n .endif\n push $\\n\n jmp common\n .endm\n"
    "e0: entry 0, 0\ne6: entry 6, 0\ne13: entry 13, 1\ne14: entry 14, 1\ne32: entry 32, 0\ne128: entry 128, 0\n"
    "common: pusha\n push %ds\n push %es\n mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n"
    " lea 8(%esp), %eax\n push %eax\n call trap\n add $4, %esp\n pop %es\n pop %ds\n popa\n add $8, %esp\n iret\n"
    "entries: .long 0, e0, 6, e6, 13, e13, 14, e14, 32, e32, 128, e128, -1\n");

static void load_cr3(u32 process) { asm volatile("mov %0, %%cr3" ::"r"(top[process]) : "memory"); }
static u32 flags(void) { u32 value; asm volatile("pushf; pop %0" : "=r"(value)); return value; }
static void out(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "d"(port)); }
static u32 in(u16 port) { u32 value; asm volatile("inl %1, %0" : "=a"(value) : "d"(port)); return value; }

static void end(u32 result)
{
    asm volatile("cli; hlt" ::"b"(result));
    for (;;) ;
}

static u64 segment(u32 kind, u32 dpl) { return 0x00cf00000000ffffull | (u64)(0x90 | kind | dpl << 5) << 40; }

static void set_gate(u32 vector, u32 handler, u32 dpl)
{
    idt[vector] = (handler & 0xffff) | 8u << 16 | (u64)(0x8e00 | dpl << 13 | (handler & 0xffff0000)) << 32;
}

static entry *user_entry(u32 process, u32 va) { return &user_l1[process][va >> 12 & (ENTRIES - 1)]; }

static u32 new_page(void)
{
    u32 page = next_free;
    next_free += 4096;
    return page;
}

static void page_fault(struct frame *f)
{
    u32 va, page;
    asm volatile("mov %%cr2, %0" : "=r"(va));
    entry *e = user_entry(current, va);
    faults++;
    if (va < USER_AREA || va >= SHARED_AREA + 0x10000)
        end(0xbad00000 | f->eip);
    if (!(*e & PRESENT)) {
        *e = new_page() | PRESENT | WRITE | USER;
        return;
    }
    if (!(f->error & 2) || !(*e & OURS))
        end(0xbad10000 | f->error);
    page = new_page();
    copies++;
    for (u32 n = 0; n < 1024; n++)
        ((u32 *)page)[n] = ((u32 *)((u32)*e & ~0xfffu))[n];
    *e = page | PRESENT | WRITE | USER;
    asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static void wait_for_tick(void)
{
    u32 before = ticks;
    while (ticks == before)
        asm volatile("sti; hlt; cli" ::: "memory");
}

/* The kernel looks at what it knows of its CPU: bit n is set if it is as it should be. */
static u32 look(void)
{
    struct table_register r;
    u32 value, result = 0;
    asm volatile("pushf; cli" ::: "memory");
    result |= !(flags() & 0x200);
    asm volatile("popf" ::: "memory");
    result |= !(flags() & 0x200) << 1;
    asm volatile("sti; nop" ::: "memory");
    result |= !!(flags() & 0x200) << 2;
    asm volatile("cli" ::: "memory");
    asm volatile("sgdt %0" : "=m"(r));
    result |= (r.base == (u32)gdt && r.limit == sizeof gdt - 1) << 3;
    asm volatile("sidt %0" : "=m"(r));
    result |= (r.base == (u32)idt && r.limit == sizeof idt - 1) << 4;
    asm volatile("push %%cs; pop %0" : "=r"(value));
    result |= ((value & 0xffff) == 8) << 5;
    asm volatile("str %0" : "=r"(value));
    result |= ((value & 0xffff) == 0x28) << 6;
    asm volatile("lar %1, %0" : "=r"(value) : "r"(8));
    result |= ((value >> 13 & 3) == 0) << 7;
    return result;
}

static u32 marks(void)
{
    u32 accessed = 0, dirty = 0;
    for (u32 n = 0; n < 32; n++) {
        accessed += !!(*user_entry(current, USER_AREA + (n << 12)) & ACCESSED);
        dirty += !!(*user_entry(current, USER_AREA + (n << 12)) & DIRTY);
    }
    return accessed << 8 | dirty;
}

static void drop(u32 va, u32 pages)
{
    for (u32 n = 0; n < pages; n++) {
        *user_entry(current, va + (n << 12)) = 0;
        asm volatile("invlpg (%0)" ::"r"(va + (n << 12)) : "memory");
    }
}

static void exit_process(struct frame *f)
{
    sum += f->ebx;
    if (--alive == 0)
        end(sum ^ ticks << 8 ^ faults << 16 ^ copies << 24);
    current ^= 1;
    *f = saved[current];
    load_cr3(current);
}

static void system_call(struct frame *f)
{
    switch (f->eax) {
    case 1: f->eax = faults; break;
    case 2: /* yield */
        saved[current] = *f;
        if (alive == PROCESSES)
            current ^= 1;
        *f = saved[current];
        load_cr3(current);
        break;
    case 3: wait_for_tick(); break;
    case 4: f->eax = look(); break;
    case 5: f->eax = marks(); break;
    case 6: drop(f->ecx, f->edx); break;
    case 7: out(0x1f0, f->ebx); f->eax = in(0x1f4); break;
    case 9: exit_process(f); break;
    default: f->eax = -1;
    }
}

void trap(struct frame *f)
{
    if (f->vector == 14)
        page_fault(f);
    else if (f->vector == 128)
        system_call(f);
    else if (f->vector == 32) {
        ticks++;
        *line = 0;
    } else if (f->cs & 3) { /* a process did what it may not do: skip it */
        f->ebx += f->vector;
        f->eip += f->vector == 13 ? 1 : 2;
    } else
        end(0xbad20000 | f->vector);
}

static void make_tables(void)
{
    for (u32 n = 0; n < 0x1f0; n++)
        kernel_l1[n] = n << 12 | PRESENT | WRITE;
    kernel_l1[(u32)user_start >> 12] |= USER;
    for (u32 p = 0; p < PROCESSES; p++) {
#ifdef PAE
        static PAGE entry low[PROCESSES][ENTRIES], upper[PROCESSES][ENTRIES];
        low[p][0] = (u32)kernel_l1 | PRESENT | WRITE | USER;
        top[p][0] = (u32)low[p] | PRESENT;
        top[p][USER_AREA >> 30] = (u32)upper[p] | PRESENT;
        upper[p][0] = (u32)user_l1[p] | PRESENT | WRITE | USER;
#else
        top[p][0] = (u32)kernel_l1 | PRESENT | WRITE | USER;
        top[p][USER_AREA >> UPPER_SHIFT] = (u32)user_l1[p] | PRESENT | WRITE | USER;
#endif
    }
    for (u32 n = 0; n < 4; n++) {
        u32 page = new_page();
        *(u32 *)page = 100 + n;
        for (u32 p = 0; p < PROCESSES; p++)
            *user_entry(p, SHARED_AREA + (n << 12)) = page | PRESENT | USER | OURS;
    }
}

static void segments(void)
{
    u32 at = (u32)tss;
    struct table_register g = { sizeof gdt - 1, (u32)gdt }, i = { sizeof idt - 1, (u32)idt };
    gdt[1] = segment(0xb, 0); gdt[2] = segment(3, 0); gdt[3] = segment(0xb, 3); gdt[4] = segment(3, 3);
    gdt[5] = 0x67 | (u64)(at & 0xffffff) << 16 | 0x89ull << 40 | (u64)(at >> 24) << 56;
    tss[1] = (u32)kernel_stack + 4096;
    tss[2] = 0x10;
    for (u32 n = 0; entries[n] != -1u; n += 2)
        set_gate(entries[n], entries[n + 1], entries[n] == 128 ? 3 : 0);
    asm volatile("lgdt %0; lidt %1" ::"m"(g), "m"(i));
    asm volatile("ljmp $8, $1f; 1: mov $0x10, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov %%eax, %%ss; mov $0x28, %%eax; ltr %%ax"
                 ::: "eax", "memory");
}

void main(void)
{
    segments();
    make_tables();
    load_cr3(0);
#ifdef PAE
    asm volatile("mov $0x20, %%eax; mov %%eax, %%cr4" ::: "eax");
#endif
    asm volatile("mov %%cr0, %%eax; or $0x80010000, %%eax; mov %%eax, %%cr0; jmp 1f; 1:" ::: "eax", "memory");
    saved[1] = (struct frame){ .ebp = 1, .eip = (u32)user_start, .cs = 0x1b, .eflags = 0x202, .esp = USER_AREA + 0x8000, .ss = 0x23 };
    asm volatile("mov $0x23, %%eax; mov %%eax, %%ds; mov %%eax, %%es; xor %%ebp, %%ebp; push $0x23; push %0; push $0x202; push $0x1b; "
                 "push $user_start; iret" ::"i"(USER_AREA + 0x8000) : "eax");
}

/* A process: EBP is its number, EBX its sum. */
asm(".text\n.balign 4096\n.globl user_start\nuser_start: xor %ebx, %ebx\n"
    " mov $4, %eax\n int $0x80\n add %eax, %ebx\n"
    " mov $3, %edi\n"
    "again: mov $0x40000000, %esi\n mov $24, %ecx\n"
    "1: mov %ecx, (%esi)\n add $4096, %esi\n dec %ecx\n jnz 1b\n" /* private pages */
    " mov $5, %eax\n int $0x80\n add %eax, %ebx\n"
    " mov $2, %eax\n int $0x80\n"                                  /* yield */
    " mov 0x40010000(, %ebp, 8), %eax\n add %eax, %ebx\n incl 0x40012000\n incl 0x40013000\n addl 0x40013000, %ebx\n"
    " mov $3, %eax\n int $0x80\n"                                  /* a tick */
    " mov $0x40000000, %ecx\n mov $6, %edx\n mov $6, %eax\n int $0x80\n"
    " cli\n ud2\n push %ebx\n call f\n pop %eax\n add %eax, %ebx\n"
    " mov $7, %eax\n int $0x80\n add %eax, %ebx\n"
    " mov $1, %eax\n int $0x80\n add %eax, %ebx\n"
    " mov %ds, %eax\n add %eax, %ebx\n mov %cs, %eax\n add %eax, %ebx\n pushf\n pop %eax\n and $0x3200, %eax\n add %eax, %ebx\n"
    " dec %edi\n jnz again\n"
    " mov $9, %eax\n int $0x80\n"
    "f: incl 4(%esp)\n ret\n.balign 4096\n");
