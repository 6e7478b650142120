/* `probe NAME` begins a probe, in assembly of 32 or of 64 bits: its address is the next word of .rodata, which who tries them indexes by its
   number, the value of the symbol number_NAME. */
#ifdef __x86_64__
#define WORD .quad
#else
#define WORD .long
#endif
.set number, 0
.macro probe name
.pushsection .rodata
    WORD probe_\name
.popsection
.globl probe_\name, number_\name
.set number_\name, number
.set number, number + 1
probe_\name:
.endm
