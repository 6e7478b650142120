"""What the machine is made of, and what is known of it: its memory, its barriers and atomics, the format of a page-table entry,
the configuration it was started with, how busy it was (counters, the longest that a loop was busy with one thing), and where its
trace points lead.
"""
