/* The port to Xen: the kernel in ring 1, by hypercalls, as a 32-bit paravirtual guest.

   An address of the kernel's is a page's number in its own memory; `list` says in which frame of the machine each page lies, and
   page tables are made of frames. Source: Xen's public headers (xen.h, arch-x86/xen-x86_32.h, event_channel.h, sched.h). */
#include "kernel.h"
#include "xen.h"

enum { UNPIN_TABLE = 4, PIN_L3_TABLE = 2, NEW_BASEPTR = 5, TLB_FLUSH_LOCAL = 6 };
enum { DECREASE_RESERVATION = 1, ENABLE = 0, WRITABLE_PAGETABLES = 2 };
enum { BLOCK = 1, SHUTDOWN = 2, POWEROFF = 0, CRASH = 3, BIND_VIRQ = 1, VIRQ_TIMER = 0, INVLPG = 2,
       SET_PERIODIC_TIMER = 6 };
static const u64 tick_ns = 10000000;
#define MAX_CHANGES 64u /* usually */
#define M2P ((const u32 *)0xf5800000u)

struct start_info { char magic[32]; u32 nr_pages, shared_info, flags, store_mfn, store_port, console_mfn, console_port, pt_base, nr_pt_frames, mfn_list; };
struct shared_info {
    struct { u8 pending, mask; u16 unused; u32 selector, cr2, pad; u32 time[8]; u32 rest[4]; } vcpu[32];
    u32 pending[32], mask[32];
};
struct trap_info { u8 vector, flags; u16 cs; u32 address; };
struct mmu_update { u64 where, value; };

static PAGE struct shared_info shared_page;
static volatile struct shared_info *const shared = &shared_page;
static const u32 *list;
static entry *first_root;
static struct mmu_update changes[ENTRIES];
static u32 nr_changes, max_changes = MAX_CHANGES, timer_port;
u32 kernel_result; /* told to who runs the experiment */

BY_REGISTERS u32 call5(u32 number, u32 a, u32 b, u32 c, u32 d, u32 e)
{
    asm volatile("int $0x82" : "+a"(number), "+b"(a), "+c"(b), "+d"(c), "+S"(d), "+D"(e)::"memory");
    return number;
}

BY_REGISTERS void need(u32 result, u32 why)
{
    if ((int)result < 0)
        finish(0xbad40000 | why);
}

static void extended(u32 command, u32 mfn)
{
    struct { u32 command, mfn, argument; } op = { command, mfn, 0 };
    need(call5(MMUEXT_OP, (u32)&op, 1, 0, DOMID_SELF, 0), command);
}

BY_REGISTERS u32 mfn_of(u32 page) { return list[page / PAGE_SIZE]; }
entry entry_of(u32 page, u32 flags) { return (entry)mfn_of(page) * PAGE_SIZE | flags; }
u32 page_of(entry value) { return M2P[value >> 12 & 0xfffffff] * PAGE_SIZE; }
void fill_entry(entry *where, entry value) { *where = value; }

BY_REGISTERS void map_kernel(u32 va, entry value)
{
    need(call5(UPDATE_VA_MAPPING, va, (u32)value, (u32)(value >> 32), INVLPG, 0), UPDATE_VA_MAPPING);
}

void set_entry(u32 va, entry value, u32 invalidate)
{
    need(call5(UPDATE_VA_MAPPING, va, (u32)value, (u32)(value >> 32), invalidate ? INVLPG : 0, 0), UPDATE_VA_MAPPING);
}

static void change(u64 where, entry value)
{
    changes[nr_changes++] = (struct mmu_update){ where, value };
    if (nr_changes == max_changes)
        end_changes();
}

void change_entry(u32 process, u32 va, entry value)
{
    change((u64)mfn_of(processes[process].table) * PAGE_SIZE + (va - USER_AREA) / PAGE_SIZE * sizeof(entry), value);
}

void end_changes(void)
{
    if (nr_changes)
        need(call5(MMU_UPDATE, (u32)changes, nr_changes, 0, DOMID_SELF, 0), MMU_UPDATE);
    nr_changes = 0;
}

u32 hold_changes(u32 most)
{
    u32 usual = max_changes;
    max_changes = most;
    return usual;
}

/* Xen maps page tables read-only: the store faults, and Xen carries it out, once it has been asked to. */
void store_entry(u32 va, u32 low)
{
    static u32 asked;
    if (!asked++)
        need(call5(VM_ASSIST, ENABLE, WRITABLE_PAGETABLES, 0, 0, 0), VM_ASSIST);
    *(volatile u32 *)((entry *)processes[current].table + (va - USER_AREA) / PAGE_SIZE) = low;
}

/* Where the entry lies that shows a page to the kernel. */
static u64 kernel_entry(u32 page)
{
    entry *upper = (entry *)page_of(first_root[0]);
    return (upper[page >> 21] & ~0xfffull) + (page >> 12 & (ENTRIES - 1)) * sizeof(entry);
}

static void show(u32 page, u32 flags) { change(kernel_entry(page), entry_of(page, PRESENT | flags)); }

static void show_tables(u32 process, u32 flags)
{
    struct process *p = &processes[process];
    show(p->root, flags);
    show(p->upper, flags);
    show(p->last, flags);
    show(p->table, flags);
    end_changes();
}

void use_root(u32 process)
{
    struct process *p = &processes[process];
    ((entry *)p->upper)[0] = entry_of(p->table, PRESENT | WRITE | USER);
    ((entry *)p->root)[0] = first_root[0];
    ((entry *)p->root)[USER_AREA >> 30] = entry_of(p->upper, PRESENT);
    ((entry *)p->root)[3] = entry_of(p->last, PRESENT);
    show_tables(process, 0);
    extended(PIN_L3_TABLE, mfn_of(p->root));
}

void drop_root(u32 process)
{
    extended(UNPIN_TABLE, mfn_of(processes[process].root));
    show_tables(process, WRITE);
}

void load_root(u32 process) { extended(NEW_BASEPTR, mfn_of(processes[process].root)); }
void flush_all(void) { extended(TLB_FLUSH_LOCAL, 0); }
u32 fault_address(void) { return shared->vcpu[0].cr2; }

u32 interrupts_off(void)
{
    u32 state = shared->vcpu[0].mask;
    shared->vcpu[0].mask = 1;
    return state;
}

void restore_interrupts(u32 state)
{
    shared->vcpu[0].mask = state;
    if (!state && shared->vcpu[0].pending)
        call5(XEN_VERSION, 0, 0, 0, 0, 0); /* on the way back from any hypercall events are delivered */
}

void wait_for_interrupt(void)
{
    need(call5(SCHED_OP, BLOCK, 0, 0, 0, 0), SCHED_OP);
    shared->vcpu[0].mask = 1;
}

void end_of_interrupt(u32 vector) { packets_sent += vector == NETWORK; }
void open_port(u32 port) { shared->mask[port / 32] &= ~(1u << port % 32); }
u32 disk_status(void) { return 0; } /* there are no ports */

void give_back(u32 page)
{
    u32 mfn = mfn_of(page);
    struct { u32 frames, count, order, address_bits; u16 domain; } back = { (u32)&mfn, 1, 0, 0, DOMID_SELF };
    change(kernel_entry(page), 0);
    end_changes();
    flush_all();
    need(call5(MEMORY_OP, DECREASE_RESERVATION, (u32)&back, 0, 0, 0), MEMORY_OP);
}

/* What cli, sti and popf would do is done on a word of memory; of descriptor tables and rings the kernel asks nothing. */
u32 look(void)
{
    u32 result = 0, state = interrupts_off();
    result |= shared->vcpu[0].mask == 1;
    restore_interrupts(0);
    result |= !shared->vcpu[0].mask << 1;
    restore_interrupts(1);
    result |= (shared->vcpu[0].mask == 1) << 2;
    restore_interrupts(0);
    restore_interrupts(interrupts_off());
    result |= !shared->vcpu[0].mask << 10;
    restore_interrupts(state);
    return result;
}

void finish(u32 result)
{
    u32 reason = result >> 20 == 0xbad ? CRASH : POWEROFF;
    kernel_result = result;
    call5(SCHED_OP, SHUTDOWN, (u32)&reason, 0, 0, 0);
    for (;;) ;
}

static u32 take(volatile u32 *word)
{
    u32 value = 0;
    asm volatile("xchg %0, %1" : "+r"(value), "+m"(*word)::"memory");
    return value;
}

void handle_events(void)
{
    shared->vcpu[0].pending = 0;
    for (u32 words = take(&shared->vcpu[0].selector); words; words &= words - 1) {
        u32 word = __builtin_ctz(words);
        for (u32 bits = take(&shared->pending[word]); bits; bits &= bits - 1) {
            u32 port = word * 32 + __builtin_ctz(bits);
            if (!device_event(port) && port == timer_port)
                interrupt(TIMER);
        }
    }
}

extern void event_callback(void), failsafe_callback(void);
#define TRAP(vector) extern void trap##vector(void);
TRAP(0) TRAP(6) TRAP(13) TRAP(14) TRAP(128)
#undef TRAP

void machine_start(void)
{
    const struct start_info *start = (const struct start_info *)boot_argument;
    struct trap_info traps[] = {
        { DIVIDE, 0, KERNEL_CS, (u32)trap0 },       { UNDEFINED, 0, KERNEL_CS, (u32)trap6 },
        { PROTECTION, 0, KERNEL_CS, (u32)trap13 },  { PAGE_FAULT, 0, KERNEL_CS, (u32)trap14 },
        { SYSTEM_CALL, 3, KERNEL_CS, (u32)trap128 }, {},
    };
    struct { u32 virq, vcpu, port; } timer = { VIRQ_TIMER, 0, 0 };
    list = (const u32 *)start->mfn_list;
    first_root = (entry *)start->pt_base;
    need(call5(SET_TRAP_TABLE, (u32)traps, 0, 0, 0, 0), 0);
    need(call5(STACK_SWITCH, KERNEL_DS, (u32)kernel_stack_top, 0, 0, 0), STACK_SWITCH);
    need(call5(SET_CALLBACKS, KERNEL_CS, (u32)event_callback, KERNEL_CS, (u32)failsafe_callback, 0), SET_CALLBACKS);
    map_kernel((u32)&shared_page, (entry)start->shared_info | PRESENT | WRITE);
    for (u32 at = (u32)programs_start; at < (u32)programs_end; at += PAGE_SIZE)
        map_kernel(at, entry_of(at, PRESENT | USER));
    need(call5(EVENT_CHANNEL_OP, BIND_VIRQ, (u32)&timer, 0, 0, 0), EVENT_CHANNEL_OP);
    timer_port = timer.port;
    open_port(timer_port);
    need(call5(VCPU_OP, SET_PERIODIC_TIMER, 0, (u32)&tick_ns, 0, 0), VCPU_OP);
    start_devices(start->store_port);
    shared->vcpu[0].mask = 0;
}

asm(".text\nevent_callback: push $0\n push $0\n pusha\n push %ds\n push %es\n mov $" NUMBER(KERNEL_DS) ", %eax\n"
    " mov %eax, %ds\n mov %eax, %es\n call handle_events\n pop %es\n pop %ds\n popa\n add $8, %esp\n"
    " push %eax\n mov $23, %eax\n int $0x82\n"
    "failsafe_callback: add $16, %esp\n push %eax\n mov $23, %eax\n int $0x82\n");
