"""TCP and UDP checksums, for frames whose sender left them to the device (NETTXF_csum_blank).

Source: RFC 1071, RFC 793 §3.1, RFC 768, RFC 8200 §8.1.
"""

from typing import Final

ETHERTYPE: Final = 12
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
TCP, UDP = 6, 17
CHECKSUM_AT: Final = {TCP: 16, UDP: 6}
"""Offset of the checksum in the header of each protocol that has one."""


def internet_checksum(data: bytes) -> int:
    """The ones' complement of the ones' complement sum of 16-bit words, big-endian.

    2^16 ≡ 1 (mod 2^16 - 1), so the sum is the remainder of the whole taken as one number; zero stands for both of
    the two zeros, of which only nothing but zeros sums to the positive one.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    return 0xFFFF - (total % 0xFFFF or (0xFFFF if total else 0))


def partial_checksum(pseudo_header: bytes) -> int:
    """What stands in a checksum's place until the device fills it in: the sum so far."""
    return internet_checksum(pseudo_header) ^ 0xFFFF


def fill(frame: bytes) -> bytes:
    """The frame with its TCP or UDP checksum; as it is if it has none to fill, or is cut short."""
    found = transport(frame)
    if found is None:
        return frame
    start, end, protocol, addresses = found
    at = start + CHECKSUM_AT[protocol]
    if at + 2 > end or end > len(frame):
        return frame
    segment = frame[start:at] + b"\0\0" + frame[at + 2 : end]
    pseudo = addresses + len(segment).to_bytes(4, "big") + protocol.to_bytes(4, "big")
    value = internet_checksum(pseudo + segment)
    if protocol == UDP and value == 0:
        value = 0xFFFF  # zero says that there is no checksum
    return frame[:at] + value.to_bytes(2, "big") + frame[at + 2 :]


def is_blank(frame: bytes) -> bool:
    """Whether a frame's checksum is still to be filled in, by what stands in its place. So frames come from the same host's own
    network, which leaves that to a device that they never reach. One in 65,536 sound frames is taken for such a one and is none:
    the sum that is filled in is then the one that it had.
    """
    found = transport(frame)
    if found is None:
        return False
    start, end, protocol, addresses = found
    at = start + CHECKSUM_AT[protocol]
    pseudo = addresses + protocol.to_bytes(2, "big") + (end - start).to_bytes(4, "big")
    return at + 2 <= end <= len(frame) and frame[at : at + 2] == partial_checksum(pseudo).to_bytes(2, "big")


def transport(frame: bytes) -> tuple[int, int, int, bytes] | None:
    """(start, end, protocol, both addresses) of the TCP or UDP segment in an Ethernet frame."""
    kind = frame[ETHERTYPE : ETHERTYPE + 2]
    if kind == IPV4 and len(frame) >= 34:
        header = (frame[14] & 0xF) * 4
        fragment = int.from_bytes(frame[20:22], "big") & 0x3FFF
        end, protocol = 14 + int.from_bytes(frame[16:18], "big"), frame[23]
        addresses, start = frame[26:34], 14 + header
        if header < 20 or fragment:
            return None
    elif kind == IPV6 and len(frame) >= 54:
        end, protocol = 54 + int.from_bytes(frame[18:20], "big"), frame[20]
        addresses, start = frame[22:54], 54
    else:
        return None
    return (start, end, protocol, addresses) if protocol in CHECKSUM_AT and start < end else None
