"""Domains kept as they were, and any number of domains made of one of them (docs/snapshots.md).

snapshots.py    the operations: snapshot, fork, snapshot-list, snapshot-delete
kept.py         where the contents of one lie: a stream in memory, or in a file without a name
disks.py        the disks of one: copies of images, and an overlay of a copy for each fork
owners.py       which fork has which overlays, over its reboots
"""
