/* A PVH guest of ten lines: 32-bit, flat, without paging. It finds start_info in EBX, prints by console_io, and shuts down. */
#include <xen/elfnote.h>

#define XEN_HVM_START_MAGIC_VALUE 0x336ec578
#define CONSOLEIO_write 0
#define SCHEDOP_shutdown 2
#define HYPERCALL(number) mov $number, %eax; vmmcall

        .section .note.Xen, "a", @note
        .balign 4
        .long   2f - 1f, 4f - 3f, XEN_ELFNOTE_PHYS32_ENTRY
1:      .asciz  "Xen"
2:      .balign 4
3:      .quad   _start
4:      .balign 4

        .section .text.start, "ax", @progbits
        .code32
        .globl  _start
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
        .section .note.GNU-stack, "", @progbits
