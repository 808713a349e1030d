/* SPDX-License-Identifier: Apache-2.0 */
/* See registry_fixture.h. */
#include "registry_fixture.h"

#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"

int registry_fixture_setup(void **state)
{
    static const char *const gone[] = {"DOCKER_CONFIG",      "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME",
                                       "http_proxy",         "https_proxy",        "HTTP_PROXY",      "HTTPS_PROXY",
                                       "ALL_PROXY",          "all_proxy",          "NO_PROXY",        "no_proxy",
                                       "SUPERMACHINE_CONFIG"};
    char *dir = strdup("/tmp/registry-test-XXXXXX");

    if (!dir || !mkdtemp(dir))
        return -1;
    for (size_t i = 0; i < ARRAY_SIZE(gone); i++)
        unsetenv(gone[i]);
    setenv("HOME", dir, 1);
    *state = dir;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
    return remove(path);
}

int registry_fixture_teardown(void **state)
{
    int r = nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);

    free(*state);
    return r;
}

char *fixture_path(void **state, const char *name)
{
    char *path;

    assert_true(asprintf(&path, "%s/%s", (char *)*state, name) > 0);
    return path;
}

void fixture_write(void **state, const char *name, const char *text)
{
    char *path = fixture_path(state, name);
    FILE *f;

    for (char *p = path + strlen(*state) + 1; (p = strchr(p, '/')); p++) { /* directories on the way */
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
    free(path);
}

struct digest digest_of_text(const char *s)
{
    struct digest d;

    assert_int_equal(digest_of(&d, s, strlen(s), NULL), 0);
    return d;
}

struct registry_options fixture_options(void)
{
    return (struct registry_options){.plain_http = true, .backoff_ms = 1, .connect_timeout_ms = 5000};
}

struct registry *fixture_open(const struct http_server *s, const struct registry_options *o)
{
    struct registry_options usual = fixture_options();
    struct sm_error err = SM_ERROR_INIT;
    struct registry *r;
    char host[64];

    snprintf(host, sizeof(host), "127.0.0.1:%u", server_port(s));
    if (registry_open(&r, o ? o : &usual, host, "a/b", &err) < 0)
        fail_msg("%s", err.text);
    return r;
}

void expect_manifest(struct registry *r)
{
    struct sm_error err = SM_ERROR_INIT;
    struct digest got, want = digest_of_text(MANIFEST);
    char media[REGISTRY_MEDIA_SIZE];
    size_t len;
    void *data;

    if (registry_manifest(r, "t", NULL, &data, &len, &got, media, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(data, MANIFEST);
    assert_int_equal(len, strlen(MANIFEST));
    assert_true(digest_equal(&got, &want));
    assert_string_equal(media, OCI_MANIFEST);
    free(data);
}

void expect_failure(struct registry *r, int code, const char *text)
{
    struct sm_error err = SM_ERROR_INIT;
    struct digest got;
    char media[REGISTRY_MEDIA_SIZE];
    size_t len;
    void *data;

    assert_int_equal(registry_manifest(r, "t", NULL, &data, &len, &got, media, &err), -code);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" is not in: %s", text, err.text);
}

bool reply_manifest(const struct server_request *q)
{
    return server_reply(q, "200 OK", "Content-Type: " OCI_MANIFEST "; charset=utf-8\r\n", MANIFEST, strlen(MANIFEST));
}

bool reply_404(const struct server_request *q)
{
    return server_reply(q, "404 Not Found", NULL, NULL, 0);
}
