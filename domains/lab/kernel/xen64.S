/* The probes of xen64.c, and how they are tried in the kernel's half and in the user's. A probe goes on at what R15 says; EAX and EDX are
   what it saw. */
#include "probe.h"
.set SELECTOR_OF_RING_0, 0xe008         /* Xen's own code, in every guest's GDT */
.set M2P, 0xffff800000000000
.set XEN, 0xffff82d080000000            /* where Xen's code is */
.set IRET, 23
.macro done
    jmp *%r15
.endm
.macro try_read name, address
probe read_\name
    movabs $\address, %rax
    mov (%rax), %eax
    done
.endm
.macro try_write name, address
probe write_\name
    movabs $\address, %rax
    movl $1, (%rax)
    done
.endm
.section .rodata
.balign 8
.globl probe_table
probe_table:

.text
.balign 4096
.globl user_start, user_end, read_only_page
user_start:
user_stack: .fill 4096
user_stack_top:
    nop
probe ring
    mov %cs, %eax
    and $3, %eax
    done
try_read kernel, kernel_page
try_write kernel, kernel_page
try_read user, user_page
try_write user, user_page
try_read read_only, read_only_page
try_write read_only, read_only_page
try_read table, user_l4
try_write table, user_l4
try_read xen, XEN
try_read m2p, M2P
try_write m2p, M2P
probe load_segment_0
    mov $SELECTOR_OF_RING_0, %eax
    mov %eax, %es
    done
probe read_cr3
    mov %cr3, %rax
    done
probe cli
    cli
    done
probe lgdt
    lgdt user_page
    done
probe in
    in $0x20, %al
    done
probe system_call                       /* in the kernel's half, a hypercall: what Xen's version is */
    mov $17, %eax
    xor %edi, %edi
    syscall
    done
user_done:                              /* to the kernel, which knows the number */
    mov %rax, %rdi
    mov $-1, %rax
    syscall
.balign 4096
user_page: .fill 4096
read_only_page: .fill 4096
user_end:
kernel_page: .fill 4096
.section .rodata
    .quad 0

.text
.macro keep
enter_\@:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, kept_rsp
    xor %eax, %eax
    xor %edx, %edx
.endm
.globl try_in_kernel, try_in_user, enter_ring
try_in_kernel:
    call enter_ring
    keep
    mov $kernel_done, %r15
    jmp *%rdi
try_in_user:
    call enter_ring
    keep
    mov $user_done, %r15
    push $0xe02b
    push $user_stack_top
    push $0x202
    push $0xe033
    push %rdi
    push $0
    push $0
    push $0
    push $0
    mov $IRET, %eax
    syscall
enter_ring:                             /* for who watches: a probe begins */
    ret

kernel_done:
    mov %edx, %ecx
    mov %eax, %edx
    mov $0x30, %edi
    xor %esi, %esi
    jmp over
.globl syscall_entry
syscall_entry:                          /* RCX, R11, then RIP and on; RAX: -1 ends a probe, all else does nothing */
    cmp $-1, %rax
    je 1f
    pop %rcx
    pop %r11
    push $0x100                         /* VGCF_in_syscall */
    push %rcx
    push %r11
    push %rax
    mov $IRET, %eax
    syscall
1:  mov %edx, %ecx
    mov %edi, %edx
    mov $0x30, %edi
    xor %esi, %esi
    jmp over
.macro trap vector, coded
.globl trap\vector
trap\vector:                            /* RCX, R11, then the error code, RIP and on */
    mov %edx, %ecx
    mov %eax, %edx
    xor %esi, %esi
.if \coded
    mov 16(%rsp), %esi
.endif
    mov $\vector, %edi
    jmp over
.endm
trap 6, 0
trap 13, 1
trap 14, 1
over:
    mov kept_rsp, %rsp
    call record
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
.bss
.balign 8
kept_rsp: .quad 0
.balign 4096
.fill 4096
stack_top:
.text
.globl _start
_start:
    mov $stack_top, %rsp
    mov %rsi, %rdi
    call run_kernel
