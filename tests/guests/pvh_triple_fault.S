/* A PVH guest whose double fault cannot be delivered, for it has no IDT. */
#include "pvh.h"

_start: lidt    none
        ud2

        .data
none:   .word   0
        .long   0
