/* The machine as it is: the kernel in ring 0, with its own descriptor tables, page tables and ports. */
#include "kernel.h"

struct table_register { u16 limit; u32 base; } __attribute__((packed));

/* Ports of this machine's devices. */
enum { PIC = 0x20, DISK_SECTOR = 0x1f0, DISK_PAGE = 0x1f4, DISK_COMMAND = 0x1f8, BALLOON = 0x1fc };
enum { NIC_DATA = 0x310, NIC_ADDRESS = 0x312, NIC_RING = 0x318, NIC_STATUS = 0, NIC_DEMAND = 8, NIC_ACKNOWLEDGE = 2 };

static PAGE entry kernel_upper[ENTRIES], kernel_table[2][ENTRIES];
static u64 gdt[8] __attribute__((aligned(8))), idt[256];
static u32 tss[26];
#define BROKEN_SECTOR 14u
#define NIC_SLOTS 4u
static volatile struct { u32 page, length, owned; } nic_ring[NIC_SLOTS] __attribute__((aligned(64)));
static u32 nic_next, nic_taken; /* slots given to the card, and taken back */

static void load_cr3(u32 root) { asm volatile("mov %0, %%cr3" ::"r"(root) : "memory"); }
static void invalidate_page(u32 va) { asm volatile("invlpg (%0)" ::"r"(va) : "memory"); }
static u32 flags(void) { u32 value; asm volatile("pushf; pop %0" : "=r"(value)); return value; }
static void out8(u16 port, u8 value) { asm volatile("outb %0, %1" ::"a"(value), "d"(port)); }
static void out16(u16 port, u16 value) { asm volatile("outw %0, %1" ::"a"(value), "d"(port)); }
static void out32(u16 port, u32 value) { asm volatile("outl %0, %1" ::"a"(value), "d"(port)); }
static u16 in16(u16 port) { u16 value; asm volatile("inw %1, %0" : "=a"(value) : "d"(port)); return value; }
static u64 segment(u32 kind, u32 dpl) { return 0x00cf00000000ffffull | (u64)(0x90 | kind | dpl << 5) << 40; }

entry entry_of(u32 page, u32 flags) { return page | flags; }
u32 page_of(entry value) { return (u32)value & -PAGE_SIZE; }
void fill_entry(entry *where, entry value) { *where = value; }

void set_entry(u32 va, entry value, u32 invalidate)
{
    change_entry(current, va, value);
    if (invalidate)
        invalidate_page(va);
}

void change_entry(u32 process, u32 va, entry value)
{
    ((volatile entry *)processes[process].table)[(va - USER_AREA) / PAGE_SIZE] = value;
}

void end_changes(void) {}
u32 hold_changes(u32 most) { return 0; }

void store_entry(u32 va, u32 low)
{
    *(volatile u32 *)((entry *)processes[current].table + (va - USER_AREA) / PAGE_SIZE) = low;
}

void use_root(u32 process)
{
    struct process *p = &processes[process];
    ((entry *)p->upper)[0] = p->table | PRESENT | WRITE | USER;
    ((entry *)p->root)[0] = (u32)kernel_upper | PRESENT;
    ((entry *)p->root)[USER_AREA >> 30] = p->upper | PRESENT;
}

void drop_root(u32 process) {}
void load_root(u32 process) { load_cr3(processes[process].root); }
void flush_all(void) { load_cr3(processes[current].root); }
u32 fault_address(void) { u32 va; asm volatile("mov %%cr2, %0" : "=r"(va)); return va; }

u32 interrupts_off(void)
{
    u32 state = flags();
    asm volatile("cli" ::: "memory");
    return state;
}

void restore_interrupts(u32 state) { asm volatile("push %0; popf" ::"r"(state) : "memory"); }
void wait_for_interrupt(void) { asm volatile("sti; hlt; cli" ::: "memory"); }

void end_of_interrupt(u32 vector)
{
    if (vector == NETWORK) {
        out16(NIC_ADDRESS, NIC_STATUS);
        out16(NIC_DATA, in16(NIC_DATA) | NIC_ACKNOWLEDGE);
        for (; nic_taken != nic_next && !nic_ring[nic_taken % NIC_SLOTS].owned; nic_taken++)
            packets_sent++;
    }
    out8(PIC, 0x20);
}

/* `BROKEN_SECTOR`: the driver has a fault, for an experiment. */
void disk(u32 write, u32 sector, u32 page)
{
    if (sector == BROKEN_SECTOR)
        *(volatile u32 *)-PAGE_SIZE = 0;
    out32(DISK_SECTOR, sector);
    out32(DISK_PAGE, page);
    out32(DISK_COMMAND, write);
}

u32 disk_status(void)
{
    u32 value;
    asm volatile("inl %1, %0" : "=a"(value) : "d"((u16)DISK_COMMAND));
    return value;
}

void send_packet(u32 page, u32 length)
{
    while (nic_next - nic_taken == NIC_SLOTS)
        wait_for_interrupt();
    u32 slot = nic_next++ % NIC_SLOTS;
    nic_ring[slot].page = page;
    nic_ring[slot].length = length;
    nic_ring[slot].owned = 1;
    out16(NIC_ADDRESS, NIC_STATUS);
    in16(NIC_DATA);
    out16(NIC_DATA, NIC_DEMAND);
}

void give_back(u32 page) { out32(BALLOON, page); }

u32 look(void)
{
    struct table_register r;
    u32 value, result = 0, state = interrupts_off();
    result |= !(flags() & 0x200);
    asm volatile("sti; nop" ::: "memory");
    result |= !!(flags() & 0x200) << 1;
    restore_interrupts(flags() & ~0x200u);
    result |= !(flags() & 0x200) << 2;
    asm volatile("sti; nop" ::: "memory");
    restore_interrupts(interrupts_off());
    result |= !!(flags() & 0x200) << 10;
    restore_interrupts(state);
    asm volatile("sgdt %0" : "=m"(r));
    result |= (r.base == (u32)gdt && r.limit == sizeof gdt - 1) << 3;
    asm volatile("sidt %0" : "=m"(r));
    result |= (r.base == (u32)idt && r.limit == sizeof idt - 1) << 4;
    asm volatile("push %%cs; pop %0" : "=r"(value));
    result |= ((value & 0xffff) == KERNEL_CS) << 5;
    asm volatile("str %0" : "=r"(value));
    result |= ((value & 0xffff) == 0x28) << 6;
    asm volatile("lar %1, %0" : "=r"(value) : "r"(KERNEL_CS));
    result |= ((value >> 13 & 3) == 0) << 7;
    asm volatile("smsw %0" : "=r"(value));
    result |= ((value & 9) == 1) << 8;
    asm volatile("sldt %0" : "=r"(value));
    result |= !(value & 0xffff) << 9;
    return result;
}

void finish(u32 result)
{
    asm volatile("cli; hlt" ::"b"(result));
    for (;;) ;
}

static void set_gate(u32 vector, u32 handler, u32 dpl)
{
    idt[vector] = (handler & 0xffff) | KERNEL_CS << 16 | (u64)(0x8e00 | dpl << 13 | (handler & 0xffff0000)) << 32;
}

#define TRAP(vector) extern void trap##vector(void);
TRAP(0) TRAP(6) TRAP(13) TRAP(14) TRAP(32) TRAP(33) TRAP(34) TRAP(128)
#undef TRAP

static void set_traps(void)
{
    set_gate(DIVIDE, (u32)trap0, 0);
    set_gate(UNDEFINED, (u32)trap6, 0);
    set_gate(PROTECTION, (u32)trap13, 0);
    set_gate(PAGE_FAULT, (u32)trap14, 0);
    set_gate(TIMER, (u32)trap32, 0);
    set_gate(DISK, (u32)trap33, 0);
    set_gate(NETWORK, (u32)trap34, 0);
    set_gate(SYSTEM_CALL, (u32)trap128, 3);
}

static void set_segments(void)
{
    u32 at = (u32)tss;
    struct table_register g = { sizeof gdt - 1, (u32)gdt }, i = { sizeof idt - 1, (u32)idt };
    gdt[1] = segment(0xb, 0);
    gdt[2] = segment(3, 0);
    gdt[3] = segment(0xb, 3);
    gdt[4] = segment(3, 3);
    gdt[5] = 0x67 | (u64)(at & 0xffffff) << 16 | 0x89ull << 40 | (u64)(at >> 24) << 56;
    tss[1] = (u32)kernel_stack_top;
    tss[2] = KERNEL_DS;
    asm volatile("lgdt %0; lidt %1" ::"m"(g), "m"(i));
    asm volatile("ljmp %0, $1f; 1: mov %1, %%eax; mov %%eax, %%ds; mov %%eax, %%es; mov %%eax, %%ss; mov $0x28, %%eax; ltr %%ax"
                 ::"i"(KERNEL_CS), "i"(KERNEL_DS) : "eax", "memory");
}

void machine_start(void)
{
    static PAGE entry first_root[ENTRIES];
    set_traps();
    set_segments();
    for (u32 n = 0; n < POOL_END / PAGE_SIZE; n++)
        kernel_table[n / ENTRIES][n % ENTRIES] = n * PAGE_SIZE | PRESENT | WRITE;
    for (u32 at = (u32)programs_start; at < (u32)programs_end; at += PAGE_SIZE)
        kernel_table[at / PAGE_SIZE / ENTRIES][at / PAGE_SIZE % ENTRIES] |= USER;
    kernel_upper[0] = (u32)kernel_table[0] | PRESENT | WRITE | USER;
    kernel_upper[1] = (u32)kernel_table[1] | PRESENT | WRITE | USER;
    first_root[0] = (u32)kernel_upper | PRESENT;
    load_cr3((u32)first_root);
    asm volatile("mov %%cr4, %%eax; or $0x20, %%eax; mov %%eax, %%cr4; mov %%cr0, %%eax; or $0x80010000, %%eax; mov %%eax, %%cr0; jmp 1f; 1:"
                 ::: "eax", "memory");
    out32(NIC_RING, (u32)nic_ring);
}
