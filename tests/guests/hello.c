/* A guest reaches its first instruction with RSI at start_info, and a hypercall comes back. */
#include "guest.h"

int main(start_info_t *info)
{
    check(info->magic[0] == 'x' && info->magic[4] == '3', info->magic[4]);
    check(info->nr_pages != 0, info->nr_pages);
    check(hypercall(__HYPERVISOR_xen_version, XENVER_version, 0, 0) > 0, 0);
    check(hypercall(63, 0, 0, 0) == -38, hypercall(63, 0, 0, 0));
    return SUCCESS;
}
