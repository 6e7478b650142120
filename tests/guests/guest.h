/* What the test guests share: hypercalls, a console, checks. A guest's main returns 0 for success; it is the shutdown code. */
#include <stdint.h>
#include <stddef.h>
#include <xen/xen.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/event_channel.h>
#include <xen/version.h>
#include <xen/memory.h>
#include <xen/callback.h>

#define SUCCESS 0
#define FAILURE 3 /* SHUTDOWN_crash */

#ifndef HYPERCALL
#define HYPERCALL "syscall" /* of a PV guest; PVH: vmmcall */
#endif

#ifdef __i386__
static inline long hypercall5(long nr, long a, long b, long c, long d, long e)
{
    long result;
    __asm__ volatile("int $0x82"
                     : "=a"(result), "+b"(a), "+c"(b), "+d"(c), "+S"(d), "+D"(e)
                     : "0"(nr)
                     : "memory");
    return result;
}
#else
static inline long hypercall5(long nr, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    long result;
    __asm__ volatile(HYPERCALL
                     : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(r10), "+r"(r8)
                     : "0"(nr)
                     : "rcx", "r11", "memory");
    return result;
}
#endif
#define hypercall(nr, a, b, c) hypercall5(nr, (long)(a), (long)(b), (long)(c), 0, 0)

static size_t length(const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    return n;
}

static void print(const char *text)
{
    hypercall(__HYPERVISOR_console_io, CONSOLEIO_write, length(text), text);
}

static void print_number(unsigned long value)
{
    char text[20];
    int at = 19;
    text[at] = 0;
    do {
        text[--at] = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value);
    print(text + at);
}

/* Print what went wrong and give up. */
#define check(condition, value)                            \
    do {                                                   \
        if (!(condition)) {                                \
            print("FAILURE: " #condition ", " #value " = "); \
            print_number((unsigned long)(value));          \
            print("\n");                                   \
            return FAILURE;                                \
        }                                                  \
    } while (0)

void guest_shutdown(unsigned int reason)
{
    struct sched_shutdown how = { .reason = reason };
    if (reason == SUCCESS)
        print("SUCCESS\n");
    hypercall(__HYPERVISOR_sched_op, SCHEDOP_shutdown, &how, 0);
    for (;;)
        ;
}
