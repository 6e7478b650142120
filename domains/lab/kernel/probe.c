/* Another kernel: it tries the probes of probes.S in a ring, one by one, and writes down what came of each.

   The GDT's entries 1 and 2 are "the kernel's own" segments: they get the DPL of the ring in which is tried, as a monitor gives the
   kernel's segments the DPL of the ring into which it puts the kernel. All others stay as they are. */
#include "kernel.h"

enum { OWN_CODE = 0x08, OWN_DATA = 0x10, CODE = 0x18, DATA = 0x20, TASK = 0x28, LDT = 0x30, RING1_CODE = 0x50, RING1_DATA = 0x58 };
enum { NR_PROBES = 64, NR_VECTORS = 0x34, BACK = 0x30, LEFT_TO_RING_0 = 0x32, INTO_RING_1 = 0x33 };
struct table_register { u16 limit; u32 base; } __attribute__((packed));
struct state { u32 edi, esi, ebp, unused, ebx, edx, ecx, eax, vector, error; };
struct outcome { u32 vector, error, value, second; };

struct outcome outcomes[4][NR_PROBES]; /* by ring and number; `value`, `second`: EAX and EDX */
u32 first_program[PROCESSES]; /* what is done: try_in_ring_0 and so on */
static struct outcome *now;
static PAGE u32 directory[1024], table[1024];
static u64 gdt[12] __attribute__((aligned(8))), idt[NR_VECTORS];
static u32 tss[26];
static u8 kernel_stack[4096], ring1_stack[4096];

extern void (*const probe_table[])(void), (*const entry_table[])(void);
extern char user_start[], user_end[], user_stack_top[], read_only_page[], in_ring_1[];
void enter_ring(void (*probe)(void), u32 cs, u32 stack, u32 ss);

static u64 segment(u32 kind, u32 dpl) { return 0x00cf00000000ffffull | (u64)(0x90 | kind | dpl << 5) << 40; }
static u64 system_segment(u32 kind, void *at, u32 limit)
{
    return limit | (u64)((u32)at & 0xffffff) << 16 | (u64)kind << 40 | (u64)((u32)at >> 24) << 56;
}

void record(struct state *s)
{
    *now = (struct outcome){ s->vector, s->error, s->eax, s->edx };
}

static void try_in(u32 ring)
{
    gdt[OWN_CODE / 8] = segment(0xb, ring);
    gdt[OWN_DATA / 8] = segment(3, ring);
    for (u32 n = 0; probe_table[n]; n++) {
        now = &outcomes[ring][n];
        enter_ring(probe_table[n], OWN_CODE | ring, (u32)user_stack_top, OWN_DATA | ring);
    }
}

void try_in_ring_0(void) { try_in(0); }
void try_in_ring_1(void) { try_in(1); }
void try_in_ring_3(void) { try_in(3); }

static void set_gate(u32 vector, u32 selector, u32 handler, u32 dpl)
{
    idt[vector] = (handler & 0xffff) | selector << 16 | (u64)(0x8e00 | dpl << 13 | (handler & 0xffff0000)) << 32;
}

static void set_segments(void)
{
    struct table_register g = { sizeof gdt - 1, (u32)gdt }, i = { sizeof idt - 1, (u32)idt };
    gdt[CODE / 8] = segment(0xb, 0);
    gdt[DATA / 8] = segment(3, 0);
    gdt[TASK / 8] = system_segment(0x89, tss, sizeof tss - 1);
    gdt[LDT / 8] = system_segment(0x82, gdt, 7);
    gdt[7] = segment(3, 0);
    gdt[8] = segment(3, 1);
    gdt[9] = segment(3, 3);
    gdt[RING1_CODE / 8] = segment(0xb, 1);
    gdt[RING1_DATA / 8] = segment(3, 1);
    tss[1] = (u32)kernel_stack + sizeof kernel_stack;
    tss[2] = DATA;
    tss[3] = (u32)ring1_stack + sizeof ring1_stack;
    tss[4] = RING1_DATA | 1;
    for (u32 n = 0; n < NR_VECTORS; n++)
        set_gate(n, CODE, (u32)entry_table[n], n >= BACK && n != LEFT_TO_RING_0 ? 3 : 0);
    set_gate(INTO_RING_1, RING1_CODE | 1, (u32)in_ring_1, 3);
    asm volatile("lgdt %0; lidt %1" ::"m"(g), "m"(i));
    asm volatile("ljmp %0, $1f; 1: mov %1, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov %%eax, %%ss" ::"i"(CODE), "i"(DATA) : "eax", "memory");
    asm volatile("ltr %w0; lldt %w1" ::"r"(TASK), "r"(LDT) : "memory");
}

static void set_paging(void)
{
    for (u32 n = 0; n < 1024; n++)
        table[n] = n * PAGE_SIZE | PRESENT | WRITE;
    for (u32 at = (u32)user_start; at < (u32)user_end; at += PAGE_SIZE)
        table[at / PAGE_SIZE] |= USER;
    table[(u32)read_only_page / PAGE_SIZE] &= ~(u32)WRITE;
    directory[0] = (u32)table | PRESENT | WRITE | USER;
    asm volatile("mov %0, %%cr3; mov %%cr0, %%eax; or $0x80010000, %%eax; mov %%eax, %%cr0; jmp 1f; 1:" ::"r"(directory) : "eax", "memory");
}

void run_probes(void)
{
    set_segments();
    set_paging();
    for (u32 n = 0; n < PROCESSES && first_program[n]; n++)
        ((void (*)(void))first_program[n])();
    asm volatile("trials_end: .globl trials_end; cli; hlt" ::"b"(0));
}
