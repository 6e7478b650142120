/*
 * The window: pages at the same addresses as in Dom0, so that the pointers in a hypercall's arguments mean the same there.
 * Hands out runs of pages, first fit. A child of a process has the same runs, in pages of its own.
 */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *start;
static uint32_t nr_pages;
static unsigned char *used; /* for each page whether it is */

int window_open(uint64_t address, uint32_t pages)
{
    void *wanted = (void *)address;
    void *got;

    if (start) /* again, in a child or to a machine that was started anew */
        return start == wanted && nr_pages == pages ? 0 : (errno = EPROTO, -1);
    used = calloc(pages, 1);
    if (!used)
        return -1;
    got = mmap(wanted, pages * PAGE_SIZE, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == MAP_FAILED || got != wanted) {
        free(used);
        used = NULL;
        errno = got == MAP_FAILED ? errno : EEXIST;
        return -1;
    }
    start = got;
    nr_pages = pages;
    return 0;
}

void *window_alloc(size_t pages)
{
    void *found = NULL;

    pthread_mutex_lock(&lock);
    for (size_t first = 0, length = 0, i = 0; pages && i < nr_pages; i++) {
        length = used[i] ? 0 : length + 1;
        if (length < pages)
            continue;
        first = i + 1 - pages;
        for (size_t page = first; page <= i; page++)
            used[page] = 1;
        found = start + first * PAGE_SIZE;
        break;
    }
    pthread_mutex_unlock(&lock);
    if (!found)
        errno = ENOMEM;
    return found;
}

void window_free(void *address, size_t pages)
{
    size_t first = ((char *)address - start) >> PAGE_SHIFT;

    if (!address)
        return;
    madvise(address, pages * PAGE_SIZE, MADV_DONTNEED); /* the next one finds zeros */
    pthread_mutex_lock(&lock);
    for (size_t page = first; page < first + pages && page < nr_pages; page++)
        used[page] = 0;
    pthread_mutex_unlock(&lock);
}

int window_pieces(struct piece *pieces, int most)
{
    int count = 0;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < nr_pages; i++) {
        if (!used[i])
            continue;
        if (i && used[i - 1] && count) {
            pieces[count - 1].size += PAGE_SIZE;
        } else if (count == most) { /* too many for a request: with what lies between, it is one piece */
            pieces[count - 1].size = (uint64_t)start + (i + 1) * PAGE_SIZE - pieces[count - 1].address;
        } else {
            pieces[count].address = (uint64_t)start + i * PAGE_SIZE;
            pieces[count++].size = PAGE_SIZE;
        }
    }
    pthread_mutex_unlock(&lock);
    return count;
}
