/* SPDX-License-Identifier: Apache-2.0 */
/* Machines and commands of the public interface, on a worker that has no machine but real agents (fake_worker.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "oci_fixture.h"
#include "vm_fixture.h"

#define MIB (1024 * 1024)

static bool with_profile;

/* Machines here boot; snapshots: test_bake_lib. */
static int try_start(struct sm_vm **ret, const char *mode, uint32_t timeout_ms)
{
    struct sm_vm_config config = vm_config(mode);

    config.start_timeout_ms = timeout_ms;
    config.boot = 1;
    config.profile = with_profile;
    return vm_try(ret, &config);
}

static struct sm_vm *start(void)
{
    struct sm_vm *vm;

    if (try_start(&vm, "ok", 30000) < 0)
        fail_msg("%s", vm_err.text);
    return vm;
}

static void command_runs_by_the_images_configuration(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec_result r;
    char out[4096];

    r = vm_run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_EXITED);
    assert_string_equal(out, "the image's\n");
    config.args = ARGS("sh", "-c", "echo $FROM_IMAGE $MINE $HOSTNAME; pwd; exit 7");
    config.env = ARGS("MINE=2");
    config.cwd = "/tmp";
    r = vm_run(vm, config, out, sizeof(out));
    assert_int_equal(r.exit_code, 7);
    assert_string_equal(out, "1 2 box\n/tmp\n");
    assert_true(r.duration_ns > 0);
    sm_vm_free(vm);
}

static void ends_are_told_apart(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec_result r;
    char out[64];

    config.args = ARGS("sh", "-c", "kill -9 $$");
    r = vm_run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_SIGNALED);
    assert_int_equal(r.signal, SIGKILL);
    assert_int_equal(r.exit_code, 137);
    config.args = ARGS("/no/such/program");
    r = vm_run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_NOT_FOUND);
    assert_int_equal(r.exit_code, 127);
    assert_string_equal(r.message, "some");
    config.args = ARGS("/etc");
    r = vm_run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_NOT_EXECUTABLE);
    assert_int_equal(r.exit_code, 126);
    config.args = ARGS("true");
    config.user = "nobody-of-that-name";
    r = vm_run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_NOT_STARTED);
    assert_int_equal(r.exit_code, 125);
    sm_vm_free(vm);
}

/* Through files, which are always ready: a mebibyte there and back, stderr apart. */
static void streams_carry_everything(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    static char data[MIB], back[MIB + 1];
    char said[16] = {0};

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (char)(i * 13 + i / 1000);
    config.in = memory_file(data, sizeof(data));
    config.out = memory_file("", 0);
    config.err = memory_file("", 0);
    config.args = ARGS("sh", "-c", "cat; echo done >&2");
    assert_int_equal(vm_finish(vm_exec(vm, &config)).exit_code, 0);
    assert_int_equal(pread(config.out, back, sizeof(back), 0), sizeof(data));
    assert_memory_equal(data, back, sizeof(data));
    assert_int_equal(pread(config.err, said, sizeof(said), 0), 5);
    assert_string_equal(said, "done\n");
    close(config.in);
    close(config.out);
    close(config.err);
    sm_vm_free(vm);
}

static void open_stdin_holds_nothing_up(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec *x;
    int pv[2];

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    config.in = pv[0];
    config.args = ARGS("true");
    assert_int_equal(vm_finish(vm_exec(vm, &config)).exit_code, 0);
    config.args = ARGS("cat");
    x = vm_exec(vm, &config);
    assert_int_equal(sm_exec_close_stdin(x, &vm_err), 0);
    assert_int_equal(vm_finish(x).exit_code, 0);
    close(pv[0]);
    close(pv[1]);
    sm_vm_free(vm);
}

/* The reader of its output goes: it gets SIGPIPE; this program, which has not changed what that does, lives on. */
static void reader_that_goes_ends_the_writer_only(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec_result r;
    int pv[2];

    signal(SIGPIPE, SIG_DFL);
    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    close(pv[0]);
    config.out = pv[1];
    config.args = ARGS("sh", "-c", "while :; do echo y; done");
    r = vm_finish(vm_exec(vm, &config));
    assert_int_equal(r.signal, SIGPIPE);
    close(pv[1]);
    sm_vm_free(vm);
}

static void time_limit_sends_the_images_stop_signal(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec_result r;

    config.args = ARGS("sleep", "1000");
    config.timeout_ms = 50;
    r = vm_finish(vm_exec(vm, &config));
    assert_true(r.timed_out);
    assert_int_equal(r.signal, SIGINT);
    config.args = ARGS("sh", "-c", "trap '' INT; while :; do sleep 1; done");
    config.timeout_ms = config.grace_ms = 300;
    r = vm_finish(vm_exec(vm, &config));
    assert_true(r.timed_out);
    assert_int_equal(r.signal, SIGKILL);
    sm_vm_free(vm);
}

/* Each connection of the fake worker has an agent of its own: the parent of what runs on it. */
static void read_parent(struct sm_vm *vm, char *ret, size_t size)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;

    config.args = ARGS("sh", "-c", "echo $PPID");
    assert_int_equal(vm_run(vm, config, ret, size).exit_code, 0);
}

static void end_process(pid_t pid)
{
    struct pollfd gone = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};

    assert_true(gone.fd >= 0);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(poll(&gone, 1, 30000), 1);
    close(gone.fd);
}

/* One after the other; those that run at the same time have one each. */
static void commands_leave_their_connection_to_the_next(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    char first[32], now[32];
    struct sm_exec *x;

    read_parent(vm, first, sizeof(first));
    read_parent(vm, now, sizeof(now));
    assert_string_equal(now, first);
    config.args = ARGS("/no/such/program");
    assert_int_equal(vm_run(vm, config, now, sizeof(now)).exit_code, 127);
    read_parent(vm, now, sizeof(now));
    assert_string_equal(now, first);

    config.args = ARGS("sleep", "1000");
    x = vm_exec(vm, &config);
    read_parent(vm, now, sizeof(now));
    assert_string_not_equal(now, first);
    sm_exec_free(x); /* which ends it by closing its connection */
    memcpy(first, now, sizeof(first));
    read_parent(vm, now, sizeof(now));
    assert_string_equal(now, first);

    /* One that has been lost is not tried. */
    end_process(atoi(now));
    assert_int_equal(sm_vm_dispatch(vm, 0, &vm_err), 0);
    read_parent(vm, now, sizeof(now));
    assert_string_not_equal(now, first);
    sm_vm_free(vm);
}

static void signals_and_sizes_reach_it(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result now = {.size = sizeof(now)};
    struct sm_vm *vm = start();
    struct sm_exec *x;
    char out[64] = {0};
    int pv[2];
    ssize_t n = 0;

    assert_int_equal(pipe2(pv, O_CLOEXEC | O_NONBLOCK), 0);
    config.args = ARGS("sh", "-c", "trap 'stty size; exit 3' USR1; echo ready; while :; do sleep 0.05; done");
    config.out = pv[1];
    config.tty = 1;
    config.rows = 10;
    config.cols = 20;
    x = vm_exec(vm, &config);
    while (n <= 0) {
        assert_int_equal(sm_vm_dispatch(vm, 1000, &vm_err), 0);
        n = read(pv[0], out, sizeof(out));
    }
    sm_exec_result(x, &now);
    assert_int_equal(now.status, SM_EXEC_RUNNING);
    assert_int_equal(sm_exec_resize(x, 33, 44, &vm_err), 0);
    assert_int_equal(sm_exec_signal(x, SIGUSR1, &vm_err), 0);
    assert_int_equal(sm_exec_signal(x, 65, &vm_err), -EINVAL);
    assert_int_equal(vm_finish(x).exit_code, 3);
    n = read(pv[0], out, sizeof(out) - 1);
    assert_true(n > 0);
    out[n] = '\0';
    assert_non_null(strstr(out, "33 44\r\n"));
    close(pv[0]);
    close(pv[1]);
    sm_vm_free(vm);
}

/* The second command's connection must not overtake the set-up on the first; freeing the first must not cut it off. */
static void set_up_is_finished_whatever_comes_first(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec *a, *b;

    config.args = ARGS("true");
    a = vm_exec(vm, &config);
    b = vm_exec(vm, &config);
    assert_int_equal(vm_finish(b).exit_code, 0);
    assert_int_equal(vm_finish(a).exit_code, 0);
    sm_vm_free(vm);

    vm = start();
    sm_exec_free(vm_exec(vm, &config));
    assert_int_equal(vm_finish(vm_exec(vm, &config)).exit_code, 0);
    sm_vm_free(vm);

    /* A command that is refused uses nothing up. */
    vm = start();
    config.in = 999;
    assert_int_equal(sm_exec_start(&a, vm, &config, &vm_err), -EBADF);
    config.in = -1;
    config.args = ARGS("");
    assert_int_equal(sm_exec_start(&a, vm, &config, &vm_err), -EINVAL);
    config.args = ARGS("true");
    assert_int_equal(vm_finish(vm_exec(vm, &config)).exit_code, 0);
    sm_vm_free(vm);
}

static void expect_no_start(const char *mode, uint32_t timeout_ms, int code, const char *words)
{
    struct sm_vm *vm = NULL;

    assert_int_equal(try_start(&vm, mode, timeout_ms), -code);
    assert_null(vm);
    if (!strstr(vm_err.text, words))
        fail_msg("'%s' does not tell '%s'", vm_err.text, words);
}

static void failed_starts_carry_evidence(void **state)
{
    expect_no_start("refuse", 30000, ENOTSUP, "this KVM has no irqfd");
    expect_no_start("panic", 30000, EIO, "panicked: no root; its console said last: fake console|the end");
    expect_no_start("hang", 100, ETIMEDOUT, "did not answer within 100 ms; its console said last: fake console");
    expect_no_start("die", 30000, EIO, "exited unexpectedly with status 9");
}

/* The connection is lost first, the reason comes after it: the reason is what is told. */
static void lost_machine_tells_its_reason(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec *x;
    struct sm_vm *vm;

    assert_int_equal(try_start(&vm, "lose", 30000), 0);
    config.args = ARGS("true");
    if (sm_exec_start(&x, vm, &config, &vm_err) == 0) {
        assert_int_equal(sm_exec_wait(x, NULL, &vm_err), -EIO);
        sm_exec_free(x);
    }
    assert_non_null(strstr(vm_err.text, "out of luck"));
    sm_vm_free(vm);
}

static void stop_ends_commands(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec *x, *late;
    char tail[64];

    config.args = ARGS("sleep", "1000");
    x = vm_exec(vm, &config);
    assert_int_equal(sm_vm_stop(vm, 10000, &vm_err), 0);
    assert_int_equal(sm_exec_wait(x, NULL, &vm_err), -ESHUTDOWN);
    assert_int_equal(sm_exec_start(&late, vm, &config, &vm_err), -ESHUTDOWN);
    assert_int_equal(sm_vm_dispatch(vm, 0, &vm_err), -ESHUTDOWN);
    assert_int_equal(sm_vm_console_tail(vm, tail, 8, &vm_err), 8);
    assert_memory_equal(tail, "the end\n", 8);
    sm_exec_free(x);
    sm_vm_free(vm);
}

/* An agent that never answers is given up with the machine, at once. */
static void mute_guest_can_be_stopped(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_exec *x;
    struct sm_vm *vm;

    assert_int_equal(try_start(&vm, "mute", 30000), 0);
    config.args = ARGS("true");
    x = vm_exec(vm, &config);
    assert_int_equal(sm_vm_dispatch(vm, 50, &vm_err), 0);
    assert_int_equal(sm_vm_stop(vm, 10000, &vm_err), 0);
    assert_int_equal(sm_exec_wait(x, NULL, &vm_err), -ESHUTDOWN);
    sm_exec_free(x);
    sm_vm_free(vm);
}

static void figures_are_told(void **state)
{
    struct sm_vm_stats stats = {.size = sizeof(stats)};
    struct {
        size_t size;
        uint64_t memory_bytes;
        uint64_t canary;
    } older = {.size = 2 * sizeof(size_t), .canary = 77};
    struct sm_vm *vm = start();
    char tail[64];

    assert_int_equal(sm_vm_stats(vm, &stats, &vm_err), 0);
    assert_int_equal(stats.setup_ns, 5);
    assert_int_equal(stats.uptime_ns, 6);
    assert_true(stats.start_ns > 0 && stats.worker_pid > 0);
    assert_string_equal(stats.sandbox, "seccomp");
    /* A program of an older header gets the fields it knows, and no more is written. */
    assert_int_equal(sm_vm_stats(vm, (struct sm_vm_stats *)(void *)&older, &vm_err), 0);
    assert_int_equal(older.canary, 77);
    assert_int_equal(older.size, 2 * sizeof(size_t));
    assert_int_equal(sm_vm_console_tail(vm, tail, sizeof(tail), &vm_err), 13);
    sm_vm_free(vm);
}

static void exits_are_told_where_they_are_counted(void **state)
{
    struct sm_vm *vm = start();
    char *text = NULL;

    assert_int_equal(sm_vm_profile(&text, vm, &vm_err), 0);
    assert_string_equal(text, "");
    sm_string_free(text);
    sm_vm_free(vm);
    with_profile = true;
    vm = start();
    with_profile = false;
    assert_int_equal(sm_vm_profile(&text, vm, &vm_err), 0);
    assert_string_equal(text, "fake exits\n");
    sm_string_free(text);
    assert_int_equal(sm_vm_stop(vm, 1000, &vm_err), 0);
    assert_int_equal(sm_vm_profile(&text, vm, &vm_err), -ESHUTDOWN);
    sm_vm_free(vm);
}

static void nothing_stays_open(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    int before = dup(0), after;

    close(before);
    for (int i = 0; i < 5; i++) {
        struct sm_vm *vm = start();

        config.args = ARGS("true");
        vm_finish(vm_exec(vm, &config));
        vm_finish(vm_exec(vm, &config));
        sm_vm_free(vm);
    }
    after = dup(0);
    assert_int_equal(before, after);
    close(after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(command_runs_by_the_images_configuration),
        cmocka_unit_test(ends_are_told_apart),
        cmocka_unit_test(streams_carry_everything),
        cmocka_unit_test(open_stdin_holds_nothing_up),
        cmocka_unit_test(reader_that_goes_ends_the_writer_only),
        cmocka_unit_test(time_limit_sends_the_images_stop_signal),
        cmocka_unit_test(signals_and_sizes_reach_it),
        cmocka_unit_test(commands_leave_their_connection_to_the_next),
        cmocka_unit_test(set_up_is_finished_whatever_comes_first),
        cmocka_unit_test(failed_starts_carry_evidence),
        cmocka_unit_test(lost_machine_tells_its_reason),
        cmocka_unit_test(stop_ends_commands),
        cmocka_unit_test(mute_guest_can_be_stopped),
        cmocka_unit_test(figures_are_told),
        cmocka_unit_test(exits_are_told_where_they_are_counted),
        cmocka_unit_test(nothing_stays_open),
    };

    return cmocka_run_group_tests(tests, vm_fixture_up, vm_fixture_down);
}
