/* The front ends of a disk and of a network card: the halves of split drivers that are the guest's.

   A device is one page, the ring, that the guest grants to the domain with the back end, and one event channel. A request names
   pages of data by grant references. What other guests read and write in xenstore to find each other is one structure here,
   `front_ends`: the toolstack writes the back end's domain into it, and reads the rest when an event comes on the store's port.
   Source: Xen's public headers (grant_table.h, event_channel.h, io/ring.h, io/blkif.h, io/netif.h). */
#include "kernel.h"
#include "xen.h"

enum { SETUP_TABLE = 2, PERMIT_ACCESS = 1, READ_ONLY = 4, IN_USE = 0x18 };
enum { CLOSE = 3, SEND = 4, ALLOC_UNBOUND = 6 };
enum { READ = 0, WRITE_BLOCK = 1, OKAY = 0 };
enum { BLOCK_FRONT, NETWORK_FRONT, FRONTS };
#define SECTORS 8u     /* in a page */
#define BLOCK_SLOTS 32u
#define NETWORK_SLOTS 256u
#define FIRST_REFERENCE 8u /* those below it are reserved */
#define REFERENCES 512u

struct grant { u16 flags, domid; u32 frame; };
struct indices { u32 req_prod, req_event, rsp_prod, rsp_event; u8 unused[48]; };
struct block_request {
    u8 operation, segments;
    u16 handle;
    u64 id, sector;
    struct { u32 reference; u8 first, last; } segment[11];
};
struct block_response { u64 id; u8 operation; short status; };
struct packet_request { u32 reference; u16 offset, flags, id, size; };
struct packet_response { u16 id; short status; };

static PAGE struct grant grants[REFERENCES];
static PAGE struct { struct indices indices; union { struct block_request request; struct block_response response; } slot[BLOCK_SLOTS]; } block_ring;
static PAGE struct { struct indices indices; union { struct packet_request request; struct packet_response response; } slot[NETWORK_SLOTS]; } network_ring;

struct front { u32 reference, port; u32 back_end; } front_ends[FRONTS];
static u32 store_port;
static struct { volatile struct indices *ring; u32 produced, taken, first_reference; } fronts[FRONTS] = {
    { &block_ring.indices, 0, 0, FIRST_REFERENCE + FRONTS },
    { &network_ring.indices, 0, 0, FIRST_REFERENCE + FRONTS + BLOCK_SLOTS },
};

static void permit(u32 reference, u32 domid, u32 page, u32 flags)
{
    grants[reference].domid = domid;
    grants[reference].frame = mfn_of(page);
    *(volatile u16 *)&grants[reference].flags = PERMIT_ACCESS | flags; /* last: Xen looks at the rest when this is there */
}

/* Xen sets and clears bits of the flags meanwhile: they are exchanged only if the page is not in use. */
static void end_access(u32 reference)
{
    u16 flags = grants[reference].flags & ~IN_USE;
    asm volatile("lock cmpxchgw %2, %1; je 1f; mov $0xffff, %0; 1:" : "+a"(flags), "+m"(grants[reference].flags) : "r"((u16)0) : "memory");
    if (flags == 0xffff)
        finish(0xbad60000 | reference);
}

static void barrier(void) { asm volatile("lock; addl $0, (%%esp)" ::: "memory"); }

static void notify(u32 port) { need(call5(EVENT_CHANNEL_OP, SEND, (u32)&port, 0, 0, 0), EVENT_CHANNEL_OP); }

/* The request is shown; the back end is notified if it waits for this one. */
static void push(u32 which)
{
    volatile struct indices *ring = fronts[which].ring;
    u32 shown = ring->req_prod;
    ring->req_prod = fronts[which].produced;
    barrier();
    if (fronts[which].produced - ring->req_event < fronts[which].produced - shown)
        notify(front_ends[which].port);
}

void disk(u32 write, u32 sector, u32 page)
{
    u32 slot = fronts[BLOCK_FRONT].produced++ % BLOCK_SLOTS, reference = fronts[BLOCK_FRONT].first_reference + slot;
    struct block_request *r = &block_ring.slot[slot].request;
    permit(reference, front_ends[BLOCK_FRONT].back_end, page, write ? READ_ONLY : 0);
    *r = (struct block_request){ write ? WRITE_BLOCK : READ, 1, 0, slot, sector * SECTORS };
    r->segment[0].reference = reference;
    r->segment[0].last = SECTORS - 1;
    push(BLOCK_FRONT);
}

void send_packet(u32 page, u32 length)
{
    u32 slot = fronts[NETWORK_FRONT].produced++ % NETWORK_SLOTS, reference = fronts[NETWORK_FRONT].first_reference + slot;
    permit(reference, front_ends[NETWORK_FRONT].back_end, page, READ_ONLY);
    network_ring.slot[slot].request = (struct packet_request){ reference, 0, 0, slot, length };
    push(NETWORK_FRONT);
}

/* One answer: the page is the guest's alone again. */
static void done(u32 which, u32 slot)
{
    u32 id = which == BLOCK_FRONT ? block_ring.slot[slot].response.id : network_ring.slot[slot].response.id;
    int status = which == BLOCK_FRONT ? block_ring.slot[slot].response.status : network_ring.slot[slot].response.status;
    if (status != OKAY)
        finish(0xbad50000 | (status & 0xffff));
    end_access(fronts[which].first_reference + id);
    interrupt(which == BLOCK_FRONT ? DISK : NETWORK);
}

static void take_answers(u32 which)
{
    u32 slots = which == BLOCK_FRONT ? BLOCK_SLOTS : NETWORK_SLOTS;
    volatile struct indices *ring = fronts[which].ring;
    do {
        while (fronts[which].taken != ring->rsp_prod)
            done(which, fronts[which].taken++ % slots);
        ring->rsp_event = fronts[which].taken + 1;
        barrier();
    } while (fronts[which].taken != ring->rsp_prod);
}

static void connect(u32 which)
{
    struct front *f = &front_ends[which];
    struct { u16 domid, remote; u32 port; } channel = { DOMID_SELF, f->back_end, 0 };
    f->reference = FIRST_REFERENCE + which;
    permit(f->reference, f->back_end, (u32)fronts[which].ring, 0);
    fronts[which].ring->req_event = fronts[which].ring->rsp_event = 1;
    need(call5(EVENT_CHANNEL_OP, ALLOC_UNBOUND, (u32)&channel, 0, 0, 0), ALLOC_UNBOUND);
    f->port = channel.port;
    open_port(f->port);
}

/* The requests that were not answered, in the ring that begins anew, for another back end. */
static void ask_again(void)
{
    static struct { struct block_request request; struct grant page; } waiting[BLOCK_SLOTS];
    u32 count = 0;
    for (; fronts[BLOCK_FRONT].taken != fronts[BLOCK_FRONT].produced; fronts[BLOCK_FRONT].taken++, count++) {
        waiting[count].request = block_ring.slot[fronts[BLOCK_FRONT].taken % BLOCK_SLOTS].request;
        waiting[count].page = grants[waiting[count].request.segment[0].reference];
        end_access(waiting[count].request.segment[0].reference);
    }
    for (u32 slot = 0; slot < count; slot++) {
        struct block_request *r = &block_ring.slot[slot].request;
        *r = waiting[slot].request;
        r->id = slot;
        r->segment[0].reference = fronts[BLOCK_FRONT].first_reference + slot;
        waiting[slot].page.domid = front_ends[BLOCK_FRONT].back_end;
        grants[r->segment[0].reference] = waiting[slot].page;
    }
    fronts[BLOCK_FRONT].produced = count;
}

/* Packets that were not sent are lost, as on any wire. */
static void give_up(void)
{
    for (; fronts[NETWORK_FRONT].taken != fronts[NETWORK_FRONT].produced; fronts[NETWORK_FRONT].taken++) {
        end_access(fronts[NETWORK_FRONT].first_reference + fronts[NETWORK_FRONT].taken % NETWORK_SLOTS);
        interrupt(NETWORK);
    }
    fronts[NETWORK_FRONT].produced = 0;
}

/* The back end is another one, whose domain is in `front_ends`; the one of before is gone. */
static void reconnect(void)
{
    for (u32 which = 0; which < FRONTS; which++) {
        volatile struct indices *ring = fronts[which].ring;
        take_answers(which);
        if (which == BLOCK_FRONT)
            ask_again();
        else
            give_up();
        fronts[which].taken = 0;
        end_access(front_ends[which].reference);
        need(call5(EVENT_CHANNEL_OP, CLOSE, (u32)&front_ends[which].port, 0, 0, 0), CLOSE);
        ring->rsp_prod = 0;
        ring->req_prod = fronts[which].produced;
        connect(which);
    }
    notify(store_port);
}

u32 device_event(u32 port)
{
    if (port == store_port)
        reconnect();
    for (u32 which = 0; which < FRONTS; which++)
        if (port == front_ends[which].port)
            take_answers(which);
    return port == store_port || port == front_ends[BLOCK_FRONT].port || port == front_ends[NETWORK_FRONT].port;
}

void start_devices(u32 store)
{
    u32 frame;
    struct { u16 domid; u32 frames; short status; u32 *list; } table = { DOMID_SELF, 1, 0, &frame };
    need(call5(GRANT_TABLE_OP, SETUP_TABLE, (u32)&table, 1, 0, 0), GRANT_TABLE_OP);
    need(table.status, GRANT_TABLE_OP);
    map_kernel((u32)grants, (entry)frame * PAGE_SIZE | PRESENT | WRITE);
    for (u32 which = 0; which < FRONTS; which++)
        connect(which);
    store_port = store;
    open_port(store_port);
    notify(store_port);
}
