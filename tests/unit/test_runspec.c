/* SPDX-License-Identifier: Apache-2.0 */
/* What to run: Docker's rules for ENTRYPOINT, CMD, environment, directory, user, signals. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/runspec.h"

#define LIST(...)  ((const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
#define WORDS(...) ((char *[]){__VA_ARGS__ __VA_OPT__(, ) NULL})

static struct oci_config image(void)
{
    static char *none[] = {NULL};
    static char empty[] = "";

    return (struct oci_config){
        .entrypoint = none, .cmd = none, .env = none, .working_dir = empty, .user = empty, .stop_signal = empty};
}

/* "a b c": easy to compare. */
static const char *joined(const struct strv *v)
{
    static char text[4096];

    text[0] = '\0';
    for (size_t i = 0; i < v->n; i++) {
        strncat(text, i ? " " : "", sizeof(text) - strlen(text) - 1);
        strncat(text, v->list[i], sizeof(text) - strlen(text) - 1);
    }
    return text;
}

static void expect_argv(const struct oci_config *c, const struct runspec_request *req, const char *want)
{
    struct sm_error err = SM_ERROR_INIT;
    struct runspec spec;
    int r = runspec_build(&spec, c, req, &err);

    if (!want) {
        assert_int_equal(r, -EINVAL);
        assert_non_null(strstr(err.text, "nothing to run"));
        return;
    }
    assert_int_equal(r, 0);
    assert_string_equal(joined(&spec.argv), want);
    runspec_done(&spec);
}

static void entrypoint_and_cmd(void **state)
{
    struct oci_config c = image();

    expect_argv(&c, &(struct runspec_request){0}, NULL);
    expect_argv(&c, &(struct runspec_request){.cmd = LIST("ls", "-l")}, "ls -l");
    c.cmd = WORDS("sh", "-c", "x");
    expect_argv(&c, &(struct runspec_request){0}, "sh -c x");
    expect_argv(&c, &(struct runspec_request){.cmd = LIST("ls")}, "ls");
    c.entrypoint = WORDS("/entry", "--run");
    expect_argv(&c, &(struct runspec_request){0}, "/entry --run sh -c x");
    expect_argv(&c, &(struct runspec_request){.cmd = LIST("ls")}, "/entry --run ls");
    expect_argv(&c, &(struct runspec_request){.entrypoint = LIST("/mine")}, "/mine");
    expect_argv(&c, &(struct runspec_request){.entrypoint = LIST("/mine"), .cmd = LIST("a")}, "/mine a");
    expect_argv(&c, &(struct runspec_request){.entrypoint = LIST(), .cmd = LIST("a")}, "a");
    expect_argv(&c, &(struct runspec_request){.entrypoint = LIST()}, NULL);
    expect_argv(&c, &(struct runspec_request){.args = LIST("exact"), .cmd = LIST("a")}, "exact");
    expect_argv(&c, &(struct runspec_request){.entrypoint = LIST("")}, NULL);
}

static const char *env_of(const struct oci_config *c, const struct runspec_request *req)
{
    static char text[4096];
    struct runspec_request full = *req;
    struct runspec spec;

    full.args = LIST("x");
    assert_int_equal(runspec_build(&spec, c, &full, NULL), 0);
    snprintf(text, sizeof(text), "%s", joined(&spec.env));
    runspec_done(&spec);
    return text;
}

#define PATH "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static void environment_is_layered(void **state)
{
    struct oci_config c = image();

    assert_string_equal(env_of(&c, &(struct runspec_request){.hostname = "h"}), PATH " HOSTNAME=h");
    assert_string_equal(env_of(&c, &(struct runspec_request){.hostname = "h", .tty = true}),
                        PATH " HOSTNAME=h TERM=xterm");
    c.env = WORDS("A=1", "PATH=/only", "B=2");
    assert_string_equal(env_of(&c, &(struct runspec_request){0}), "PATH=/only A=1 B=2");
    assert_string_equal(env_of(&c, &(struct runspec_request){.env = LIST("A=x", "C=3", "C=4", "B", "Z")}),
                        "PATH=/only A=x C=4");
    assert_string_equal(env_of(&c, &(struct runspec_request){.env = LIST("PATH", "A=", "=", "=v", "AA=1")}),
                        "A= B=2 AA=1");
    assert_string_equal(env_of(&c, &(struct runspec_request){.tty = true, .env = LIST("TERM=vt100")}),
                        "PATH=/only TERM=vt100 A=1 B=2");
}

static void directory_and_user(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct oci_config c = image();
    struct runspec spec;

    c.cmd = WORDS("x");
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){0}, NULL), 0);
    assert_string_equal(spec.cwd, "/");
    assert_string_equal(spec.user, "");
    runspec_done(&spec);
    c.working_dir = (char[]){"srv/app"};
    c.user = (char[]){"app:www"};
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){0}, NULL), 0);
    assert_string_equal(spec.cwd, "/srv/app");
    assert_string_equal(spec.user, "app:www");
    runspec_done(&spec);
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){.cwd = "/tmp", .user = "0"}, NULL), 0);
    assert_string_equal(spec.cwd, "/tmp");
    assert_string_equal(spec.user, "0");
    runspec_done(&spec);
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){.cwd = "tmp"}, &err), -EINVAL);
    assert_non_null(strstr(err.text, "'tmp' is not absolute"));
}

static void limits_hold(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct oci_config c = image();
    const char **many = calloc(SM_EXEC_COUNT_MAX + 2, sizeof(*many));
    char *big = malloc(SM_EXEC_STRINGS_MAX);
    struct runspec spec;

    assert_non_null(many);
    assert_non_null(big);
    for (size_t i = 0; i < SM_EXEC_COUNT_MAX; i++)
        many[i] = "a";
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){.args = many}, NULL), 0);
    runspec_done(&spec);
    many[SM_EXEC_COUNT_MAX] = "a";
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){.args = many}, &err), -E2BIG);
    memset(big, 'a', SM_EXEC_STRINGS_MAX - 1);
    big[SM_EXEC_STRINGS_MAX - 1] = '\0';
    /* Alone it would fit, but there is an environment, too. */
    assert_int_equal(runspec_build(&spec, &c, &(struct runspec_request){.args = LIST(big)}, &err), -E2BIG);
    assert_non_null(strstr(err.text, "too large"));
    free(many);
    free(big);
}

static void signals_have_names(void **state)
{
    assert_int_equal(runspec_signal(""), 15);
    assert_int_equal(runspec_signal("SIGTERM"), 15);
    assert_int_equal(runspec_signal("quit"), 3);
    assert_int_equal(runspec_signal("SigWinch"), 28);
    assert_int_equal(runspec_signal("9"), 9);
    assert_int_equal(runspec_signal("SIGRTMIN"), 34);
    assert_int_equal(runspec_signal("SIGRTMIN+3"), 37);
    assert_int_equal(runspec_signal("RTMAX-1"), 63);
    assert_int_equal(runspec_signal("0"), -EINVAL);
    assert_int_equal(runspec_signal("65"), -EINVAL);
    assert_int_equal(runspec_signal("RTMIN+31"), -EINVAL);
    assert_int_equal(runspec_signal("RTMIN+"), -EINVAL);
    assert_int_equal(runspec_signal("SIGNOTHING"), -EINVAL);
    assert_int_equal(runspec_signal("15x"), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entrypoint_and_cmd), cmocka_unit_test(environment_is_layered),
        cmocka_unit_test(directory_and_user), cmocka_unit_test(limits_hold),
        cmocka_unit_test(signals_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
