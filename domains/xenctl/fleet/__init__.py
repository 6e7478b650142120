"""A topology over several hosts (docs/fleet.md). What is decided is in domains/fleet; here are files, processes and sockets.

file.py       what a fleet's file may say, and reading it; parts.py: what it shares with a simulated fleet's
command.py    what `xenctl fleet` does; client.py: how it asks the head; graph.py: pictures
place.py      where a head is on this host; begin.py: how it begins
head.py       the head's loop; desk.py: what clients ask it; flows.py, orders.py: what it has agents do, step by step
hosts.py      the interface of what holds hosts; processes.py and on_ray.py are behind it
agent.py      a host's agent; runs.py: the domains on its machine; store.py: the images that it has
portable.py   a domain in a form that any host can use
journal.py    logs with clocks
sim/          a fleet in virtual time: `xenctl fleet sim`
"""
