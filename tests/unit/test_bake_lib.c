/* SPDX-License-Identifier: Apache-2.0 */
/* Images are baked, machines restored, saved and put back, on a worker without a machine (fake_worker.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "oci_fixture.h"
#include "vm_fixture.h"

/* What a start has told, one letter each. */
struct told {
    char kinds[64];
    char last[512]; /* text of NOT_STORED, REPLACING or SAVED */
    char stop_at;   /* say no to this one */
};

static int on_event(void *ctx, const struct sm_vm_event *event)
{
    static const char letters[] = "?WBRSTUVDNX";
    struct told *t = ctx;
    size_t n = strlen(t->kinds);
    char letter = letters[event->kind];

    assert_true(n < sizeof(t->kinds) - 1);
    t->kinds[n] = letter;
    if (strchr("DNX", letter))
        snprintf(t->last, sizeof(t->last), "%s", event->text);
    return letter == t->stop_at;
}

static struct sm_vm_config told_config(const char *mode, struct told *t)
{
    struct sm_vm_config config = vm_config(mode);

    *t = (struct told){0};
    config.event = on_event;
    config.event_ctx = t;
    return config;
}

static uint32_t origin(struct sm_vm *vm)
{
    struct sm_vm_stats stats = {.size = sizeof(stats)};

    assert_int_equal(sm_vm_stats(vm, &stats, &vm_err), 0);
    return stats.restored;
}

static void expect_hello(struct sm_vm *vm)
{
    struct sm_exec_config config = SM_EXEC_CONFIG_INIT;
    char out[64];

    config.args = ARGS("sh", "-c", "echo hello $HOSTNAME");
    assert_int_equal(vm_run(vm, config, out, sizeof(out)).exit_code, 0);
    assert_string_equal(out, "hello box\n");
}

/* Start, run a command, end; what was told must be this. */
static void start_and_expect(struct sm_vm_config *config, struct told *t, const char *kinds, uint32_t from)
{
    struct sm_vm *vm = vm_start(config);

    assert_string_equal(t->kinds, kinds);
    assert_int_equal(origin(vm), from);
    expect_hello(vm);
    expect_hello(vm);
    sm_vm_free(vm);
}

/* How many files of this name snapshots in the store have. */
static int count(const char *file)
{
    char command[8192];
    FILE *p;
    int n = -1;

    snprintf(command, sizeof(command), "find %s/snapshots -name '%s' | wc -l", vm_store, file);
    p = popen(command, "r");
    assert_non_null(p);
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static void shell(const char *script)
{
    char command[8192];

    snprintf(command, sizeof(command), "cd %s && %s", vm_store, script);
    assert_int_equal(system(command), 0);
}

static void forget_snapshots(void)
{
    shell("rm -rf snapshots/*");
}

static void first_start_bakes_and_goes_on_the_next_restores(void **state)
{
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);

    forget_snapshots();
    start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
    assert_string_equal(t.last, "the trigger has come: 1 line");
    assert_int_equal(count("state"), 2);
    /* The first that was restored has told what it touched: that of a bake, its base's. */
    assert_int_equal(count("prefetch"), 1);
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
    assert_int_equal(count("prefetch"), 2);
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
}

static void everything_that_matters_is_in_the_key(void **state)
{
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_bake_file file = {.guest = "/etc/extra"};
    char host[4200];
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);

    forget_snapshots();
    start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
    config = told_config("ok", &t);
    config.hostname = "box";
    config.name = "other";
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
    config = told_config("ok", &t);
    config.memory_mib = 128;
    start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
    config = told_config("ok", &t);
    config.kernel_args = "a=b";
    start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
    config = told_config("ok", &t);
    write_file(vm_dir, "initramfs", "y", 1);
    start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
    write_file(vm_dir, "initramfs", "x", 1);
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);

    /* The same base serves: only the image is set up anew. The real agent has no root here, so it refuses the file. */
    snprintf(host, sizeof(host), "%s/initramfs", vm_dir);
    file.host = host;
    bake.files = &file;
    bake.n_files = 1;
    config = told_config("ok", &t);
    config.bake = &bake;
    struct sm_vm *vm = NULL;
    assert_true(vm_try(&vm, &config) < 0);
    assert_string_equal(t.kinds, "RS");
    assert_null(vm);
    bake = (struct sm_bake_config)SM_BAKE_CONFIG_INIT;
    bake.tag = "mine";
    config = told_config("ok", &t);
    config.bake = &bake;
    start_and_expect(&config, &t, "RSTVD", SM_VM_BAKED);
    bake.force = 1;
    config = told_config("ok", &t);
    config.bake = &bake;
    start_and_expect(&config, &t, "RSTVD", SM_VM_BAKED);
}

static void bad_snapshots_are_replaced(void **state)
{
    static const char *const ways[] = {
        "printf x | dd of=$f/state bs=1 seek=70 conv=notrunc 2>/dev/null",
        "truncate -s 10 $f/state",
        "truncate -s 4096 $f/memory",
        "rm $f/memory",
        "echo '{' >$f/metadata.json",
    };
    struct told t;
    struct sm_vm_config config;

    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        char script[512];

        forget_snapshots();
        config = told_config("ok", &t);
        start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
        /* The bake, which alone has a list of changed pages that is not empty. */
        snprintf(script, sizeof(script), "f=$(dirname $(find snapshots -name diff -size +0)) && test -n \"$f\" && %s",
                 ways[i]);
        shell(script);
        config = told_config("ok", &t);
        start_and_expect(&config, &t, i ? "XRSTVD" : "RXRSTVD", SM_VM_BAKED); /* the state is read by the worker */
        config = told_config("ok", &t);
        start_and_expect(&config, &t, "R", SM_VM_RESTORED);
    }
}

static void a_bad_base_is_replaced(void **state)
{
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);

    forget_snapshots();
    start_and_expect(&config, &t, "BVRSTVD", SM_VM_BAKED);
    shell("for d in snapshots/*; do printf x | dd of=$d/state bs=1 seek=70 conv=notrunc 2>/dev/null; done");
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "RXRXBVRSTVD", SM_VM_BAKED);
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
}

static void without_space_the_machine_goes_on(void **state)
{
    struct told t;
    struct sm_vm_config config = told_config("full", &t);
    struct sm_bake_result result = {.size = sizeof(result)};

    forget_snapshots();
    start_and_expect(&config, &t, "BVRSTN", SM_VM_BAKED);
    assert_non_null(strstr(t.last, "No space left"));
    assert_int_equal(count("state"), 1); /* the base */
    config = told_config("full", &t);
    assert_int_equal(sm_image_bake(vm_image, &config, &result, &vm_err), -ENOSPC);
    assert_non_null(strstr(vm_err.text, "No space left"));
    assert_non_null(strstr(vm_err.text, "make room there"));
}

static void baking_alone(void **state)
{
    struct sm_bake_result result = {.size = sizeof(result)}, again = {.size = sizeof(again)};
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);

    forget_snapshots();
    assert_int_equal(sm_image_bake(vm_image, &config, &result, &vm_err), 0);
    assert_string_equal(t.kinds, "BVRSTVD");
    assert_int_equal(result.baked, 1);
    assert_int_equal(strlen(result.key), 64);
    assert_int_equal(result.pause_ns, 2000);
    assert_string_equal(result.line, "the trigger has come: 1 line");
    config = told_config("ok", &t);
    assert_int_equal(sm_image_bake(vm_image, &config, &again, &vm_err), 0);
    assert_string_equal(t.kinds, "");
    assert_int_equal(again.baked, 0);
    assert_string_equal(again.key, result.key);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
}

static void base_alone(void **state)
{
    struct sm_bake_result result = {.size = sizeof(result)};
    struct sm_vm_config config;
    struct sm_store *store;
    struct told t;

    forget_snapshots();
    assert_int_equal(sm_store_open(&store, vm_store, &vm_err), 0);
    config = told_config("ok", &t);
    assert_int_equal(sm_base_bake(store, &config, &result, &vm_err), 0);
    assert_int_equal(result.baked, 1);
    assert_string_equal(result.line,
                        "base: saved in 3 us, 256 MiB of RAM (4 KiB data, 0 KiB zero), 3 devices, 0 listeners");
    assert_string_equal(t.kinds, "BV");
    assert_int_equal(sm_base_bake(store, &config, &result, &vm_err), 0);
    assert_int_equal(result.baked, 0);
    sm_store_free(store);
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "RSTVD", SM_VM_BAKED);
}

static void no_base_boots_and_saves_whole(void **state)
{
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);

    forget_snapshots();
    config.no_base = 1;
    start_and_expect(&config, &t, "BSTVD", SM_VM_BAKED);
    assert_int_equal(count("state"), 1);
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
}

static void starts_that_fail_leave_nothing(void **state)
{
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm *vm = NULL;
    struct told t;
    struct sm_vm_config config;

    forget_snapshots();
    config = told_config("panic", &t);
    assert_int_equal(vm_try(&vm, &config), -EIO);
    assert_non_null(strstr(vm_err.text, "panicked: no root; its console said last: fake console|the end"));
    config = told_config("never", &t);
    config.start_timeout_ms = 300;
    assert_int_equal(vm_try(&vm, &config), -ETIMEDOUT);
    assert_non_null(strstr(vm_err.text, "pre-exec"));
    config = told_config("ok", &t);
    t.stop_at = 'T';
    assert_int_equal(vm_try(&vm, &config), -ECANCELED);
    config = told_config("ok", &t);
    config.bake = &bake;
    bake.require_listener = 1;
    assert_int_equal(vm_try(&vm, &config), -EINVAL);
    bake = (struct sm_bake_config)SM_BAKE_CONFIG_INIT;
    bake.trigger = SM_TRIGGER_HEARTBEAT;
    assert_int_equal(vm_try(&vm, &config), -EINVAL);
    assert_null(vm);
    assert_int_equal(count("state"), 2); /* bases */
    shell("test -z \"$(ls -A tmp)\"");
}

/* Two processes start the same image at once: one bakes, the other waits and restores. */
static void two_at_once_bake_once(void **state)
{
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);
    int status;
    pid_t pid;

    forget_snapshots();
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct sm_vm *vm = NULL;

        _exit(vm_try(&vm, &config) < 0 ? 99 : (int)origin(vm));
    }
    struct sm_vm *vm = vm_start(&config);
    uint32_t mine = origin(vm);
    expect_hello(vm);
    sm_vm_free(vm);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(mine + (uint32_t)WEXITSTATUS(status), SM_VM_BAKED + SM_VM_RESTORED);
}

static void warm_up_is_a_snapshot_of_its_own(void **state)
{
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_vm *vm = NULL;
    char mark[4200];
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);

    forget_snapshots();
    snprintf(mark, sizeof(mark), "echo ran >>%s/mark", vm_dir);
    bake.warmup = ARGS("sh", "-c", mark);
    bake.tag = "warm";
    config.bake = &bake;
    start_and_expect(&config, &t, "BVRSTVDUVD", SM_VM_BAKED);
    assert_non_null(strstr(t.last, "warm-up done"));
    assert_int_equal(count("state"), 3);
    config = told_config("ok", &t);
    config.bake = &bake;
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
    shell("test $(wc -l <../mark) = 1");
    /* The plain one is there, too; it is what another warm-up begins with. */
    config = told_config("ok", &t);
    start_and_expect(&config, &t, "R", SM_VM_RESTORED);
    bake.warmup = ARGS("sh", "-c", "exit 3");
    config = told_config("ok", &t);
    config.bake = &bake;
    assert_int_equal(vm_try(&vm, &config), -ECHILD);
    assert_string_equal(t.kinds, "RU");
    assert_non_null(strstr(vm_err.text, "exit code 3"));
}

/* ---- A workload that runs already ---- */

static void a_service_is_attached_to(void **state)
{
    struct sm_exec_config own = SM_EXEC_CONFIG_INIT, other = SM_EXEC_CONFIG_INIT;
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct told t;
    char out[64];

    forget_snapshots();
    other.args = ARGS("something", "else");
    bake.workload = &own;
    for (int i = 0; i < 2; i++) {
        struct sm_vm_config config = told_config("attach", &t);
        struct sm_vm *vm;

        config.bake = &bake;
        vm = vm_start(&config);
        assert_string_equal(t.kinds, i ? "R" : "BVRSTVD");
        assert_int_equal(vm_run(vm, other, out, sizeof(out)).exit_code, 6);
        assert_int_equal(vm_run(vm, own, out, sizeof(out)).exit_code, 5);
        assert_string_equal(out, "from the workload\n");
        /* Once: whoever wants it again gets another one. */
        assert_int_equal(vm_run(vm, own, out, sizeof(out)).exit_code, 6);
        sm_vm_free(vm);
    }
}

static void commands_of_ones_own_are_not_started_ahead(void **state)
{
    struct sm_exec_config own = SM_EXEC_CONFIG_INIT;
    struct sm_bake_config bake = SM_BAKE_CONFIG_INIT;
    struct sm_bake_result auto_own, auto_cmd, auto_tty, none;
    struct told t;
    struct sm_vm_config config = told_config("attach", &t);

    auto_own.size = auto_cmd.size = auto_tty.size = none.size = sizeof(none);
    forget_snapshots();
    config.bake = &bake;
    bake.workload = &own;
    assert_int_equal(sm_image_bake(vm_image, &config, &auto_own, &vm_err), 0);
    config = vm_config("ok");
    config.bake = &bake;
    own.cmd = ARGS("true");
    assert_int_equal(sm_image_bake(vm_image, &config, &auto_cmd, &vm_err), 0);
    own = (struct sm_exec_config)SM_EXEC_CONFIG_INIT;
    own.tty = 1;
    assert_int_equal(sm_image_bake(vm_image, &config, &auto_tty, &vm_err), 0);
    bake.workload = NULL;
    assert_int_equal(sm_image_bake(vm_image, &config, &none, &vm_err), 0);
    assert_string_not_equal(auto_own.key, auto_cmd.key);
    assert_string_equal(auto_cmd.key, auto_tty.key);
    assert_string_equal(auto_cmd.key, none.key);
}

/* ---- Machines that run ---- */

static void saved_machines_are_restored_by_name(void **state)
{
    struct sm_save_result saved = {.size = sizeof(saved)};
    struct sm_snapshot *snapshot;
    struct sm_store *store;
    char dest[4300], gone[4300];
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);
    struct sm_vm *vm, *copy;

    forget_snapshots();
    sm_vm_free(vm_start(&config));
    vm = vm_start(&config);
    assert_int_equal(sm_vm_save(vm, NULL, SM_SAVE_DIFF, &saved, &vm_err), 0);
    assert_int_equal(saved.pause_ns, 2000);
    assert_int_equal(strlen(saved.key), 64);
    snprintf(dest, sizeof(dest), "%s/saved", vm_dir);
    assert_int_equal(sm_vm_save(vm, dest, 0, NULL, &vm_err), 0);
    assert_int_equal(sm_vm_save(vm, dest, 1u << 9, NULL, &vm_err), -EINVAL);
    expect_hello(vm);
    sm_vm_free(vm);

    assert_int_equal(sm_store_open(&store, vm_store, &vm_err), 0);
    for (int i = 0; i < 2; i++) {
        if (sm_snapshot_open(&snapshot, store, i ? dest : saved.key, &vm_err) < 0)
            fail_msg("%s", vm_err.text);
        config = told_config("ok", &t);
        if (sm_vm_restore(&copy, snapshot, &config, &vm_err) < 0)
            fail_msg("%s", vm_err.text);
        assert_string_equal(t.kinds, "R");
        expect_hello(copy);
        sm_vm_free(copy);
        sm_snapshot_free(snapshot);
    }
    /* Without its image there is a sentence that names it. */
    assert_int_equal(sm_snapshot_open(&snapshot, store, saved.key, &vm_err), 0);
    snprintf(gone, sizeof(gone), "%s/gone", vm_dir);
    snprintf(dest, sizeof(dest), "%s/layout", vm_dir);
    assert_int_equal(rename(dest, gone), 0);
    assert_int_equal(sm_vm_restore(&copy, snapshot, &config, &vm_err), -ENOENT);
    assert_non_null(strstr(vm_err.text, "pull or load 'oci:"));
    assert_int_equal(rename(gone, dest), 0);
    sm_snapshot_free(snapshot);
    sm_store_free(store);
}

static void booted_machines_have_nothing_to_differ_from(void **state)
{
    struct sm_vm_config config = vm_config("ok");
    struct sm_vm *vm;

    config.boot = 1;
    vm = vm_start(&config);
    assert_int_equal(origin(vm), SM_VM_BOOTED);
    assert_int_equal(sm_vm_save(vm, NULL, SM_SAVE_DIFF, NULL, &vm_err), -ENOTSUP);
    assert_int_equal(sm_vm_rewind(vm, &vm_err), -ENOTSUP);
    assert_int_equal(sm_vm_save(vm, NULL, 0, NULL, &vm_err), 0);
    expect_hello(vm);
    sm_vm_free(vm);
}

static void rewinding_ends_what_runs(void **state)
{
    struct sm_exec_config sleep_config = SM_EXEC_CONFIG_INIT;
    struct sm_exec_result result = {.size = sizeof(result)};
    struct sm_vm_config config = vm_config("ok");
    struct sm_exec *x;
    struct sm_vm *vm;

    sm_vm_free(vm_start(&config));
    vm = vm_start(&config);
    assert_int_equal(origin(vm), SM_VM_RESTORED);
    sleep_config.args = ARGS("sleep", "1000");
    x = vm_exec(vm, &sleep_config);
    assert_int_equal(sm_vm_rewind(vm, &vm_err), 0);
    assert_int_equal(sm_exec_wait(x, &result, &vm_err), 0);
    assert_int_equal(result.status, SM_EXEC_SIGNALED);
    assert_int_equal(result.signal, SIGKILL);
    sm_exec_free(x);
    expect_hello(vm);
    assert_int_equal(sm_vm_rewind(vm, &vm_err), 0);
    expect_hello(vm);
    sm_vm_free(vm);
}

static void prepared_workers_are_taken(void **state)
{
    struct sm_vm_stats stats = {.size = sizeof(stats)};
    struct sm_prepared *p = NULL;
    struct told t;
    struct sm_vm_config config = told_config("ok", &t);
    struct sm_vm *vm;

    sm_vm_free(vm_start(&config));
    assert_int_equal(sm_prepared_new(&p, &config, 0, &vm_err), -EINVAL);
    assert_int_equal(sm_prepared_new(&p, &config, 2, &vm_err), 0);
    assert_int_equal(sm_prepared_ready(p), 2);
    config.prepared = p;
    for (unsigned left = 2; left-- > 0;) {
        vm = vm_start(&config);
        assert_int_equal(sm_prepared_ready(p), left);
        expect_hello(vm);
        sm_vm_free(vm);
    }
    /* None is left, or none fits: as without. */
    vm = vm_start(&config);
    expect_hello(vm);
    sm_vm_free(vm);
    assert_int_equal(sm_prepared_fill(p, &vm_err), 0);
    assert_int_equal(sm_prepared_ready(p), 2);
    config.memory_mib = 64;
    vm = vm_start(&config);
    assert_int_equal(sm_prepared_ready(p), 2);
    sm_vm_free(vm);
    /* One that has died is not taken. */
    config.memory_mib = 0;
    vm = vm_start(&config);
    assert_int_equal(sm_vm_stats(vm, &stats, &vm_err), 0);
    sm_vm_free(vm);
    sm_prepared_free(p);
}

static void nothing_stays_open(void **state)
{
    struct sm_vm_config config = vm_config("ok");
    int before = dup(0), after;

    close(before);
    for (int i = 0; i < 3; i++) {
        struct sm_vm *vm;

        if (i == 1)
            forget_snapshots();
        vm = vm_start(&config);
        expect_hello(vm);
        sm_vm_free(vm);
    }
    after = dup(0);
    assert_int_equal(before, after);
    close(after);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_start_bakes_and_goes_on_the_next_restores),
        cmocka_unit_test(everything_that_matters_is_in_the_key),
        cmocka_unit_test(bad_snapshots_are_replaced),
        cmocka_unit_test(a_bad_base_is_replaced),
        cmocka_unit_test(without_space_the_machine_goes_on),
        cmocka_unit_test(baking_alone),
        cmocka_unit_test(base_alone),
        cmocka_unit_test(no_base_boots_and_saves_whole),
        cmocka_unit_test(starts_that_fail_leave_nothing),
        cmocka_unit_test(two_at_once_bake_once),
        cmocka_unit_test(warm_up_is_a_snapshot_of_its_own),
        cmocka_unit_test(a_service_is_attached_to),
        cmocka_unit_test(commands_of_ones_own_are_not_started_ahead),
        cmocka_unit_test(saved_machines_are_restored_by_name),
        cmocka_unit_test(booted_machines_have_nothing_to_differ_from),
        cmocka_unit_test(rewinding_ends_what_runs),
        cmocka_unit_test(prepared_workers_are_taken),
        cmocka_unit_test(nothing_stays_open),
    };

    return cmocka_run_group_tests(tests, vm_fixture_up, vm_fixture_down);
}
