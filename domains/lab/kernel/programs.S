/* What processes run, in ring 3. NAME is where a program begins; what an experiment looks at lies from NAME_from to NAME_to.
   System calls by INT 0x80: number in EAX, arguments in ECX, EDX, EBX; see kernel.c. */
.set AREA, 0x40000000
.macro call_kernel number
    mov $\number, %eax
    int $0x80
.endm
.macro from name
.globl \name\()_from
\name\()_from:
.endm
.macro to name
.globl \name\()_to
\name\()_to:
    nop
.endm
.macro program name
.balign 16
.globl \name
\name:
    xor %ebx, %ebx
.endm
.macro end
    call_kernel 1
.endm

.text
.balign 4096
.globl programs_start
programs_start:

program page_fault                      /* the first touch of a page */
    movl $1, AREA                       /* another one, given back: the kernel knows the page that it will take */
    mov $AREA, %ecx
    mov $1, %edx
    call_kernel 6
from page_fault
    movl $1, AREA + 0x10000
to page_fault
    end

program null_call                       /* a system call that does nothing */
    call_kernel 0
    xor %eax, %eax
from null_call
    int $0x80
to null_call
    end

program interrupt_flag                          /* the kernel looks at what its CPU tells it; the result of the run */
from interrupt_flag
    call_kernel 11
to interrupt_flag
    mov %eax, %ebx
    end

program one_tick                        /* asleep until the timer has ticked */
    call_kernel 4
from one_tick
    call_kernel 4
to one_tick
    end

program undefined                       /* an instruction that there is not, and on in the program's handler */
    mov $undefined_to, %ebx
    call_kernel 13
from undefined
    ud2
to undefined
    xor %ebx, %ebx
    end

.macro gate_program dpl                  /* a system call by another gate, INT 0x90 and its DPL, if it may; else on in the handler */
program gate_\dpl
    mov $gate_\dpl\()_to, %ebx
    call_kernel 13
    xor %eax, %eax
from gate_\dpl
    int $0x90 + \dpl
to gate_\dpl
    xor %ebx, %ebx
    end
.endm
gate_program 0
gate_program 1
gate_program 3

program work                            /* something of all; two processes run it */
    call_kernel 11                      /* what the CPU tells of interrupts */
    and $7, %eax
    add %eax, %ebx
    mov $AREA, %esi
    mov $24, %ecx
1:  mov %ecx, (%esi)
    add $4096, %esi
    dec %ecx
    jnz 1b
    call_kernel 2                       /* yield */
    call_kernel 3                       /* fork */
    test %eax, %eax
    jz 2f
    call_kernel 4                       /* a tick */
2:  add %eax, AREA + 0x1000
    mov AREA + 0x2000, %eax
    add %eax, %ebx
    mov $AREA + 0x100000, %ecx
    mov $8, %edx
    call_kernel 5                       /* map */
    incl AREA + 0x101000
    mov $AREA + 0x102000, %ecx
    mov $2, %edx
    call_kernel 6                       /* unmap */
    push %ebx
    mov $3f, %ebx
    call_kernel 13                      /* where a refused store goes on */
    mov $AREA + 0x104000, %ecx
    mov $1, %edx
    mov $0, %ebx
    call_kernel 7                       /* protect */
    movl $1, AREA + 0x104000
    incl AREA + 0x105000                /* is skipped */
3:  movl $0x1234, AREA + 0x3000
    mov $7, %ebx
    mov $AREA + 0x3000, %ecx
    call_kernel 8                       /* write a block */
    mov $AREA + 0x106000, %ecx
    call_kernel 9                       /* read it again */
    pop %ebx
    add AREA + 0x106000, %ebx
    mov $AREA + 0x3000, %ecx
    mov $64, %edx
    call_kernel 10                      /* send a packet */
    call_kernel 2
    end

program fork_exit                       /* a child that writes two of its 16 pages and ends, and its parent, that goes on */
    mov $AREA, %esi
    mov $16, %ecx
1:  movl $1, (%esi)
    add $4096, %esi
    dec %ecx
    jnz 1b
    call make_child
from fork_exit
    call make_child
to fork_exit
    end
make_child:
    call_kernel 3
    test %eax, %eax
    jz 2f
    call_kernel 2                       /* yield: the child ends, and the parent goes on */
    movl $2, AREA
    movl $2, AREA + 0x1000
    ret
2:  movl $3, AREA
    movl $3, AREA + 0x1000
    end

program map_unmap                       /* 32 pages mapped, and unmapped */
    call map_and_unmap
from map_unmap
    call map_and_unmap
to map_unmap
    end
map_and_unmap:
    mov $AREA + 0x40000, %ecx
    mov $32, %edx
    call_kernel 5
    mov $AREA + 0x40000, %ecx
    mov $32, %edx
    call_kernel 6
    ret

program protection_fault                /* a store to a read-only page, and on in the program's handler */
    movl $1, AREA
    mov $protection_fault_to, %ebx
    call_kernel 13
    xor %ebx, %ebx
    mov $AREA, %ecx
    mov $1, %edx
    call_kernel 7
    mov AREA, %eax
from protection_fault
    movl $2, AREA
to protection_fault
    xor %ebx, %ebx
    end

program divide_error                    /* a division by zero, and on in the program's handler */
    movl $1, AREA
    mov $divide_error_to, %ebx
    call_kernel 13
    xor %ecx, %ecx
    xor %ebx, %ebx
from divide_error
    div %ecx
to divide_error
    xor %ebx, %ebx
    end

program context_switch                  /* to another process, and back */
    movl $1, AREA
    call_kernel 2
from context_switch
    call_kernel 2
to context_switch
    end
program partner                         /* the other process */
    movl $1, AREA
    call_kernel 2
    call_kernel 2
    end

program call_return                     /* user code that needs nobody */
    call 1f
from call_return
    call 1f
to call_return
    end
1:  ret

program modify_entry                    /* a bit of a page-table entry that only software reads */
    movl $1, AREA
    mov $AREA, %ecx
    call_kernel 16
    mov $AREA, %ecx
from modify_entry
    call_kernel 16
to modify_entry
    end

program read_port                       /* the kernel reads a port of the disk */
    call_kernel 17
from read_port
    call_kernel 17
to read_port
    end

/* Programs that check the page-fault handler: EBX is 0 if it has done its part. */
program check_demand
    movl $5, AREA
    mov AREA, %ebx
    sub $5, %ebx
    end

program check_zero                      /* the page was another's before */
    movl $5, AREA + 16
    mov $AREA, %ecx
    mov $1, %edx
    call_kernel 6
    mov AREA + 16, %ebx
    end

program check_copy
    movl $1, AREA
    movl $7, AREA + 8
    call_kernel 3
    test %eax, %eax
    jz 1f
    call_kernel 2
    mov AREA, %ebx
    sub $1, %ebx
    end
1:  movl $2, AREA
    mov AREA, %ebx
    add AREA + 8, %ebx
    sub $9, %ebx
    end

program check_last                      /* the child has ended when the parent writes */
    movl $1, AREA
    call_kernel 3
    test %eax, %eax
    jz 1f
    call_kernel 2
    movl $3, AREA
    mov AREA, %ebx
    sub $3, %ebx
1:  end

program check_refused
    movl $1, AREA
    mov $1f, %ebx
    call_kernel 13
    mov $AREA, %ecx
    mov $1, %edx
    xor %ebx, %ebx
    call_kernel 7
    movl $2, AREA
    mov $1, %ebx                        /* it was not */
1:  end

program check_outside
    mov $1f, %ebx
    call_kernel 13
    xor %ebx, %ebx
    movl $2, AREA + 0x10000000
    mov $1, %ebx
1:  end

program write_block                     /* a page to the disk, and wait until it is there */
    movl $0x1234, AREA
    mov $AREA, %ecx
    mov $5, %ebx
    call_kernel 8
    movl $0x5678, AREA
    mov $6, %ebx
    mov $8, %eax
from write_block
    int $0x80
to write_block
    end

.macro write_and_compare sector         /* a block, read again into another page */
    movl $0x1234, AREA
    mov $AREA, %ecx
    mov $\sector, %ebx
    call_kernel 8
    mov $AREA + 0x2000, %ecx
    call_kernel 9
    mov AREA + 0x2000, %ebx
.endm

program broken_driver                   /* of the kernel's own: BROKEN_SECTOR (bare.c) */
from broken_driver
    write_and_compare 14
to broken_driver
    end

program broken_device                   /* of whoever has the device */
from broken_device
    write_and_compare 13
to broken_device
    end

program six_packets                     /* one after the other; a tick later all are sent */
    movl $0x1234, AREA
    mov $AREA, %ecx
    mov $64, %edx
    mov $6, %esi
from six_packets
1:  call_kernel 10
    dec %esi
    jnz 1b
to six_packets
    call_kernel 4
    end

.macro update name, batch, way          /* 512 changes of page-table entries by the kernel, so many at a time */
program \name
    mov $AREA, %ecx
    mov $64, %edx
    call_kernel 5
    movl $1, AREA                       /* so that a monitor has shadows of the table */
    mov $\batch, %ecx
    mov $\way, %edx
    call_kernel 20
from \name
    call_kernel 20
to \name
    end
.endm
update batch_1, 1, 0
update batch_2, 2, 0
update batch_8, 8, 0
update batch_32, 32, 0
update batch_128, 128, 0
update batch_512, 512, 0
update one_by_one, 1, 1                 /* by the operation that changes one entry and flushes */
update by_store, 1, 2                   /* as if nobody were below */

.macro touch name, pages, number, rounds /* in each round so many pages are written, and the kernel is called */
program \name
    mov $\pages, %ebp
    mov $\number, %edx
    mov $2, %edi
    call touch_pages
    mov $\rounds, %edi
from \name
    call touch_pages
to \name
    end
.endm
touch switch_small, 4, 2, 16            /* yield */
touch switch_small_partner, 4, 2, 16
touch switch_large, 48, 2, 16
touch switch_large_partner, 48, 2, 16
touch hole, 16, 16, 16                  /* change an entry */
touch_pages:
1:  mov $AREA, %esi
    mov %ebp, %ecx
2:  incl (%esi)
    add $4096, %esi
    dec %ecx
    jnz 2b
    mov $AREA, %ecx
    mov %edx, %eax
    int $0x80
    dec %edi
    jnz 1b
    ret

.set PAGES_TOUCHED, 96
.macro too_much name, balloon           /* more pages than there is memory, touched at random */
program \name
    call_kernel 21
    mov $\balloon, %ecx
    call_kernel 22
    mov $PAGES_TOUCHED, %ecx
    mov $AREA, %esi
1:  incl (%esi)
    add $4096, %esi
    dec %ecx
    jnz 1b
    mov $400, %edi
    mov $12345, %eax
from \name
1:  imul $1103515245, %eax
    add $12345, %eax
    mov %eax, %esi
    shr $16, %esi
    imul $PAGES_TOUCHED, %esi
    shr $16, %esi
    shl $12, %esi
    incl AREA(%esi)
    dec %edi
    jnz 1b
to \name
    mov $PAGES_TOUCHED, %ecx            /* nothing may be lost */
    mov $AREA, %esi
    xor %ebx, %ebx
1:  add (%esi), %ebx
    add $4096, %esi
    dec %ecx
    jnz 1b
    sub $400 + PAGES_TOUCHED, %ebx
    jz 2f
    movl $0, 0
2:  end
.endm
program balloon                         /* 32 pages are given back */
    mov $32, %ecx
    mov $22, %eax
from balloon
    int $0x80
to balloon
    xor %ebx, %ebx
    end

too_much paging, 0
too_much paging_ballooned, 32

program packets_and_wait                /* the same six, and the wait for a tick; one tick is waited for before */
    movl $0x1234, AREA
    call_kernel 4
    mov $AREA, %ecx
    mov $64, %edx
    mov $6, %esi
from packets_and_wait
1:  call_kernel 10
    dec %esi
    jnz 1b
    call_kernel 4
to packets_and_wait
    end

.balign 4096
.globl programs_end
programs_end:
