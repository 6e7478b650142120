/* A guest that moves: it works in its memory, says in data/ticks how far it is, and suspends when control/shutdown asks for it.
 * What it finds wrong in its memory it says in data/wrong. 64 bits. */
#include "guest.h"

#define PAGES 256
#define WORDS (PAGES * 512ul)
#define XS_READ 2
#define XS_WRITE 11
#define RING 1024
#define PAUSE 5000000ull

struct header { uint32_t type, req_id, tx_id, len; };
struct store_ring { char req[RING], rsp[RING]; volatile uint32_t req_cons, req_prod, rsp_cons, rsp_prod; };

static shared_info_t *shared;
static char shared_va[4096] __attribute__((aligned(4096)));
static unsigned long lists[512] __attribute__((aligned(4096))), list[1024] __attribute__((aligned(4096)));
static uint64_t work[WORDS] __attribute__((aligned(4096)));
static unsigned long *p2m;
static struct store_ring *store;
static char answer[RING];

static long map(const void *va, uint64_t value)
{
    return hypercall(__HYPERVISOR_update_va_mapping, va, value, UVMF_INVLPG);
}

static unsigned long frame_of(const void *va)
{
    return p2m[(unsigned long)va >> 12];
}

static unsigned long page_of(unsigned long frame, unsigned long pages)
{
    unsigned long pfn = 0;
    while (pfn < pages && p2m[pfn] != frame)
        pfn++;
    return pfn;
}

static void share(start_info_t *info)
{
    map(shared_va, info->shared_info | 7);
    shared = (shared_info_t *)shared_va;
    for (unsigned long i = 0; i * 512 < info->nr_pages; i++)
        list[i] = frame_of((char *)p2m + i * 4096);
    lists[0] = frame_of(list);
    shared->arch.max_pfn = info->nr_pages;
    shared->arch.pfn_to_mfn_frame_list_list = frame_of(lists);
    store = (struct store_ring *)(page_of(info->store_mfn, info->nr_pages) << 12);
}

static uint64_t now(void)
{
    volatile struct vcpu_time_info *time = &shared->vcpu_info[0].time;
    uint64_t system, delta;
    uint32_t version, low, high;
    do {
        version = time->version;
        __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
        delta = ((uint64_t)high << 32 | low) - time->tsc_timestamp;
        delta = time->tsc_shift < 0 ? delta >> -time->tsc_shift : delta << time->tsc_shift;
        system = time->system_time + (uint64_t)(((unsigned __int128)delta * time->tsc_to_system_mul) >> 32);
    } while (version & 1 || version != time->version);
    return system;
}

static void rest(uint64_t nanoseconds)
{
    struct sched_poll poll = { .nr_ports = 0, .timeout = now() + nanoseconds };
    hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &poll, 0);
}

static void put(const char *data, unsigned int size)
{
    for (unsigned int i = 0; i < size; i++) {
        while (store->req_prod - store->req_cons == RING)
            rest(PAUSE / 10);
        store->req[store->req_prod & (RING - 1)] = data[i];
        __asm__ volatile("" ::: "memory");
        store->req_prod++;
    }
}

static void get(char *data, unsigned int size)
{
    for (unsigned int i = 0; i < size; i++) {
        while (store->rsp_prod == store->rsp_cons)
            rest(PAUSE / 10);
        data[i] = store->rsp[store->rsp_cons & (RING - 1)];
        __asm__ volatile("" ::: "memory");
        store->rsp_cons++;
    }
}

/* Ask the store: the path with its NUL, and a value behind it. The answer's length; 0 also where the store refuses. */
static unsigned int ask(start_info_t *info, unsigned int type, const char *path, const char *value)
{
    struct header head = { .type = type, .len = length(path) + 1 + length(value) };
    struct evtchn_send send = { .port = info->store_evtchn };
    put((const char *)&head, sizeof head);
    put(path, length(path) + 1);
    put(value, length(value));
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &send, 0);
    get((char *)&head, sizeof head);
    get(answer, head.len < RING ? head.len : RING - 1);
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &send, 0);
    answer[head.len < RING ? head.len : RING - 1] = 0;
    return head.type == type ? head.len : 0;
}

static void tell(start_info_t *info, const char *path, uint64_t number)
{
    char text[21];
    int at = 20;
    text[at] = 0;
    do {
        text[--at] = '0' + number % 10;
        number /= 10;
    } while (number);
    ask(info, XS_WRITE, path, text + at);
}

static int is_asked_to_suspend(start_info_t *info)
{
    static const char wanted[] = "suspend";
    if (ask(info, XS_READ, "control/shutdown", "") != sizeof wanted - 1)
        return 0;
    for (unsigned int i = 0; i < sizeof wanted - 1; i++)
        if (answer[i] != wanted[i])
            return 0;
    return 1;
}

static long suspend(start_info_t *info)
{
    struct sched_shutdown how = { .reason = SHUTDOWN_suspend };
    unsigned long store_frame = info->store_mfn, console_frame = info->console.domU.mfn;
    long result;

    info->store_mfn = page_of(store_frame, info->nr_pages);
    info->console.domU.mfn = page_of(console_frame, info->nr_pages);
    map(shared_va, 0);
    result = hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &how, frame_of(info));
    if (result == 1) {
        info->store_mfn = store_frame;
        info->console.domU.mfn = console_frame;
    }
    share(info);
    return result;
}

/* Word i was written last in that tick in which its turn was: every word says by its value whether it is as it should be. */
static uint64_t expected(uint64_t tick, uint64_t i)
{
    uint64_t last = tick - (tick - i) % PAGES;
    return last * 0x9e3779b97f4a7c15ull + i;
}

int main(start_info_t *info)
{
    uint64_t moves = 0, wrong = 0;

    p2m = (unsigned long *)info->mfn_list;
    share(info);
    for (uint64_t i = 0; i < PAGES; i++)
        work[i * 512 + i % 512] = expected(PAGES + i, i);
    print("wanders\n");
    for (uint64_t tick = 2 * PAGES;; tick++) {
        uint64_t i = tick % PAGES;
        work[i * 512 + i % 512] = expected(tick, i);
        for (uint64_t j = 0; j < PAGES; j++)
            if (work[j * 512 + j % 512] != expected(tick, j))
                wrong++;
        if (wrong)
            tell(info, "data/wrong", wrong);
        tell(info, "data/ticks", tick);
        if (is_asked_to_suspend(info)) {
            ask(info, XS_WRITE, "control/shutdown", "");
            if (suspend(info) == 0)
                tell(info, "data/moves", ++moves);
        }
        rest(PAUSE);
    }
}
