/* What the guests that are measured have in common. They obey commands on their console, as the Python guests do: ["name", N] in
   JSON, answered with the nanoseconds that N repetitions took. Their TSC counts nanoseconds. */
#include "guest.h"
#include <xen/io/console.h>

struct command {
    const char *name;
    void (*work)(unsigned long n);
};

#define NOT_MAPPED 0x2000000000ul

static char user_stack[4096];
extern void in_user_space(unsigned long calls, void *stack); /* each guest's own: that many system calls, then back */

static shared_info_t *shared;
static struct xencons_interface *console;
static evtchn_port_t port;

/* --- work that is the same for all of them --- */

static void loop(unsigned long n)
{
#include "loop.h"
}

/* The guest's handler skips the load, which has three bytes. */
static void faults(unsigned long n)
{
    while (n--)
        __asm__ volatile("movq (%0), %%rax" : : "D"(NOT_MAPPED) : "rax", "memory");
}

static void syscalls(unsigned long n)
{
    in_user_space(n, user_stack + sizeof(user_stack));
}

/* --- the console --- */

static void notify(void)
{
    struct evtchn_send send = { .port = port };
    hypercall(__HYPERVISOR_event_channel_op, EVTCHNOP_send, &send, 0);
}

static void say(const char *text)
{
    for (size_t n = length(text); n--; text++)
        console->out[console->out_prod++ & (sizeof(console->out) - 1)] = *text;
    notify();
}

static void answer(unsigned long value)
{
    char text[24];
    int at = sizeof(text) - 1;
    text[at] = 0;
    text[--at] = '\n';
    do {
        text[--at] = '0' + value % 10;
        value /= 10;
    } while (value);
    say(text + at);
}

static char next_character(void)
{
    volatile struct xencons_interface *ring = console;
    while (ring->in_cons == ring->in_prod) {
        struct sched_poll poll = { .nr_ports = 1 };
        set_xen_guest_handle(poll.ports, &port);
        hypercall(__HYPERVISOR_sched_op, SCHEDOP_poll, &poll, 0);
        __asm__ volatile("lock andq %1, %0" : "+m"(shared->evtchn_pending[port / 64]) : "r"(~(1ul << port % 64)));
    }
    char found = ring->in[ring->in_cons & (sizeof(ring->in) - 1)];
    ring->in_cons++;
    return found;
}

/* A command's name is told by its letters, its argument by its digits; the rest of JSON is passed over. */
static void obey(const struct command *commands, size_t count)
{
    char name[16];
    size_t letters = 0;
    unsigned long n = 0, start;

    for (char c = next_character(); c != '\n'; c = next_character())
        if (c >= 'a' && c <= 'z' && letters < sizeof(name) - 1)
            name[letters++] = c;
        else if (c >= '0' && c <= '9')
            n = n * 10 + (c - '0');
    name[letters] = 0;
    for (size_t i = 0; i < count; i++) {
        size_t same = 0;
        while (name[same] && name[same] == commands[i].name[same])
            same++;
        if (name[same] == commands[i].name[same]) {
            start = __builtin_ia32_rdtsc();
            commands[i].work(n);
            answer(__builtin_ia32_rdtsc() - start);
            return;
        }
    }
    say("null\n");
}

static _Noreturn void serve(const struct command *commands, size_t count)
{
    say("ready\n");
    for (;;)
        obey(commands, count);
}
