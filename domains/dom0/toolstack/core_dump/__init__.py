"""A domain's memory and registers as a file that `crash` reads: Xen's dump-core format (docs/misc/dump-core-format.txt)."""
