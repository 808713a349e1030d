/* SPDX-License-Identifier: Apache-2.0 */
/* Pulls that are watched, stopped, killed, or have another process beside them. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "pull_fixture.h"

static int say_stop(void)
{
    return 1;
}

static void test_cancel(void **state)
{
    static const struct {
        enum oci_event_kind at;
        uint64_t done;
    } cases[] = {{OCI_EVENT_RESOLVING, 0},
                 {OCI_EVENT_FETCHING, 0},
                 {OCI_EVENT_FETCHING, SIZE},
                 {OCI_EVENT_CONVERTING, 0},
                 {OCI_EVENT_MERGING, 0}};
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    struct stopper s = {.at = OCI_EVENT_DONE};
    struct oci_events events = {on_event, &s};
    struct sm_error err;

    fake_registry_tag("one", &image.digest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        s = (struct stopper){.at = cases[i].at, .done = cases[i].done, .act = say_stop};
        assert_int_equal(try_pull(NAME, &events, NULL, &err), -ECANCELED);
        assert_non_null(strstr(err.text, "stopped"));
        nothing_is_named();
    }
    s = (struct stopper){.at = OCI_EVENT_DONE};
    if (try_pull(NAME, &events, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(fake_registry.bytes, layers[0].len + layers[1].len);
    assert_int_equal(count("partial"), 0);
}

static void test_events(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    struct stopper s = {.at = OCI_EVENT_DONE};
    struct oci_events events = {on_event, &s};
    struct sm_error err;

    fake_registry_tag("one", &image.digest);
    fake_registry.step = 3000;
    assert_int_equal(try_pull(NAME, &events, NULL, &err), 0);
    assert_true(s.seen[OCI_EVENT_RESOLVING] && s.seen[OCI_EVENT_FETCHING] >= 4 && s.seen[OCI_EVENT_MERGING] == 1);
    assert_int_equal(s.layers_done, 2);
    assert_int_equal(s.seen[OCI_EVENT_DONE], 3);
    assert_int_equal(s.seen[OCI_EVENT_WAITING], 0);
}

static int die(void)
{
    return raise(SIGKILL);
}

static void test_killed(void **state)
{
    static const struct {
        enum oci_event_kind at;
        uint64_t done;
    } cases[] = {{OCI_EVENT_FETCHING, 100}, {OCI_EVENT_FETCHING, SIZE}, {OCI_EVENT_CONVERTING, 1}, {OCI_EVENT_DONE, 1}};
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);

    fake_registry_tag("one", &image.digest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        pid_t pid = fork();
        int status;

        if (!pid) {
            struct stopper s = {.at = cases[i].at, .done = cases[i].done, .act = die};
            struct sm_error err;

            fake_registry.step = 60000;
            try_pull(NAME, &(struct oci_events){on_event, &s}, NULL, &err);
            _exit(0); /* more may be there by now than this case wants to see */
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (i == 0)
            assert_true(WIFSIGNALED(status));
        if (WIFSIGNALED(status))
            assert_int_equal(count("names"), 0);
    }
    pull(NAME);
    assert_true(fake_registry.bytes < layers[0].len + layers[1].len); /* some of it came before */
    opens(NAME, OCI_PULL_NEVER);
}

static int gate_to, gate_from;

/* The other process: holds its locks until it is told to go on. */
static int say_and_wait(void)
{
    char c = 'x';

    if (gate_to < 0)
        return 0;
    if (write(gate_to, &c, 1) != 1 || read(gate_from, &c, 1) != 1)
        _exit(9);
    gate_to = -1;
    return 0;
}

static int let_go(void)
{
    char c = 'x';

    if (gate_to >= 0)
        assert_int_equal(write(gate_to, &c, 1), 1);
    gate_to = -1;
    return 0;
}

/* Another process fetches the base; this one fetches its own layer meanwhile, then waits, and uses the other's work. */
static void test_two_processes(void **state)
{
    struct object base = add_layer('a', SIZE), own[] = {base, add_layer('b', SIZE)};
    struct object first = add_image(&base, 1), second = add_image(own, 2);
    struct stopper s = {.at = OCI_EVENT_WAITING, .act = let_go};
    struct sm_error err;
    int to_child[2], to_us[2], status;
    pid_t pid;
    char c;

    fake_registry_tag("one", &first.digest);
    fake_registry_tag("two", &second.digest);
    assert_int_equal(pipe(to_child), 0);
    assert_int_equal(pipe(to_us), 0);
    pid = fork();
    if (!pid) {
        struct stopper theirs = {.at = OCI_EVENT_FETCHING, .done = 1, .act = say_and_wait};

        gate_to = to_us[1];
        gate_from = to_child[0];
        _exit(try_pull(NAME, &(struct oci_events){on_event, &theirs}, NULL, &err) < 0);
    }
    assert_int_equal(read(to_us[0], &c, 1), 1);
    gate_to = to_child[1];
    if (try_pull("reg.example/app:two", &(struct oci_events){on_event, &s}, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(s.seen[OCI_EVENT_WAITING] > 0);
    assert_int_equal(s.layers_done, 2);
    assert_int_equal(fake_registry.bytes, own[1].len);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    opens(NAME, OCI_PULL_NEVER);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_us[i]);
    }
}

/* Another process has the blob alone, for an export perhaps, and dies: this one waits, may be stopped, and takes over.
 */
static void test_busy_blob(void **state)
{
    struct object layer = add_layer('a', SIZE), image = add_image(&layer, 1);
    struct stopper s = {.at = OCI_EVENT_WAITING, .act = say_stop};
    struct oci_events events = {on_event, &s};
    int to_child[2], to_us[2], status;
    struct sm_error err;
    pid_t pid;
    char c;

    fake_registry_tag("one", &image.digest);
    assert_int_equal(pipe(to_child), 0);
    assert_int_equal(pipe(to_us), 0);
    pid = fork();
    if (!pid) {
        gate_to = to_us[1];
        gate_from = to_child[0];
        if (store_try_lock(pull_store, STORE_BLOB, &layer.digest, NULL) < 0)
            _exit(1);
        _exit(say_and_wait());
    }
    assert_int_equal(read(to_us[0], &c, 1), 1);
    assert_int_equal(try_pull(NAME, &events, NULL, &err), -ECANCELED);
    assert_int_equal(s.seen[OCI_EVENT_WAITING], 1);
    assert_int_equal(fake_registry.fetches, 0);
    gate_to = to_child[1];
    s = (struct stopper){.at = OCI_EVENT_WAITING, .act = let_go};
    if (try_pull(NAME, &events, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(s.seen[OCI_EVENT_WAITING] > 0);
    assert_int_equal(fake_registry.bytes, layer.len);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_us[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cancel, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_events, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_killed, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_two_processes, pull_set_up, pull_tear_down),
        cmocka_unit_test_setup_teardown(test_busy_blob, pull_set_up, pull_tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
