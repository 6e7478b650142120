/*
 * Shared by the parts of the library that stands in for Xen's own libraries under /dev/xen, in a program such as xl
 * (docs/xl.md): the connection with Dom0, and the messages over it. They mirror domains/dom0/privcmd/messages.py; a test
 * compares the two.
 */
#ifndef XENOSCOPE_CLIENT_H
#define XENOSCOPE_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#define MAGIC "privcmd1"
#define PIECES_MAX 256
#define FRAMES_MAX 256
#define DESCRIPTORS_MAX 4
#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)

enum kind { KIND_HYPERCALL = 1, KIND_CONSOLE = 2, KIND_CONFIGURATION = 3, KIND_MAP = 4, KIND_UNMAP = 5 };

struct greeting { char magic[8]; uint64_t window; uint32_t pages, pad; uint64_t longest; };
struct header { uint32_t size, kind; };
struct hypercall { uint64_t nr, args[5]; uint32_t pieces, pad; };
struct piece { uint64_t address, size; };
struct domainrequest { uint32_t domid, pad; };
struct mapping { uint32_t domid, writable, count, pad; };
struct place { uint64_t descriptor, page; };
struct unmapping { uint64_t number; };
struct reply { int64_t result; uint64_t size; };

#pragma GCC visibility push(hidden)

/* A part of a request or of the place for a reply. */
struct part { void *bytes; size_t size; };

/* Make sure that there is a connection; 0, or -1 and errno. */
int client_connect(void);

/* The machine's folder: where its sockets are. NULL and errno if the environment names none. */
const char *client_folder(void);

/*
 * Send one request of `count` parts and wait for its reply, whose data go into the `room` parts if the reply has as many
 * bytes. The result, or -1 and errno. Any thread may call.
 */
long client_request(enum kind kind, const struct part *parts, int count, const struct part *room, int rooms);

/* Descriptors that came with a reply, for the caller to close. */
struct descriptors { int count, fd[DESCRIPTORS_MAX]; };

/* The same for a reply that brings descriptors. */
long client_request_fds(enum kind kind, const struct part *parts, int count, const struct part *room, int rooms,
                        struct descriptors *got);

/* A descriptor that is a domain's console, bytes both ways; -1 and errno. */
int client_console(uint32_t domid);

/* libxl's `libxl-json` of a domain, to be freed, and its size; NULL and errno (ENOENT: the machine has not made it). */
void *client_configuration(uint32_t domid, size_t *size);

/* Pages of the window: for as many as `pages` in a row, NULL and errno if there are none. */
void *window_alloc(size_t pages);
void window_free(void *address, size_t pages);

/* The parts of the window that are in use, as pieces; how many there are, at most `most` (the last one then has the rest). */
int window_pieces(struct piece *pieces, int most);

/* Where in the window `pages` pages lie, and how many; called once, with what the greeting says. 0, or -1 and errno. */
int window_open(uint64_t address, uint32_t pages);

#pragma GCC visibility pop

#endif
