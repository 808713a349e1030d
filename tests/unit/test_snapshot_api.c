/* SPDX-License-Identifier: Apache-2.0 */
/* The public interface to the store of snapshots: names, records, JSON, removal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "lib/snapshot_object.h"
#include "oci/json.h"
#include "oci/names.h"
#include "oci_fixture.h"
#include "snap/limits.h"
#include "snapshot_fixture.h"

#define LAYERS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct sm_error err;
static char app_id[DIGEST_STR_SIZE];

static struct sm_store *open_store(const struct store_fixture *f)
{
    struct sm_store *store;

    assert_int_equal(sm_store_open(&store, f->dir, &err), 0);
    return store;
}

/* abcd...: a base, 1234...: a difference to it, 1234f...: another of the same image, all of an image that is there. */
#define BASE                                                                                                           \
    "abcd"                                                                                                             \
    "000000000000000000000000000000000000000000000000000000000000"
#define ONE                                                                                                            \
    "1234"                                                                                                             \
    "000000000000000000000000000000000000000000000000000000000000"
#define TWO                                                                                                            \
    "1234f"                                                                                                            \
    "00000000000000000000000000000000000000000000000000000000000"

static void fill(struct store_fixture *f)
{
    struct digest app = image_put(f->s, "docker.io/library/app:1.2", LAYERS("base"), "x");
    struct snapshot *base = snapshot_put(f->s, BASE, NULL, NULL, 1);

    digest_str(&app, app_id);
    snapshot_unref(snapshot_put(f->s, ONE, app_id, base, 2));
    snapshot_unref(snapshot_put(f->s, TWO, app_id, base, 3));
    snapshot_unref(base);
}

static void records_tell_all(void **state)
{
    struct store_fixture *f = *state;
    struct sm_snapshot_record *list;
    struct sm_store *store;

    fill(f);
    store = open_store(f);
    assert_int_equal(sm_snapshot_list(&list, store, &err), 0);
    assert_string_equal(list->key, ONE);
    assert_int_equal(list->kind, SM_SNAPSHOT_BAKE);
    assert_string_equal(list->base, BASE);
    assert_string_equal(list->image, "app:1.2");
    assert_string_equal(list->image_id, app_id);
    assert_string_equal(list->platform, "linux/amd64");
    assert_string_equal(list->trigger, "pre-exec");
    assert_string_equal(list->tag, "");
    assert_string_equal(list->version, sm_version());
    assert_null(list->problem);
    assert_int_equal(list->memory_mib, FIXTURE_MIB);
    assert_int_equal(list->vcpus, 2);
    assert_true(list->created > 1700000000 && list->used > 1700000000);
    assert_true(list->disk_bytes >= SNAP_PAGE && list->disk_bytes < MIB);
    assert_string_equal(list->next->key, TWO);
    assert_string_equal(list->next->next->key, BASE);
    assert_int_equal(list->next->next->kind, SM_SNAPSHOT_BASE);
    assert_null(list->next->next->base);
    assert_null(list->next->next->image);
    assert_null(list->next->next->next);
    sm_snapshot_records_free(list);

    flip(snapshot_path(f, ONE, "metadata.json"), 50);
    assert_int_equal(truncate(snapshot_path(f, BASE, "memory"), 5), 0);
    assert_int_equal(sm_snapshot_list(&list, store, &err), 0); /* with what is wrong */
    assert_string_equal(list->key, TWO);
    assert_non_null(strstr(list->problem, "its base's memory is truncated"));
    assert_string_equal(list->next->key, ONE);
    assert_non_null(strstr(list->next->problem, "its metadata is not right"));
    assert_string_equal(list->next->version, "");
    sm_snapshot_records_free(list);
    sm_store_free(store);
}

static void inspect_is_json(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store;
    struct json *doc;
    const char *s;
    uint64_t n;
    char *text, path[600], **cmd;

    fill(f);
    store = open_store(f);
    assert_int_equal(sm_snapshot_inspect(&text, store, "12340", &err), 0);
    assert_int_equal(json_parse(&doc, text, strlen(text), &err), 0);
    sm_string_free(text);
    assert_int_equal(json_get_string(doc, "Key", true, &s, &err), 0);
    assert_string_equal(s, ONE);
    assert_int_equal(json_get_string(doc, "Image", true, &s, &err), 0);
    assert_string_equal(s, "app:1.2");
    assert_int_equal(json_get_string(doc, "Path", true, &s, &err), 0);
    assert_string_equal(s, snapshot_path(f, ONE, ""));
    assert_int_equal(json_get_string(doc, "Problem", true, &s, &err), 0);
    assert_string_equal(s, "");
    assert_int_equal(json_get_u64(doc, "MemoryMiB", true, &n, &err), 0);
    assert_int_equal(n, FIXTURE_MIB);
    assert_int_equal(json_get_strings(doc, "Cmd", 10, &cmd, &err), 0);
    assert_string_equal(cmd[2], "echo \"hello\"\n");
    strings_free(cmd);
    json_free(doc);

    snprintf(path, sizeof(path), "%s", snapshot_path(f, BASE, ""));
    flip(snapshot_path(f, BASE, "metadata.json"), 50);
    assert_int_equal(sm_snapshot_inspect(&text, store, path, &err), 0);
    assert_non_null(strstr(text, "{\"Key\":\"\",\"Used\":"));
    assert_non_null(strstr(text, "\"Problem\":\"its metadata is not right"));
    sm_string_free(text);
    sm_store_free(store);
}

static void assert_found(struct sm_store *store, const char *name, const char *key)
{
    struct sm_snapshot *s;

    if (sm_snapshot_open(&s, store, name, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(s->s->meta.key, key);
    sm_snapshot_free(s);
}

static void assert_not_found(struct sm_store *store, const char *name, int code, const char *text)
{
    struct sm_snapshot *s;

    assert_int_equal(sm_snapshot_open(&s, store, name, &err), -code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void names(void **state)
{
    struct store_fixture *f = *state;
    struct sm_store *store;
    struct sm_snapshot_options force = SM_SNAPSHOT_OPTIONS_INIT;

    fill(f);
    store = open_store(f);
    assert_found(store, BASE, BASE);
    assert_found(store, "abcd", BASE);
    assert_found(store, "12340", ONE);
    assert_found(store, "1234f", TWO);
    assert_found(store, snapshot_path(f, ONE, ""), ONE);
    assert_not_found(store, "1234", EEXIST, "means 2 snapshots: 123400000000 (bake pre-exec, 32 MiB), 1234f0000000");
    assert_not_found(store, "app:1.2", EEXIST, "means 2 snapshots");
    assert_not_found(store, "abc", ENOENT, "there is no snapshot \"abc\"");
    assert_not_found(store, "abce", ENOENT, "there is no snapshot");
    assert_not_found(store, "", ENOENT, "there is no snapshot");
    assert_not_found(store, "app:1.3", ENOENT, "there is no snapshot");
    assert_not_found(store, "./nothing", ENOENT, "nothing");
    assert_int_equal(sm_snapshot_remove(store, "1234f", NULL, NULL, &err), 0);
    assert_found(store, "app:1.2", ONE);
    assert_found(store, "docker.io/library/app:1.2", ONE);
    assert_found(store, app_id, ONE);
    force.force = 1;
    assert_int_equal(names_remove(f->s, "docker.io/library/app:1.2", NULL, &err), 0); /* the image is nobody's now */
    assert_found(store, "app:1.2", ONE);
    assert_int_equal(sm_snapshot_remove(store, "app:1.2", &force, NULL, &err), 0);
    assert_not_found(store, "app:1.2", ENOENT, "there is no snapshot");
    sm_store_free(store);
}

static void what_is_open_stays(void **state)
{
    struct store_fixture *f = *state;
    struct sm_snapshot_options force = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_store *store;
    struct sm_snapshot *s;

    fill(f);
    store = open_store(f);
    force.force = 1;
    assert_int_equal(sm_snapshot_open(&s, store, "12340", &err), 0);
    assert_int_equal(sm_snapshot_remove(store, "abcd", &force, NULL, &err), 0);
    sm_store_free(store);
    assert_int_equal(byte_of_page(s->s, 5), 1);
    assert_int_equal(byte_of_page(s->s, 7), 2);
    sm_snapshot_free(s);
}

static void removal(void **state)
{
    struct sm_snapshot_options force = SM_SNAPSHOT_OPTIONS_INIT;
    struct sm_removal gone = {.size = sizeof(gone)};
    struct store_fixture *f = *state;
    struct sm_store *store;

    fill(f);
    store = open_store(f);
    force.force = 1;
    assert_int_equal(sm_snapshot_remove(store, "abcd", NULL, &gone, &err), -EEXIST);
    assert_non_null(strstr(err.text, "the base of 2 others"));
    assert_int_equal(sm_snapshot_remove(store, "1234", NULL, &gone, &err), -EEXIST);
    assert_int_equal(sm_snapshot_remove(store, "ffff", NULL, &gone, &err), -ENOENT);
    assert_int_equal(sm_snapshot_remove(store, "ffff", &force, &gone, &err), 0);
    assert_int_equal(gone.objects, 0);
    assert_int_equal(sm_snapshot_remove(store, snapshot_path(f, ONE, ""), &force, &gone, &err), -EINVAL);
    assert_int_equal(count_in(f, "snapshots"), 3);
    assert_int_equal(sm_snapshot_remove(store, "12340", NULL, &gone, &err), 0);
    assert_int_equal(gone.objects, 1);
    assert_true(gone.freed_bytes >= SNAP_PAGE);
    assert_int_equal(sm_snapshot_remove(store, "abcd", &force, &gone, &err), 0);
    assert_int_equal(gone.objects, 2);
    assert_int_equal(count_in(f, "snapshots"), 0);
    assert_int_equal(count_in(f, "tmp"), 0);
    sm_store_free(store);
}

static int on_event(void *ctx, const struct sm_image_event *e)
{
    assert_int_equal(e->kind, SM_IMAGE_CHECKING);
    assert_true(e->done <= e->total);
    return ++*(int *)ctx > 1;
}

static void verification(void **state)
{
    struct sm_snapshot_options o = SM_SNAPSHOT_OPTIONS_INIT;
    struct store_fixture *f = *state;
    struct sm_store *store;
    int calls = 0;

    fill(f);
    store = open_store(f);
    o.event = on_event;
    o.event_ctx = &calls;
    assert_int_equal(sm_snapshot_verify(store, "12340", &o, &err), 0);
    assert_int_equal(sm_snapshot_verify(store, "12340", &o, &err), -ECANCELED);
    flip(snapshot_path(f, ONE, "memory"), 7 * SNAP_PAGE);
    assert_int_equal(sm_snapshot_verify(store, "12340", NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "the snapshot 123400000000: its memory is not what was saved"));
    sm_store_free(store);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)
    static const struct CMUnitTest tests[] = {
        TEST(records_tell_all),   TEST(inspect_is_json), TEST(names),
        TEST(what_is_open_stays), TEST(removal),         TEST(verification),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
