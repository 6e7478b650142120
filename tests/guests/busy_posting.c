/* Maps and unmaps one page for ever, by hypercalls whose outcome is certain: whenever it is looked at, some are not told yet. */
#include "guest.h"

static volatile unsigned long page[512] __attribute__((aligned(4096)));

int main(start_info_t *info)
{
    unsigned long mfn = ((unsigned long *)info->mfn_list)[(unsigned long)page >> 12];
    for (unsigned long round = 0;; round++) {
        hypercall(__HYPERVISOR_update_va_mapping, page, round & 1 ? mfn << 12 | 7 : 0, UVMF_INVLPG);
        if (round & 1)
            page[0] = round;
        if (round == 5000)
            print("busy\n");
    }
}
