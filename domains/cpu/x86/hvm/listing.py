"""The listing of hvm/stubs' machine code, in GNU as' language: to be read, and for the tests, which assemble it and compare."""

from typing import Final

SOURCE: Final = r"""
    .set RAX, 0;        .set RCX, 8;           .set RDX, 16;        .set R11, 88;       .set RIP, 128
    .set EFLAGS, 136;   .set CC_SRC, 152;      .set CC_OP, 168;     .set DF, 172;       .set HFLAGS, 176
    .set CS, 208;       .set SS, 232;          .set EFER, 592;      .set STAR, 4824;    .set LSTAR, 4840
    .set CSTAR, 4848;   .set FMASK, 4856;      .set ERROR_CODE, 5384;  .set IS_INT, 5388;   .set OLD_EXCEPTION, 5496
    .set INTERCEPT_EXCEPTIONS, 5536
    .set REQUEST, 0x1c                                              /* of the CPUState: interrupt_request */
    .set HF_LMA, 1 << 14;  .set HF_CS64, 1 << 15;  .set HF_INHIBIT, 1 << 3;  .set HF_EM, 1 << 10;  .set HF_OSFXSR, 1 << 22
    .set ES, 184;  .set SEGMENT, 24;  .set LIMIT, 16;  .set FLAGS, 20;  .set PRESENT, 1 << 15
    .set IF, 1 << 9;    .set LAZY, 0xcd5;      .set ARITHMETIC, 0x8d5;  .set RF, 1 << 16
    .set UD, 6;  .set NM, 7;  .set TS, 10;  .set NP, 11;  .set GP, 13;  .set PF, 14;  .set EC_EXT, 1;  .set EC_IDT, 2

    /* ---- addresses and words that Python fills in */
env:             .quad 0
cpu:             .quad 0
uc:              .quad 0
do_interrupt:    .quad 0
hardirq:         .quad 0
emu_stop:        .quad 0
cpu_exit:        .quad 0
compute_flags:   .quad 0
raise_exception: .quad 0
clock_gettime:   .quad 0
on_exit:         .quad 0                /* Python: (uc, 0x100 + the SVM exit's code, 0) -> an exception for the guest, or 0 */
on_invalid:      .quad 0                /* Python: (uc, 0) -> the exception that the guest gets, or 0 */
upcall_pending:  .quad 0                /* the address of the vCPU's evtchn_upcall_pending */
vector:          .quad 0                /* the vector by which it is delivered; 0: none */
tsc_offset:      .quad 0                /* ns */
asked:           .quad 0                /* 1: emulation shall end */
exits_of:        .quad 0                /* the exceptions that are exits: with shadow paging, #PF */
on_cpuid:        .quad 0                /* Python: (uc, 0), does CPUID in the CPU's place */
cpuid_faults:    .quad 0                /* 1: CPUID is #GP but in ring 0 */
on_doubt:        .quad 0                /* Python: (uc, vector) -> the vector of the exception that a processor raises instead */
event:           .quad 0                /* the address of what the CPU notes there: the event that it delivers */
int_length:      .quad 0                /* the address of the length of the INT n whose interrupt is delivered */
external:        .quad 0                /* 1: an event is being delivered that is no INT n */
behind:          .quad 0                /* bytes by which rip is behind the ICEBP whose exception is delivered */
given:           .quad 0                /* 1: the exception comes from Python, and is told as a CPU does already */

    /* ---- what was done here, by how often */
syscalls:        .quad 0
interrupts:      .quad 0
tsc_reads:       .quad 0
port_reads:      .quad 0
port_writes:     .quad 0
exceptions:      .fill 32, 8, 0

    /* ---- an exception or INT n: the CPU's own delivery, by the guest's IDT. From 256 on: an exit */
new_interrupt:
    mov     %esi, %esi
    cmp     $256, %esi
    jae     1f
    mov     env(%rip), %rdi
    xor     %eax, %eax
    xchg    %rax, given(%rip)
    test    %eax, %eax
    jnz     counted
    xchg    %rax, external(%rip)
    test    %eax, %eax
    jnz     broken_off
told:
    cmpl    $0, IS_INT(%rdi)
    jne     counted
    cmp     $PF, %esi
    je      page_fault
    cmp     $GP, %esi
    je      protection
    cmp     $NM, %esi
    je      not_available
    cmp     $NP, %esi
    jne     counted
protection:                             /* #GP and #NP: a gate of a 64-bit IDT is told by 16 * its number; a CPU tells 8 * it */
    mov     ERROR_CODE(%rdi), %eax
    test    %eax, %eax
    jz      2f
    testl   $HF_LMA, HFLAGS(%rdi)
    jz      counted
    test    $EC_IDT, %al
    jz      counted
    mov     %eax, %edx
    and     $7, %edx
    shr     $1, %eax
    and     $~7, %eax
    or      %edx, %eax
    mov     %eax, ERROR_CODE(%rdi)
    jmp     counted
2:  testl   $HF_CS64, HFLAGS(%rdi)      /* without an error code it may be #SS */
    jnz     doubt
    jmp     counted
not_available:                          /* #NM, where it may be #UD */
    mov     HFLAGS(%rdi), %eax
    and     $HF_EM | HF_OSFXSR, %eax
    cmp     $HF_OSFXSR, %eax
    jne     doubt
    jmp     counted
page_fault:                             /* #PF of 32-bit code, where it may be a segment's limit */
    testl   $HF_CS64, HFLAGS(%rdi)
    jnz     counted
    lea     ES(%rdi), %rax
    mov     $6, %ecx
2:  testl   $PRESENT, FLAGS(%rax)
    jz      3f
    cmpl    $-1, LIMIT(%rax)
    jne     doubt
3:  add     $SEGMENT, %rax
    dec     %ecx
    jnz     2b
    jmp     counted
broken_off:                             /* an event's delivery ended in this: the instruction's own fault, if it was ICEBP */
    xor     %eax, %eax
    xchg    %rax, behind(%rip)
    sub     %rax, RIP(%rdi)
    lea     -TS(%rsi), %eax
    cmp     $GP - TS, %eax
    ja      counted
    orl     $EC_EXT, ERROR_CODE(%rdi)
    jmp     told
doubt:
    push    %rsi
    mov     uc(%rip), %rdi
    call    *on_doubt(%rip)
    pop     %rsi
    mov     env(%rip), %rdi
    cmp     %eax, %esi
    je      counted
    mov     %eax, %esi
    movl    $-1, OLD_EXCEPTION(%rdi)
    xor     %edx, %edx
    jmp     give
counted:
    cmp     $32, %esi
    jae     deliver
    lea     exceptions(%rip), %rax
    incq    (%rax, %rsi, 8)
deliver:                                /* what was given to the guest below is no exit; what its delivery runs into is */
    push    %rcx
    movq    $0, given(%rip)
    mov     env(%rip), %rdi
    cmpl    $0, IS_INT(%rdi)            /* rip is behind INT n; a fault in its delivery is the instruction's own */
    je      5f
    mov     int_length(%rip), %rax
    mov     (%rax), %eax
    sub     %rax, RIP(%rdi)
    jmp     6f
5:  movq    $1, external(%rip)
6:  mov     event(%rip), %rax           /* one whose delivery ended in this is delivered no more */
    movl    $0, (%rax)
    mov     exits_of(%rip), %eax
    mov     %eax, INTERCEPT_EXCEPTIONS(%rdi)
    mov     cpu(%rip), %rdi
    call    *do_interrupt(%rip)
    movq    $0, behind(%rip)
    pop     %rcx
taken:                                  /* or the next fault would be a double fault, or INT n's rip the next exit's */
    mov     env(%rip), %rax
    movl    $-1, OLD_EXCEPTION(%rax)
    movl    $0, IS_INT(%rax)
    movq    $0, external(%rip)
    ret
1:  movq    $0, external(%rip)
    movq    $0, given(%rip)
    push    %rcx
    call    *on_exit(%rip)
    pop     %rcx
    test    %rax, %rax
    jnz     2f
    ret
2:  mov     env(%rip), %rdi             /* EVENTINJ's form: the vector, bit 31, the error code from bit 32 on */
    movzbl  %al, %esi
    mov     %rax, %rdx
    shr     $32, %rdx
give:
    movl    $0, INTERCEPT_EXCEPTIONS(%rdi)
    movq    $1, given(%rip)
    jmp     *raise_exception(%rip)

    /* ---- an invalid opcode: VMCALL or ICEBP, which Unicorn does not know, or the guest's own #UD */
new_invalid:
    push    %rcx
    call    *on_invalid(%rip)
    pop     %rcx
    mov     %eax, %esi
    test    %esi, %esi
    jz      1f
    cmp     $UD, %esi
    jne     2f
    incq    exceptions + 8 * UD(%rip)
    push    %rcx
    call    deliver
    pop     %rcx
1:  call    taken
    mov     $1, %eax
    ret
2:  call    taken
    mov     env(%rip), %rdi
    xor     %edx, %edx
    jmp     *raise_exception(%rip)

    /* ---- SYSCALL, which Unicorn leaves to us. It adds the instruction's length, 2, to rip afterwards */
new_syscall:
    push    %rbx
    mov     env(%rip), %rbx
    testb   $1, EFER(%rbx)
    jz      1f
    testl   $HF_LMA, HFLAGS(%rbx)
    jz      1f
    incq    syscalls(%rip)
    mov     %rbx, %rdi
    mov     CC_OP(%rbx), %esi
    call    *compute_flags(%rip)
    mov     DF(%rbx), %ecx
    and     $1 << 10, %ecx
    or      %ecx, %eax
    mov     EFLAGS(%rbx), %ecx
    and     $~(LAZY | RF), %ecx
    or      %ecx, %eax
    mov     %rax, R11(%rbx)
    mov     RIP(%rbx), %rcx
    add     $2, %rcx
    mov     %rcx, RCX(%rbx)
    mov     FMASK(%rbx), %ecx
    not     %ecx
    and     %ecx, %eax
    mov     %eax, %ecx
    and     $ARITHMETIC, %ecx
    mov     %rcx, CC_SRC(%rbx)
    movl    $1, CC_OP(%rbx)
    mov     %eax, %ecx
    shr     $9, %ecx
    and     $2, %ecx
    neg     %ecx
    inc     %ecx
    mov     %ecx, DF(%rbx)
    and     $~LAZY, %eax
    or      $2, %eax
    mov     %rax, EFLAGS(%rbx)
    mov     STAR + 4(%rbx), %eax
    and     $0xfffc, %eax
    mov     %eax, CS(%rbx)
    movq    $0, CS + 8(%rbx)
    movl    $-1, CS + 16(%rbx)
    movl    $0xa09b00, CS + 20(%rbx)
    add     $8, %eax
    mov     %eax, SS(%rbx)
    movq    $0, SS + 8(%rbx)
    movl    $-1, SS + 16(%rbx)
    movl    $0xc09300, SS + 20(%rbx)
    mov     LSTAR(%rbx), %rcx
    mov     HFLAGS(%rbx), %eax
    test    $HF_CS64, %eax
    jnz     2f
    mov     CSTAR(%rbx), %rcx
2:  and     $~0x43, %eax                /* CPL, ADDSEG */
    or      $0x8030, %eax               /* CS64, CS32, SS32 */
    mov     %eax, HFLAGS(%rbx)
    sub     $2, %rcx
    mov     %rcx, RIP(%rbx)
    pop     %rbx
    ret
1:  pop     %rbx
undefined:
    mov     env(%rip), %rdi
    mov     $UD, %esi
    xor     %edx, %edx
    jmp     *raise_exception(%rip)

    /* ---- RDTSC: ns of the host's monotonic clock, and the domain's offset */
new_rdtsc:
    sub     $24, %rsp
    mov     $1, %edi                    /* CLOCK_MONOTONIC */
    mov     %rsp, %rsi
    call    *clock_gettime(%rip)
    imul    $1000000000, (%rsp), %rax
    add     8(%rsp), %rax
    add     tsc_offset(%rip), %rax
    mov     env(%rip), %rcx
    mov     %eax, %edx
    mov     %rdx, RAX(%rcx)
    shr     $32, %rax
    mov     %rax, RDX(%rcx)
    incq    tsc_reads(%rip)
    mov     $1, %eax
    add     $24, %rsp
    ret

    /* ---- IN and OUT: allowed up to the IOPL; there is no device: all ones are read, and nothing is written */
new_in:
    call    check_port
    incq    port_reads(%rip)
    mov     $-1, %eax
    ret
new_out:
    call    check_port
    incq    port_writes(%rip)
    ret
check_port:
    mov     env(%rip), %rdi
    mov     HFLAGS(%rdi), %eax
    and     $3, %eax
    mov     EFLAGS(%rdi), %ecx
    shr     $12, %ecx
    and     $3, %ecx
    cmp     %ecx, %eax
    ja      1f
    ret
1:  pop     %rax
refused:
    mov     $GP, %esi
    xor     %edx, %edx
    jmp     *raise_exception(%rip)

    /* ---- CPUID */
new_cpuid:
    cmpq    $0, cpuid_faults(%rip)
    je      1f
    mov     env(%rip), %rax
    testb   $3, HFLAGS(%rax)
    jz      1f
    mov     %rax, %rdi
    jmp     refused
1:  push    %rcx
    call    *on_cpuid(%rip)
    pop     %rcx
    mov     $1, %eax
    ret

    /* ---- SIGUSR1 */
ask:
    mov     cpu(%rip), %rdi
    movq    $1, asked(%rip)
    movl    $2, REQUEST(%rdi)
    jmp     *cpu_exit(%rip)

    /* ---- what the CPU does with a request, (CPUState) -> whether it was taken: end emulation, or deliver the upcall's vector. A
       request that the guest cannot take yet stays, and is looked at when it can. It is cleared before it is looked at, lest a
       signal be lost */
on_request:
    movl    $0, REQUEST(%rdi)
    mov     upcall_pending(%rip), %rax
    cmpq    $0, asked(%rip)
    jne     2f
    cmpb    $0, (%rax)
    je      1f
    mov     vector(%rip), %esi
    test    %esi, %esi
    jz      1f
    mov     env(%rip), %rdx
    testl   $IF, EFLAGS(%rdx)
    jz      3f
    testl   $HF_INHIBIT, HFLAGS(%rdx)
    jnz     3f
    incq    interrupts(%rip)
    movl    $2, REQUEST(%rdi)           /* until the guest has cleared evtchn_upcall_pending */
    push    %rcx
    call    taken
    mov     %rax, %rdi
    mov     $1, %edx
    movq    $1, external(%rip)
    call    *hardirq(%rip)
    movq    $0, external(%rip)
    pop     %rcx
    mov     $1, %eax
    ret
2:  movq    $0, asked(%rip)
    cmpb    $0, (%rax)
    je      4f
    movl    $2, REQUEST(%rdi)
4:  push    %rcx
    mov     uc(%rip), %rdi
    call    *emu_stop(%rip)
    pop     %rcx
    xor     %eax, %eax
    ret
3:  movl    $2, REQUEST(%rdi)
1:  xor     %eax, %eax
    ret
"""
