/* SPDX-License-Identifier: Apache-2.0 */
/* See pull_fixture.h. */
#include "pull_fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
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

char *pull_dir;
struct oci_store *pull_store;

/* Makers of what the registry has */

struct object add(const void *data, size_t len)
{
    return (struct object){fake_registry_add(data, len), len};
}

struct object add_layer(char name, size_t size)
{
    char *data = malloc(size), path[] = {name, '\0'};
    struct buf tar = buf_init(64 << 20);
    struct object o;

    for (size_t i = 0; i < size; i++)
        data[i] = (char)((i + (unsigned char)name) * 2654435761u >> 11);
    tar_add(&tar, path, '0', NULL, data, size);
    tar_end(&tar);
    o = add(tar.data, tar.len);
    buf_done(&tar);
    free(data);
    return o;
}

void describe(char *to, size_t size, const char *type, const struct object *o)
{
    char name[DIGEST_STR_SIZE];

    digest_str(&o->digest, name);
    snprintf(to, size, "{\"mediaType\": \"%s\", \"size\": %zu, \"digest\": \"%s\"}", type, o->len, name);
}

/* Layers that are no layers to somebody are those of another type than LAYER_TYPE. */
struct object add_image_of(const char *arch, const char *layer_type, const struct object *layers, unsigned n)
{
    char text[8000], *p = text, d[500], name[DIGEST_STR_SIZE];
    struct object config;

    p += sprintf(p, "{\"os\": \"linux\", \"architecture\": \"%s\", \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [",
                 arch);
    for (unsigned i = 0; i < n; i++) {
        digest_str(&layers[i].digest, name);
        p += sprintf(p, "%s\"%s\"", i ? ", " : "", name);
    }
    p += sprintf(p, "]}}");
    config = add(text, (size_t)(p - text));
    describe(d, sizeof(d), CONFIG_TYPE, &config);
    p = text + sprintf(text, "{\"schemaVersion\": 2, \"config\": %s, \"layers\": [", d);
    for (unsigned i = 0; i < n; i++) {
        describe(d, sizeof(d), layer_type, &layers[i]);
        p += sprintf(p, "%s%s", i ? ", " : "", d);
    }
    p += sprintf(p, "]}");
    return add(text, (size_t)(p - text));
}

struct object add_image(const struct object *layers, unsigned n)
{
    return add_image_of("amd64", LAYER_TYPE, layers, n);
}

struct object add_index(const struct object *items, const char *type, unsigned n)
{
    char text[8000], *p = text, d[500];

    p += sprintf(p, "{\"schemaVersion\": 2, \"manifests\": [");
    for (unsigned i = 0; i < n; i++) {
        describe(d, sizeof(d), type, &items[i]);
        p += sprintf(p, "%s%s", i ? ", " : "", d);
    }
    p += sprintf(p, "]}");
    return add(text, (size_t)(p - text));
}

/* Asking for it */

int try_pull(const char *name, const struct oci_events *events, struct oci_pull_result *ret, struct sm_error *err)
{
    struct oci_open_options options = {.platform = "linux/amd64", .events = events};
    struct oci_ref ref = OCI_REF_INIT;
    int r;

    *err = (struct sm_error)SM_ERROR_INIT;
    assert_int_equal(ref_parse(&ref, name, err), 0);
    r = oci_pull(pull_store, &ref, &options, ret, err);
    ref_done(&ref);
    return r;
}

struct oci_pull_result pull(const char *name)
{
    struct oci_pull_result result;
    struct sm_error err;

    if (try_pull(name, NULL, &result, &err) < 0)
        fail_msg("%s", err.text);
    return result;
}

void pull_fails(const char *name, int code, const char *word)
{
    struct sm_error err;

    assert_int_equal(try_pull(name, NULL, NULL, &err), -code);
    if (!strstr(err.text, word))
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
}

const char *open_platform = "linux/amd64";

int try_open(const char *name, enum oci_pull_policy policy, struct sm_error *err)
{
    struct oci_open_options options = {.platform = open_platform, .policy = policy};
    const struct oci_extent *extents;
    struct oci_image *img;
    int r;

    *err = (struct sm_error)SM_ERROR_INIT;
    r = oci_image_open(&img, pull_store, name, &options, err);
    if (r < 0)
        return r;
    assert_true(oci_image_extents(img, &extents) > 0);
    oci_image_free(img);
    return 0;
}

void opens(const char *name, enum oci_pull_policy policy)
{
    struct sm_error err;

    if (try_open(name, policy, &err) < 0)
        fail_msg("%s", err.text);
}

void open_fails(const char *name, enum oci_pull_policy policy, int code, const char *word)
{
    struct sm_error err;

    assert_int_equal(try_open(name, policy, &err), -code);
    if (!strstr(err.text, word))
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
}

/* Looking at the store */

void path_of(char path[600], const char *sub, const struct digest *d)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(d, hex);
    snprintf(path, 600, "%s/%s/%s", pull_dir, sub, hex);
}

int64_t size_of(const char *sub, const struct digest *d)
{
    char path[600];
    struct stat st;

    path_of(path, sub, d);
    return stat(path, &st) < 0 ? -1 : (int64_t)st.st_size;
}

unsigned count(const char *sub)
{
    char path[600];
    unsigned n = 0;
    DIR *d;

    snprintf(path, sizeof(path), "%s/%s", pull_dir, sub);
    d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

void nothing_is_named(void)
{
    assert_int_equal(count("names"), 0);
    assert_int_equal(count("tmp"), 0);
}

void remove_layer(const struct digest *d)
{
    char path[600], file[700];

    path_of(path, "layers", d);
    snprintf(file, sizeof(file), "%s/data", path);
    assert_int_equal(unlink(file), 0);
    snprintf(file, sizeof(file), "%s/index", path);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(path), 0);
}

void remove_blob(const struct digest *d)
{
    char path[600];

    path_of(path, "blobs", d);
    assert_int_equal(unlink(path), 0);
}

void put_file(const char *sub, const struct digest *d, const void *data, size_t len)
{
    char hex[DIGEST_HEX_SIZE], name[100], path[600];

    digest_hex(d, hex);
    snprintf(name, sizeof(name), "%s/%s", sub, hex);
    path_of(path, sub, d);
    unlink(path);
    write_file(pull_dir, name, data, len);
}

int pull_set_up(void **state)
{
    fake_registry_reset();
    pull_dir = temp_dir();
    return oci_store_open(&pull_store, pull_dir, NULL);
}

int pull_tear_down(void **state)
{
    oci_store_free(pull_store);
    temp_dir_remove(pull_dir);
    fake_registry_reset();
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left */
    return 0;
}

int on_event(void *ctx, const struct oci_event *e)
{
    struct stopper *s = ctx;

    assert_true(!e->total || e->done <= e->total);
    if (e->what <= OCI_EVENT_DONE)
        s->seen[e->what]++;
    s->layers_done += e->what == OCI_EVENT_DONE && e->layer;
    return e->what == s->at && e->done >= s->done && s->act ? s->act() : 0;
}
