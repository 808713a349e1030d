/* SPDX-License-Identifier: Apache-2.0 */
/* Credentials: the files that are looked at, what they say, and helper programs. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/io.h"
#include "oci/auth.h"
#include "oci/auth_config.h"
#include "oci/auth_helper.h"
#include "oci_fixture.h"

#define HUB "https://index.docker.io/v1/"

/* base64 of USER:PASSWORD */
#define ALICE "YWxpY2U6c2VjcmV0"           /* alice:secret */
#define BOB   "Ym9iOnBhOnNz"               /* bob:pa:ss */
#define CAROL "Y2Fyb2w6"                   /* carol: */
#define DAVE  "ZGF2ZTpwdwAAAA=="           /* dave:pw, and zeros */
#define ERIN  "ZXJpbjpcdTAwZTk/Pj4+"       /* erin:\u00e9?>>> as characters: digits 62 and 63 are in it */
#define FRANK "ZnJhbms6\\r\\nb25lIHR3bw==" /* frank:one two, with a line end in it */

static char *dir;

static int set_up(void **state)
{
    static const char *const names[] = {"REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"};
    char path[300];

    dir = temp_dir();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        unsetenv(names[i]);
    snprintf(path, sizeof(path), "%s/home", dir);
    setenv("HOME", path, 1);
    snprintf(path, sizeof(path), "%s/run", dir);
    setenv("XDG_RUNTIME_DIR", path, 1);
    snprintf(path, sizeof(path), ".:%s/none::%s/bin:/usr/bin:/bin", dir, dir);
    setenv("PATH", path, 1);
    return 0;
}

static int tear_down(void **state)
{
    temp_dir_remove(dir);
    return 0;
}

static void put(const char *name, const char *text)
{
    write_file(dir, name, text, strlen(text));
}

static void helper(const char *name, const char *script)
{
    char path[512], text[2000];

    snprintf(path, sizeof(path), "bin/docker-credential-%s", name);
    snprintf(text, sizeof(text), "#!/bin/sh\n%s\n", script);
    put(path, text);
    snprintf(path, sizeof(path), "%s/bin/docker-credential-%s", dir, name);
    assert_int_equal(chmod(path, 0755), 0);
}

static void check(const char *what, const struct credentials *c, const char *user, const char *password,
                  const char *token)
{
    const char *have[] = {c->username, c->password, c->identity_token}, *want[] = {user, password, token};

    for (int i = 0; i < 3; i++) {
        if (!have[i] != !want[i] || (have[i] && strcmp(have[i], want[i])))
            fail_msg("%s: \"%s\" instead of \"%s\"", what, have[i] ? have[i] : "(none)", want[i] ? want[i] : "(none)");
    }
}

static void expect(const char *file, const char *host, const char *repository, const char *user, const char *password,
                   const char *token)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;

    if (auth_find(&c, file, host, repository, &err) < 0)
        fail_msg("%s/%s: %s", host, repository, err.text);
    check(host, &c, user, password, token);
    credentials_done(&c);
    assert_null(c.username);
}

/* What one file says about a repository, without a helper in it. */
static void test_entries(void **state)
{
    static const struct {
        const char *json, *host, *repository, *user, *password, *token;
    } table[] = {
        {"{}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": null}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {}}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {\"reg\": {}}}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {\"reg\": null}}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"\"}}}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" ALICE "\"}}}", "reg", "a", "alice", "secret", NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" BOB "\"}}}", "reg", "a", "bob", "pa:ss", NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" CAROL "\"}}}", "reg", "a", "carol", "", NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" DAVE "\"}}}", "reg", "a", "dave", "pw", NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" ERIN "\"}}}", "reg", "a", "erin", "\\u00e9?>>>", NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" FRANK "\"}}}", "reg", "a", "frank", "one two", NULL},
        {"{\"auths\": {\"reg\": {\"username\": \"u\", \"password\": \"p\"}}}", "reg", "a", "u", "p", NULL},
        {"{\"auths\": {\"reg\": {\"username\": \"u\"}}}", "reg", "a", "u", "", NULL},
        {"{\"auths\": {\"reg\": {\"auth\": \"" ALICE "\", \"identitytoken\": \"idt\"}}}", "reg", "a", NULL, NULL,
         "idt"},
        {"{\"auths\": {\"other\": {\"auth\": \"" ALICE "\"}}}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {\"REG.Example\": {\"auth\": \"" ALICE "\"}}}", "reg.example", "a", "alice", "secret", NULL},
        {"{\"auths\": {\"reg:5000\": {\"auth\": \"" ALICE "\"}}}", "reg", "a", NULL, NULL, NULL},
        {"{\"auths\": {\"[::1]:5000\": {\"auth\": \"" ALICE "\"}}}", "[::1]:5000", "a", "alice", "secret", NULL},
        {"{\"auths\": {\"https://reg/v1/\": {\"auth\": \"" ALICE "\"}}}", "reg", "a", "alice", "secret", NULL},
        {"{\"auths\": {\"http://reg\": {\"auth\": \"" ALICE "\"}}}", "reg", "a", "alice", "secret", NULL},
        {"{\"auths\": {\"reg/\": {\"auth\": \"" ALICE "\"}}}", "reg", "a", "alice", "secret", NULL},
        /* Docker Hub under each of its names */
        {"{\"auths\": {\"" HUB "\": {\"auth\": \"" ALICE "\"}}}", "docker.io", "library/x", "alice", "secret", NULL},
        {"{\"auths\": {\"docker.io\": {\"auth\": \"" ALICE "\"}}}", "docker.io", "library/x", "alice", "secret", NULL},
        {"{\"auths\": {\"registry-1.docker.io\": {\"auth\": \"" ALICE "\"}}}", "docker.io", "a/x", "alice", "secret",
         NULL},
        {"{\"auths\": {\"index.docker.io\": {\"auth\": \"" ALICE "\"}}}", "registry-1.docker.io", "a/x", "alice",
         "secret", NULL},
        {"{\"auths\": {\"docker.io/library\": {\"auth\": \"" ALICE "\"}}}", "docker.io", "library/x", "alice", "secret",
         NULL},
        {"{\"auths\": {\"docker.io/lib\": {\"auth\": \"" ALICE "\"}}}", "docker.io", "library/x", NULL, NULL, NULL},
        /* The longest that fits and has something in it */
        {"{\"auths\": {\"reg\": {\"auth\": \"" ALICE "\"}, \"reg/a\": {\"auth\": \"" BOB "\"}}}", "reg", "a/b", "bob",
         "pa:ss", NULL},
        {"{\"auths\": {\"reg/a\": {\"auth\": \"" BOB "\"}, \"reg\": {\"auth\": \"" ALICE "\"}}}", "reg", "ab/b",
         "alice", "secret", NULL},
        {"{\"auths\": {\"reg/a/b\": {\"auth\": \"" BOB "\"}, \"reg/a/b/c\": {\"auth\": \"" ALICE "\"}}}", "reg", "a/b",
         "bob", "pa:ss", NULL},
        {"{\"auths\": {\"reg/a/b\": {}, \"reg/a/\": {\"auth\": \"" BOB "\"}, \"reg\": {\"auth\": \"" ALICE "\"}}}",
         "reg", "a/b", "bob", "pa:ss", NULL},
        {"{\"auths\": {\"reg/a/b\": {\"auth\": \"" BOB "\"}}}", "reg", "a", NULL, NULL, NULL},
        /* Trouble in what is about others */
        {"{\"auths\": {\"other\": {\"auth\": \"!\"}, \"o2\": 7, \"reg\": {\"auth\": \"" ALICE "\"}}, \"x\": [1]}",
         "reg", "a", "alice", "secret", NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct sm_error err = SM_ERROR_INIT;
        struct auth_found f;

        if (auth_config_parse(&f, table[i].json, strlen(table[i].json), table[i].host, table[i].repository, &err) < 0)
            fail_msg("%s: %s", table[i].json, err.text);
        assert_null(f.helper);
        check(table[i].json, &f.stored, table[i].user, table[i].password, table[i].token);
        auth_found_done(&f);
    }
}

static void test_bad_entries(void **state)
{
    static const struct {
        const char *json, *says;
    } table[] = {
        {"", "JSON"},
        {"[]", "JSON object"},
        {"{\"auths\": []}", "\"auths\""},
        {"{\"auths\": {\"reg\": \"" ALICE "\"}}", "\"reg\""},
        {"{\"auths\": {\"reg\": {\"auth\": 1}}}", "\"auth\""},
        {"{\"auths\": {\"reg\": {\"auth\": \"YWxpY2U6c2VjcmV0*\"}}}", "base64"},
        {"{\"auths\": {\"reg\": {\"auth\": \"YWxpY2U6c2VjcmV0Y\"}}}", "base64"},
        {"{\"auths\": {\"reg\": {\"auth\": \"YWxpY2U6c2VjcmV0=\"}}}", "base64"},
        {"{\"auths\": {\"reg\": {\"auth\": \"YWx=Y2U6c2VjcmV0\"}}}", "base64"},
        {"{\"auths\": {\"reg\": {\"auth\": \"YWxpY2U\"}}}", "base64"},
        {"{\"auths\": {\"reg\": {\"auth\": \"====\"}}}", "base64"},
        {"{\"auths\": {\"reg\": {\"auth\": \"YWxpY2U=\"}}}", "USER:PASSWORD"},       /* alice */
        {"{\"auths\": {\"reg\": {\"auth\": \"OnNlY3JldA==\"}}}", "empty"},           /* :secret */
        {"{\"auths\": {\"reg\": {\"auth\": \"YWxpY2U6c2VjCnJldA==\"}}}", "control"}, /* a line end inside */
        {"{\"auths\": {\"reg\": {\"auth\": \"YWwAaWNlOnNlY3JldA==\"}}}", "control"}, /* a zero byte inside */
        {"{\"auths\": {\"reg\": {\"identitytoken\": \"secret\\n\"}}}", "control"},
        {"{\"auths\": {\"reg\": {\"username\": \"a\\tb\", \"password\": \"secret\"}}}", "control"},
        {"{\"credHelpers\": []}", "credHelpers"},
        {"{\"credHelpers\": {\"reg\": 1}}", "reg"},
        {"{\"credsStore\": {}}", "credsStore"},
        {"{\"auths\": {\"reg\": {\"auth\": \"" ALICE "\"}}, \"auths\": {}}", "twice"},
    };
    struct sm_error err = SM_ERROR_INIT;
    size_t n = 0, cap = AUTH_ENTRIES_MAX * 20 + 100;
    struct auth_found f;
    char *many = malloc(cap);

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        if (auth_config_parse(&f, table[i].json, strlen(table[i].json), "reg", "a", &err) >= 0)
            fail_msg("accepted: %s", table[i].json);
        if (!strstr(err.text, table[i].says) || strstr(err.text, "secret") || strstr(err.text, "c2VjcmV0"))
            fail_msg("%s: %s", table[i].json, err.text);
    }
    n = (size_t)sprintf(many, "{\"auths\": {");
    for (int i = 0; i <= AUTH_ENTRIES_MAX; i++)
        n += (size_t)sprintf(many + n, "%s\"h%d\": {}", i ? ", " : "", i);
    n += (size_t)sprintf(many + n, "}}");
    assert_int_equal(auth_config_parse(&f, many, n, "reg", "a", &err), -E2BIG);
    free(many);
}

static void test_which_helper(void **state)
{
    static const struct {
        const char *json, *host, *helper, *server;
    } table[] = {
        {"{\"credsStore\": \"store\"}", "reg:5000", "store", "reg:5000"},
        {"{\"credsStore\": \"store\"}", "docker.io", "store", HUB},
        {"{\"credsStore\": \"\"}", "reg", NULL, NULL},
        {"{\"credHelpers\": {\"reg\": \"own\"}, \"credsStore\": \"store\"}", "reg", "own", "reg"},
        {"{\"credHelpers\": {\"reg\": \"own\"}, \"credsStore\": \"store\"}", "other", "store", "other"},
        {"{\"credHelpers\": {\"reg\": \"\"}, \"credsStore\": \"store\"}", "reg", NULL, NULL},
        {"{\"credHelpers\": {\"https://reg\": \"own\"}}", "reg", "own", "https://reg"},
        {"{\"credHelpers\": {\"" HUB "\": \"own\"}}", "docker.io", "own", HUB},
        {"{\"credHelpers\": {\"docker.io\": \"own\"}}", "docker.io", "own", "docker.io"},
        {"{\"credHelpers\": {\"reg/a\": \"own\"}}", "reg", NULL, NULL},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct sm_error err = SM_ERROR_INIT;
        struct auth_found f;

        if (auth_config_parse(&f, table[i].json, strlen(table[i].json), table[i].host, "a", &err) < 0)
            fail_msg("%s: %s", table[i].json, err.text);
        if (!f.helper != !table[i].helper ||
            (f.helper && (strcmp(f.helper, table[i].helper) || strcmp(f.server, table[i].server))))
            fail_msg("%s: %s asked about %s", table[i].json, f.helper ? f.helper : "none", f.server ? f.server : "-");
        auth_found_done(&f);
    }
}

static void one_entry(const char *name, const char *user)
{
    char text[200];

    snprintf(text, sizeof(text), "{\"auths\": {\"reg\": {\"username\": \"%s\", \"password\": \"p\"}}}", user);
    put(name, text);
}

static void set_env(const char *name, const char *below)
{
    char path[300];

    snprintf(path, sizeof(path), "%s/%s", dir, below);
    setenv(name, path, 1);
}

static void test_order(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;
    char path[300];

    expect(NULL, "reg", "a", NULL, NULL, NULL);
    one_entry("home/.docker/config.json", "docker");
    expect(NULL, "reg", "a", "docker", "p", NULL);
    one_entry("home/.config/containers/auth.json", "home");
    expect(NULL, "reg", "a", "home", "p", NULL);
    set_env("XDG_CONFIG_HOME", "xdg");
    expect(NULL, "reg", "a", "docker", "p", NULL);
    one_entry("xdg/containers/auth.json", "xdg");
    expect(NULL, "reg", "a", "xdg", "p", NULL);
    put("run/containers/auth.json", "");
    expect(NULL, "reg", "a", "xdg", "p", NULL);
    put("run/containers/auth.json", "{\"auths\": {\"other\": {\"auth\": \"" ALICE "\"}, \"reg\": {}}}");
    expect(NULL, "reg", "a", "xdg", "p", NULL);
    one_entry("run/containers/auth.json", "run");
    expect(NULL, "reg", "a", "run", "p", NULL);
    expect(NULL, "other", "a", NULL, NULL, NULL);
    /* Where the user has said which, no other is looked at. */
    set_env("DOCKER_CONFIG", "conf");
    expect(NULL, "reg", "a", NULL, NULL, NULL);
    one_entry("conf/config.json", "conf");
    expect(NULL, "reg", "a", "conf", "p", NULL);
    set_env("REGISTRY_AUTH_FILE", "named.json");
    expect(NULL, "reg", "a", NULL, NULL, NULL);
    one_entry("named.json", "named");
    expect(NULL, "reg", "a", "named", "p", NULL);
    snprintf(path, sizeof(path), "%s/given.json", dir);
    assert_int_equal(auth_find(&c, path, "reg", "a", &err), -ENOENT);
    assert_non_null(strstr(err.text, "given.json"));
    one_entry("given.json", "given");
    expect(path, "reg", "a", "given", "p", NULL);
}

static void refuse(int code, const char *says)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;
    int r = auth_find(&c, NULL, "reg", "a", &err);

    if (r != -code || !strstr(err.text, says) || !strstr(err.text, "config.json"))
        fail_msg("%d: %s", r, r < 0 ? err.text : "not refused");
}

static void test_bad_files(void **state)
{
    char path[300], *big = malloc(AUTH_FILE_MAX + 1);

    put("home/.docker/config.json", "{\"auths\": {\"reg\": {\"auth\": \"%%%\"}}}");
    refuse(EBADMSG, "base64");
    put("home/.docker/config.json", "nonsense");
    refuse(EBADMSG, "JSON");
    memset(big, ' ', AUTH_FILE_MAX + 1);
    memcpy(big, "{}", 2);
    write_file(dir, "home/.docker/config.json", big, AUTH_FILE_MAX + 1);
    refuse(EFBIG, "larger");
    write_file(dir, "home/.docker/config.json", big, AUTH_FILE_MAX);
    expect(NULL, "reg", "a", NULL, NULL, NULL);
    free(big);
    snprintf(path, sizeof(path), "%s/home/.docker/config.json", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0); /* opening it must not wait for a writer */
    refuse(EINVAL, "regular");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    refuse(EINVAL, "regular");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(symlink("config.json", path), 0);
    refuse(ELOOP, "cannot be read");
}

static void test_unreadable(void **state)
{
    static const char *const open_dirs[] = {"", "/home", "/home/.docker"};
    char path[300];
    pid_t pid;
    int status;

    if (geteuid() != 0) {
        print_message("needs another user's file: not root\n");
        skip();
    }
    one_entry("home/.docker/config.json", "u");
    for (size_t i = 0; i < ARRAY_SIZE(open_dirs); i++) {
        snprintf(path, sizeof(path), "%s%s", dir, open_dirs[i]);
        assert_int_equal(chmod(path, 0755), 0);
    }
    snprintf(path, sizeof(path), "%s/home/.docker/config.json", dir);
    assert_int_equal(chmod(path, 0600), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct sm_error err = SM_ERROR_INIT;
        struct credentials c;

        if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
            _exit(2);
        _exit(auth_find(&c, NULL, "reg", "a", &err) == -EACCES && strstr(err.text, "config.json") ? 0 : 1);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Helpers */

static int ask(struct credentials *ret, const char *name, const char *server, int timeout_ms, struct sm_error *err)
{
    *err = (struct sm_error)SM_ERROR_INIT;
    return auth_helper_get(ret, name, server, timeout_ms, err);
}

static void test_helper(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;
    char *server = malloc(4097);

    helper("good", "[ \"$*\" = get ] || exit 9\n"
                   "printf '{\"ServerURL\": \"x\", \"Username\": \"user of %s\", \"Secret\": \"pw\"}\\n' \"$(cat)\"");
    assert_int_equal(ask(&c, "good", "reg:5000", 60000, &err), 1);
    check("good", &c, "user of reg:5000", "pw", NULL);
    credentials_done(&c);
    memset(server, 's', 4096);
    server[4096] = '\0';
    assert_int_equal(ask(&c, "good", server, 60000, &err), 1);
    assert_int_equal(strlen(c.username), strlen("user of ") + 4096);
    credentials_done(&c);
    free(server);
    helper("token.x_1-2", "echo '{\"Username\": \"<token>\", \"Secret\": \"idt\"}'; echo warning >&2");
    assert_int_equal(ask(&c, "token.x_1-2", "reg", 60000, &err), 1);
    check("token", &c, NULL, NULL, "idt");
    credentials_done(&c);
    helper("none", "echo 'credentials not found in native keychain'; exit 1");
    assert_int_equal(ask(&c, "none", "reg", 60000, &err), 0);
    helper("empty", "echo '{\"ServerURL\": \"\", \"Username\": \"\", \"Secret\": \"\"}'");
    assert_int_equal(ask(&c, "empty", "reg", 60000, &err), 0);
    /* It does not read, leaves somebody behind that holds its pipes, and only then tells. */
    helper("deaf", "sleep 60 & echo \"{\\\"Username\\\": \\\"u\\\", \\\"Secret\\\": \\\"$!\\\"}\"");
    assert_int_equal(ask(&c, "deaf", "reg", 30000, &err), 1);
    assert_int_equal(kill((pid_t)atoi(c.password), SIGKILL), 0);
    credentials_done(&c);
    /* It says much on standard error before. */
    helper("wordy", "head -c 300000 /dev/zero >&2; echo '{\"Username\": \"u\", \"Secret\": \"s\"}'");
    assert_int_equal(ask(&c, "wordy", "reg", 60000, &err), 1);
    credentials_done(&c);
}

static void test_bad_helper(void **state)
{
    static const struct {
        const char *name, *script;
        int code;
        const char *says;
    } table[] = {
        {"fails", "echo secret; echo 'the vault\nis \033[31mclosed' >&2; exit 3", EACCES, "the vault is ?[31mclosed"},
        {"mute", "echo secret; exit 1", EACCES, "nothing on standard error"},
        {"killed", "echo secret; kill -9 $$", EACCES, "docker-credential-killed failed"},
        {"silent", "true", EBADMSG, "JSON"},
        {"garbage", "echo secret", EBADMSG, "JSON"},
        {"half", "echo '{\"Username\": \"u\"}'", EBADMSG, "Secret"},
        {"nobody", "echo '{\"Secret\": \"secret\"}'", EBADMSG, "Username"},
        {"typed", "echo '{\"Username\": [\"secret\"], \"Secret\": 7}'", EBADMSG, "Username"},
        {"lines", "echo '{\"Username\": \"u\", \"Secret\": \"secret\\n\"}'", EBADMSG, "control"},
        {"names", "echo '{\"Username\": \"u\\u0007\", \"Secret\": \"secret\"}'", EBADMSG, "control"},
        {"endless", "while :; do echo secret; done", EFBIG, "64 KiB"},
        {"long", "head -c 65537 /dev/zero", EFBIG, "64 KiB"},
    };
    static const char *const bad_names[] = {
        "",     "a/b", "../x", "x;true",    "x y",
        "$(x)", ".x",  "x\n",  "-\xc3\xa9", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;
    uint64_t begin;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        int r;

        helper(table[i].name, table[i].script);
        r = ask(&c, table[i].name, "reg", 60000, &err);
        if (r != -table[i].code || !strstr(err.text, table[i].says) || strstr(err.text, "secret"))
            fail_msg("%s: %d: %s", table[i].name, r, err.text);
        assert_non_null(strstr(err.text, table[i].name));
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad_names); i++)
        assert_int_equal(ask(&c, bad_names[i], "reg", 60000, &err), -EINVAL);
    assert_int_equal(ask(&c, "missing", "reg", 60000, &err), -ENOENT);
    assert_non_null(strstr(err.text, "docker-credential-missing"));
    put("bin/docker-credential-plain", "#!/bin/sh\n");
    assert_int_equal(ask(&c, "plain", "reg", 60000, &err), -ENOENT);
    helper("stuck", "echo waiting for nobody >&2; exec sleep 60");
    begin = io_now_ns();
    assert_int_equal(ask(&c, "stuck", "reg", 1000, &err), -ETIMEDOUT);
    assert_true(io_now_ns() - begin < 30ull * 1000000000);
    assert_non_null(strstr(err.text, "stuck"));
    helper("closed", "exec >&- 2>&-; exec sleep 60");
    assert_int_equal(ask(&c, "closed", "reg", 300, &err), -ETIMEDOUT);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left behind */
}

/* What lies in the working directory is no helper, whatever $PATH says. */
static void test_path(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;
    char path[300], before[300];

    assert_non_null(getcwd(before, sizeof(before)));
    helper("here", "echo '{\"Username\": \"u\", \"Secret\": \"s\"}'");
    snprintf(path, sizeof(path), "%s/bin", dir);
    assert_int_equal(chdir(path), 0);
    setenv("PATH", ".::bin:./", 1);
    assert_int_equal(ask(&c, "here", "reg", 60000, &err), -ENOENT);
    setenv("PATH", path, 1);
    assert_int_equal(ask(&c, "here", "reg", 60000, &err), 1);
    credentials_done(&c);
    assert_int_equal(chdir(before), 0);
}

/* Files and helpers together */
static void test_found_by_helper(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;

    helper("known", "read -r s; [ \"$s\" = reg ] || { echo 'credentials not found in native keychain'; exit 1; }\n"
                    "echo '{\"Username\": \"h\", \"Secret\": \"s\"}'");
    put("home/.docker/config.json",
        "{\"credsStore\": \"known\", \"auths\": {\"reg\": {\"auth\": \"" ALICE "\"}, \"b\": {\"auth\": \"" BOB "\"}}}");
    expect(NULL, "reg", "a", "h", "s", NULL);
    expect(NULL, "b", "a", "bob", "pa:ss", NULL);
    expect(NULL, "c", "a", NULL, NULL, NULL);
    put("run/containers/auth.json", "{\"credHelpers\": {\"reg\": \"absent\"}}");
    assert_int_equal(auth_find(&c, NULL, "reg", "a", &err), -ENOENT);
    assert_non_null(strstr(err.text, "docker-credential-absent"));
    assert_non_null(strstr(err.text, "run/containers/auth.json"));
    expect(NULL, "b", "a", "bob", "pa:ss", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_bad_entries),
        cmocka_unit_test(test_which_helper),
        cmocka_unit_test_setup_teardown(test_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unreadable, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_helper, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_helper, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_path, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_found_by_helper, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
