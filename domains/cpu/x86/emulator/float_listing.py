"""The listing of float_code, in GNU as' language. It is here to be read, and for the tests, which assemble it."""

from typing import Final

SOURCE: Final = r"""
    .set HFLAGS, 0xb0;      .set EFLAGS, 0x88;     .set CC_SRC, 0x98;     .set HF_TF, 0x100;     .set HF_GUEST, 1 << 21
    .set FPSTT, 0x25c;      .set FPUS, 0x260;      .set FPUC, 0x262;      .set FPTAGS, 0x264;   .set FPREGS, 0x270
    .set FP_FLAGS, 0x30a;   .set FP_FTZ, 0x30c;    .set SSE_FLAGS, 0x32a; .set SSE_FTZ, 0x32c
    .set MXCSR, 0x330;      .set XMM0, 0x338;      .set SAVED, 0x738;     .set ENV_OFFSET, 35408
    .set ALL_BUT_DE, 0x3d;  .set LD32U, 0x47;      .set EXC_XM, 19

    /* ---- what is called from here: addresses that Python fills in */
old_fnstsw:         .quad 0
old_fwait:          .quad 0
old_fstenv:         .quad 0
old_fsave:          .quad 0
old_fxsave:         .quad 0
old_fxrstor:        .quad 0
old_frstor:         .quad 0
old_fldenv:         .quad 0
old_fclex:          .quad 0
old_fninit:         .quad 0
old_update:         .quad 0
old_single_step:    .quad 0
old_op3:            .quad 0
call_helper:        .quad 0
exit_restore:       .quad 0
exit_noexc:         .quad 0
raise_exception:    .quad 0
ask:                .quad 0
    /* 1 from the instruction that masks the last exception up to the end of that instruction */
leaving:            .quad 0

    /* ---- x87: the flags that softfloat gathered go into the status word, and with them its summary */
merge_x87:
    movzbl  FP_FLAGS(%rdi), %eax
    movb    $0, FP_FLAGS(%rdi)
    and     $ALL_BUT_DE, %eax
    orb     %al, FPUS(%rdi)
    movzwl  FPUC(%rdi), %eax
    not     %eax
    andb    FPUS(%rdi), %al
    testb   $0x3f, %al
    jz      1f
    orw     $0x8080, FPUS(%rdi)
1:  ret

new_fnstsw:  call merge_x87;  jmp *old_fnstsw(%rip)
new_fwait:   call merge_x87;  jmp *old_fwait(%rip)
new_fstenv:  call merge_x87;  jmp *old_fstenv(%rip)
new_fsave:   call merge_x87;  jmp *old_fsave(%rip)
new_frstor:  call merge_x87;  jmp *old_frstor(%rip)
new_fldenv:  call merge_x87;  jmp *old_fldenv(%rip)
new_fclex:   call merge_x87;  jmp *old_fclex(%rip)
new_fninit:  call merge_x87;  jmp *old_fninit(%rip)
new_fxrstor: call merge_x87;  jmp *old_fxrstor(%rip)
new_fxsave:  call merge_x87;  call merge_mxcsr;  jmp *old_fxsave(%rip)

    /* ---- SSE: MXCSR as the guest sees it. A result flushed to zero is an underflow and inexact */
merge_mxcsr:
    movzbl  SSE_FLAGS(%rdi), %eax
    testb   $0x80, %al
    jz      1f
    orb     $0x30, %al
1:  and     $ALL_BUT_DE, %eax
    orl     %eax, MXCSR(%rdi)
    ret

    /* called when the translator makes an operation: STMXCSR's load of MXCSR gets a call of merge_mxcsr in front */
new_op3:
    cmp     $MXCSR, %r8
    jne     1f
    cmp     $LD32U, %esi
    jne     1f
    push    %rdi
    push    %rsi
    push    %rdx
    push    %rcx
    push    %r8
    lea     8(%rsp), %r8
    lea     merge_mxcsr(%rip), %rsi
    xor     %edx, %edx
    mov     $1, %ecx
    call    *call_helper(%rip)
    pop     %r8
    pop     %rcx
    pop     %rdx
    pop     %rsi
    pop     %rdi
1:  jmp     *old_op3(%rip)

    /* MXCSR was loaded */
new_update:
    call    *old_update(%rip)
    mov     MXCSR(%rdi), %eax
    mov     %eax, %ecx
    shr     $15, %ecx
    mov     %cl, SSE_FTZ(%rdi)
    movb    $0, FP_FTZ(%rdi)
    mov     %eax, %ecx
    shr     $7, %ecx
    not     %ecx
    testb   $0x3f, %cl
    jnz     1f
    and     $ALL_BUT_DE, %eax
    mov     %al, SSE_FLAGS(%rdi)
    testl   $HF_TF, HFLAGS(%rdi)
    jz      2f
    andl    $~HF_TF, HFLAGS(%rdi)
    movb    $1, leaving(%rip)
    ret
1:  movb    $0, SSE_FLAGS(%rdi)
    testl   $HF_TF, HFLAGS(%rdi)
    jnz     2f
    orl     $HF_TF, HFLAGS(%rdi)
    push    %rdi
    call    *ask(%rip)
    pop     %rdi
2:  ret

    /* LDMXCSR: if exceptions are unmasked now the rest of this block must not run as it is: do it again, as a block of its own */
new_ldmxcsr:
    mov     %esi, MXCSR(%rdi)
    push    %rdi
    push    HFLAGS(%rdi)
    sub     $8, %rsp
    call    new_update
    add     $8, %rsp
    pop     %rax
    pop     %rdi
    not     %eax
    and     HFLAGS(%rdi), %eax
    test    $HF_TF, %eax
    jz      1f
    mov     (%rsp), %rsi
    lea     -ENV_OFFSET(%rdi), %rdi
    jmp     *exit_restore(%rip)
1:  ret

    /* after each instruction while HF_TF or the guest's TF is set; after the one that clears HF_TF, too, for its block was made
       with it: that one is no single step of the guest's unless the guest's TF says so */
new_single_step:
    testl   $HF_TF, HFLAGS(%rdi)
    jnz     2f
    cmpb    $0, leaving(%rip)
    jz      own
    movb    $0, leaving(%rip)
    jmp     3f
2:
    movzbl  SSE_FLAGS(%rdi), %eax
    testb   $0x80, %al
    jz      1f
    orb     $0x30, %al
1:  and     $ALL_BUT_DE, %eax
    mov     MXCSR(%rdi), %ecx
    shr     $7, %ecx
    not     %ecx
    test    %ecx, %eax
    jnz     fault
    orl     %eax, MXCSR(%rdi)
    movb    $0, SSE_FLAGS(%rdi)
    push    %rdi
    mov     %rdi, %rsi
    lea     saved(%rip), %rdi
    mov     $SAVED, %ecx
    rep movsb
    pop     %rdi
3:  testb   $1, EFLAGS+1(%rdi)
    jnz     own
    lea     -ENV_OFFSET(%rdi), %rdi
    jmp     *exit_noexc(%rip)
own:
    jmp     *old_single_step(%rip)
fault:
    push    %rdi
    lea     saved(%rip), %rsi
    mov     $SAVED, %ecx
    rep movsb
    pop     %rdi
    orl     %eax, MXCSR(%rdi)
    movb    $0, SSE_FLAGS(%rdi)
    mov     $EXC_XM, %esi
    xor     %edx, %edx
    jmp     *raise_exception(%rip)

    /* ---- what Unicorn asks after a SYSCALL: whether EFLAGS.TF is set, for #DB at once. On a CPU that is no guest SYSCALL is
       the way into Xen's entry code, which has left TF for the instruction at which the guest goes on */
new_rechecking_single_step:
    testl   $HF_GUEST, HFLAGS(%rdi)
    jz      1f
    testb   $1, EFLAGS+1(%rdi)
    jnz     own
1:  ret

    /* ---- the host's own x87 unit does what Unicorn does in double precision only */
    .macro  enter
    mov     FPSTT(%rdi), %eax
    lea     1(%rax), %ecx
    and     $7, %ecx
    shl     $4, %ecx
    lea     FPREGS(%rdi,%rcx), %r9       /* ST(1) */
    shl     $4, %eax
    lea     FPREGS(%rdi,%rax), %r8       /* ST(0) */
    fnstcw  -8(%rsp)
    movzwl  FPUC(%rdi), %ecx
    or      $0x3f, %ecx
    mov     %cx, -16(%rsp)
    fninit
    fldcw   -16(%rsp)
    fldt    (%r9)
    fldt    (%r8)
    .endm

    /* op on ST(0), and ST(1) if it has two operands, to ST(0) */
    .macro  in_place name, op
\name:
    enter
    \op
    fnstsw  %ax
    fstpt   (%r8)
    fstp    %st(0)
    jmp     leave
    .endm
    in_place new_f2xm1, f2xm1
    in_place new_fsin, fsin
    in_place new_fcos, fcos
    in_place new_fprem, fprem
    in_place new_fprem1, fprem1
    in_place new_fscale, fscale

    /* to ST(1), which the pop makes ST(0) */
    .macro  popping name, op
\name:
    enter
    \op
    fnstsw  %ax
    fstpt   (%r9)
    mov     FPSTT(%rdi), %ecx
    movb    $1, FPTAGS(%rdi,%rcx)
    inc     %ecx
    and     $7, %ecx
    mov     %ecx, FPSTT(%rdi)
    jmp     leave
    .endm
    popping new_fyl2x, fyl2x
    popping new_fyl2xp1, fyl2xp1
    popping new_fpatan, fpatan

    /* to ST(0), and another value is pushed, unless C2 says that the operand was out of range */
    .macro  pushing name, op
\name:
    enter
    \op
    fnstsw  %ax
    testb   $4, %ah
    jnz     unchanged
    jmp     push
    .endm
    pushing new_fptan, fptan
    pushing new_fsincos, fsincos
new_fxtract:
    enter
    fxtract
    fnstsw  %ax
push:
    mov     FPSTT(%rdi), %ecx
    dec     %ecx
    and     $7, %ecx
    mov     %ecx, FPSTT(%rdi)
    movb    $0, FPTAGS(%rdi,%rcx)
    shl     $4, %ecx
    fstpt   FPREGS(%rdi,%rcx)
unchanged:
    fstpt   (%r8)
    fstp    %st(0)
leave:
    fnclex
    fldcw   -8(%rsp)
    mov     %eax, %ecx
    and     $0x4700, %ecx
    andw    $~0x4700, FPUS(%rdi)
    orw     %cx, FPUS(%rdi)
    and     $0x3f, %eax
    orb     %al, FPUS(%rdi)
    ret

    /* ---- SSE4.2's comparisons of strings: rsi and rdx point at the operands, ecx is the immediate */
    .macro  lengths
    movzbl  %cl, %r10d
    lea     (%r11,%r10,8), %r11
    movdqu  (%rsi), %xmm0
    movdqu  (%rdx), %xmm2
    mov     (%rdi), %rax
    mov     16(%rdi), %rdx
    test    $0x100, %ecx
    jnz     1f
    cltq
    movslq  %edx, %rdx
1:  call    *%r11
    .endm
    .macro  flags
    pushfq
    pop     %rax
    and     $0x8d5, %eax
    mov     %rax, CC_SRC(%rdi)
    .endm
    .macro  index name, table
\name:
    lea     \table(%rip), %r11
    lengths
    mov     %rcx, 8(%rdi)
    flags
    ret
    .endm
    .macro  mask name, table
\name:
    lea     \table(%rip), %r11
    lengths
    movups  %xmm0, XMM0(%rdi)
    flags
    ret
    .endm
    index   new_pcmpestri, estri
    index   new_pcmpistri, istri
    mask    new_pcmpestrm, estrm
    mask    new_pcmpistrm, istrm

    /* each with all its immediates, 8 bytes an instruction and a return */
    .macro  immediates name, opcode
    .balign 8
\name:
    .set    n, 0
    .rept   256
    .byte   0x66, 0x48, 0x0f, 0x3a, \opcode, 0xc2, n, 0xc3
    .set    n, n + 1
    .endr
    .endm
    immediates estrm, 0x60
    immediates estri, 0x61
    immediates istrm, 0x62
    immediates istri, 0x63
saved:
"""
