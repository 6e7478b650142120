/* The kernel under test: what its files have in common, and what it asks of the machine below it.

   The same kernel.c and programs.S run on a bare machine (bare.c) and on Xen (xen.c). Whatever differs between the two is behind
   the operations of `machine`, below. Page tables have three levels (PAE), for Xen knows no others of 32-bit guests. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef u64 entry;

#define PAGE_SIZE 4096u
#define ENTRIES 512u
#define PAGE __attribute__((aligned(4096)))
#define USER_AREA 0x40000000u  /* what a process has for itself: one table of entries, 2 MiB */
#define USER_PAGES ENTRIES
#define STACK_TOP (USER_AREA + USER_PAGES * PAGE_SIZE)
#define POOL 0x200000u         /* pages that the kernel hands out */
#define POOL_END 0x400000u
#define PROCESSES 8u
#define MARKED 64u             /* entries that mark_entries changes, ROUNDS times each */
#define ROUNDS 8u
#define KERNEL_STACK 8192u

enum { PRESENT = 1, WRITE = 2, USER = 4, ACCESSED = 0x20, DIRTY = 0x40, COPY_ON_WRITE = 0x200, FOR_SOFTWARE = 0x400 };
enum { DIVIDE = 0, UNDEFINED = 6, PROTECTION = 13, PAGE_FAULT = 14, TIMER = 32, DISK = 33, NETWORK = 34, SYSTEM_CALL = 128 };
enum { FAULT_PRESENT = 1, FAULT_WRITE = 2, FAULT_USER = 4 };

/* Registers as a trap finds them, lowest address first. EIP and what follows is what the CPU pushes, or Xen. */
struct frame { u32 edi, esi, ebp, unused, ebx, edx, ecx, eax, vector, error, eip, cs, eflags, esp, ss; };

#define TEXT(x) #x
#define NUMBER(x) TEXT(x)
#ifdef XEN /* rings 1 and 3, by the descriptors that Xen has for every guest */
#define KERNEL_CS 0xe019
#define KERNEL_DS 0xe021
#define USER_CS 0xe02b
#define USER_DS 0xe033
#else /* rings 0 and 3, by the kernel's own */
#define KERNEL_CS 0x08
#define KERNEL_DS 0x10
#define USER_CS 0x1b
#define USER_DS 0x23
#endif

struct process {
    u32 root, upper, last, table; /* its page tables, by their addresses: of level 3, of level 2, of level 2 for Xen, of level 1 */
    u32 alive, parent, handler;   /* `handler`: where it goes on after a write to a page that it made read-only */
    struct frame saved;
};

extern struct process processes[PROCESSES];
extern u32 current, ticks, disk_done, packets_sent, boot_argument, faults, copies;
extern u32 first_program[PROCESSES];
extern char programs_start[], programs_end[], kernel_stack_top[];

u32 new_page(void);                                           /* with whatever was in it */
void free_page(u32 page);                                     /* one that names it fewer; the last gives it back */
u8 *users_of(u32 page);                                       /* how many entries of processes name it */
entry *entry_at(u32 va);                                      /* of the process that runs */
u32 is_user(u32 va);
void skip_or_end(struct frame *f, u32 why);                   /* a process did what it may not: its handler, or the end */
void handle_page_fault(struct frame *f);
extern void (*on_page_fault)(struct frame *f);                /* that, or the pager's */
void start_pager(void);
void make_room(void);
void inflate_balloon(u32 pages);
void wait_until(volatile u32 *counter, u32 value);
void copy_page(u32 to, u32 from);
void clear_page(u32 page);
void run_kernel(void);
void trap(struct frame *f);
void interrupt(u32 vector);

/* The machine: bare.c or xen.c. */
void machine_start(void);                                     /* traps, stack, and the page tables in force */
entry entry_of(u32 page, u32 flags);                          /* an entry for this page of the kernel's memory */
u32 page_of(entry value);                                     /* the page of an entry */
void fill_entry(entry *where, entry value);                   /* in a table that is not in use yet */
void set_entry(u32 va, entry value, u32 invalidate);          /* of the process that runs, at this address */
void change_entry(u32 process, u32 va, entry value);          /* one of several: see end_changes */
void end_changes(void);                                       /* those since the last one are in force */
u32 hold_changes(u32 most);                                   /* so many at most wait for end_changes; the number until now */
void store_entry(u32 va, u32 low);                            /* by a plain store to the lower half of an entry that is there */
void use_root(u32 process);                                   /* a process' tables are complete */
void drop_root(u32 process);                                  /* it has ended; its tables are pages again */
void load_root(u32 process);
void flush_all(void);
u32 fault_address(void);
u32 interrupts_off(void);                                     /* returns what `restore_interrupts` takes */
void restore_interrupts(u32 state);
void wait_for_interrupt(void);
void end_of_interrupt(u32 vector);
void disk(u32 write, u32 sector, u32 page);                   /* begins a transfer of one page */
u32 disk_status(void);                                          /* of the disk, if there are ports */
void send_packet(u32 page, u32 length);
void give_back(u32 page);                                     /* to whoever is below */
u32 look(void);                                               /* a bit for each thing that the CPU tells as it should */
void finish(u32 result) __attribute__((noreturn));
