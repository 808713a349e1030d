/* SPDX-License-Identifier: Apache-2.0 */
/* Machines and commands of the public interface, on a worker that has no machine but real agents (fake_worker.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <supermachine/supermachine.h>

#include "base/buf.h"
#include "oci_fixture.h"

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define MIB       (1024 * 1024)

static char *dir; /* layout, store, kernel */
static struct sm_image *image;
static char kernel[4096], initramfs[4096];
static struct sm_error err;

static void blob(const void *data, size_t len, char name[80])
{
    struct digest digest = digest_of_buf(data, len);
    char path[128];

    digest_str(&digest, name);
    snprintf(path, sizeof(path), "layout/blobs/sha256/%s", name + strlen("sha256:"));
    write_file(dir, path, data, len);
}

/* An image of one file; its stop signal is SIGINT. */
static void make_layout(void)
{
    struct buf tar = buf_init(MIB);
    char layer[80], config[80], manifest[80], text[2048];
    int n;

    tar_add(&tar, "file", '0', NULL, "x", 1);
    tar_end(&tar);
    blob(tar.data, tar.len, layer);
    n = snprintf(text, sizeof(text),
                 "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"echo\",\"the image's\"],"
                 "\"Env\":[\"FROM_IMAGE=1\"],\"StopSignal\":\"SIGINT\"},\"rootfs\":{\"type\":\"layers\","
                 "\"diff_ids\":[\"%s\"]}}",
                 layer);
    blob(text, (size_t)n, config);
    int config_len = n;
    n = snprintf(text, sizeof(text),
                 "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\","
                 "\"digest\":\"%s\",\"size\":%d},\"layers\":[{\"mediaType\":"
                 "\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"%s\",\"size\":%zu}]}",
                 config, config_len, layer, tar.len);
    blob(text, (size_t)n, manifest);
    n = snprintf(text, sizeof(text),
                 "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
                 "\"digest\":\"%s\",\"size\":%d}]}",
                 manifest, n);
    write_file(dir, "layout/index.json", text, (size_t)n);
    write_file(dir, "layout/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}", 30);
    buf_done(&tar);
}

static int set_up_all(void **state)
{
    struct sm_image_options options = SM_IMAGE_OPTIONS_INIT;
    char ref[4200], store[4200];

    (void)state;
    dir = temp_dir();
    make_layout();
    snprintf(ref, sizeof(ref), "oci:%s/layout", dir);
    snprintf(store, sizeof(store), "%s/store", dir);
    snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
    snprintf(initramfs, sizeof(initramfs), "%s/initramfs", dir);
    write_file(dir, "initramfs", "x", 1);
    options.store = store;
    options.platform = "linux/amd64";
    if (sm_image_open(&image, ref, &options, &err) < 0)
        fail_msg("%s", err.text);
    return 0;
}

static int tear_down_all(void **state)
{
    (void)state;
    sm_image_free(image);
    temp_dir_remove(dir);
    return 0;
}

static int try_start(struct sm_vm **ret, const char *mode, uint32_t timeout_ms)
{
    struct sm_vm_config config = SM_VM_CONFIG_INIT;

    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        print_message("needs a /dev/kvm to open, though it is not used\n");
        skip();
    }
    write_file(dir, "kernel", mode, strlen(mode));
    config.kernel = kernel;
    config.initramfs = initramfs;
    config.worker = FAKE_WORKER;
    config.hostname = "box";
    config.start_timeout_ms = timeout_ms;
    err = (struct sm_error)SM_ERROR_INIT;
    return sm_vm_start(ret, image, &config, &err);
}

static struct sm_vm *start(void)
{
    struct sm_vm *vm;

    if (try_start(&vm, "ok", 30000) < 0)
        fail_msg("%s", err.text);
    return vm;
}

static struct sm_exec *exec_start(struct sm_vm *vm, const struct sm_exec_config *config)
{
    struct sm_exec *x;

    if (sm_exec_start(&x, vm, config, &err) < 0)
        fail_msg("%s", err.text);
    return x;
}

static struct sm_exec_result finish(struct sm_exec *x)
{
    struct sm_exec_result result = {.size = sizeof(result)};

    if (sm_exec_wait(x, &result, &err) < 0)
        fail_msg("%s", err.text);
    result.message = result.message[0] ? "some" : "";
    sm_exec_free(x);
    return result;
}

/* Run to the end; what it writes comes back. */
static struct sm_exec_result run(struct sm_vm *vm, struct sm_exec_config config, char *out, size_t size)
{
    struct sm_exec_result result;
    int pv[2];
    ssize_t n;

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    config.out = pv[1];
    result = finish(exec_start(vm, &config));
    close(pv[1]);
    n = read(pv[0], out, size - 1);
    assert_true(n >= 0);
    out[n] = '\0';
    close(pv[0]);
    return result;
}

static void command_runs_by_the_images_configuration(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec_result r;
    char out[4096];

    r = run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_EXITED);
    assert_string_equal(out, "the image's\n");
    config.args = ARGS("sh", "-c", "echo $FROM_IMAGE $MINE $HOSTNAME; pwd; exit 7");
    config.env = ARGS("MINE=2");
    config.cwd = "/tmp";
    r = run(vm, config, out, sizeof(out));
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
    r = run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_SIGNALED);
    assert_int_equal(r.signal, SIGKILL);
    assert_int_equal(r.exit_code, 137);
    config.args = ARGS("/no/such/program");
    r = run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_NOT_FOUND);
    assert_int_equal(r.exit_code, 127);
    assert_string_equal(r.message, "some");
    config.args = ARGS("/etc");
    r = run(vm, config, out, sizeof(out));
    assert_int_equal(r.status, SM_EXEC_NOT_EXECUTABLE);
    assert_int_equal(r.exit_code, 126);
    config.args = ARGS("true");
    config.user = "nobody-of-that-name";
    r = run(vm, config, out, sizeof(out));
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
    assert_int_equal(finish(exec_start(vm, &config)).exit_code, 0);
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
    assert_int_equal(finish(exec_start(vm, &config)).exit_code, 0);
    config.args = ARGS("cat");
    x = exec_start(vm, &config);
    assert_int_equal(sm_exec_close_stdin(x, &err), 0);
    assert_int_equal(finish(x).exit_code, 0);
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
    r = finish(exec_start(vm, &config));
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
    r = finish(exec_start(vm, &config));
    assert_true(r.timed_out);
    assert_int_equal(r.signal, SIGINT);
    config.args = ARGS("sh", "-c", "trap '' INT; while :; do sleep 1; done");
    config.timeout_ms = config.grace_ms = 300;
    r = finish(exec_start(vm, &config));
    assert_true(r.timed_out);
    assert_int_equal(r.signal, SIGKILL);
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
    x = exec_start(vm, &config);
    while (n <= 0) {
        assert_int_equal(sm_vm_dispatch(vm, 1000, &err), 0);
        n = read(pv[0], out, sizeof(out));
    }
    sm_exec_result(x, &now);
    assert_int_equal(now.status, SM_EXEC_RUNNING);
    assert_int_equal(sm_exec_resize(x, 33, 44, &err), 0);
    assert_int_equal(sm_exec_signal(x, SIGUSR1, &err), 0);
    assert_int_equal(sm_exec_signal(x, 65, &err), -EINVAL);
    assert_int_equal(finish(x).exit_code, 3);
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
    a = exec_start(vm, &config);
    b = exec_start(vm, &config);
    assert_int_equal(finish(b).exit_code, 0);
    assert_int_equal(finish(a).exit_code, 0);
    sm_vm_free(vm);

    vm = start();
    sm_exec_free(exec_start(vm, &config));
    assert_int_equal(finish(exec_start(vm, &config)).exit_code, 0);
    sm_vm_free(vm);

    /* A command that is refused uses nothing up. */
    vm = start();
    config.in = 999;
    assert_int_equal(sm_exec_start(&a, vm, &config, &err), -EBADF);
    config.in = -1;
    config.args = ARGS("");
    assert_int_equal(sm_exec_start(&a, vm, &config, &err), -EINVAL);
    config.args = ARGS("true");
    assert_int_equal(finish(exec_start(vm, &config)).exit_code, 0);
    sm_vm_free(vm);
}

static void expect_no_start(const char *mode, uint32_t timeout_ms, int code, const char *words)
{
    struct sm_vm *vm = NULL;

    assert_int_equal(try_start(&vm, mode, timeout_ms), -code);
    assert_null(vm);
    if (!strstr(err.text, words))
        fail_msg("'%s' does not tell '%s'", err.text, words);
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
    if (sm_exec_start(&x, vm, &config, &err) == 0) {
        assert_int_equal(sm_exec_wait(x, NULL, &err), -EIO);
        sm_exec_free(x);
    }
    assert_non_null(strstr(err.text, "out of luck"));
    sm_vm_free(vm);
}

static void stop_ends_commands(void **state)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    struct sm_vm *vm = start();
    struct sm_exec *x, *late;
    char tail[64];

    config.args = ARGS("sleep", "1000");
    x = exec_start(vm, &config);
    assert_int_equal(sm_vm_stop(vm, 10000, &err), 0);
    assert_int_equal(sm_exec_wait(x, NULL, &err), -ESHUTDOWN);
    assert_int_equal(sm_exec_start(&late, vm, &config, &err), -ESHUTDOWN);
    assert_int_equal(sm_vm_dispatch(vm, 0, &err), -ESHUTDOWN);
    assert_int_equal(sm_vm_console_tail(vm, tail, 8, &err), 8);
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
    x = exec_start(vm, &config);
    assert_int_equal(sm_vm_dispatch(vm, 50, &err), 0);
    assert_int_equal(sm_vm_stop(vm, 10000, &err), 0);
    assert_int_equal(sm_exec_wait(x, NULL, &err), -ESHUTDOWN);
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

    assert_int_equal(sm_vm_stats(vm, &stats, &err), 0);
    assert_int_equal(stats.setup_ns, 5);
    assert_int_equal(stats.uptime_ns, 6);
    assert_true(stats.start_ns > 0 && stats.worker_pid > 0);
    assert_string_equal(stats.sandbox, "seccomp");
    /* A program of an older header gets the fields it knows, and no more is written. */
    assert_int_equal(sm_vm_stats(vm, (struct sm_vm_stats *)(void *)&older, &err), 0);
    assert_int_equal(older.canary, 77);
    assert_int_equal(older.size, 2 * sizeof(size_t));
    assert_int_equal(sm_vm_console_tail(vm, tail, sizeof(tail), &err), 13);
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
        finish(exec_start(vm, &config));
        finish(exec_start(vm, &config));
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
        cmocka_unit_test(set_up_is_finished_whatever_comes_first),
        cmocka_unit_test(failed_starts_carry_evidence),
        cmocka_unit_test(lost_machine_tells_its_reason),
        cmocka_unit_test(stop_ends_commands),
        cmocka_unit_test(mute_guest_can_be_stopped),
        cmocka_unit_test(figures_are_told),
        cmocka_unit_test(nothing_stays_open),
    };

    return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
