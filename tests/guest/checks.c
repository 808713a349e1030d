/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the guest check program does all the time, and how it knows that something went wrong.
 *
 * Theory of operation
 *
 * An activity is a thread that goes through rounds. Whatever a machine's save and restore can lose shows in one of
 * them:
 *
 *     memory N   pinned to processor N, never sleeps: each page of its share must hold what was last written there,
 *                word for word, and is then written anew. With it, on the same processor: clocks that must never be
 *                behind what any other processor has read before (MONOTONIC, MONOTONIC_RAW, BOOTTIME), its own time
 *                stamp counter, and a sum of floating point numbers whose registers must survive.
 *     relay N    pinned to processor N: a token goes round all of them through pipes, each sleeps a millisecond
 *                first. So every processor's timer and every wake-up from one to the next is needed.
 *     timers     a timerfd's expirations are neither too many nor too few for the time gone by; an interval timer's
 *                signals; poll's and a condition variable's time-outs, none of them early.
 *     io         files of the image, read from the disk again each time, and a file that is written, renamed, and is
 *                there next time.
 *     net        a connection over the loopback to the echo service, which stays.
 *     echo       that service, also for connections from outside over vsock; it counts what becomes of them.
 *
 * A timer that never fires, or a wake-up that is lost, stops an activity: then its rounds do not go on, and
 * checks_verify names it. The first fault found is kept; the thread that found it goes on, since stopping would look
 * like another. A kernel that has warned (of a lock, of sleeping where it must not) is at fault, too.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <x86intrin.h>
#endif

#define MAX_CPUS       16
#define MAX_ACTIVITIES (2 * MAX_CPUS + 4)
#define MAX_PEERS      32
#define PAGE           4096u
#define WORDS          (PAGE / sizeof(uint64_t))
#define MS             1000000u /* ns */
#define SECOND         1000000000u
#define WRITTEN        "/check.data"
#define WRITTEN_NEW    "/check.new"

struct activity {
    char name[16];
    pthread_t thread;
    int cpu; /* -1: any */
    unsigned long rounds;
};

static const struct {
    clockid_t id;
    const char *name;
} clocks[] = {{CLOCK_MONOTONIC, "CLOCK_MONOTONIC"},
              {CLOCK_MONOTONIC_RAW, "CLOCK_MONOTONIC_RAW"},
              {CLOCK_BOOTTIME, "CLOCK_BOOTTIME"}};
#define CLOCKS (sizeof(clocks) / sizeof(clocks[0]))

static struct {
    pthread_mutex_t lock; /* guards rounds, fault, peers */
    pthread_cond_t went_on;
    char fault[200];
    struct activity activity[MAX_ACTIVITIES];
    unsigned n_activities;
    int cpus;
    uint64_t *memory; /* shares of `share` pages, one a processor */
    size_t share;
    _Atomic uint64_t seen[CLOCKS]; /* the latest that any processor has read */
    int relay[MAX_CPUS][2];
    unsigned long tainted, warnings; /* of the kernel, at the start */
    struct {
        unsigned accepted, open, ended, reset;
    } peers;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t now_ns(clockid_t id)
{
    struct timespec t;

    clock_gettime(id, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 1, 2))) static void fault(const char *fmt, ...)
{
    va_list args;

    pthread_mutex_lock(&all.lock);
    if (!all.fault[0]) {
        va_start(args, fmt);
        vsnprintf(all.fault, sizeof(all.fault), fmt, args);
        va_end(args);
    }
    pthread_cond_broadcast(&all.went_on);
    pthread_mutex_unlock(&all.lock);
}

static void round_done(struct activity *a)
{
    pthread_mutex_lock(&all.lock);
    a->rounds++;
    pthread_cond_broadcast(&all.went_on);
    pthread_mutex_unlock(&all.lock);
}

/* --- memory and clocks --- */

static void check_clocks(int cpu)
{
    for (unsigned c = 0; c < CLOCKS; c++) {
        uint64_t before = atomic_load(&all.seen[c]), now = now_ns(clocks[c].id), last = before;

        if (now < before)
            fault("%s on processor %d is %llu ns behind what was read before", clocks[c].name, cpu,
                  (unsigned long long)(before - now));
        while (now > last && !atomic_compare_exchange_weak(&all.seen[c], &last, now))
            ;
    }
}

static uint64_t time_stamp(void)
{
#ifdef __x86_64__
    return __rdtsc();
#else
    return now_ns(CLOCK_MONOTONIC);
#endif
}

/* Always the same sum, in SSE registers and on the x87 stack. */
static double floating(void)
{
    long double slow = 1;
    double a = 1, b = 2;

    for (unsigned i = 1; i < 200; i++) {
        a += 1.0 / i;
        b *= 1.0 + 1.0 / (i * i);
        slow += 1.0L / (a + b);
        __asm__ volatile("" : "+x"(a), "+x"(b)); /* else the compiler knows the sum */
    }
    return a + b + (double)slow;
}

static void fill(uint64_t *page, uint64_t stamp)
{
    for (unsigned i = 0; i < WORDS; i++)
        page[i] = check_word(stamp, i);
}

static void check_page(int cpu, size_t n, const uint64_t *page, uint64_t stamp)
{
    for (unsigned i = 0; i < WORDS; i++)
        if (page[i] != check_word(stamp, i)) {
            fault("memory of processor %d: page %zu word %u at %p is %#llx, not %#llx", cpu, n, i, (const void *)page,
                  (unsigned long long)page[i], (unsigned long long)check_word(stamp, i));
            return;
        }
}

static void *run_memory(void *arg)
{
    struct activity *a = arg;
    uint64_t *mine = all.memory + all.share * (size_t)a->cpu * WORDS, tsc = time_stamp(), turn = 0;
    double sum = floating();

    for (size_t n = 0; n < all.share; n++)
        fill(mine + n * WORDS, n);
    for (;; turn++) {
        for (size_t n = 0; n < all.share; n++) {
            uint64_t now = time_stamp();

            check_page(a->cpu, n, mine + n * WORDS, turn * all.share + n);
            fill(mine + n * WORDS, (turn + 1) * all.share + n);
            if (now < tsc)
                fault("the time stamp counter of processor %d went back by %llu", a->cpu,
                      (unsigned long long)(tsc - now));
            tsc = now;
            if (n % 8 == 0)
                check_clocks(a->cpu);
        }
        if (floating() != sum)
            fault("floating point registers of processor %d were lost", a->cpu);
        round_done(a);
    }
    return NULL;
}

/* --- wake-ups and timers --- */

static void slept(const char *what, uint64_t start, uint64_t wanted)
{
    uint64_t gone = now_ns(CLOCK_MONOTONIC) - start;

    if (gone < wanted)
        fault("%s of %llu ns was over after %llu ns", what, (unsigned long long)wanted, (unsigned long long)gone);
}

static void doze(unsigned ns)
{
    const struct timespec wait = {.tv_nsec = (long)ns};
    uint64_t start = now_ns(CLOCK_MONOTONIC);

    clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, NULL);
    slept("a sleep", start, ns);
}

static void *run_relay(void *arg)
{
    struct activity *a = arg;
    uint64_t token = 0, mine = (uint64_t)a->cpu;

    for (;;) {
        if (read(all.relay[a->cpu][0], &token, sizeof(token)) != sizeof(token))
            fault("the relay's pipe to processor %d: %s", a->cpu, strerror(errno));
        if (token != mine)
            fault("the relay's token at processor %d is %llu, not %llu", a->cpu, (unsigned long long)token,
                  (unsigned long long)mine);
        mine += (uint64_t)all.cpus;
        doze(MS);
        token++;
        if (write(all.relay[(a->cpu + 1) % all.cpus][1], &token, sizeof(token)) != sizeof(token))
            fault("the relay's pipe from processor %d: %s", a->cpu, strerror(errno));
        round_done(a);
    }
    return NULL;
}

struct periodic {
    const char *name;
    uint64_t asked, armed; /* it was started between the two */
    uint64_t period, count;
};

/* It has fired so often as is due by now, but at least as often as was due at `then`. */
static void check_periodic(const struct periodic *p, uint64_t then)
{
    uint64_t due = (now_ns(CLOCK_MONOTONIC) - p->asked) / p->period, least = (then - p->armed) / p->period;

    if (p->count > due + 1 || p->count + 1 < least)
        fault("%s fired %llu times in the time for %llu to %llu", p->name, (unsigned long long)p->count,
              (unsigned long long)least, (unsigned long long)due);
}

static void wait_for_nothing(void)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    uint64_t start = now_ns(CLOCK_MONOTONIC);
    pthread_condattr_t attr;
    pthread_cond_t never;

    poll(NULL, 0, 2);
    slept("poll's time-out", start, 2 * MS);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&never, &attr);
    start = now_ns(CLOCK_MONOTONIC);
    const uint64_t until = start + 3 * MS;
    const struct timespec deadline = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
    pthread_mutex_lock(&lock);
    while (pthread_cond_timedwait(&never, &lock, &deadline) == 0)
        ;
    pthread_mutex_unlock(&lock);
    slept("a condition variable's time-out", start, 3 * MS);
    pthread_cond_destroy(&never);
    pthread_condattr_destroy(&attr);
}

static void *run_timers(void *arg)
{
    struct periodic file = {.name = "a timerfd", .period = 5 * MS}, signals = {.name = "SIGALRM", .period = 7 * MS};
    const struct itimerspec every = {.it_interval.tv_nsec = 5 * MS, .it_value.tv_nsec = 5 * MS};
    const struct itimerval interval = {.it_interval.tv_usec = 7000, .it_value.tv_usec = 7000};
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    sigset_t alarms;

    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    file.asked = now_ns(CLOCK_MONOTONIC);
    timerfd_settime(fd, 0, &every, NULL);
    file.armed = signals.asked = now_ns(CLOCK_MONOTONIC);
    setitimer(ITIMER_REAL, &interval, NULL);
    signals.armed = now_ns(CLOCK_MONOTONIC);
    for (;;) {
        uint64_t n = 0, before = now_ns(CLOCK_MONOTONIC);
        int sig;

        if (read(fd, &n, sizeof(n)) != sizeof(n))
            fault("a timerfd: %s", strerror(errno));
        file.count += n;
        check_periodic(&file, before);
        if (sigwait(&alarms, &sig) != 0)
            fault("sigwait failed");
        signals.count++;
        check_periodic(&signals, signals.armed); /* what came together is one */
        wait_for_nothing();
        round_done(arg);
    }
    return NULL;
}

/* --- files --- */

/* The whole file, which must be what check_word() says of `what`. */
static void check_file(const char *path, uint64_t what)
{
    static uint64_t words[CHECK_FILE_SIZE / sizeof(uint64_t)];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t got = 0;
    ssize_t n = 0;

    if (fd >= 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* from the disk, not from the cache */
        while (got < sizeof(words) && (n = read(fd, (char *)words + got, sizeof(words) - got)) > 0)
            got += (size_t)n;
    }
    if (fd < 0 || n < 0)
        fault("%s: %s", path, strerror(errno));
    else if (got != sizeof(words))
        fault("%s has %zu bytes", path, got);
    for (size_t i = 0; i < got / sizeof(words[0]); i++)
        if (words[i] != check_word(what, i)) {
            fault("%s: word %zu is %#llx, not %#llx", path, i, (unsigned long long)words[i],
                  (unsigned long long)check_word(what, i));
            break;
        }
    if (fd >= 0)
        close(fd);
}

static void write_file(const char *path, uint64_t what)
{
    static uint64_t words[CHECK_FILE_SIZE / sizeof(uint64_t)];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    for (size_t i = 0; i < CHECK_FILE_SIZE / sizeof(words[0]); i++)
        words[i] = check_word(what, i);
    if (fd < 0 || write(fd, words, sizeof(words)) != sizeof(words) || fsync(fd) < 0)
        fault("%s can't be written: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

static void *run_io(void *arg)
{
    for (uint64_t turn = 1000;; turn++) {
        char path[32];

        for (unsigned i = 0; i < CHECK_FILES; i++) {
            snprintf(path, sizeof(path), CHECK_DATA "%u", i);
            check_file(path, i);
        }
        if (turn > 1000)
            check_file(WRITTEN, turn - 1);
        write_file(WRITTEN_NEW, turn);
        if (rename(WRITTEN_NEW, WRITTEN) < 0)
            fault("%s can't be renamed: %s", WRITTEN_NEW, strerror(errno));
        check_file(WRITTEN, turn);
        round_done(arg);
    }
    return NULL;
}

/* --- connections --- */

static int loopback(bool listening)
{
    const struct sockaddr_in addr = {.sin_family = AF_INET,
                                     .sin_port = htons(CHECK_PORT),
                                     .sin_addr.s_addr = htonl(listening ? INADDR_ANY : INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || (listening ? bind(fd, (const void *)&addr, sizeof(addr)) < 0 || listen(fd, MAX_PEERS) < 0
                             : connect(fd, (const void *)&addr, sizeof(addr)) < 0))
        fault("no connection over the loopback: %s", strerror(errno));
    return fd;
}

static int vsock_listener(void)
{
    const struct sockaddr_vm addr = {.svm_family = AF_VSOCK, .svm_port = CHECK_PORT, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (const void *)&addr, sizeof(addr)) < 0 || listen(fd, MAX_PEERS) < 0)
        fault("nothing listens on vsock: %s", strerror(errno));
    return fd;
}

static void *run_net(void *arg)
{
    int fd = loopback(false);

    for (uint64_t turn = 0;; turn++) {
        uint64_t back = 0;

        if (write(fd, &turn, sizeof(turn)) != sizeof(turn) ||
            recv(fd, &back, sizeof(back), MSG_WAITALL) != sizeof(back))
            fault("the connection over the loopback: %s", strerror(errno));
        else if (back != turn)
            fault("the loopback gave %llu for %llu", (unsigned long long)back, (unsigned long long)turn);
        doze(2 * MS);
        round_done(arg);
    }
    return NULL;
}

/* Give back what came. False at the end of it. */
static bool echo(int fd, bool outside)
{
    char data[512];
    ssize_t n = read(fd, data, sizeof(data));

    if (n > 0 && write(fd, data, (size_t)n) == n)
        return true;
    if (outside) {
        pthread_mutex_lock(&all.lock);
        all.peers.open--;
        if (n == 0)
            all.peers.ended++;
        else
            all.peers.reset++;
        pthread_mutex_unlock(&all.lock);
    }
    close(fd);
    return false;
}

/* Slots 0 and 1 listen; a free one has -1. `arg` holds the two listeners. */
static void *run_echo(void *arg)
{
    const int *listener = arg;
    struct pollfd peer[MAX_PEERS];
    bool outside[MAX_PEERS] = {false};

    for (unsigned i = 0; i < MAX_PEERS; i++)
        peer[i] = (struct pollfd){.fd = i < 2 ? listener[i] : -1, .events = POLLIN};
    for (;;) {
        if (poll(peer, MAX_PEERS, -1) < 0)
            fault("poll: %s", strerror(errno));
        for (unsigned i = 2; i < MAX_PEERS; i++)
            if (peer[i].fd >= 0 && peer[i].revents && !echo(peer[i].fd, outside[i]))
                peer[i].fd = -1;
        for (unsigned i = 2; i < MAX_PEERS; i++) {
            unsigned from = peer[0].revents ? 0 : 1;

            if (peer[i].fd >= 0 || !peer[from].revents)
                continue;
            peer[i].fd = accept4(peer[from].fd, NULL, NULL, SOCK_CLOEXEC);
            peer[i].revents = peer[from].revents = 0;
            outside[i] = from == 1 && peer[i].fd >= 0;
            pthread_mutex_lock(&all.lock);
            all.peers.accepted += outside[i];
            all.peers.open += outside[i];
            pthread_mutex_unlock(&all.lock);
        }
    }
    return NULL;
}

/* --- all of them --- */

static unsigned long number_in(const char *path)
{
    unsigned long n = 0;
    FILE *f = fopen(path, "re");

    if (!f || fscanf(f, "%lu", &n) != 1)
        fault("%s can't be read", path);
    if (f)
        fclose(f);
    return n;
}

/* Linux, Documentation/admin-guide/tainted-kernels.rst and Documentation/ABI/testing/sysfs-kernel-warn_count. */
static unsigned long tainted(void)
{
    return number_in("/proc/sys/kernel/tainted");
}

static unsigned long warnings(void)
{
    return number_in("/sys/kernel/warn_count");
}

static void start(void *(*run)(void *), int cpu, const char *name)
{
    struct activity *a = &all.activity[all.n_activities++];
    pthread_attr_t attr;
    cpu_set_t set;

    snprintf(a->name, sizeof(a->name), cpu < 0 ? "%s" : "%s %d", name, cpu);
    a->cpu = cpu;
    pthread_attr_init(&attr);
    if (cpu >= 0) {
        CPU_ZERO(&set);
        CPU_SET((size_t)cpu, &set);
    }
    if (pthread_create(&a->thread, &attr, run, a) != 0 ||
        (cpu >= 0 && pthread_setaffinity_np(a->thread, sizeof(set), &set) != 0))
        fault("no thread for %s", a->name);
    pthread_attr_destroy(&attr);
}

void checks_start(size_t mib)
{
    static int listener[2];
    pthread_condattr_t attr;
    pthread_t thread;
    sigset_t alarms;
    uint64_t token = 0;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&all.went_on, &attr);
    sigemptyset(&alarms);
    sigaddset(&alarms, SIGALRM);
    pthread_sigmask(SIG_BLOCK, &alarms, NULL);
    signal(SIGPIPE, SIG_IGN);
    all.cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (all.cpus > MAX_CPUS)
        all.cpus = MAX_CPUS;
    all.tainted = tainted();
    all.warnings = warnings();
    all.share = (mib << 20) / PAGE / (size_t)all.cpus;
    all.memory =
        mmap(NULL, all.share * (size_t)all.cpus * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all.memory == MAP_FAILED) {
        perror("check: memory");
        exit(2);
    }
    for (int i = 0; i < all.cpus; i++)
        if (pipe2(all.relay[i], O_CLOEXEC) < 0)
            fault("no pipe: %s", strerror(errno));
    listener[0] = loopback(true);
    listener[1] = vsock_listener();
    if (pthread_create(&thread, NULL, run_echo, listener) != 0)
        fault("no thread for echo");
    for (int i = 0; i < all.cpus; i++) {
        start(run_memory, i, "memory");
        start(run_relay, i, "relay");
    }
    start(run_timers, -1, "timers");
    start(run_io, -1, "io");
    start(run_net, -1, "net");
    if (write(all.relay[0][1], &token, sizeof(token)) != sizeof(token))
        fault("the relay's pipe: %s", strerror(errno));
}

bool checks_verify(unsigned seconds, char *text, size_t len)
{
    uint64_t until = now_ns(CLOCK_MONOTONIC) + (uint64_t)seconds * SECOND;
    const struct timespec deadline = {.tv_sec = (time_t)(until / SECOND), .tv_nsec = (long)(until % SECOND)};
    unsigned long wanted[MAX_ACTIVITIES];
    const unsigned long now_tainted = tainted(), now_warnings = warnings();
    bool late = false, good = true;
    size_t at = 0;

    if (now_tainted != all.tainted || now_warnings != all.warnings)
        fault("the kernel has warned: tainted %#lx, was %#lx; %lu warnings, were %lu", now_tainted, all.tainted,
              now_warnings, all.warnings);
    pthread_mutex_lock(&all.lock);
    for (unsigned i = 0; i < all.n_activities; i++)
        wanted[i] = all.activity[i].rounds + 2; /* the one under way, and a whole one */
    for (unsigned i = 0; i < all.n_activities && !all.fault[0] && !late; i++)
        while (all.activity[i].rounds < wanted[i] && !all.fault[0] && !late)
            late = pthread_cond_timedwait(&all.went_on, &all.lock, &deadline) == ETIMEDOUT;
    if (all.fault[0]) {
        snprintf(text, len, "failed: %s", all.fault);
        good = false;
    } else if (late) {
        at = (size_t)snprintf(text, len, "failed: after %u s these do not go on:", seconds);
        for (unsigned i = 0; i < all.n_activities && at < len; i++)
            if (all.activity[i].rounds < wanted[i])
                at += (size_t)snprintf(text + at, len - at, " %s (%lu)", all.activity[i].name, all.activity[i].rounds);
        good = false;
    } else {
        at = (size_t)snprintf(text, len, "ok");
        for (unsigned i = 0; i < all.n_activities && at < len; i++)
            at += (size_t)snprintf(text + at, len - at, ", %s: %lu", all.activity[i].name, all.activity[i].rounds);
    }
    pthread_mutex_unlock(&all.lock);
    return good;
}

void checks_peers(char *text, size_t len)
{
    pthread_mutex_lock(&all.lock);
    snprintf(text, len, "accepted %u open %u ended %u reset %u", all.peers.accepted, all.peers.open, all.peers.ended,
             all.peers.reset);
    pthread_mutex_unlock(&all.lock);
}
