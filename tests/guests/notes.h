/* Xen's ELF notes of a PV test guest: the macro that makes one, and those that are the same in both widths. */
#include <xen/elfnote.h>

#define ELFNOTE(type, value)                     \
        .pushsection .note.Xen, "a", @note;      \
        .balign 4;                               \
        .long 2f - 1f, 4f - 3f, type;            \
1:      .asciz "Xen";                            \
2:      .balign 4;                               \
3:      value;                                   \
4:      .balign 4;                               \
        .popsection

ELFNOTE(XEN_ELFNOTE_GUEST_OS, .asciz "xenoscope-test")
ELFNOTE(XEN_ELFNOTE_XEN_VERSION, .asciz "xen-3.0")
ELFNOTE(XEN_ELFNOTE_LOADER, .asciz "generic")
