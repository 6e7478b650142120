/* From a PVH guest's first instruction to 64-bit C: 4 GiB mapped where they are, by pages of 2 MiB that user space may use, too.
   EBX, ESI and EDI become main's arguments; what main returns is the shutdown code. */
#include "pvh.h"

#define PRESENT_WRITE_USER 7
#define LARGE 0x80
#define CR4_PAE_OSFXSR 0x220
#define MSR_EFER 0xc0000080
#define EFER_SCE_LME_NX 0x901
#define CR0_PG_WP_ET_PE 0x80010011

_start: mov     %edi, %ebp                      /* n */
        movl    $(l3 + PRESENT_WRITE_USER), l4
        mov     $l2 + PRESENT_WRITE_USER, %eax
        xor     %ecx, %ecx
1:      mov     %eax, l3(, %ecx, 8)
        add     $4096, %eax
        inc     %ecx
        cmp     $4, %ecx
        jb      1b
        mov     $(PRESENT_WRITE_USER | LARGE), %eax
        xor     %ecx, %ecx
2:      mov     %eax, l2(, %ecx, 8)
        add     $0x200000, %eax
        inc     %ecx
        cmp     $2048, %ecx
        jb      2b
        mov     $tss, %eax
        mov     %ax, tss_descriptor + 2
        shr     $16, %eax
        mov     %al, tss_descriptor + 4
        lgdt    gdt_pointer
        mov     $l4, %eax
        mov     %eax, %cr3
        mov     $CR4_PAE_OSFXSR, %eax
        mov     %eax, %cr4
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $EFER_SCE_LME_NX, %eax
        wrmsr
        mov     $CR0_PG_WP_ET_PE, %eax
        mov     %eax, %cr0
        ljmp    $8, $3f
        .code64
3:      mov     $0x10, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $0x30, %eax
        ltr     %ax
        mov     $stack_top, %esp
        mov     %ebx, %edi
        mov     %ebp, %edx
        call    main
        mov     %eax, %edi
        call    guest_shutdown

        .data
        .balign 8
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff       /* the kernel's code, 8, and data, 0x10 */
        .quad   0, 0x00cff3000000ffff, 0x00affb000000ffff       /* user space's data, 0x20, and code, 0x28 */
tss_descriptor:
        .quad   0x0000890000000067, 0
gdt_pointer:
        .word   63
        .long   gdt

        .bss
        .balign 4096
        .globl  l4, tss
l4:     .skip   4096
l3:     .skip   4096
l2:     .skip   4 * 4096
tss:    .skip   104
        .balign 16
        .skip   16384
stack_top:
