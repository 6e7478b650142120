/* The yardsticks: what the guest does, done by a process of the host. native NAME N prints the nanoseconds of N repetitions. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static void loop(unsigned long n)
{
#include "loop.h"
}

/* The handler skips the load that faulted. */
static void on_fault(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 3;
}

static void faults(unsigned long n)
{
    struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    sigaction(SIGSEGV, &action, 0);
    while (n--)
        __asm__ volatile("movq (%0), %%rax" : : "D"(8ul) : "rax", "memory");
}

static void syscalls(unsigned long n)
{
    while (n--)
        syscall(SYS_getppid);
}

/* A byte to and fro between two processes on one CPU: two switches. */
static void switches(unsigned long n)
{
    int there[2], back[2];
    char byte = 0;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof(one), &one) || pipe(there) || pipe(back))
        exit(1);
    if (!fork()) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            ;
        exit(0);
    }
    for (; n >= 2; n -= 2)
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
            exit(1);
    close(there[1]);
    wait(0);
}

static const struct {
    const char *name;
    void (*work)(unsigned long n);
} commands[] = { { "loop", loop }, { "faults", faults }, { "syscalls", syscalls }, { "switches", switches } };

int main(int argc, char **argv)
{
    struct timespec start, end;
    for (size_t i = 0; argc == 3 && i < sizeof(commands) / sizeof(*commands); i++)
        if (!strcmp(argv[1], commands[i].name)) {
            clock_gettime(CLOCK_MONOTONIC, &start);
            commands[i].work(strtoul(argv[2], 0, 10));
            clock_gettime(CLOCK_MONOTONIC, &end);
            printf("%ld\n", (end.tv_sec - start.tv_sec) * 1000000000 + end.tv_nsec - start.tv_nsec);
            return 0;
        }
    return 2;
}
