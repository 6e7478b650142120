/* A program for a Linux guest: doubles stay in SSE and x87 registers for as long as it takes to count, again and again.
   It writes how often it has found them as it left them into the file that it is given; -1: once it did not. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define TURNS 3000000L

static double in[16] __attribute__((aligned(16))), out[16];

int main(int argc, char **argv)
{
    int file = open(argv[argc - 1], O_WRONLY | O_CREAT, 0644);
    char text[32];

    for (long turn = 1;; turn++) {
        long count = TURNS;
        double pi = 0;
        for (int i = 0; i < 16; i++)
            in[i] = turn + i / 16.0;
        __asm__ volatile("movsd 0(%2), %%xmm0; movsd 8(%2), %%xmm1; movsd 56(%2), %%xmm7; movsd 120(%2), %%xmm15; fldpi\n"
                         "1: dec %0; jnz 1b\n"
                         "fstpl %1; movsd %%xmm0, 0(%3); movsd %%xmm1, 8(%3); movsd %%xmm7, 56(%3); movsd %%xmm15, 120(%3)"
                         : "+r"(count), "=m"(pi)
                         : "r"(in), "r"(out)
                         : "xmm0", "xmm1", "xmm7", "xmm15", "memory");
        int good = out[0] == in[0] && out[1] == in[1] && out[7] == in[7] && out[15] == in[15] && pi > 3.14159 && pi < 3.1416;
        int length = snprintf(text, sizeof(text), "%ld\n", good ? turn : -1);
        if (pwrite(file, text, length, 0) != length || !good)
            return 1;
    }
}
