/* Entries of a multicall that the vCPU's own process performs keep their place in the order, and their results. */
#include "guest.h"

static multicall_entry_t calls[] = {
    { .op = __HYPERVISOR_set_debugreg, .args = { 1, 0x1230 } },
    { .op = __HYPERVISOR_xen_version, .args = { XENVER_version } },
    { .op = __HYPERVISOR_get_debugreg, .args = { 1 } },
    { .op = __HYPERVISOR_set_segment_base, .args = { 0, 1ul << 47 } },
    { .op = 63 },
};

int main(start_info_t *info)
{
    long rc = hypercall(__HYPERVISOR_multicall, calls, 5, 0);

    check(rc == 0, rc);
    check((long)calls[0].result == 0, calls[0].result);
    check((long)calls[1].result > 0, calls[1].result);
    check(calls[2].result == 0x1230, calls[2].result);
    check((long)calls[3].result == -22, calls[3].result);
    check((long)calls[4].result == -38, calls[4].result);
    return SUCCESS;
}
