/* libxencall: hypercalls, and the memory for their arguments. */
#include "client.h"

#include <errno.h>
#include <stdlib.h>

struct xencall_handle { int unused; };
static struct xencall_handle handle;

void *xencall_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return client_connect() ? NULL : &handle;
}

int xencall_close(void *xcall)
{
    (void)xcall;
    return 0;
}

int xencall_fd(void *xcall)
{
    (void)xcall;
    return -1;
}

static long call(uint64_t nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
    struct hypercall body = { .nr = nr, .args = { a, b, c, d, e } };
    struct piece pieces[PIECES_MAX];
    struct part parts[PIECES_MAX + 2];
    int count;

    if (client_connect())
        return -1;
    count = window_pieces(pieces, PIECES_MAX);
    body.pieces = count;
    parts[0] = (struct part){ &body, sizeof(body) };
    parts[1] = (struct part){ pieces, count * sizeof(pieces[0]) };
    for (int i = 0; i < count; i++)
        parts[i + 2] = (struct part){ (void *)pieces[i].address, pieces[i].size };
    return client_request(KIND_HYPERCALL, parts, count + 2, parts + 2, count);
}

int xencall0(void *xcall, unsigned nr)
{
    (void)xcall;
    return call(nr, 0, 0, 0, 0, 0);
}

int xencall1(void *xcall, unsigned nr, uint64_t a)
{
    (void)xcall;
    return call(nr, a, 0, 0, 0, 0);
}

int xencall2(void *xcall, unsigned nr, uint64_t a, uint64_t b)
{
    (void)xcall;
    return call(nr, a, b, 0, 0, 0);
}

long xencall2L(void *xcall, unsigned nr, uint64_t a, uint64_t b)
{
    (void)xcall;
    return call(nr, a, b, 0, 0, 0);
}

int xencall3(void *xcall, unsigned nr, uint64_t a, uint64_t b, uint64_t c)
{
    (void)xcall;
    return call(nr, a, b, c, 0, 0);
}

int xencall4(void *xcall, unsigned nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    (void)xcall;
    return call(nr, a, b, c, d, 0);
}

int xencall5(void *xcall, unsigned nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
    (void)xcall;
    return call(nr, a, b, c, d, e);
}

void *xencall_alloc_buffer_pages(void *xcall, size_t pages)
{
    (void)xcall;
    return window_alloc(pages);
}

void xencall_free_buffer_pages(void *xcall, void *address, size_t pages)
{
    (void)xcall;
    window_free(address, pages);
}

/* A buffer of any size has its number of pages in the first 16 bytes. */
void *xencall_alloc_buffer(void *xcall, size_t size)
{
    size_t pages = (size + 16 + PAGE_SIZE - 1) >> PAGE_SHIFT;
    size_t *buffer = window_alloc(pages);

    (void)xcall;
    if (!buffer)
        return NULL;
    buffer[0] = pages;
    return (char *)buffer + 16;
}

void xencall_free_buffer(void *xcall, void *address)
{
    size_t *buffer = (size_t *)((char *)address - 16);

    (void)xcall;
    if (address)
        window_free(buffer, buffer[0]);
}

int xencall_buffers_never_fault(void *xcall)
{
    (void)xcall;
    return 1;
}
