/* What the files of the port to Xen have in common. Source: Xen's public headers. */
enum { SET_TRAP_TABLE = 0, MMU_UPDATE = 1, STACK_SWITCH = 3, SET_CALLBACKS = 4, MEMORY_OP = 12, UPDATE_VA_MAPPING = 14, XEN_VERSION = 17, VM_ASSIST = 21,
       GRANT_TABLE_OP = 20, IRET = 23, VCPU_OP = 24, MMUEXT_OP = 26, SCHED_OP = 29, EVENT_CHANNEL_OP = 32 };
#define DOMID_SELF 0x7ff0u

#define BY_REGISTERS __attribute__((regparm(3))) /* as within one file */
BY_REGISTERS u32 call5(u32 number, u32 a, u32 b, u32 c, u32 d, u32 e);
BY_REGISTERS void need(u32 result, u32 why);            /* ends the kernel if Xen refused */
BY_REGISTERS u32 mfn_of(u32 page);
BY_REGISTERS void map_kernel(u32 va, entry value);
void open_port(u32 port);                  /* events of this channel come from now on */

/* front.c */
void start_devices(u32 store_port);
u32 device_event(u32 port);                /* whether the port is a device's; what it has answered is done */
