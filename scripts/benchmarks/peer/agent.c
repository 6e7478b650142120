/* What the bench speaks with in Dom0, over the second serial port. One line asks for one command of the shell:

       TEXT <tab> COMMAND      until TEXT is in its output, then it is killed; without TEXT until it ends

   and is answered by "NANOSECONDS STATUS BYTES" on a line, then so many bytes: what the command said so far. STATUS is -1 if it was killed. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static char said[1 << 20];

static long now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000l + at.tv_nsec;
}

/* A shell on a terminal of its own, as a user has it; `out` is the terminal's other end. */
static pid_t begin(const char *command, int *out)
{
    struct termios raw;
    memset(&raw, 0, sizeof(raw));
    cfmakeraw(&raw);
    raw.c_cflag |= CREAD;
    raw.c_lflag |= ISIG;
    raw.c_cc[VMIN] = 1;
    pid_t child = forkpty(out, NULL, &raw, NULL);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", command, NULL);
        _exit(127);
    }
    return child;
}

static void perform(const char *text, const char *command, FILE *port)
{
    size_t length = 0;
    int out, status, killed = 0;
    long start = now();
    pid_t child = begin(command, &out);
    for (;;) {
        ssize_t got = read(out, said + length, sizeof(said) - 1 - length);
        if (got <= 0)
            break;
        length += got;
        said[length] = 0;
        if (*text && strstr(said, text)) {
            killed = 1;
            break;
        }
    }
    long spent = now() - start;
    if (killed)
        kill(-child, SIGKILL);
    waitpid(child, &status, 0);
    if (!killed)
        spent = now() - start;
    close(out);
    fprintf(port, "%ld %d %zu\n", spent, killed ? -1 : WEXITSTATUS(status), length);
    fwrite(said, 1, length, port);
    fflush(port);
}

int main(int count, char **arguments)
{
    static char line[8192];
    struct termios raw;
    int fd = open(count > 1 ? arguments[1] : "/dev/ttyS1", O_RDWR | O_NOCTTY);
    tcgetattr(fd, &raw);
    cfmakeraw(&raw);
    tcsetattr(fd, TCSANOW, &raw);
    FILE *in = fdopen(fd, "r"), *out = fdopen(dup(fd), "w");
    fputs("ready\n", out);
    fflush(out);
    while (fgets(line, sizeof(line), in)) {
        line[strcspn(line, "\n")] = 0;
        char *command = strchr(line, '\t');
        if (command == NULL)
            continue;
        *command++ = 0;
        perform(line, command, out);
    }
    return 1;
}
