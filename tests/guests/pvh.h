/* What makes a PVH guest of an ELF file: the note that names its 32-bit entry, `_start`. */
#include <xen/elfnote.h>

        .section .note.Xen, "a", @note
        .balign 4
        .long   2f - 1f, 4f - 3f, XEN_ELFNOTE_PHYS32_ENTRY
1:      .asciz  "Xen"
2:      .balign 4
3:      .quad   _start
4:      .balign 4

        .section .note.GNU-stack, "", @progbits
        .section .text.start, "ax", @progbits
        .code32
        .globl  _start
