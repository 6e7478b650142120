/* A PVH guest of ten lines: 32-bit, flat, without paging. It finds start_info in EBX, prints by console_io, and shuts down. */
#include "pvh.h"

#define XEN_HVM_START_MAGIC_VALUE 0x336ec578
#define CONSOLEIO_write 0
#define SCHEDOP_shutdown 2
#define HYPERCALL(number) mov $number, %eax; vmmcall

_start: cmpl    $XEN_HVM_START_MAGIC_VALUE, (%ebx)
        jne     1f
        movl    $0, reason                      /* SHUTDOWN_poweroff */
        xor     %ebx, %ebx
        mov     $length, %ecx
        mov     $text, %edx
        HYPERCALL(18)                           /* console_io */
1:      mov     $SCHEDOP_shutdown, %ebx
        mov     $reason, %ecx
        HYPERCALL(29)                           /* sched_op */
        hlt

        .data
reason: .long   3                               /* SHUTDOWN_crash */
text:   .ascii  "SUCCESS\n"
        .set    length, . - text
