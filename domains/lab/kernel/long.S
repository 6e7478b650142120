/* A kernel of a few instructions in long mode, with page tables of four levels. Its program is its own: it touches one page, whose
   address selects another slot in each table, and ends. */
.set SLOT4, 0xfe
.set SLOT3, 0x048
.set SLOT2, 0x1a2
.set SLOT1, 0x167
.macro entry_of page
    .long \page + 7, 0
.endm
.macro table slot, next
    .fill \slot, 8, 0
    entry_of \next
    .fill 511 - \slot, 8, 0
.endm

.text
.code32
.globl _start, page_touched_from, page_touched_to, touched, touched_page
_start:
    mov $level4, %eax
    mov %eax, %cr3
    mov $0x20, %eax                     /* CR4.PAE */
    mov %eax, %cr4
    mov $0xc0000080, %ecx               /* EFER.LME */
    rdmsr
    or $0x100, %eax
    wrmsr
    mov %cr0, %eax
    or $0x80010000, %eax                /* CR0.PG, WP */
    mov %eax, %cr0
    lgdt gdt_register
    ljmp $8, $1f
.code64
1:  mov touched(%rip), %rax
    mov $1, %ebx
page_touched_from:
    movl $0x600d, (%rax)
page_touched_to:
    cli
    hlt

.data
touched: .quad SLOT4 << 39 | SLOT3 << 30 | SLOT2 << 21 | SLOT1 << 12
gdt: .quad 0, 0x00af9b000000ffff
gdt_register: .word 15
    .long gdt
first_program: .fill 8, 4, 0

.balign 4096
level4:                                 /* the kernel's own addresses in slot 0 */
    entry_of kernel3
    .fill SLOT4 - 1, 8, 0
    entry_of level3
    .fill 511 - SLOT4, 8, 0
kernel3: table 0, kernel2
kernel2: table 0, kernel1
kernel1:
.set at, 0
.rept 512
    .long at * 4096 + 3, 0
    .set at, at + 1
.endr
level3: table SLOT3, level2
level2: table SLOT2, level1
level1: table SLOT1, touched_page
touched_page: .fill 4096
