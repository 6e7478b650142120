/*
 * The files that xl and its libraries have under fixed names of the whole host: their place here is the folder `xl` in the
 * machine's folder, so that each machine has its own, no root is needed, and nothing is left when the machine ends. They are
 * made as they are first asked for; xl's own configuration is empty, which it takes for the defaults, and how a domain was made
 * is asked of Dom0. What the store calls a console's tty is a connection with Dom0.
 */
#define _GNU_SOURCE
#include "client.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const folders[] = {
    "/var/lib/xen", "/var/lock/xl", "/var/lock/xenconsole.", "/var/log/xen", "/var/run/xen", "/run/xen",
    "/sys/bus/xen-backend/devices", "/etc/xen/xl.conf",
};

#define CONFIGURATION "/var/lib/xen/userdata-d.%u.%*[0-9a-f-].libxl-json%n"
#define CONSOLE "/dev/xenconsole/%u%n"

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Make the folders above `path`, those behind its first `from` bytes. */
static void make_parents(char *path, size_t from)
{
    for (char *at = path + from; (at = strchr(at, '/')); at++) {
        *at = 0;
        REAL(mkdir)(path, 0700);
        *at = '/';
    }
}

/* Where a file is: `path` itself, or a place in the machine's folder, which is written into `buffer`. */
static const char *placed(const char *path, char *buffer, size_t size)
{
    const char *folder = client_folder();
    size_t i, length;

    for (i = 0; path && i < sizeof(folders) / sizeof(folders[0]); i++)
        if (!strncmp(path, folders[i], strlen(folders[i])))
            break;
    if (!path || !folder || i == sizeof(folders) / sizeof(folders[0]))
        return path;
    length = snprintf(buffer, size, "%s/xl%s", folder, path);
    if (length >= size)
        return path;
    make_parents(buffer, strlen(folder) + 1);
    if (!strcmp(folders[i], "/etc/xen/xl.conf"))
        close(REAL(open)(buffer, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    if (!strcmp(path, folders[i]) && strncmp(path, "/var/lock", 9) && strncmp(path, "/etc", 4))
        REAL(mkdir)(buffer, 0700);
    return buffer;
}

#define PLACE(path)                                                                                                       \
    char place_[PATH_MAX];                                                                                                \
    int error_ = errno;                                                                                                   \
    path = placed(path, place_, sizeof(place_));                                                                          \
    errno = error_

/* A file with how a domain was made, which is nowhere but in memory; -1 and errno. */
static int open_configuration(uint32_t domid)
{
    size_t size;
    void *bytes = client_configuration(domid, &size);
    int fd = bytes ? memfd_create("libxl-json", MFD_CLOEXEC) : -1;

    if (fd >= 0 && (write(fd, bytes, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET))) {
        close(fd);
        fd = -1;
    }
    free(bytes);
    return fd;
}

/*
 * What Dom0 has under a name for which there is no file: a console, as the store names it, or how a domain was made, until
 * libxl has written that anew. Its descriptor; -1 and errno; -2: `path` is no such name.
 */
static int open_of_dom0(const char *path)
{
    char place[PATH_MAX];
    unsigned domid;
    int end = 0;

    if (!client_folder())
        return -2;
    sscanf(path, CONSOLE, &domid, &end);
    if (end && !path[end])
        return client_console(domid);
    end = 0;
    sscanf(path, CONFIGURATION, &domid, &end);
    if (end && !path[end] && REAL(access)(placed(path, place, sizeof(place)), F_OK))
        return open_configuration(domid);
    return -2;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    int of_dom0 = flags & O_CREAT ? -2 : open_of_dom0(path);

    if (of_dom0 != -2)
        return of_dom0;

    if (flags & (O_CREAT | __O_TMPFILE)) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    PLACE(path);
    return REAL(open)(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    int of_dom0 = *mode == 'r' ? open_of_dom0(path) : -2;

    if (of_dom0 != -2)
        return of_dom0 < 0 ? NULL : fdopen(of_dom0, mode);
    PLACE(path);
    return REAL(fopen)(path, mode);
}

int stat(const char *path, struct stat *status)
{
    PLACE(path);
    return REAL(stat)(path, status);
}

int lstat(const char *path, struct stat *status)
{
    PLACE(path);
    return REAL(lstat)(path, status);
}

int access(const char *path, int mode)
{
    PLACE(path);
    return REAL(access)(path, mode);
}

int mkdir(const char *path, mode_t mode)
{
    PLACE(path);
    return REAL(mkdir)(path, mode);
}

int unlink(const char *path)
{
    PLACE(path);
    return REAL(unlink)(path);
}

int rename(const char *from, const char *to)
{
    char place[PATH_MAX];

    PLACE(from);
    return REAL(rename)(from, placed(to, place, sizeof(place)));
}

DIR *opendir(const char *path)
{
    PLACE(path);
    return REAL(opendir)(path);
}

int glob(const char *pattern, int flags, int (*failed)(const char *, int), glob_t *found)
{
    PLACE(pattern);
    return REAL(glob)(pattern, flags, failed, found);
}
