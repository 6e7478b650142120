"""The time-stamp counter that guests read: nanoseconds of the host's monotonic clock, the same in every process.

RDTSC is a hook, so the counter does not depend on the host's own; vcpu_time_info, which turns it into system time, is written
once (domains.cpu.event_words) and stays true.
"""

import time
from typing import Final

TSC_KHZ: Final = 1_000_000

read_tsc = time.monotonic_ns
