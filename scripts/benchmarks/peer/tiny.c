/* A PV kernel that says one line on its console and then sleeps until it is destroyed. */
#include "guest.h"
#include <xen/io/console.h>

#define LINE "tiny is up\n"

int main(start_info_t *info)
{
    const unsigned long *m2p = (const unsigned long *)MACH2PHYS_VIRT_START;
    struct xencons_interface *console = (void *)(m2p[info->console.domU.mfn] << 12);
    struct evtchn_send send = { .port = info->console.domU.evtchn };

    for (size_t i = 0; i < sizeof(LINE) - 1; i++)
        console->out[console->out_prod + i] = LINE[i];
    __asm__ volatile("" : : : "memory"); /* what was said, then how much */
    console->out_prod += sizeof(LINE) - 1;
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &send, 0);
    struct sched_poll nothing = { .nr_ports = 0 }; /* SCHEDOP_block would let events in, for which there is no handler */
    for (;;)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &nothing, 0);
}
