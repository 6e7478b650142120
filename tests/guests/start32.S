/* Entry of a 32-bit test guest: as start.S, with a hypercall page that nobody needs and the iret hypercall's smaller frame. */
#include "notes.h"
ELFNOTE(XEN_ELFNOTE_PAE_MODE, .asciz "yes")
ELFNOTE(XEN_ELFNOTE_VIRT_BASE, .long 0)
ELFNOTE(XEN_ELFNOTE_PADDR_OFFSET, .long 0)
ELFNOTE(XEN_ELFNOTE_ENTRY, .long _start)

        .section .text.start, "ax", @progbits
        .globl _start
_start:
        mov     $stack_top, %esp
        push    %esi
        call    main
        push    %eax
        call    guest_shutdown

        .section .bss
        .balign 16
        .skip   16384
stack_top:

/* The event callback: Xen's frame is eip, cs, eflags; iret wants eax below eip. */
        .text
        .globl upcall_entry
upcall_entry:
        pusha
        call    on_event
        popa
        push    %eax
        mov     $23, %eax
        int     $0x82

        .weak   on_event
on_event:
        ret
        .section .note.GNU-stack, "", @progbits
