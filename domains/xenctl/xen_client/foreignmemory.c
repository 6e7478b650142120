/*
 * libxenforeignmemory: frames of other domains in this process. Dom0 maps them first, and says where they are in which memfd;
 * it lets go of them when the last page of a request is unmapped here, or this process ends.
 */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What one request has mapped: `left` of its pages are. */
struct mapped { struct mapped *next; char *start; size_t pages, left; uint64_t number; };

static char handle;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct mapped *all;

void *xenforeignmemory_open(void *logger, unsigned flags)
{
    (void)logger, (void)flags;
    return client_connect() ? NULL : &handle;
}

int xenforeignmemory_close(void *fmem)
{
    (void)fmem;
    return 0;
}

static void release(uint64_t number)
{
    struct unmapping body = { number };
    struct part part = { &body, sizeof(body) };
    int error = errno;

    client_request(KIND_UNMAP, &part, 1, NULL, 0);
    errno = error;
}

/* Up to FRAMES_MAX frames at `start`, all or none; 0, or an errno. */
static int map_some(char *start, uint32_t dom, int prot, size_t pages, const uint64_t *frames)
{
    struct mapping body = { dom, !!(prot & PROT_WRITE), pages, 0 };
    struct part parts[] = { { &body, sizeof(body) }, { (void *)frames, pages * sizeof(*frames) } };
    struct place places[FRAMES_MAX];
    struct part room = { places, pages * sizeof(*places) };
    struct descriptors got = { 0, { 0 } };
    struct mapped *mapped = malloc(sizeof(*mapped));
    long number = mapped ? client_request_fds(KIND_MAP, parts, 2, &room, 1, &got) : -1;
    int error = number < 0 ? errno : 0;

    for (size_t i = 0, run; !error && i < pages; i += run) {
        for (run = 1; i + run < pages && places[i + run].descriptor == places[i].descriptor &&
                      places[i + run].page == places[i].page + run; run++)
            ;
        if (places[i].descriptor >= (uint64_t)got.count)
            error = EPROTO;
        else if (mmap(start + i * PAGE_SIZE, run * PAGE_SIZE, prot, MAP_SHARED | MAP_FIXED,
                      got.fd[places[i].descriptor], places[i].page * PAGE_SIZE) == MAP_FAILED)
            error = errno;
    }
    for (int i = 0; i < got.count; i++)
        close(got.fd[i]);
    if (error) {
        mmap(start, pages * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        if (number >= 0)
            release(number);
        free(mapped);
        return error;
    }
    *mapped = (struct mapped){ NULL, start, pages, pages, number };
    pthread_mutex_lock(&lock);
    mapped->next = all;
    all = mapped;
    pthread_mutex_unlock(&lock);
    return 0;
}

/* libxenguest unmaps so what it has mapped by libxenforeignmemory. */
int munmap(void *address, size_t length)
{
    char *start = address, *end = start + length;

    if (syscall(SYS_munmap, address, length))
        return -1;
    if (!all) /* what is not mapped yet cannot be what this is about */
        return 0;
    pthread_mutex_lock(&lock);
    for (struct mapped **at = &all; *at;) {
        struct mapped *one = *at;
        char *from = one->start > start ? one->start : start;
        char *to = one->start + one->pages * PAGE_SIZE < end ? one->start + one->pages * PAGE_SIZE : end;

        if (from < to)
            one->left -= (to - from + PAGE_SIZE - 1) / PAGE_SIZE;
        if (one->left) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        release(one->number);
        free(one);
    }
    pthread_mutex_unlock(&lock);
    return 0;
}

int xenforeignmemory_unmap(void *fmem, void *address, size_t pages)
{
    (void)fmem;
    return munmap(address, pages * PAGE_SIZE);
}

/*
 * With `err` each frame's own error goes there, and those that can be are mapped; without it all are, or none. Where one of
 * several cannot be, each is tried by itself.
 */
void *xenforeignmemory_map2(void *fmem, uint32_t dom, void *address, int prot, int flags, size_t pages,
                            const uint64_t frames[], int err[])
{
    char *start = mmap(address, pages * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    int failed = 0;

    if (start == MAP_FAILED)
        return NULL;
    for (size_t i = 0; i < pages; i += FRAMES_MAX) {
        size_t count = pages - i < FRAMES_MAX ? pages - i : FRAMES_MAX;
        int error = map_some(start + i * PAGE_SIZE, dom, prot, count, frames + i);

        for (size_t page = i; page < i + count && (err || !failed); page++) {
            int own = error && count > 1 ? map_some(start + page * PAGE_SIZE, dom, prot, 1, frames + page) : error;
            if (err)
                err[page] = -own;
            failed = own ? own : failed;
        }
    }
    if (failed && !err) {
        xenforeignmemory_unmap(fmem, start, pages);
        errno = failed;
        return NULL;
    }
    return start;
}

void *xenforeignmemory_map(void *fmem, uint32_t dom, int prot, size_t pages, const uint64_t frames[], int err[])
{
    return xenforeignmemory_map2(fmem, dom, NULL, prot, 0, pages, frames, err);
}

/* Xen's resources of a domain are not mapped: libxenguest has another way for all that it wants of them. */
void *xenforeignmemory_map_resource(void *fmem, uint32_t dom, unsigned type, unsigned id, unsigned long frame,
                                    unsigned long frames, void **address, int prot, int flags)
{
    (void)fmem, (void)dom, (void)type, (void)id, (void)frame, (void)frames, (void)address, (void)prot, (void)flags;
    errno = EOPNOTSUPP;
    return NULL;
}

int xenforeignmemory_unmap_resource(void *fmem, void *resource)
{
    (void)fmem, (void)resource;
    errno = EOPNOTSUPP;
    return -1;
}

int xenforeignmemory_resource_size(void *fmem, uint32_t dom, unsigned type, unsigned id, size_t *size)
{
    (void)fmem, (void)dom, (void)type, (void)id, (void)size;
    errno = EOPNOTSUPP;
    return -1;
}
