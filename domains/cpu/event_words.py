"""The words of the 2-level event-channel ABI, which the domain process alone writes.

    shared_info  evtchn_pending[64]  one bit a port    vcpu_info  evtchn_upcall_pending  u8
                 evtchn_mask[64]     one bit a port               evtchn_upcall_mask     u8
                                                                  evtchn_pending_sel     one bit a word

A word has 64 bits; a 32-bit guest's has 32, and there are 32 of them (public/compat.py).

The core raises a port in the mailbox; here it becomes pending, as Xen's evtchn_2l_set_pending has it (E6):
the pending bit; if it was clear and the port is unmasked, the selector bit; then the upcall. Nothing here
enters the hypervisor. Single writer: this process, in the order of its instructions (the guest's own stores
included).
"""

from __future__ import annotations

from typing import Final

from hypervisor.machine.clock import time_info
from hypervisor.public.abi import NATIVE, Abi
from hypervisor.public.xen import shared_info, vcpu_info, vcpu_time_info

_UPCALL_PENDING: Final = vcpu_info.offsetof("evtchn_upcall_pending")
_UPCALL_MASK: Final = vcpu_info.offsetof("evtchn_upcall_mask")
"""These two, and the clock, are where they are in every layout."""
_WALL_CLOCK: Final = {
    64: ("wc_version", "wc_sec", "wc_nsec", "wc_sec_hi"),
    32: ("wc_version", "wc_sec", "wc_nsec", "arch.wc_sec_hi"),
}
"""Where the wall clock's words are, by the guest's width."""


class EventWords:
    """Views of one domain's shared_info page and of one vCPU's vcpu_info, which at first lies in that page."""

    def __init__(self, shared_page: memoryview, vcpu: int = 0, abi: Abi = NATIVE) -> None:
        at = vcpu * vcpu_info.sizeof
        self._page = shared_page
        self._info = shared_page[at : at + vcpu_info.sizeof]
        self._use(abi)

    def _use(self, abi: Abi) -> None:
        page, word = abi.layout(shared_info), abi.word
        self._abi = abi
        self._words = self._in_words(self._page)
        self._info_words = self._in_words(self._info)
        self._shift = abi.address_size.bit_length() - 1
        self._low = abi.address_size - 1
        self._ports = abi.nr_event_channels
        self._pending_at = page.offsetof("evtchn_pending") // word
        self._mask_at = page.offsetof("evtchn_mask") // word
        self._sel_at = abi.layout(vcpu_info).offsetof("evtchn_pending_sel") // word
        self._cr2_at = abi.layout(vcpu_info).offsetof("arch.cr2") // word

    def _in_words(self, view: memoryview) -> memoryview[int]:
        return view.cast("Q") if self._abi.word == 8 else view.cast("I")

    def latch(self, abi: Abi) -> None:
        """The guest reads the page in this layout from now on: with the wall clock, and nothing else, put over (Xen's
        hvm_latch_shinfo_size).
        """
        old, words = self._abi.layout(shared_info), self._page.cast("I")
        clock = [words[old.offsetof(name) // 4] for name in _WALL_CLOCK[self._abi.address_size]]
        self._use(abi)
        for name, value in zip(_WALL_CLOCK[abi.address_size], clock, strict=True):
            words[abi.layout(shared_info).offsetof(name) // 4] = value

    def move(self, info: memoryview) -> None:
        """vcpu_info lies elsewhere now: with its content, and with everything selected, lest an event be lost
        (D7).
        """
        info[:] = self._info
        self._info = info
        self._info_words = self._in_words(info)
        self._info_words[self._sel_at] = (1 << self._abi.address_size) - 1
        self._info[_UPCALL_PENDING] = 1

    def set_clock(self, tsc_at_start: int) -> None:
        """System time is the TSC, which counts nanoseconds, since it read `tsc_at_start`: written once, it stays true."""
        at = vcpu_info.offsetof("time")
        self._info[at : at + vcpu_time_info.sizeof] = time_info(tsc_at_start).pack()

    def set_pending(self, port: int) -> None:
        """An event came for `port`; one that the layout has no room for is lost, as on Xen."""
        if port >= self._ports:
            return
        word, bit = port >> self._shift, 1 << (port & self._low)
        pending = self._words[self._pending_at + word]
        if not pending & bit:
            self._words[self._pending_at + word] = pending | bit
            if not self._words[self._mask_at + word] & bit:
                self.raise_upcall(word)

    def raise_upcall(self, word: int) -> None:
        """Select `word` of the pending array and ask for an upcall."""
        self._info_words[self._sel_at] |= 1 << word
        self._info[_UPCALL_PENDING] = 1

    def unmask(self, port: int) -> None:
        """Clear the mask bit; a port that is pending is raised again (E7)."""
        if port >= self._ports:
            return
        word, bit = port >> self._shift, 1 << (port & self._low)
        self._words[self._mask_at + word] &= ~bit
        if self._words[self._pending_at + word] & bit:
            self.raise_upcall(word)

    def clear(self, port: int) -> None:
        """The port is closed: nothing is pending on it (E4)."""
        if port < self._ports:
            self._words[self._pending_at + (port >> self._shift)] &= ~(1 << (port & self._low))

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
        self._info_words[self._cr2_at] = va
