/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's look-up of users and groups in the image's files. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "users.h"

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
                             "# a comment:x:1:1\n"
                             "\n"
                             "broken:x:abc:1::/:\n"
                             "toobig:x:4294967295:1::/:\n"
                             "neg:x:-1:1::/:\n"
                             "app:x:1000:1001:The App:/srv/app:/bin/false\n"
                             "nohome:x:1002:1002\n"
                             "twice:x:1003:1:first:/one:\n"
                             "twice:x:1004:1:second:/two:\n"
                             "777:x:778:778:a name of digits::\n"
                             "last:x:1005:1005::/last";
static const char group[] = "root:x:0:\n"
                            "wheel:x:10:root,app\n"
                            "app:x:1001:\n"
                            "video:x:44:other,app\n"
                            "audio:x:45:application,ap\n"
                            "bad:x:x1:app\n"
                            "docker:x:999:app";

static struct ga_user user;
static struct ga_error error;

static int look(const char *spec)
{
    memset(&error, 0, sizeof(error));
    return ga_user_lookup(spec, passwd, sizeof(passwd) - 1, group, sizeof(group) - 1, &user, &error);
}

static void expect(const char *spec, unsigned uid, unsigned gid, const char *home, size_t n_groups)
{
    if (look(spec) != 0)
        fail_msg("%s: %s", spec, error.text);
    assert_int_equal(user.uid, uid);
    assert_int_equal(user.gid, gid);
    assert_string_equal(user.home, home);
    assert_int_equal(user.n_groups, n_groups);
}

static void names_and_numbers(void **state)
{
    expect("", 0, 0, "/root", 1);
    expect("root", 0, 0, "/root", 1);
    expect("0", 0, 0, "/root", 1);
    expect("app", 1000, 1001, "/srv/app", 3);
    assert_int_equal(user.groups[0], 10);
    assert_int_equal(user.groups[1], 44);
    assert_int_equal(user.groups[2], 999);
    expect("1000", 1000, 1001, "/srv/app", 3);
    expect("nohome", 1002, 1002, "/", 0);
    expect("twice", 1003, 1, "/one", 0);
    expect("last", 1005, 1005, "/last", 0);
    expect("4242", 4242, 0, "/", 0);
    expect("777", 777, 0, "/", 0); /* a number is an id, never a name */
    expect("2147483647", 2147483647, 0, "/", 0);
}

static void groups(void **state)
{
    expect("app:video", 1000, 44, "/srv/app", 0); /* that group only */
    expect("app:5", 1000, 5, "/srv/app", 0);
    expect("4242:4343", 4242, 4343, "/", 0);
    expect(":wheel", 0, 10, "/root", 0);
    expect("app:", 1000, 1001, "/srv/app", 3);
}

static void refused(void **state)
{
    const char *const bad[] = {"nobody", "broken", "toobig", "neg",        "app:nogroup", "app:bad", "a:b:c",
                               "-1",     "+0",     " 0",     "2147483648", "#root",       "app\n",   "4294967296:0"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (look(bad[i]) == 0)
            fail_msg("'%s' was accepted", bad[i]);
    look("nobody");
    assert_string_equal(error.text, "user 'nobody' is not in the image's /etc/passwd; use a name that is, or a number");
    look("app:nogroup");
    assert_non_null(strstr(error.text, "group 'nogroup'"));
}

static void without_files(void **state)
{
    assert_int_equal(ga_user_lookup("12:13", "", 0, "", 0, &user, &error), 0);
    assert_int_equal(user.uid, 12);
    assert_int_equal(user.gid, 13);
    assert_int_equal(ga_user_lookup("root", "", 0, "", 0, &user, &error), -ENOENT);
    assert_int_equal(ga_user_from_files("", "/no/passwd", "/etc/passwd/group", &user, &error), 0);
    assert_int_equal(user.uid, 0);
}

static void too_many_groups(void **state)
{
    size_t n = GA_MAX_GROUPS + 1, cap = n * 16, len = 0;
    char *text = malloc(cap);

    for (size_t i = 0; i < n; i++)
        len += (size_t)snprintf(text + len, cap - len, "g:x:%zu:app\n", i);
    assert_int_equal(ga_user_lookup("app", passwd, sizeof(passwd) - 1, text, len, &user, &error), -E2BIG);
    assert_int_equal(ga_user_lookup("app:1", passwd, sizeof(passwd) - 1, text, len, &user, &error), 0);
    free(text);
}

/* A FIFO, a directory or a huge file in place of passwd neither hangs nor fills the memory. */
static void hostile_files(void **state)
{
    char path[] = "/tmp/sm-test-users-XXXXXX", fifo[64];
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)GA_USER_FILE_MAX + 1), 0);
    assert_int_equal(ga_user_from_files("0", path, "/nope", &user, &error), -EINVAL);
    assert_int_equal(ftruncate(fd, GA_USER_FILE_MAX), 0);
    assert_int_equal(ga_user_from_files("0", path, "/nope", &user, &error), 0); /* a megabyte of zeros */
    assert_int_equal(ga_user_from_files("0", "/tmp", "/nope", &user, &error), -EINVAL);
    snprintf(fifo, sizeof(fifo), "%s.fifo", path);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(ga_user_from_files("0", fifo, "/nope", &user, &error), -EINVAL);
    unlink(fifo);
    unlink(path);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_numbers), cmocka_unit_test(groups),          cmocka_unit_test(refused),
        cmocka_unit_test(without_files),     cmocka_unit_test(too_many_groups), cmocka_unit_test(hostile_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
