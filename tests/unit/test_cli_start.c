/* SPDX-License-Identifier: Apache-2.0 */
/* What `run` and `bake` have in common: the line becomes a configuration, the steps of a start become lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/start_args.h"
#include "cli/steps.h"

/* ---- The line ---- */

static struct start_args args;
static struct sm_vm_config config;
static struct sm_bake_config bake;

/* stderr is not for the tests' reader. */
static int read_quietly(void)
{
    int kept = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC), code;

    assert_true(kept >= 0 && null >= 0);
    dup2(null, STDERR_FILENO);
    code = start_args_read(&args);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(null);
    return code;
}

static int machine_of(const char *trigger)
{
    int code;

    args = (struct start_args){.trigger = trigger};
    config = (struct sm_vm_config)SM_VM_CONFIG_INIT;
    bake = (struct sm_bake_config)SM_BAKE_CONFIG_INIT;
    code = read_quietly();
    if (code == 0)
        assert_int_equal(start_args_machine(&args, NULL, &config, &bake), 0);
    start_args_done(&args);
    return code;
}

static void triggers_are_understood(void **state)
{
    static const char *const bad[] = {"",           "now",         "pre",      "pre-exec ",     "listener=1",
                                      "after",      "after=",      "after=x",  "after=0",       "heartbeat",
                                      "heartbeat=", "heartbeat=0", "Listener", "heartbeat=1.5", "after=1.5",
                                      "parked=yes", NULL};

    assert_int_equal(machine_of(NULL), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_AUTO);
    assert_ptr_equal(config.bake, &bake);
    assert_int_equal(machine_of("pre-exec"), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_PRE_EXEC);
    assert_int_equal(machine_of("listener"), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_LISTENER);
    assert_int_equal(bake.require_listener, 0);
    assert_int_equal(machine_of("parked"), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_PARKED);
    assert_int_equal(machine_of("heartbeat=12"), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_HEARTBEAT);
    assert_true(bake.heartbeat == 12);
    assert_int_equal(machine_of("after=1500"), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_AFTER);
    assert_int_equal(bake.after_ms, 1500);
    assert_int_equal(machine_of("after=2s"), 0);
    assert_int_equal(bake.after_ms, 2000);
    for (const char *const *b = bad; *b; b++)
        assert_int_equal(machine_of(*b), EXIT_OURS);
}

static void a_wanted_listener_chooses_its_trigger(void **state)
{
    args = (struct start_args){.require_listener = true, .after_ms = 9};
    bake = (struct sm_bake_config)SM_BAKE_CONFIG_INIT;
    assert_int_equal(start_args_machine(&args, NULL, &config, &bake), 0);
    assert_int_equal(bake.trigger, SM_TRIGGER_LISTENER);
    assert_int_equal(bake.require_listener, 1);
    assert_int_equal(bake.after_ms, 9);
    args = (struct start_args){.require_listener = true, .trigger = "pre-exec"};
    assert_int_equal(read_quietly(), EXIT_OURS);
    start_args_done(&args);
}

static void extra_files_are_cut_at_the_guests_path(void **state)
{
    static const char *const bad[] = {"", "file", "file:relative", ":/etc/x", "/a", NULL};

    args = (struct start_args){0};
    assert_int_equal(string_list_add(&args.extra_files, "./app.conf:/etc/app.conf"), 0);
    assert_int_equal(string_list_add(&args.extra_files, "/a:/b:c:/d/e"), 0);
    assert_int_equal(read_quietly(), 0);
    assert_int_equal(start_args_machine(&args, NULL, &config, &bake), 0);
    assert_int_equal(bake.n_files, 2);
    assert_string_equal(bake.files[0].host, "./app.conf");
    assert_string_equal(bake.files[0].guest, "/etc/app.conf");
    assert_string_equal(bake.files[1].host, "/a:/b:c");
    assert_string_equal(bake.files[1].guest, "/d/e");
    start_args_done(&args);
    for (const char *const *b = bad; *b; b++) {
        args = (struct start_args){0};
        assert_int_equal(string_list_add(&args.extra_files, *b), 0);
        assert_int_equal(read_quietly(), EXIT_OURS);
        start_args_done(&args);
    }
}

static void the_rest_is_passed_on(void **state)
{
    struct sm_exec_config command = SM_EXEC_CONFIG_INIT;
    char *argv[] = {(char[]){"serve"}, NULL};

    args = (struct start_args){.warmup = "a && b",
                               .tag = "warm",
                               .no_base = true,
                               .memory_mib = 64,
                               .cpus = 2,
                               .quiesce_ms = 5,
                               .cwd = "/srv",
                               .user = "www",
                               .entrypoint = ""};
    assert_int_equal(read_quietly(), 0);
    start_args_command(&args, argv, &command);
    assert_int_equal(start_args_machine(&args, &command, &config, &bake), 0);
    assert_string_equal(bake.warmup[0], "/bin/sh");
    assert_string_equal(bake.warmup[1], "-c");
    assert_string_equal(bake.warmup[2], "a && b");
    assert_null(bake.warmup[3]);
    assert_string_equal(bake.tag, "warm");
    assert_int_equal(bake.quiesce_ms, 5);
    assert_ptr_equal(bake.workload, &command);
    assert_true(config.no_base == 1 && config.memory_mib == 64 && config.vcpus == 2);
    assert_string_equal(command.cmd[0], "serve");
    assert_null(command.entrypoint[0]); /* "": both are dropped */
    assert_string_equal(command.cwd, "/srv");
    assert_string_equal(command.user, "www");
    start_args_command(&args, argv + 1, &command);
    assert_null(command.cmd); /* the image's own */
    start_args_done(&args);
}

/* ---- The steps ---- */

static int terminal, kept;

static void open_terminal(unsigned short cols)
{
    struct winsize ws = {.ws_row = 24, .ws_col = cols};
    int side;

    terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    assert_true(terminal >= 0);
    assert_int_equal(grantpt(terminal) | unlockpt(terminal), 0);
    side = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    kept = dup(STDERR_FILENO);
    assert_true(side >= 0 && kept >= 0);
    assert_int_equal(ioctl(side, TIOCSWINSZ, &ws), 0);
    dup2(side, STDERR_FILENO);
    close(side);
}

/* All that was written to it; our stderr is the tests' again. A mark behind it tells the end: a terminal hands bytes on
 * in its own time. */
static const char *close_terminal(void)
{
    static const char mark[] = "\005";
    static char text[4096];
    size_t n = 0;

    fflush(stderr);
    assert_int_equal(write(STDERR_FILENO, mark, 1), 1);
    dup2(kept, STDERR_FILENO);
    close(kept);
    while (n == 0 || text[n - 1] != mark[0]) {
        struct pollfd p = {.fd = terminal, .events = POLLIN};
        ssize_t got;

        assert_int_equal(poll(&p, 1, 10000), 1);
        got = read(terminal, text + n, sizeof(text) - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    text[n - 1] = '\0';
    close(terminal);
    return text;
}

static void tell(enum sm_vm_event_kind kind, const char *text)
{
    if (config.event)
        assert_int_equal(config.event(config.event_ctx, &(struct sm_vm_event){kind, text}), 0);
}

static void one_line_that_is_wiped(void **state)
{
    struct steps steps;
    const char *shown;

    config = (struct sm_vm_config)SM_VM_CONFIG_INIT;
    open_terminal(80);
    steps_begin(&steps, false, false, "app", &config);
    tell(SM_VM_RESTORING, "base");
    tell(SM_VM_TRIGGER, "listener");
    tell(SM_VM_SAVED, "a line of figures");
    steps_end(&steps);
    shown = close_terminal();
    assert_string_equal(shown, "app: restoring the base snapshot\r\n\033[1A\r\033[K"
                               "app: baking: waiting for the trigger listener\r\n\033[1A\r\033[K");
}

/* A start that only restores shows nothing: it would be gone before it is read. */
static void a_plain_restore_is_silent(void **state)
{
    struct steps steps;

    config = (struct sm_vm_config)SM_VM_CONFIG_INIT;
    open_terminal(80);
    steps_begin(&steps, false, false, "app", &config);
    tell(SM_VM_RESTORING, "");
    steps_end(&steps);
    assert_string_equal(close_terminal(), "");
    open_terminal(80);
    steps_begin(&steps, true, false, "app", &config);
    tell(SM_VM_BOOTING, "");
    steps_end(&steps);
    assert_string_equal(close_terminal(), "");
}

/* Lines fit the screen, hold nothing that steers it, and what matters stays on it. */
static void lines_are_harmless(void **state)
{
    struct steps steps;
    const char *shown;

    config = (struct sm_vm_config)SM_VM_CONFIG_INIT;
    open_terminal(30);
    steps_begin(&steps, false, false, "app", &config);
    tell(SM_VM_WAITING, "a process with \033[31m a very long name indeed");
    tell(SM_VM_NOT_STORED, "the disk is full");
    steps_end(&steps);
    shown = close_terminal();
    assert_string_equal(shown, "app: waiting for a process wi\r\n\033[1A\r\033[Ksupermachine: the disk is full\r\n");
}

static void verbose_tells_all(void **state)
{
    int pipe_fds[2];
    struct steps steps;
    char text[512] = "";
    ssize_t n;

    config = (struct sm_vm_config)SM_VM_CONFIG_INIT;
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    kept = dup(STDERR_FILENO);
    dup2(pipe_fds[1], STDERR_FILENO);
    steps_begin(&steps, false, true, "app", &config);
    tell(SM_VM_RESTORING, "");
    tell(SM_VM_SAVED, "trigger pre-exec: 12 ms");
    steps_end(&steps);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(pipe_fds[1]);
    n = read(pipe_fds[0], text, sizeof(text) - 1);
    close(pipe_fds[0]);
    assert_true(n > 0);
    assert_string_equal(text, "supermachine: restoring\nsupermachine: trigger pre-exec: 12 ms\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(triggers_are_understood),
        cmocka_unit_test(a_wanted_listener_chooses_its_trigger),
        cmocka_unit_test(extra_files_are_cut_at_the_guests_path),
        cmocka_unit_test(the_rest_is_passed_on),
        cmocka_unit_test(one_line_that_is_wiped),
        cmocka_unit_test(a_plain_restore_is_silent),
        cmocka_unit_test(lines_are_harmless),
        cmocka_unit_test(verbose_tells_all),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
