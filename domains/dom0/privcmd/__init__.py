"""Dom0's /dev/xen/privcmd: hypercalls of the user's programs, such as Debian's xl (docs/xl.md).

messages ─── what goes over the socket
permitted ── which hypercalls are passed on
window ───── the memory that their arguments lie in, and the page table that shows nothing else
calls ────── one request and its reply
server ───── the socket, and its clients
"""
