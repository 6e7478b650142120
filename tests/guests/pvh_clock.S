/* A PVH guest that looks at its clock before and after a million steps, and prints both. For machines that repeat themselves. */
#include "pvh.h"

#define CONSOLEIO_write 0
#define SCHEDOP_shutdown 2
#define HYPERCALL(number) mov $number, %eax; vmmcall

_start: mov     $stack, %esp
        rdtsc
        mov     %eax, first
        mov     $1000000, %ecx
1:      dec     %ecx
        jnz     1b
        rdtsc
        mov     %eax, second
        mov     $length, %ecx
        mov     $text, %edi
        mov     first, %eax
        call    digits
        inc     %edi
        mov     second, %eax
        call    digits
        xor     %ebx, %ebx
        mov     $length, %ecx
        mov     $text, %edx
        HYPERCALL(18)                           /* console_io */
        mov     $SCHEDOP_shutdown, %ebx
        mov     $reason, %ecx
        HYPERCALL(29)                           /* sched_op */
        hlt

/* eax as eight letters from 'a' on, to edi, which moves on */
digits: mov     $8, %ecx
1:      rol     $4, %eax
        mov     %eax, %edx
        and     $15, %edx
        add     $'a', %edx
        mov     %dl, (%edi)
        inc     %edi
        loop    1b
        ret

        .data
reason: .long   0                               /* SHUTDOWN_poweroff */
first:  .long   0
second: .long   0
text:   .ascii  "........ ........\n"
        .set    length, . - text
        .balign 16
        .skip   256
stack:
