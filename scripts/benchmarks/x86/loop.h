/* Four instructions on registers, n times: the same in the guest and in the yardstick. */
__asm__ volatile("1: inc %%rax; add %%rax, %%rdx; dec %0; jnz 1b" : "+r"(n) : : "rax", "rdx", "cc");
