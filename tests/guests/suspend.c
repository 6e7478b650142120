/* A guest that suspends: again as long as its suspend is cancelled, and when it was restored it finds all as it left it. With the
   command line "late" it waits for an NMI first, and its first suspend must be cancelled: it ends well then. */
#include "guest.h"

#define PATTERN(i) (0x1122334455667788ull * ((i) + 3))
#define WORDS 512
#define MINUTE 60000000000ull

static shared_info_t *shared;
static char shared_va[4096] __attribute__((aligned(4096)));
static unsigned long lists[512] __attribute__((aligned(4096))), list[1024] __attribute__((aligned(4096)));
static uint64_t kept[WORDS] __attribute__((aligned(16)));
static unsigned char fpu_before[512] __attribute__((aligned(16))), fpu_after[512] __attribute__((aligned(16)));
static volatile unsigned int upcalls;
static unsigned long *p2m;

extern void upcall_entry(void);

void on_event(void)
{
    upcalls++;
    shared->vcpu_info[0].evtchn_upcall_pending = 0;
}

#ifndef __i386__
static volatile int nmis;

__asm__(".globl nmi_entry\n"
        "nmi_entry:\n"
        "    pop %rcx; pop %r11; incl nmis(%rip)\n"
        "    push $0; push %rcx; push %r11; push %rax\n"
        "    mov $23, %eax; syscall\n");
extern void nmi_entry(void);

static int wait_for_an_nmi(void)
{
    static trap_info_t traps[2] = { { .vector = 2, .flags = 4, .cs = FLAT_KERNEL_CS } };
    static struct sched_poll forever;

    traps[0].address = (unsigned long)nmi_entry;
    check(hypercall(__HYPERVISOR_set_trap_table, traps, 0, 0) == 0, 0);
    print("waits\n");
    while (!nmis)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &forever, 0);
    return SUCCESS;
}
#endif

static uint64_t tsc(void)
{
    unsigned int low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

static long map(const void *va, uint64_t value)
{
#ifdef __i386__
    return hypercall5(__HYPERVISOR_update_va_mapping, (long)va, (long)value, (long)(value >> 32), UVMF_INVLPG, 0);
#else
    return hypercall(__HYPERVISOR_update_va_mapping, va, value, UVMF_INVLPG);
#endif
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

/* What a toolstack must know: where the table of frames is. */
static void share(start_info_t *info)
{
    unsigned long per_page = 4096 / sizeof(unsigned long);
    map(shared_va, info->shared_info | 7);
    shared = (shared_info_t *)shared_va;
    for (unsigned long i = 0; i * per_page < info->nr_pages; i++)
        list[i] = frame_of((char *)p2m + i * 4096);
    lists[0] = frame_of(list);
    shared->arch.max_pfn = info->nr_pages;
    shared->arch.pfn_to_mfn_frame_list_list = frame_of(lists);
}

static long suspend(start_info_t *info)
{
    struct sched_shutdown how = { .reason = SHUTDOWN_suspend };
    long result;

    info->store_mfn = page_of(info->store_mfn, info->nr_pages);
    info->console.domU.mfn = page_of(info->console.domU.mfn, info->nr_pages);
    map(shared_va, 0);
    __asm__ volatile("fninit; fldpi; fld1; fldl2e; movups %0, %%xmm0; movups %1, %%xmm7" : : "m"(kept[0]), "m"(kept[8]));
#ifndef __i386__
    __asm__ volatile("movups %0, %%xmm15" : : "m"(kept[4]));
#endif
    __asm__ volatile("fxsave %0" : "=m"(fpu_before));
    result = hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &how, frame_of(info));
    __asm__ volatile("fxsave %0" : "=m"(fpu_after));
    if (result == 1) {
        info->store_mfn = p2m[info->store_mfn];
        info->console.domU.mfn = p2m[info->console.domU.mfn];
    }
    share(info);
    return result;
}

static int wait_for_the_timer(void)
{
    struct evtchn_bind_virq bind = { .virq = VIRQ_TIMER };
    unsigned int before = upcalls;

    check(hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_bind_virq, &bind, 0) == 0, 0);
    shared->evtchn_mask[0] = 0;
    shared->vcpu_info[0].evtchn_upcall_mask = 0;
    check(hypercall5(__HYPERVISOR_set_timer_op, 1, 0, 0, 0, 0) == 0, 0);
    while (upcalls == before)
        check(hypercall(__HYPERVISOR_sched_op, SCHEDOP_block, 0, 0) == 0, 0);
    return SUCCESS;
}

int main(start_info_t *info)
{
#ifdef __i386__
    struct callback_register callback = { .type = CALLBACKTYPE_event,
                                          .address = { FLAT_KERNEL_CS, (unsigned long)upcall_entry } };
    const uint32_t *m2p = (const uint32_t *)0xf5800000;
#else
    struct callback_register callback = { .type = CALLBACKTYPE_event, .address = (unsigned long)upcall_entry };
    const unsigned long *m2p = (const unsigned long *)0xffff800000000000ul;
#endif
    uint64_t before;

    p2m = (unsigned long *)info->mfn_list;
    for (int i = 0; i < WORDS; i++)
        kept[i] = PATTERN(i);
    share(info);
    check(hypercall(__HYPERVISOR_callback_op, CALLBACKOP_register, &callback, 0) == 0, 0);
    check(hypercall(__HYPERVISOR_set_debugreg, 1, 0x1230, 0) == 0, 0);
#ifndef __i386__
    if (info->cmd_line[0] == 'l') {
        wait_for_an_nmi();
        check(suspend(info) == 1, 0);
        return SUCCESS;
    }
#endif
    print("suspends\n");
    before = tsc();
    for (;;) {
        long result = suspend(info);
        if (result == 0)
            break;
        check(result == 1, result);
        print("cancelled\n");
    }
    check(tsc() - before < 10 * MINUTE, tsc() - before);
    for (int i = 0; i < WORDS; i++)
        check(kept[i] == PATTERN(i), i);
    for (int i = 32; i < 160 + 16 * (sizeof(long) == 8 ? 16 : 8); i++)
        check(fpu_before[i] == fpu_after[i], i);
    for (unsigned long pfn = 0; pfn < info->nr_pages; pfn++)
        check(m2p[p2m[pfn]] == pfn, pfn);
    check(page_of(info->store_mfn, info->nr_pages) < info->nr_pages, info->store_mfn);
    check(page_of(info->console.domU.mfn, info->nr_pages) < info->nr_pages, info->console.domU.mfn);
    check(info->store_evtchn && info->console.domU.evtchn, info->store_evtchn);
    check(hypercall(__HYPERVISOR_get_debugreg, 1, 0, 0) == 0x1230, 0);
    return wait_for_the_timer();
}
