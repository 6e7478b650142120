/* A PVH guest that suspends: again as long as its suspend is cancelled, and when it was restored it finds all as it left it: memory,
   page tables of its own (32 bits, pages of 4 MiB), FPU and SSE, debug register, local APIC, the TSC; its ports are new. */
#include "pvh.h"

#define CONSOLEIO_write 0
#define SCHEDOP_shutdown 2
#define HVMOP_get_param 1
#define HVM_PARAM_STORE_EVTCHN 2
#define HVM_PARAM_CONSOLE_EVTCHN 18
#define DOMID_SELF 0x7ff0
#define TPR 0xfee00080
#define HYPERCALL(number) mov $number, %eax; vmmcall
#define SAY(text, length) xor %ebx, %ebx; mov $length, %ecx; mov $text, %edx; HYPERCALL(18)

_start: mov     $stack, %esp
        xor     %ecx, %ecx                      /* all addresses are what they are */
1:      mov     %ecx, %eax
        shl     $22, %eax
        or      $0x83, %eax
        mov     %eax, tables(, %ecx, 4)
        inc     %ecx
        cmp     $1024, %ecx
        jb      1b
        mov     $tables, %eax
        mov     %eax, %cr3
        mov     $0x610, %eax                    /* PSE, OSFXSR, OSXMMEXCPT */
        mov     %eax, %cr4
        mov     %cr0, %eax
        or      $0x80010000, %eax
        mov     %eax, %cr0
        SAY(begins, begins_length)
        mov     $0x1230, %eax
        mov     %eax, %dr1
        movl    $0x40, TPR
        rdtsc
        mov     %eax, before
        mov     %edx, before + 4
        fninit
        fldpi
        fldl2e
        movups  pattern, %xmm3
        fxsave  saved
again:  mov     $SCHEDOP_shutdown, %ebx
        mov     $suspend, %ecx
        HYPERCALL(29)
        cmp     $1, %eax
        jne     1f
        SAY(cancelled, cancelled_length)
        jmp     again
1:      mov     $'r', %cl                       /* which check has failed */
        test    %eax, %eax
        jnz     failed
        fxsave  found
        cld
        mov     $'f', %cl
        mov     $saved + 32, %esi
        mov     $found + 32, %edi
        mov     $64, %edx
2:      cmpsl
        jne     failed
        dec     %edx
        jnz     2b
        mov     $'d', %cl
        mov     %dr1, %eax
        cmp     $0x1230, %eax
        jne     failed
        mov     $'a', %cl
        cmpl    $0x40, TPR
        jne     failed
        mov     $'t', %cl
        rdtsc
        sub     before, %eax
        sbb     before + 4, %edx
        cmp     $100, %edx                      /* ns: some minutes */
        jae     failed
        movl    $HVM_PARAM_STORE_EVTCHN, param + 4
        call    port
        movl    $HVM_PARAM_CONSOLE_EVTCHN, param + 4
        call    port
        SAY(success, success_length)
        mov     $off, %ecx
end:    mov     $SCHEDOP_shutdown, %ebx
        HYPERCALL(29)
        hlt

port:   movl    $0, param + 8
        mov     $HVMOP_get_param, %ebx
        mov     $param, %ecx
        HYPERCALL(34)
        mov     $'p', %cl
        cmpl    $0, param + 8
        je      failed
        ret

failed: mov     %cl, which
        SAY(failure, failure_length)
        mov     $crash, %ecx
        jmp     end

        .data
        .balign 4096
tables: .skip   4096
        .balign 16
saved:  .skip   512
found:  .skip   512
pattern:
        .quad   0x1122334455667788, 0x99aabbccddeeff00
before: .quad   0
param:  .word   DOMID_SELF, 0
        .long   0
        .quad   0
off:    .long   0                               /* SHUTDOWN_poweroff */
suspend:
        .long   2                               /* SHUTDOWN_suspend */
crash:  .long   3                               /* SHUTDOWN_crash */
begins: .ascii  "suspends\n"
        .set    begins_length, . - begins
cancelled:
        .ascii  "cancelled\n"
        .set    cancelled_length, . - cancelled
success:
        .ascii  "SUCCESS\n"
        .set    success_length, . - success
failure:
        .ascii  "FAILURE "
which:  .ascii  "?\n"
        .set    failure_length, . - failure
        .balign 16
        .skip   256
stack:
