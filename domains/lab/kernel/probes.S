/* The probes of probe.c: each does one thing in the ring in which it is tried, and tells what it saw in EAX, by INT 0x30. What the CPU
   refuses ends it, and is written down instead. */
#include "probe.h"
.set OWN_CODE, 0x08                     /* of the ring in which is tried */
.set OWN_DATA, 0x10
.set RING_0_CODE, 0x18
.set RING_0_DATA, 0x38
.set RING_1_DATA, 0x40
.set RING_3_DATA, 0x48
.set IF, 0x200
.macro done
    int $0x30
.endm
.macro zero_flag                        /* as a number */
    setz %al
    movzbl %al, %eax
    done
.endm
.macro changed_flag                     /* whether IF is not what it was, in EDX */
    pushf
    pop %eax
    xor %edx, %eax
    and $IF, %eax
    done
.endm
.section .rodata
.balign 4
.globl probe_table
probe_table:

.text
.balign 4096
.globl user_start, user_end, user_stack_top, read_only_page, user_page, supervisor_page
user_start:
buffer: .fill 4096

/* The list of Robin and Irvine. */
probe sgdt
    sgdt buffer
    mov buffer + 2, %eax
    done
probe sidt
    sidt buffer
    mov buffer + 2, %eax
    done
probe sldt
    sldt %eax
    done
probe smsw
    smsw %eax
    movzwl %ax, %eax
    done
probe pushf
    pushf
    pop %eax
    and $IF, %eax
    done
probe popf                              /* IF is off before; whether it changes */
    pushf
    pop %edx
    mov %edx, %eax
    xor $IF, %eax
    push %eax
    popf
    changed_flag
probe lar
    mov $OWN_CODE, %ecx
    lar %ecx, %eax
    done
probe lar_0
    mov $RING_0_CODE, %ecx
    lar %ecx, %edx
    zero_flag
probe lsl
    mov $OWN_CODE, %ecx
    lsl %ecx, %eax
    done
probe lsl_0
    mov $RING_0_CODE, %ecx
    lsl %ecx, %edx
    zero_flag
probe verr
    mov $OWN_DATA, %eax
    verr %ax
    zero_flag
probe verr_0
    mov $RING_0_DATA, %eax
    verr %ax
    zero_flag
probe verw
    mov $OWN_DATA, %eax
    verw %ax
    zero_flag
probe verw_0
    mov $RING_0_DATA, %eax
    verw %ax
    zero_flag
probe pop
    pushl $OWN_DATA
    pop %es
    done
probe pop_0
    pushl $RING_0_DATA
    pop %es
    done
probe push
    push %cs
    pop %eax
    and $0xffff, %eax
    done
probe call                              /* what it pushed as CS */
    lcall $OWN_CODE, $1f
1:  add $4, %esp
    pop %eax
    and $0xffff, %eax
    done
probe call_0
    lcall $RING_0_CODE, $1f
1:  done
probe jmp
    ljmp $OWN_CODE, $1f
1:  done
probe jmp_0
    ljmp $RING_0_CODE, $1f
1:  done
probe int                               /* what the CPU pushed as CS: entries, below */
    int $0x31
probe int_0
    int $0x32
    done
probe ret                               /* to the kernel's own selector, as the kernel knows it */
    pushl $OWN_CODE
    pushl $1f
    lret
1:  done
probe ret_0
    pushl $RING_0_CODE
    pushl $1f
    lret
1:  done
probe str
    str %eax
    movzwl %ax, %eax
    done
probe mov
    mov %cs, %eax
    movzwl %ax, %eax
    done
probe mov_to_es
    mov $OWN_DATA, %eax
    mov %eax, %es
    done
probe mov_to_ss
    mov $OWN_DATA, %eax
    mov %eax, %ss
    done
probe iret                              /* not on their list; likewise */
    pushf
    pop %edx
    mov %edx, %eax
    xor $IF, %eax
    push %eax
    push %cs
    pushl $1f
    iret
1:  changed_flag

/* Who may touch what. */
probe read_supervisor
    mov supervisor_page, %eax
    done
probe write_supervisor
    movl $1, supervisor_page
    done
probe read_user
    mov user_page, %eax
    done
probe write_user
    movl $1, user_page
    done
probe read_read_only
    mov read_only_page, %eax
    done
probe write_read_only
    movl $1, read_only_page
    done
probe load_segment_0
    mov $RING_0_DATA, %eax
    mov %eax, %es
    done
probe load_segment_1
    mov $RING_1_DATA, %eax
    mov %eax, %es
    done
probe load_segment_3
    mov $RING_3_DATA, %eax
    mov %eax, %es
    done
probe read_cr3
    mov %cr3, %eax
    done
probe cli
    cli
    done
probe in
    in $0x20, %al
    done
probe into_ring_0                       /* ESP and SS there: entries, below */
    int $0x31
probe into_ring_1
    int $0x33
.globl in_ring_1
in_ring_1:
    mov %esp, %eax
    mov %ss, %edx
    int $0x30
.balign 4096
user_stack: .fill 4096
user_stack_top:
user_page: .fill 4096
read_only_page: .fill 4096
user_end:
supervisor_page: .fill 4096

.section .rodata
    .long 0

/* enter_ring(probe, cs, stack, ss): IF is off there. Comes back when the probe is over. */
.text
.globl enter_ring
enter_ring:
    push %ebx
    push %esi
    push %edi
    push %ebp
    mov %esp, kept_esp
    mov 20(%esp), %eax
    mov 24(%esp), %ecx
    mov 28(%esp), %edx
    mov 32(%esp), %ebx
    mov %ebx, %ds
    mov %ebx, %es
    test $3, %ecx
    jz 1f
    push %ebx
    push %edx
    jmp 2f
1:  mov %ebx, %ss
    mov %edx, %esp
2:  pushl $2
    push %ecx
    push %eax
    xor %eax, %eax
    xor %edx, %edx
    iret

/* Entries of all vectors: the vector, an error code where the CPU pushes none. */
.macro one_entry n
entry_\n:
.if \n == 0x31
    mov 4(%esp), %eax
    mov %esp, %edx
.endif
.if (\n >= 10 && \n <= 14) || \n == 8 || \n == 17
.else
    push $0
.endif
    push $\n
    jmp over
.pushsection .rodata
    .long entry_\n
.popsection
.endm
.section .rodata
.balign 4
.globl entry_table
entry_table:
.text
.altmacro
.set n, 0
.rept 0x34
    one_entry %n
    .set n, n + 1
.endr
over:
    pusha
    mov $0x20, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %esp, %eax
    push %eax
    call record
    mov $0x20, %eax
    mov %eax, %ss
    mov kept_esp, %esp
    pop %ebp
    pop %edi
    pop %esi
    pop %ebx
    ret
.bss
kept_esp: .long 0
.balign 4096
.fill 4096
probe_kernel_stack_top:
.text
.globl _start
_start:
    mov $probe_kernel_stack_top, %esp
    call run_probes
