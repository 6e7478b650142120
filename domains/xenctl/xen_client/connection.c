/* The connection with Dom0: one for each process, made when it is first needed, and anew in a child. */
#define _GNU_SOURCE
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int connection = -1;
static pid_t owner; /* who made it: a child shares the descriptor, and must not share the conversation */

const char *client_folder(void)
{
    const char *folder = getenv("XENOSCOPE_FOLDER");

    if (!folder || !*folder)
        errno = ENODEV;
    return folder && *folder ? folder : NULL;
}

static int send_all(int fd, const void *bytes, size_t size)
{
    while (size) {
        ssize_t done = send(fd, bytes, size, MSG_NOSIGNAL);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return -1;
        bytes = (const char *)bytes + done;
        size -= done;
    }
    return 0;
}

static int receive_all(int fd, void *bytes, size_t size)
{
    while (size) {
        ssize_t done = recv(fd, bytes, size, 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done == 0)
            errno = ECONNRESET; /* the machine has ended */
        if (done <= 0)
            return -1;
        bytes = (char *)bytes + done;
        size -= done;
    }
    return 0;
}

static int close_failed(int fd)
{
    int error = errno;

    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

static int lost(void)
{
    shutdown(connection, SHUT_RDWR); /* a thread that waits for its end would keep it open */
    close_failed(connection);
    connection = -1;
    return -1;
}

/* A new connection, and what Dom0 says first; -1 and errno. */
static int dial(struct greeting *greeting)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const char *folder = client_folder();
    size_t length = folder ? strlen(folder) : 0;
    int fd;

    if (!folder)
        return -1;
    if (length + sizeof("/privcmd") > sizeof(address.sun_path)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, folder, length);
    memcpy(address.sun_path + length, "/privcmd", sizeof("/privcmd"));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) ||
        receive_all(fd, greeting, sizeof(*greeting)))
        return close_failed(fd);
    if (memcmp(greeting->magic, MAGIC, sizeof(greeting->magic))) {
        errno = EPROTO; /* the machine is of another version than this library */
        return close_failed(fd);
    }
    return fd;
}

/* A thread's: ends the process with the machine. */
static void *wait_for_end(void *at)
{
    struct pollfd end = { .fd = (int)(intptr_t)at, .events = POLLRDHUP };
    struct greeting greeting;
    int fd;

    while (poll(&end, 1, -1) < 0 && errno == EINTR)
        ;
    fd = dial(&greeting);
    if (fd < 0)
        _exit(1);
    close(fd); /* the connection ended, not the machine */
    return NULL;
}

/* A child that goes on in the background, as xl's that waits for what becomes of its domain, hears nothing of the machine's end:
 * libxenstore tells none of a store that is gone. Without this it would wait for ever. */
static void end_with_machine(void)
{
    sigset_t all, before;
    pthread_attr_t attributes;
    pthread_t thread;

    sigfillset(&all);
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's own */
    pthread_create(&thread, &attributes, wait_for_end, (void *)(intptr_t)connection);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

static int open_connection(void)
{
    struct greeting greeting;
    int child = connection >= 0 && owner != getpid();

    if (connection >= 0 && owner == getpid())
        return 0;
    if (connection >= 0)
        close(connection);
    connection = dial(&greeting);
    if (connection < 0)
        return -1;
    if (window_open(greeting.window, greeting.pages))
        return lost();
    owner = getpid();
    if (child)
        end_with_machine();
    return 0;
}

int client_connect(void)
{
    pthread_mutex_lock(&lock);
    int result = open_connection();
    pthread_mutex_unlock(&lock);
    return result;
}

/* The head of a reply, and the descriptors that come with it, if there is room for them. */
static int receive_head(struct reply *reply, struct descriptors *got)
{
    union { char bytes[CMSG_SPACE(sizeof(got->fd))]; struct cmsghdr aligned; } control;
    struct iovec where = { reply, sizeof(*reply) };
    struct msghdr message = { .msg_iov = &where, .msg_iovlen = 1 };
    struct cmsghdr *head;
    ssize_t done;

    if (!got)
        return receive_all(connection, reply, sizeof(*reply));
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof(control.bytes);
    do
        done = recvmsg(connection, &message, MSG_CMSG_CLOEXEC);
    while (done < 0 && errno == EINTR);
    if (done <= 0) {
        errno = done ? errno : ECONNRESET;
        return -1;
    }
    head = CMSG_FIRSTHDR(&message);
    got->count = 0;
    if (head && head->cmsg_type == SCM_RIGHTS) {
        got->count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(got->fd, CMSG_DATA(head), got->count * sizeof(int));
    }
    return receive_all(connection, (char *)reply + done, sizeof(*reply) - done);
}

static int converse(enum kind kind, const struct part *parts, int count, struct reply *reply, const struct part *room,
                    int rooms, struct descriptors *got)
{
    struct header header = { .kind = kind };
    size_t expected = 0;

    for (int i = 0; i < count; i++)
        header.size += parts[i].size;
    for (int i = 0; i < rooms; i++)
        expected += room[i].size;
    if (send_all(connection, &header, sizeof(header)))
        return lost();
    for (int i = 0; i < count; i++)
        if (send_all(connection, parts[i].bytes, parts[i].size))
            return lost();
    if (receive_head(reply, got))
        return lost();
    if (reply->size && reply->size != expected) {
        errno = EPROTO;
        return lost();
    }
    for (int i = 0; i < rooms && reply->size; i++)
        if (receive_all(connection, room[i].bytes, room[i].size))
            return lost();
    return 0;
}

long client_request_fds(enum kind kind, const struct part *parts, int count, const struct part *room, int rooms,
                        struct descriptors *got)
{
    struct reply reply;
    int result;

    pthread_mutex_lock(&lock);
    result = open_connection();
    if (!result)
        result = converse(kind, parts, count, &reply, room, rooms, got);
    pthread_mutex_unlock(&lock);
    if (result)
        return -1;
    if (reply.result < 0) {
        errno = -reply.result;
        return -1;
    }
    return reply.result;
}

long client_request(enum kind kind, const struct part *parts, int count, const struct part *room, int rooms)
{
    return client_request_fds(kind, parts, count, room, rooms, NULL);
}

/* Ask about one domain on a connection of its own, which is returned with the reply's head read; -1 and errno. */
static int ask(enum kind kind, uint32_t domid, struct reply *reply)
{
    struct { struct header header; struct domainrequest body; } message = {
        { sizeof(struct domainrequest), kind }, { domid, 0 }
    };
    struct greeting greeting;
    int fd = dial(&greeting);

    if (fd < 0)
        return -1;
    if (send_all(fd, &message, sizeof(message)) || receive_all(fd, reply, sizeof(*reply)))
        return close_failed(fd);
    if (reply->result < 0) {
        errno = -reply->result;
        return close_failed(fd);
    }
    return fd;
}

int client_console(uint32_t domid)
{
    struct reply reply;

    return ask(KIND_CONSOLE, domid, &reply);
}

void *client_configuration(uint32_t domid, size_t *size)
{
    struct reply reply;
    int fd = ask(KIND_CONFIGURATION, domid, &reply);
    void *found;

    if (fd < 0)
        return NULL;
    found = malloc(reply.size);
    if (found && receive_all(fd, found, reply.size)) {
        free(found);
        found = NULL;
    }
    *size = reply.size;
    close_failed(fd);
    return found;
}
