/* Entry of a test guest: Xen's ELF notes, a stack, then main(start_info), then SCHEDOP_shutdown with main's result. */
#include "notes.h"
ELFNOTE(XEN_ELFNOTE_VIRT_BASE, .quad 0)
ELFNOTE(XEN_ELFNOTE_PADDR_OFFSET, .quad 0)
ELFNOTE(XEN_ELFNOTE_ENTRY, .quad _start)

        .section .text.start, "ax", @progbits
        .globl _start
_start:
        lea     stack_top(%rip), %rsp
        mov     %rsi, %rdi
        call    main
        mov     %eax, %edi
        call    guest_shutdown

        .section .bss
        .balign 16
        .skip   16384
stack_top:

/* The event callback: save what C may clobber, call on_event(), return by the iret hypercall.
   Xen's frame is rcx, r11, rip, cs, rflags, rsp, ss; iret wants rax, r11, rcx, flags below rip. */
        .text
        .globl upcall_entry
upcall_entry:
        pop     %rcx
        pop     %r11
        push    %rdi
        push    %rsi
        push    %rdx
        push    %rax
        push    %rcx
        push    %r8
        push    %r9
        push    %r10
        push    %r11
        mov     %rsp, stack_at_entry(%rip)
        and     $~15, %rsp
        call    on_event
        mov     stack_at_entry(%rip), %rsp
        pop     %r11
        pop     %r10
        pop     %r9
        pop     %r8
        pop     %rcx
        pop     %rax
        pop     %rdx
        pop     %rsi
        pop     %rdi
        push    $0
        push    %rcx
        push    %r11
        push    %rax
        mov     $23, %eax
        syscall

        .weak   on_event
on_event:
        ret

        .bss
        .balign 8
stack_at_entry: .quad 0
        .section .note.GNU-stack, "", @progbits
