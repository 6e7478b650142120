/* One vCPU pins and unpins a tree of page tables, which takes Xen several portions; the other maps one of them writable, stores to
 * it, and maps it read-only again. It is one or the other, whoever comes first, and no post is told that was not certain. */
#include "guest.h"

#define PRESENT 1ul
#define RW 2ul
#define FRAME 0xffffffffff000ul
#define TABLES 500
#define ROUNDS 30
#define SPIN 100000

static unsigned long tables[TABLES][512] __attribute__((aligned(4096))), target[512] __attribute__((aligned(4096)));
static char stack[16384] __attribute__((aligned(16)));
static struct vcpu_guest_context second;
static volatile unsigned long pinned, refused, wrong, over;
static unsigned long *p2m;

static unsigned long mfn_of(const void *va)
{
    return p2m[(unsigned long)va >> 12];
}

static long map(const void *va, unsigned long flags)
{
    return hypercall(__HYPERVISOR_update_va_mapping, va, mfn_of(va) << 12 | flags, UVMF_INVLPG | UVMF_ALL);
}

static long extended(unsigned int cmd, unsigned long mfn)
{
    struct mmuext_op op = { .cmd = cmd, .arg1.mfn = mfn };
    return hypercall5(__HYPERVISOR_mmuext_op, (long)&op, 1, 0, DOMID_SELF, 0);
}

static void on_second(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        long rc = extended(MMUEXT_PIN_L2_TABLE, mfn_of(tables[0]));
        if (rc == 0) {
            pinned++;
            rc = extended(MMUEXT_UNPIN_TABLE, mfn_of(tables[0]));
            wrong += rc != 0;
        } else {
            refused++;
            wrong += rc != -22;
        }
    }
    over = 1;
    for (;;)
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0);
}

int main(start_info_t *info)
{
    unsigned long written = 0, busy = 0;

    p2m = (unsigned long *)info->mfn_list;
    for (int i = 1; i < TABLES; i++) {
        tables[0][i] = mfn_of(tables[i]) << 12 | 7;
        for (int slot = 0; slot < 512; slot++)
            tables[i][slot] = mfn_of(target) << 12 | 5;
    }
    for (int i = 0; i < TABLES; i++)
        check(map(tables[i], 5) == 0, i);
    second.user_regs.rip = (unsigned long)on_second;
    second.user_regs.rsp = (unsigned long)stack + sizeof(stack) - 8;
    second.user_regs.cs = FLAT_KERNEL_CS;
    second.user_regs.ss = second.kernel_ss = FLAT_KERNEL_SS;
    second.kernel_sp = second.user_regs.rsp;
    second.flags = VGCF_in_kernel;
    second.ctrlreg[3] = mfn_of((void *)info->pt_base) << 12;
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_initialise, 1, &second) == 0, 0);
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_up, 1, 0) == 0, 0);
    for (unsigned long round = 0; !over; round++) {
        unsigned long *table = tables[1 + round % (TABLES - 1)]; /* it catches up with the pin, and is where that will be next */
        long rc = map(table, 7);
        check(rc == 0 || rc == -16, rc);
        if (rc == 0) {
            *(volatile unsigned long *)(table + round % 512) = mfn_of(target) << 12 | 5;
            written++;
            for (volatile int i = 0; i < SPIN; i++)
                ; /* what is posted is not told at once */
            rc = map(table, 5);
            check(rc == 0, rc);
        } else
            busy++;
        if (round % 50 == 0)
            hypercall(__HYPERVISOR_sched_op, SCHEDOP_yield, 0, 0);
    }
    check(!wrong, wrong);
    print("pinned "), print_number(pinned), print(", refused "), print_number(refused);
    print(", written "), print_number(written), print(", busy "), print_number(busy), print("\n");
    check(hypercall(__HYPERVISOR_vcpu_op, VCPUOP_down, 1, 0) == 0, 0);
    return SUCCESS;
}
