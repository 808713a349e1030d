/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The library as a program uses it: `library CHECK IMAGE` runs one check on a real machine. It knows the public header
 * only. Exits with 0, or says what did not hold and exits with 1. test_library.py runs each check as a test.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <supermachine/supermachine.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: does not hold: %s (last error: %s)\n", __FILE__, __LINE__, #condition, err.text);  \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct sm_error err = SM_ERROR_INIT;
static struct sm_image *image;
static struct sm_vm *vm;

static void start_vm(const struct sm_vm_config *config)
{
    CHECK(sm_vm_start(&vm, image, config, &err) == 0);
}

static int read_end(const int pv[2], char *buf, size_t size)
{
    ssize_t n = read(pv[0], buf, size - 1);

    CHECK(n >= 0);
    buf[n] = '\0';
    return (int)n;
}

/* Run to the end; stdout comes back in `out`. */
static struct sm_exec_result run(const char *const *args, char *out, size_t out_size)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_exec *exec;
    int pv[2];

    CHECK(pipe2(pv, O_CLOEXEC) == 0);
    config.args = args;
    config.out = pv[1];
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    CHECK(sm_exec_wait(exec, &result, &err) == 0);
    if (out)
        read_end(pv, out, out_size);
    result.message = result.message[0] ? "some" : "";
    sm_exec_free(exec);
    close(pv[0]);
    close(pv[1]);
    return result;
}

/* One machine, many commands one after the other: state stays between them. */
static void check_many_execs(void)
{
    char out[64];
    struct sm_exec_result r;

    start_vm(NULL);
    for (int i = 0; i < 20; i++) {
        char script[64], want[16];

        snprintf(script, sizeof(script), "echo %d >>/count; wc -l </count", i);
        snprintf(want, sizeof(want), "%d\n", i + 1);
        r = run(ARGS("sh", "-c", script), out, sizeof(out));
        CHECK(r.status == SM_EXEC_EXITED && r.exit_code == 0 && r.signal == 0);
        CHECK(strcmp(out, want) == 0);
        CHECK(r.duration_ns > 0 && r.peak_rss_kib > 0);
    }
    r = run(ARGS("sh", "-c", "exit 7"), NULL, 0);
    CHECK(r.status == SM_EXEC_EXITED && r.exit_code == 7);
    r = run(ARGS("sh", "-c", "kill -9 $$"), NULL, 0);
    CHECK(r.status == SM_EXEC_SIGNALED && r.exit_code == 137 && r.signal == SIGKILL);
    r = run(ARGS("no-such-program"), NULL, 0);
    CHECK(r.status == SM_EXEC_NOT_FOUND && r.exit_code == 127 && r.message[0]);
    r = run(ARGS("/etc"), NULL, 0);
    CHECK(r.status == SM_EXEC_NOT_EXECUTABLE && r.exit_code == 126 && r.message[0]);
}

/* Several at once, driven by the program's own poll loop; one's slow reader does not hold the others up. */
static void check_concurrent_execs(void)
{
    enum { N = 4 };
    struct sm_exec *execs[N], *stuck;
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct pollfd p;
    int pipes[N][2], jam[2];
    char out[32];
    unsigned done = 0;

    start_vm(NULL);
    CHECK(pipe2(jam, O_CLOEXEC) == 0);
    config.args = ARGS("sh", "-c", "while :; do echo jam; done");
    config.out = jam[1];
    CHECK(sm_exec_start(&stuck, vm, &config, &err) == 0);
    for (int i = 0; i < N; i++) {
        char script[64];

        CHECK(pipe2(pipes[i], O_CLOEXEC) == 0);
        snprintf(script, sizeof(script), "sleep 0.%d; echo %d; exit %d", N - i, i, i);
        config.args = ARGS("sh", "-c", script);
        config.out = pipes[i][1];
        CHECK(sm_exec_start(&execs[i], vm, &config, &err) == 0);
    }
    p = (struct pollfd){.fd = sm_vm_fd(vm), .events = POLLIN};
    while (done < N) {
        CHECK(poll(&p, 1, 120000) == 1);
        CHECK(sm_vm_dispatch(vm, 0, &err) == 0);
        done = 0;
        for (int i = 0; i < N; i++) {
            sm_exec_result(execs[i], &result);
            done += result.status == SM_EXEC_EXITED && result.exit_code == i;
        }
    }
    sm_exec_result(stuck, &result);
    CHECK(result.status == SM_EXEC_RUNNING);
    for (int i = 0; i < N; i++) {
        CHECK(read_end(pipes[i], out, sizeof(out)) == 2 && out[0] == '0' + i);
        sm_exec_free(execs[i]);
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    close(jam[0]); /* its reader goes: it gets SIGPIPE, and this process does not */
    CHECK(sm_exec_wait(stuck, &result, &err) == 0);
    CHECK(result.status == SM_EXEC_SIGNALED && result.signal == SIGPIPE);
    sm_exec_free(stuck);
    close(jam[1]);
}

/* What a caller gets wrong is refused with a sentence, and changes nothing. */
static void check_refusals(void)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm_config bad = SM_VM_CONFIG_INIT;
    struct sm_exec *exec = NULL;
    struct {
        struct sm_vm_config known;
        int extra;
    } newer = {.known = SM_VM_CONFIG_INIT};

    bad.memory_mib = 8;
    CHECK(sm_vm_start(&vm, image, &bad, &err) == -EINVAL && strstr(err.text, "8 MiB"));
    bad = (struct sm_vm_config)SM_VM_CONFIG_INIT;
    bad.vcpus = 17;
    CHECK(sm_vm_start(&vm, image, &bad, &err) == -EINVAL && strstr(err.text, "17 processors"));
    bad = (struct sm_vm_config){.vcpus = 1}; /* no size */
    CHECK(sm_vm_start(&vm, image, &bad, &err) == -EINVAL && strstr(err.text, "no size"));
    newer.known.size = sizeof(newer);
    newer.extra = 1; /* a field that only a later header knows */
    CHECK(sm_vm_start(&vm, image, &newer.known, &err) == -ENOTSUP);
    CHECK(vm == NULL);
    newer.extra = 0;
    start_vm(&newer.known);
    config.args = ARGS("");
    CHECK(sm_exec_start(&exec, vm, &config, &err) == -EINVAL && !exec);
    config.args = ARGS("true");
    config.cwd = "relative";
    CHECK(sm_exec_start(&exec, vm, &config, &err) == -EINVAL && strstr(err.text, "not absolute"));
    config.cwd = NULL;
    config.in = 12345;
    CHECK(sm_exec_start(&exec, vm, &config, &err) == -EBADF && strstr(err.text, "12345"));
    config.in = -1;
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    CHECK(sm_exec_signal(exec, 65, &err) == -EINVAL);
    CHECK(sm_exec_wait(exec, NULL, &err) == 0);
    sm_exec_free(exec);
}

/* Figures, the console, and the worker's sandbox. */
static void check_stats_and_console(void)
{
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_vm_stats stats = {.size = sizeof(stats)};
    char console[65536];

    config.memory_mib = 192;
    config.vcpus = 2;
    start_vm(&config);
    CHECK(sm_vm_stats(vm, &stats, &err) == 0);
    CHECK(stats.memory_bytes == 192ull << 20 && stats.vcpus == 2);
    CHECK(stats.start_ns > stats.setup_ns && stats.setup_ns > 0 && stats.uptime_ns > 0 && stats.exits > 0);
    CHECK(stats.worker_pid > 0 && kill(stats.worker_pid, 0) == 0);
    CHECK(strstr(stats.sandbox, "seccomp") && strstr(stats.sandbox, "nonewprivs") && strstr(stats.sandbox, "nocaps"));
    printf("%s\n", stats.sandbox);
    /* An emergency: quiet kernels print it, too. */
    run(ARGS("sh", "-c", "mknod /dev/kmsg c 1 11; echo '<0>words on the console' >/dev/kmsg"), NULL, 0);
    long n = sm_vm_console_tail(vm, console, sizeof(console) - 1, &err);
    CHECK(n > 0);
    console[n] = '\0';
    CHECK(strstr(console, "words on the console"));
    /* Only the end of it, when there is little room. */
    n = sm_vm_console_tail(vm, console, 9, &err);
    CHECK(n == 9 && memcmp(console, "console\r\n", 9) == 0);
}

/* After a stop everything says so, and the worker is gone. */
static void check_stop(void)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm_stats stats = {.size = sizeof(stats)};
    struct sm_exec *exec, *late;

    start_vm(NULL);
    CHECK(sm_vm_stats(vm, &stats, &err) == 0);
    config.args = ARGS("sleep", "300");
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    CHECK(sm_vm_stop(vm, 10000, &err) == 0);
    CHECK(kill(stats.worker_pid, 0) < 0 && errno == ESRCH);
    CHECK(sm_exec_wait(exec, NULL, &err) == -ESHUTDOWN && strstr(err.text, "was stopped"));
    CHECK(sm_exec_start(&late, vm, &config, &err) == -ESHUTDOWN);
    CHECK(sm_vm_dispatch(vm, 0, &err) == -ESHUTDOWN);
    CHECK(sm_vm_stop(vm, 0, &err) == 0);
    sm_exec_free(exec);
}

/* A worker that dies under a command: the command ends with the reason. */
static void check_killed_worker(void)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm_stats stats = {.size = sizeof(stats)};
    struct sm_exec *exec;

    start_vm(NULL);
    CHECK(sm_vm_stats(vm, &stats, &err) == 0);
    config.args = ARGS("sleep", "300");
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    kill(stats.worker_pid, SIGKILL);
    CHECK(sm_exec_wait(exec, NULL, &err) == -EIO && strstr(err.text, "SIGKILL"));
    sm_exec_free(exec);
}

/* Freeing a running command kills it, in the guest, too. */
static void check_free_kills(void)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec *exec;

    start_vm(NULL);
    config.args = ARGS("sleep", "4321");
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    run(ARGS("sh", "-c", "until ps | grep -q '[s]leep 4321'; do sleep 0.1; done"), NULL, 0);
    sm_exec_free(exec);
    CHECK(run(ARGS("sh", "-c",
                   "i=0; while ps | grep '[s]leep 4321'; do i=$((i+1)); [ $i = 100 ] && exit 1; sleep 0.1; "
                   "done"),
              NULL, 0)
              .exit_code == 0);
}

/* The command's time limit; and its stdin's end on request. */
static void check_timeout_and_stdin(void)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_exec *exec;
    int pv[2];

    start_vm(NULL);
    config.args = ARGS("sleep", "300");
    config.timeout_ms = 200;
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    CHECK(sm_exec_wait(exec, &result, &err) == 0);
    CHECK(result.timed_out && result.status == SM_EXEC_SIGNALED && result.signal == SIGTERM);
    sm_exec_free(exec);
    CHECK(pipe2(pv, O_CLOEXEC) == 0);
    config.args = ARGS("cat");
    config.timeout_ms = 0;
    config.in = pv[0];
    CHECK(sm_exec_start(&exec, vm, &config, &err) == 0);
    CHECK(sm_vm_dispatch(vm, 100, &err) == 0);
    CHECK(sm_exec_close_stdin(exec, &err) == 0); /* the pipe's writer is still there */
    CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.exit_code == 0);
    sm_exec_free(exec);
    close(pv[0]);
    close(pv[1]);
}

/* Descriptors, children and memory of this process are what they were, however many machines there were. */
static void check_no_leaks(void)
{
    int before = dup(0), after;

    close(before);
    for (int i = 0; i < 3; i++) {
        start_vm(NULL);
        CHECK(run(ARGS("true"), NULL, 0).exit_code == 0);
        sm_vm_free(vm);
        vm = NULL;
    }
    after = dup(0);
    close(after);
    CHECK(before == after);
}

/* An image serves several machines, and may go before they do. */
static void check_two_machines(void)
{
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_vm *first;
    char out[16];

    config.hostname = "one";
    start_vm(&config);
    first = vm;
    config.hostname = "two";
    start_vm(&config);
    sm_image_free(image);
    image = NULL;
    run(ARGS("hostname"), out, sizeof(out));
    CHECK(strcmp(out, "two\n") == 0);
    sm_vm_free(vm);
    vm = first;
    run(ARGS("hostname"), out, sizeof(out));
    CHECK(strcmp(out, "one\n") == 0);
}

/* Restored as often as wanted, back in place, from prepared workers; each life is another clone. */
static void check_lives(void)
{
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    struct sm_exec_config sleeping = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_vm_stats stats = {.size = sizeof(stats)};
    struct sm_bake_result baked = {.size = sizeof(baked)};
    char ids[4][64];
    struct sm_exec *exec;

    CHECK(sm_image_bake(image, NULL, NULL, &err) == 0);
    CHECK(sm_image_bake(image, NULL, &baked, &err) == 0 && !baked.baked && strlen(baked.key) == 64);
    CHECK(sm_prepared_new(&config.prepared, &config, 1, &err) == 0);
    for (int i = 0; i < 2; i++) {
        start_vm(&config);
        CHECK(sm_vm_stats(vm, &stats, &err) == 0 && stats.restored == SM_VM_RESTORED);
        CHECK(sm_prepared_ready(config.prepared) == 0);
        run(ARGS("cat", "/run/supermachine/generation"), ids[i], sizeof(ids[i]));
        if (i == 0)
            sm_vm_free(vm);
    }
    sm_prepared_free(config.prepared);
    run(ARGS("touch", "/trace"), NULL, 0);
    sleeping.args = ARGS("sleep", "300");
    CHECK(sm_exec_start(&exec, vm, &sleeping, &err) == 0);
    CHECK(sm_vm_rewind(vm, &err) == 0);
    CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.signal == SIGKILL);
    sm_exec_free(exec);
    CHECK(run(ARGS("test", "-e", "/trace"), NULL, 0).exit_code == 1);
    run(ARGS("cat", "/run/supermachine/generation"), ids[2], sizeof(ids[2]));
    sm_vm_free(vm);
    config.prepared = NULL;
    config.boot = 1;
    start_vm(&config);
    CHECK(sm_vm_stats(vm, &stats, &err) == 0 && stats.restored == SM_VM_BOOTED);
    for (int i = 0; i < 3; i++)
        CHECK(strlen(ids[i]) == 33 && strcmp(ids[i], ids[(i + 1) % 3]) != 0);
}

/* What ran before a save is there in its clones, the workload runs on in both, and the machine itself does. */
static void check_saves(void)
{
    struct sm_save_result saved = {.size = sizeof(saved)};
    struct sm_exec_config workload = SM_EXEC_CONFIG_INIT, nothing = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_snapshot *snapshot;
    struct sm_exec *exec;
    struct sm_store *store;
    char out[64];

    CHECK(sm_store_open(&store, NULL, &err) == 0);
    start_vm(NULL);
    run(ARGS("sh", "-c", "echo kept >/kept"), NULL, 0);
    workload.args = ARGS("sh", "-c", "until test -e /go; do sleep 0.1; done; exit 5");
    workload.workload = 1;
    CHECK(sm_exec_start(&exec, vm, &workload, &err) == 0);
    CHECK(sm_vm_save(vm, NULL, SM_SAVE_DIFF | SM_SAVE_LIVE, &saved, &err) == 0 && saved.pause_ns > 0);
    run(ARGS("rm", "/kept"), NULL, 0);
    run(ARGS("touch", "/go"), NULL, 0);
    CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.exit_code == 5);
    sm_exec_free(exec);
    sm_vm_free(vm);
    CHECK(sm_snapshot_open(&snapshot, store, saved.key, &err) == 0);
    CHECK(sm_vm_restore(&vm, snapshot, NULL, &err) == 0);
    sm_snapshot_free(snapshot);
    run(ARGS("cat", "/kept"), out, sizeof(out));
    CHECK(strcmp(out, "kept\n") == 0);
    CHECK(sm_exec_start(&exec, vm, &nothing, &err) == 0);
    run(ARGS("touch", "/go"), NULL, 0);
    CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.exit_code == 5);
    sm_exec_free(exec);
    /* One that is given up is killed. */
    CHECK(sm_exec_start(&exec, vm, &workload, &err) == 0);
    run(ARGS("rm", "/go"), NULL, 0);
    sm_exec_free(exec);
    CHECK(sm_exec_start(&exec, vm, &workload, &err) == 0);
    run(ARGS("touch", "/go"), NULL, 0);
    CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.exit_code == 5);
    sm_exec_free(exec);
    CHECK(sm_snapshot_remove(store, saved.key, NULL, NULL, &err) == 0);
    sm_store_free(store);
}

/* The image's service, which listens when it is baked, is the command that is given to who asks for it, each time. */
static void check_service(void)
{
    struct sm_exec_config own = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    const char *const listens[] = {"sh", "-c", "grep -q ':0050 00000000:0000 0A' /proc/net/tcp", NULL};
    struct sm_vm_stats stats = {.size = sizeof(stats)};

    bake.workload = &own;
    bake.require_listener = 1;
    bake.trigger = SM_TRIGGER_LISTENER;
    bake.after_ms = 60000; /* emulated hosts are slow */
    config.bake = &bake;
    for (int i = 0; i < 2; i++) {
        struct sm_exec *exec;

        start_vm(&config);
        CHECK(sm_vm_stats(vm, &stats, &err) == 0);
        CHECK(stats.restored == (i ? SM_VM_RESTORED : SM_VM_BAKED));
        CHECK(run(listens, NULL, 0).exit_code == 0);
        CHECK(sm_exec_start(&exec, vm, &own, &err) == 0);
        CHECK(sm_exec_signal(exec, SM_SIGNAL_STOP, &err) == 0);
        CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.exit_code == 0);
        sm_exec_free(exec);
        CHECK(run(listens, NULL, 0).exit_code != 0);
        sm_vm_free(vm);
        vm = NULL;
    }
}

/* Every other trigger, with the image's own kind of command; and a file that comes along. */
static void check_triggers(void)
{
    static const char *const script[] = {"sh", "-c", "cat /etc/extra/file; exit 3", NULL};
    static const enum sm_trigger triggers[] = {SM_TRIGGER_PARKED, SM_TRIGGER_HEARTBEAT, SM_TRIGGER_AFTER};
    struct sm_bake_file file = {.host = "/etc/hostname", .guest = "/etc/extra/file"};
    struct sm_exec_config command = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm_config config = SM_VM_CONFIG_INIT;
    char want[256] = {0}, out[256];
    FILE *f = fopen(file.host, "re");

    CHECK(f && fread(want, 1, sizeof(want) - 1, f) > 0);
    fclose(f);
    command.args = script;
    bake.workload = &command;
    bake.files = &file;
    bake.n_files = 1;
    bake.heartbeat = 2;
    config.bake = &bake;
    for (int i = 0; i < 3; i++) {
        struct sm_exec *exec;
        int pv[2];

        bake.trigger = triggers[i];
        bake.after_ms = triggers[i] == SM_TRIGGER_AFTER ? 50 : 60000;
        start_vm(&config);
        CHECK(pipe2(pv, O_CLOEXEC) == 0);
        command.out = pv[1];
        CHECK(sm_exec_start(&exec, vm, &command, &err) == 0);
        CHECK(sm_exec_wait(exec, &result, &err) == 0 && result.exit_code == 3);
        read_end(pv, out, sizeof(out));
        CHECK(strcmp(out, want) == 0);
        sm_exec_free(exec);
        close(pv[0]);
        close(pv[1]);
        sm_vm_free(vm);
        vm = NULL;
        command.out = -1;
    }
}

static const struct {
    const char *name;
    void (*fn)(void);
} checks[] = {
    {"many-execs", check_many_execs},
    {"concurrent-execs", check_concurrent_execs},
    {"refusals", check_refusals},
    {"stats-and-console", check_stats_and_console},
    {"stop", check_stop},
    {"killed-worker", check_killed_worker},
    {"free-kills", check_free_kills},
    {"timeout-and-stdin", check_timeout_and_stdin},
    {"no-leaks", check_no_leaks},
    {"two-machines", check_two_machines},
    {"lives", check_lives},
    {"saves", check_saves},
    {"triggers", check_triggers},
    {"service", check_service}, /* of an image that is one, on port 80 */
};

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "list") == 0) {
        for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++)
            puts(checks[i].name);
        return 0;
    }
    for (size_t i = 0; argc == 3 && i < sizeof(checks) / sizeof(checks[0]); i++) {
        if (strcmp(checks[i].name, argv[1]) != 0)
            continue;
        CHECK(sm_image_open(&image, argv[2], NULL, &err) == 0);
        checks[i].fn();
        sm_vm_free(vm);
        sm_image_free(image);
        return 0;
    }
    fprintf(stderr, "usage: library CHECK IMAGE, or library list\n");
    return 2;
}
