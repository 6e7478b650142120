/* /init of the Linux guests that are measured, the same on both sides. What it does says `task=` on the kernel's command line,
   names with commas between. What it finds it says in lines "peer: NAME NUMBER" on the console, one a round, and "peer: failed WHY"
   if it cannot; "peer: done" ends them.

       cpu     page_fault, fork: nanoseconds of one; alu, sha256, double: nanoseconds of a fixed piece of work
       disk    disk_1m, disk_4k: nanoseconds of one direct read of /dev/xvda
       store   store_read, store_write: nanoseconds of one request to xenstore through /dev/xen/xenbus
       serve   10.0.0.1: answers pings (Linux does) and swallows TCP, port 5001
       net     10.0.0.2: ping: nanoseconds of a round trip to 10.0.0.1; tcp: nanoseconds of 1 MiB to it
*/
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 5
#define MIB (1ul << 20)
#define PORT 5001

static long now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000l + at.tv_nsec;
}

static void give_up(const char *what)
{
    printf("peer: failed %s: %m\npeer: done\n", what);
    for (;;)
        pause();
}

static void check(int fine, const char *what)
{
    if (!fine)
        give_up(what);
}

/* Call `work`, which does `count` pieces, once for nothing, and then so that each round is told. */
static void measure(const char *name, void (*work)(int count), int count)
{
    work(count / 8 + 1);
    for (int round = 0; round < ROUNDS; round++) {
        long start = now();
        work(count);
        printf("peer: %s %.1f\n", name, (double)(now() - start) / count);
    }
}

/* --- memory and processes ------------------------------------------------------------------------------------------------ */

static void page_faults(int count)
{
    size_t size = (size_t)count * 4096;
    char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(area != MAP_FAILED, "mmap");
    madvise(area, size, MADV_NOHUGEPAGE);
    for (size_t at = 0; at < size; at += 4096)
        ((volatile char *)area)[at] = 1;
    munmap(area, size);
}

static void forks(int count)
{
    while (count--) {
        pid_t child = fork();
        check(child >= 0, "fork");
        if (child == 0)
            _exit(0);
        waitpid(child, NULL, 0);
    }
}

/* --- computing ----------------------------------------------------------------------------------------------------------- */

static volatile uint64_t whole = 88172645463325252ull;
static volatile double real = 1.5;

static void alu(int count)
{
    uint64_t x = whole;
    for (int i = 0; i < count * 1000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x += i;
    }
    whole = x;
}

static void doubles(int count)
{
    double x = real, y = 0.25;
    for (int i = 0; i < count * 1000; i++) {
        x = x * 1.0000001 + y;
        y = y * 0.9999999 - 1.0 / x;
    }
    real = x + y;
}

static uint32_t constants[64];

/* The fractions of the cube roots of the first 64 primes, by bisection of integers (FIPS 180-4, 4.2.2). */
static void find_constants(void)
{
    for (int n = 2, found = 0; found < 64; n++) {
        int prime = 1;
        for (int d = 2; d * d <= n; d++)
            prime &= n % d != 0;
        if (!prime)
            continue;
        unsigned __int128 low = 0, high = (unsigned __int128)8 << 32, wanted = (unsigned __int128)n << 96;
        while (high - low > 1) {
            unsigned __int128 middle = (low + high) / 2;
            if (middle * middle * middle <= wanted)
                low = middle;
            else
                high = middle;
        }
        constants[found++] = (uint32_t)low;
    }
}

static uint32_t turned(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha256_block(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    memcpy(v, state, sizeof(v));
    for (int i = 0; i < 64; i++) {
        uint32_t one = v[7] + (turned(v[4], 6) ^ turned(v[4], 11) ^ turned(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6]))
                       + constants[i] + w[i];
        uint32_t two = (turned(v[0], 2) ^ turned(v[0], 13) ^ turned(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof(*v));
        v[4] += one;
        v[0] = one + two;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

static void sha256(int count)
{
    static uint8_t data[64];
    static uint32_t state[8];
    while (count--)
        sha256_block(state, data);
}

static void cpu(void)
{
    measure("page_fault", page_faults, 2000);
    measure("fork", forks, 40);
    measure("alu", alu, 20000);
    find_constants();
    measure("sha256", sha256, 8000);
    measure("double", doubles, 4000);
}

/* --- disk ---------------------------------------------------------------------------------------------------------------- */

static int disk;
static char *buffer;
static size_t disk_size;

static void read_at(size_t offset, size_t length)
{
    check(pread(disk, buffer, length, offset) == (ssize_t)length, "read of the disk");
}

static void megabytes(int count)
{
    static size_t at;
    for (; count--; at = (at + MIB) % disk_size)
        read_at(at, MIB);
}

static void small_reads(int count)
{
    while (count--)
        read_at((size_t)rand() % (disk_size / 4096) * 4096, 4096);
}

static void disks(void)
{
    for (int i = 0; i < 200 && (disk = open("/dev/xvda", O_RDONLY | O_DIRECT)) < 0; i++)
        usleep(50000);
    check(disk >= 0, "/dev/xvda");
    disk_size = lseek(disk, 0, SEEK_END);
    buffer = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    check(buffer != MAP_FAILED, "mmap");
    measure("disk_1m", megabytes, 16);
    measure("disk_4k", small_reads, 100);
}

/* --- xenstore (Xen public/io/xs_wire.h) ---------------------------------------------------------------------------------- */

enum { XS_READ = 2, XS_WRITE = 11 };
static int store;

static void ask(uint32_t type, const char *body, uint32_t length)
{
    struct {
        uint32_t type, req_id, tx_id, len;
        char body[256];
    } message = { type, 0, 0, length, "" };
    memcpy(message.body, body, length);
    check(write(store, &message, 16 + length) == (ssize_t)(16 + length), "request to xenstore");
    for (size_t got = 0; got < 16 || got < 16 + message.len;) {
        ssize_t more = read(store, (char *)&message + got, sizeof(message) - got);
        check(more > 0, "answer of xenstore");
        got += more;
    }
    check(message.type == type, "what xenstore answers");
}

static void store_reads(int count)
{
    while (count--)
        ask(XS_READ, "data/peer", sizeof("data/peer"));
}

static void store_writes(int count)
{
    while (count--)
        ask(XS_WRITE, "data/peer\0value", sizeof("data/peer\0value") - 1);
}

static void stores(void)
{
    store = open("/dev/xen/xenbus", O_RDWR);
    check(store >= 0, "/dev/xen/xenbus");
    measure("store_write", store_writes, 40);
    measure("store_read", store_reads, 40);
}

/* --- network ------------------------------------------------------------------------------------------------------------- */

static struct sockaddr_in server = { .sin_family = AF_INET };

static void set_address(const char *address)
{
    struct ifreq request = { .ifr_name = "eth0" };
    struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
    int fd = socket(AF_INET, SOCK_DGRAM, 0), found = -1;
    for (int i = 0; i < 200 && (found = ioctl(fd, SIOCGIFFLAGS, &request)) < 0; i++)
        usleep(50000);
    check(found == 0, "eth0");
    in->sin_family = AF_INET;
    in->sin_addr.s_addr = inet_addr(address);
    check(ioctl(fd, SIOCSIFADDR, &request) == 0, "address");
    in->sin_addr.s_addr = inet_addr("255.255.255.0");
    check(ioctl(fd, SIOCSIFNETMASK, &request) == 0, "netmask");
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    check(ioctl(fd, SIOCSIFFLAGS, &request) == 0, "interface up");
    close(fd);
    server.sin_port = htons(PORT);
    server.sin_addr.s_addr = inet_addr("10.0.0.1");
}

static void swallow(void)
{
    static char data[1 << 16];
    set_address("10.0.0.1");
    int listening = socket(AF_INET, SOCK_STREAM, 0), one;
    check(bind(listening, (struct sockaddr *)&server, sizeof(server)) == 0 && listen(listening, 4) == 0, "listen");
    printf("peer: done\n");
    while ((one = accept(listening, NULL, NULL)) >= 0) {
        while (read(one, data, sizeof(data)) > 0)
            ;
        check(write(one, "!", 1) == 1, "end of what came");
        close(one);
    }
}

static int reach(void)
{
    for (int i = 0; i < 60; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&server, sizeof(server)) == 0)
            return fd;
        close(fd);
        usleep(500000);
    }
    give_up("connection to 10.0.0.1");
    return -1;
}

static void pour(int mebibytes)
{
    static char data[1 << 16];
    int fd = reach();
    for (size_t left = mebibytes * MIB; left > 0;) {
        ssize_t sent = write(fd, data, left < sizeof(data) ? left : sizeof(data));
        check(sent > 0, "send");
        left -= sent;
    }
    shutdown(fd, SHUT_WR);
    check(read(fd, data, 1) == 1, "its end");
    close(fd);
}

static uint16_t checksum(const uint16_t *words, int count)
{
    uint32_t sum = 0;
    while (count--)
        sum += *words++;
    sum = (sum >> 16) + (sum & 0xffff);
    return ~(sum + (sum >> 16));
}

static void pings(int count)
{
    static uint16_t sequence;
    uint16_t request[32] = { 8 }, answer[64];
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    struct timeval patience = { .tv_sec = 2 };
    check(fd >= 0, "raw socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    while (count--) {
        request[1] = 0;
        request[2] = 77;
        request[3] = ++sequence;
        request[1] = checksum(request, 32);
        check(sendto(fd, request, sizeof(request), 0, (struct sockaddr *)&server, sizeof(server)) > 0, "ping");
        do /* behind the IP header of ten words: type and code 0, our number */
            check(recv(fd, answer, sizeof(answer), 0) > 0, "answer to a ping");
        while (answer[10] != 0 || answer[13] != sequence);
    }
    close(fd);
}

static void net(void)
{
    set_address("10.0.0.2");
    close(reach());
    measure("ping", pings, 50);
    measure("tcp", pour, 4);
}

/* --- the beginning ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*work)(void);
} tasks[] = { { "cpu", cpu }, { "disk", disks }, { "store", stores }, { "serve", swallow }, { "net", net } };

static void load_modules(void)
{
    char name[128], path[160];
    FILE *order = fopen("/modules/order", "r");
    while (order && fscanf(order, "%127s", name) == 1) {
        snprintf(path, sizeof(path), "/modules/%s", name);
        int fd = open(path, O_RDONLY);
        check(syscall(SYS_finit_module, fd, "", 0) == 0, path);
        close(fd);
    }
}

int main(void)
{
    char line[1024] = "";
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int fd = open("/proc/cmdline", O_RDONLY);
    check(read(fd, line, sizeof(line) - 1) > 0, "command line");
    char *names = strstr(line, "task=");
    if (names) {
        load_modules();
        names += 5;
        names[strcspn(names, " \n")] = 0;
        for (char *name = strtok(names, ","); name; name = strtok(NULL, ","))
            for (size_t i = 0; i < sizeof(tasks) / sizeof(*tasks); i++)
                if (strcmp(name, tasks[i].name) == 0)
                    tasks[i].work();
    }
    printf("peer: done\n");
    for (;;)
        pause();
}
