/* A kernel of 64 bits on Xen: both its halves are in ring 3, told apart by their page tables. It tries the probes of xen64.S in each.

   The kernel's half has the page tables that it was built with; the user's half has tables of its own, in which only the pages from
   user_start to user_end are, at the same addresses. Source: Xen's public headers (xen.h, arch-x86/xen-x86_64.h, callback.h). */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define PAGE __attribute__((aligned(4096)))
enum { SET_TRAP_TABLE = 0, MMUEXT_OP = 26, STACK_SWITCH = 3, UPDATE_VA_MAPPING = 14, SCHED_OP = 29, CALLBACK_OP = 30 };
enum { PIN_L4_TABLE = 3, NEW_USER_BASEPTR = 15, INVLPG = 2, SHUTDOWN = 2, REGISTER = 0, ON_SYSCALL = 2 };
enum { PRESENT = 1, WRITE = 2, USER = 4, NR_PROBES = 64, ENTRIES = 512, PAGE_SIZE = 4096, KERNEL_CS = 0xe033, KERNEL_SS = 0xe02b };
#define DOMID_SELF 0x7ff0ul

struct start_info { char magic[32]; u64 nr_pages, shared_info; u32 flags; u64 store_mfn; u32 store_port; u64 console_mfn; u32 console_port; u64 pt_base, nr_pt_frames, mfn_list; };
struct trap_info { u8 vector, flags; u16 cs; u64 address; };
struct outcome { u32 vector, error, value, second; };

struct outcome outcomes[4][NR_PROBES]; /* by half, 0 the kernel's, 3 the user's, and number; `value`, `second`: RAX and RDX */
u32 first_program[8], kernel_result, front_ends[6]; /* it has no devices */
static struct outcome *now;
static const u64 *list;
PAGE u64 user_l4[ENTRIES];
static PAGE u64 user_l3[ENTRIES], user_l2[ENTRIES], user_l1[ENTRIES];
static u8 trap_stack[4096] PAGE;

extern void (*const probe_table[])(void);
extern char user_start[], user_end[], read_only_page[], trap6[], trap13[], trap14[], syscall_entry[];
void try_in_kernel(void (*probe)(void));
void try_in_user(void (*probe)(void));

static long call(u64 number, u64 a, u64 b, u64 c, u64 d)
{
    register u64 r10 asm("r10") = d;
    asm volatile("syscall" : "+a"(number), "+D"(a), "+S"(b), "+d"(c), "+r"(r10)::"memory", "rcx", "r11");
    return number;
}

static void finish(u32 result)
{
    u32 reason = 0;
    kernel_result = result;
    call(SCHED_OP, SHUTDOWN, (u64)&reason, 0, 0);
}

static void need(long result, u32 why)
{
    if (result < 0)
        finish(0xbad40000 | why);
}

static u64 entry_of(void *page, u64 flags) { return list[(u64)page / PAGE_SIZE] * PAGE_SIZE | flags | PRESENT; }
static void show(void *page, u64 flags) { need(call(UPDATE_VA_MAPPING, (u64)page, entry_of(page, flags), INVLPG, 0), UPDATE_VA_MAPPING); }
static u32 index_of(void *page) { return (u64)page / PAGE_SIZE % ENTRIES; }

static void extended(u32 command, void *page)
{
    struct { u32 command; u64 mfn, argument; } op = { command, list[(u64)page / PAGE_SIZE], 0 };
    need(call(MMUEXT_OP, (u64)&op, 1, 0, DOMID_SELF), MMUEXT_OP);
}

static void make_user_tables(void)
{
    for (char *at = user_start; at < user_end; at += PAGE_SIZE)
        user_l1[index_of(at)] = entry_of(at, at == read_only_page ? USER : USER | WRITE);
    user_l2[0] = entry_of(user_l1, USER | WRITE);
    user_l3[0] = entry_of(user_l2, USER | WRITE);
    user_l4[0] = entry_of(user_l3, USER | WRITE);
    show(user_l1, USER);
    show(user_l2, USER);
    show(user_l3, USER);
    show(user_l4, USER);
    show(read_only_page, USER);
    extended(PIN_L4_TABLE, user_l4);
    extended(NEW_USER_BASEPTR, user_l4);
}

void record(u32 vector, u32 error, u32 value, u32 second)
{
    *now = (struct outcome){ vector, error, value, second };
}

static void try_all(u32 half, void (*how)(void (*probe)(void)))
{
    for (u32 n = 0; probe_table[n]; n++) {
        now = &outcomes[half][n];
        how(probe_table[n]);
    }
}

void try_in_ring_0(void) { try_all(0, try_in_kernel); }
void try_in_ring_3(void) { try_all(3, try_in_user); }

void run_kernel(const struct start_info *start)
{
    struct trap_info traps[] = { { 6, 0, KERNEL_CS, (u64)trap6 }, { 13, 0, KERNEL_CS, (u64)trap13 }, { 14, 0, KERNEL_CS, (u64)trap14 }, {} };
    struct { u16 type, flags; u64 address; } on_syscall = { ON_SYSCALL, 0, (u64)syscall_entry };
    list = (const u64 *)start->mfn_list;
    need(call(SET_TRAP_TABLE, (u64)traps, 0, 0, 0), SET_TRAP_TABLE);
    need(call(CALLBACK_OP, REGISTER, (u64)&on_syscall, 0, 0), CALLBACK_OP);
    need(call(STACK_SWITCH, KERNEL_SS, (u64)trap_stack + sizeof trap_stack, 0, 0), STACK_SWITCH);
    make_user_tables();
    for (u32 n = 0; n < 8 && first_program[n]; n++)
        ((void (*)(void))(u64)first_program[n])();
    asm volatile("trials_end: .globl trials_end");
    finish(0);
}
