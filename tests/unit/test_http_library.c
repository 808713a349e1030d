/* SPDX-License-Identifier: Apache-2.0 */
/* Systems whose libcurl is not there, or not what is needed. Linked with --wrap for dlopen and dlsym. */
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "oci/http.h"

static const char *opened; /* what was asked for last */
static const char *hidden; /* a function that is not in it */
static bool missing;
static curl_version_info_data version;

void *__real_dlopen(const char *name, int flags);
void *__wrap_dlopen(const char *name, int flags);
void *__real_dlsym(void *library, const char *name);
void *__wrap_dlsym(void *library, const char *name);

void *__wrap_dlopen(const char *name, int flags)
{
    opened = name;
    return missing ? NULL : __real_dlopen(name, flags);
}

static curl_version_info_data *old_version(CURLversion stamp)
{
    return &version;
}

void *__wrap_dlsym(void *library, const char *name)
{
    if (hidden && !strcmp(name, hidden))
        return NULL;
    if (version.version && !strcmp(name, "curl_version_info"))
        return (void *)(uintptr_t)old_version;
    return __real_dlsym(library, name);
}

static void expect(int code, const char *text)
{
    static const struct http_options o = {1000, 1, 1};
    struct sm_error err = SM_ERROR_INIT;
    struct http *h = NULL;

    assert_int_equal(http_new(&h, &o, &err), -code);
    if (code && !strstr(err.text, text))
        fail_msg("\"%s\" is not in: %s", text, err.text);
    http_free(h);
}

static void test_library(void **state)
{
    expect(0, NULL);
    assert_string_equal(opened, "libcurl.so.4");
    missing = true;
    expect(ENOSYS, "Debian's package is libcurl4");
    missing = false;
    hidden = "curl_multi_poll";
    expect(ENOSYS, "has no curl_multi_poll");
    hidden = NULL;
    version = (curl_version_info_data){.version = "7.74.0", .version_num = 0x074a00, .features = CURL_VERSION_SSL};
    expect(ENOSYS, "version 7.74.0, 7.88 or newer is needed");
    version.version_num = 0x075800;
    version.features = 0;
    expect(ENOSYS, "without TLS");
    version.features = CURL_VERSION_SSL;
    expect(0, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_library)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
