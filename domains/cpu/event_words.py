"""The words of the 2-level event-channel ABI, which the domain process alone writes.

    shared_info  evtchn_pending[64]  one bit a port    vcpu_info  evtchn_upcall_pending  u8
                 evtchn_mask[64]     one bit a port               evtchn_upcall_mask     u8
                                                                  evtchn_pending_sel     u64, one bit a word

The core raises a port in the mailbox; here it becomes pending, as Xen's evtchn_2l_set_pending has it (E6):
the pending bit; if it was clear and the port is unmasked, the selector bit; then the upcall. Nothing here
enters the hypervisor. Single writer: this process, in the order of its instructions (the guest's own stores
included).
"""

from __future__ import annotations

from hypervisor.public.xen import shared_info, vcpu_info, vcpu_time_info

_PENDING = shared_info.offsetof("evtchn_pending") // 8
_MASK = shared_info.offsetof("evtchn_mask") // 8
_UPCALL_PENDING = vcpu_info.offsetof("evtchn_upcall_pending")
_UPCALL_MASK = vcpu_info.offsetof("evtchn_upcall_mask")
_SEL = vcpu_info.offsetof("evtchn_pending_sel") // 8


class EventWords:
    """Views of one domain's shared_info page and of one vCPU's vcpu_info, which at first lies in that page."""

    def __init__(self, shared_page: memoryview, vcpu: int = 0) -> None:
        at = vcpu * vcpu_info.sizeof
        self._words = shared_page.cast("Q")
        self._info = shared_page[at : at + vcpu_info.sizeof]
        self._info_words = self._info.cast("Q")

    def move(self, info: memoryview) -> None:
        """vcpu_info lies elsewhere now: with its content, and with everything selected, lest an event be lost
        (D7).
        """
        info[:] = self._info
        self._info = info
        self._info_words = info.cast("Q")
        self._info_words[_SEL] = (1 << 64) - 1
        self._info[_UPCALL_PENDING] = 1

    def set_clock(self, tsc_at_start: int) -> None:
        """System time is the TSC, which counts nanoseconds, since it read `tsc_at_start`: written once, it stays true."""
        clock = vcpu_time_info(version=2, tsc_timestamp=tsc_at_start, tsc_to_system_mul=1 << 31, tsc_shift=1)
        at = vcpu_info.offsetof("time")
        self._info[at : at + vcpu_time_info.sizeof] = clock.pack()

    def set_pending(self, port: int) -> None:
        """An event came for `port`."""
        word, bit = port >> 6, 1 << (port & 63)
        pending = self._words[_PENDING + word]
        if not pending & bit:
            self._words[_PENDING + word] = pending | bit
            if not self._words[_MASK + word] & bit:
                self.raise_upcall(word)

    def raise_upcall(self, word: int) -> None:
        """Select `word` of the pending array and ask for an upcall."""
        self._info_words[_SEL] |= 1 << word
        self._info[_UPCALL_PENDING] = 1

    def unmask(self, port: int) -> None:
        """Clear the mask bit; a port that is pending is raised again (E7)."""
        word, bit = port >> 6, 1 << (port & 63)
        self._words[_MASK + word] &= ~bit
        if self._words[_PENDING + word] & bit:
            self.raise_upcall(word)

    def clear(self, port: int) -> None:
        """The port is closed: nothing is pending on it (E4)."""
        self._words[_PENDING + (port >> 6)] &= ~(1 << (port & 63))

    @property
    def upcall_pending(self) -> bool:
        """Whether the guest has been told that an event is pending."""
        return bool(self._info[_UPCALL_PENDING])

    @property
    def upcall_mask(self) -> bool:
        """Whether upcalls are held back."""
        return bool(self._info[_UPCALL_MASK])

    @upcall_mask.setter
    def upcall_mask(self, masked: bool) -> None:
        """Masks or unmasks upcalls to this vCPU."""
        self._info[_UPCALL_MASK] = masked

    def set_cr2(self, va: int) -> None:
        """Tell the guest which address faulted, in vcpu_info.arch.cr2."""
        self._info_words[vcpu_info.offsetof("arch.cr2") // 8] = va
