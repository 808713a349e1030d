/* SPDX-License-Identifier: Apache-2.0 */
/* The public store: what callers may leave out, older and newer callers, records, JSON, being stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <supermachine/supermachine.h>

#include "oci/json.h"
#include "oci/names.h"
#include "store_fixture.h"

#define LAYERS(...) ((const char *const[]){__VA_ARGS__, NULL})

static struct sm_error err;

static struct sm_store *open_store(const struct store_fixture *f)
{
    struct sm_store *store;

    if (sm_store_open(&store, f->dir, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(sm_store_path(store), f->dir);
    return store;
}

static void id_of(char id[DIGEST_STR_SIZE], const struct digest *d)
{
    digest_str(d, id);
}

static void a_record_tells_all_about_its_image(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, "docker.io/library/app:1.2", LAYERS("base", "top"), "x");
    struct sm_store *store = open_store(f);
    struct sm_image_record *list;
    char id[DIGEST_STR_SIZE];

    image_put(f->s, "host.example:5000/a/b:latest", LAYERS("base"), "x");
    image_put(f->s, NULL, LAYERS("other"), "x");
    assert_int_equal(sm_store_list(&list, store, &err), 0);
    id_of(id, &one);
    assert_string_equal(list->name, "app:1.2");
    assert_string_equal(list->repository, "app");
    assert_string_equal(list->tag, "1.2");
    assert_string_equal(list->id, id);
    assert_string_equal(list->digest, id);
    assert_string_equal(list->platform, "linux/amd64");
    assert_string_equal(list->source, "");
    assert_int_equal(list->created, 0); /* the configuration does not say */
    assert_true(list->added > 1700000000);
    assert_int_equal(list->used, 0);
    assert_true(list->size > 40000 && list->size < 60000);
    assert_string_equal(list->next->name, "host.example:5000/a/b:latest");
    assert_string_equal(list->next->repository, "host.example:5000/a/b");
    assert_string_equal(list->next->tag, "latest");
    assert_null(list->next->next->name);
    assert_null(list->next->next->repository);
    assert_null(list->next->next->tag);
    assert_null(list->next->next->next);
    sm_image_records_free(list);
    /* Its documents are not there: the rest is told all the same. */
    assert_int_equal(unlink(path_in(f, "blobs", &one, "")), 0);
    assert_int_equal(sm_store_list(&list, store, NULL), 0);
    assert_string_equal(list->name, "app:1.2");
    assert_true(list->size == 0);
    sm_image_records_free(list);
    sm_store_free(store);
}

static void an_empty_store_has_empty_lists(void **state)
{
    struct sm_store *store = open_store(*state);
    struct sm_image_record *list = (struct sm_image_record *)(uintptr_t)8;
    struct sm_image_usage *usages = (struct sm_image_usage *)(uintptr_t)8;

    assert_int_equal(sm_store_list(&list, store, &err), 0);
    assert_null(list);
    assert_int_equal(sm_store_usage(&usages, store, NULL, &err), 0);
    assert_null(usages);
    assert_int_equal(sm_store_usage(NULL, store, NULL, &err), 0);
    assert_int_equal(sm_store_prune(NULL, store, NULL, NULL, &err), 0);
    assert_int_equal(sm_store_fsck(store, NULL, NULL, &err), 0);
    assert_int_equal(sm_store_save(store, (const char *const[]){NULL}, -1, NULL, &err), -EINVAL);
    sm_image_records_free(NULL);
    sm_image_usages_free(NULL);
    sm_history_free(NULL);
    sm_string_free(NULL);
    sm_store_free(store);
    sm_store_free(NULL);
}

static void older_and_newer_callers_are_served_or_told(void **state)
{
    struct sm_store *store = open_store(*state);
    struct {
        struct sm_prune_options o;
        uint64_t more;
    } newer = {.o = {.size = sizeof(newer)}};
    struct sm_store_usage usage;

    /* What we don't know may be 0 only. */
    assert_int_equal(sm_store_prune(NULL, store, &newer.o, NULL, &err), 0);
    newer.more = 1;
    assert_int_equal(sm_store_prune(NULL, store, &newer.o, NULL, &err), -ENOTSUP);
    newer.o.size = 0;
    assert_int_equal(sm_store_prune(NULL, store, &newer.o, NULL, &err), -EINVAL);
    /* Of a result only as much is written as there is room for. */
    memset(&usage, 0x55, sizeof(usage));
    usage.size = offsetof(struct sm_store_usage, blob_bytes);
    assert_int_equal(sm_store_usage(NULL, store, &usage, &err), 0);
    assert_int_equal(usage.images, 0);
    assert_true(usage.blob_bytes == 0x5555555555555555u);
    sm_store_free(store);
}

static void names_are_given_and_taken(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, "docker.io/library/app:1", LAYERS("base", "one"), "x");
    struct digest two = image_put(f->s, "docker.io/library/app:2", LAYERS("base", "two"), "x");
    struct sm_remove_options force = SM_REMOVE_OPTIONS_INIT;
    struct sm_removal removal = {.size = sizeof(removal)};
    struct sm_store *store = open_store(f);
    struct sm_image_record *gone;
    char id[DIGEST_STR_SIZE];

    id_of(id, &one);
    assert_int_equal(sm_store_tag(store, "app:1", "app", &err), 0);
    assert_int_equal(sm_store_tag(store, id + 7, "app:3", &err), 0);
    assert_int_equal(sm_store_tag(store, "app:9", "app:3", &err), -ENOENT);
    assert_int_equal(sm_store_tag(store, "app:1", "oci:dir", &err), -EINVAL);
    assert_int_equal(sm_store_tag(store, "app:1", "App", &err), -EINVAL);
    assert_int_equal(sm_store_remove(NULL, store, id, NULL, NULL, &err), -EEXIST);
    assert_int_equal(sm_store_remove(&gone, store, "app:1", NULL, &removal, &err), 0);
    assert_string_equal(gone->name, "app:1");
    assert_null(gone->next);
    assert_int_equal(removal.names, 1);
    assert_int_equal(removal.objects, 0);
    sm_image_records_free(gone);
    force.force = 1;
    assert_int_equal(sm_store_remove(&gone, store, id, &force, &removal, &err), 0);
    assert_non_null(gone->next);
    assert_true(removal.freed_bytes > 40000 && removal.objects >= 5);
    sm_image_records_free(gone);
    assert_int_equal(sm_store_remove(&gone, store, id, &force, &removal, &err), 0); /* a missing one is no error */
    assert_null(gone);
    assert_int_equal(sm_store_remove(NULL, store, "app:1", NULL, NULL, &err), -ENOENT);
    assert_true(is_in(f, "blobs", &two));
    assert_false(is_in(f, "blobs", &one));
    sm_store_free(store);
}

static void an_image_is_described(void **state)
{
    struct store_fixture *f = *state;
    struct digest one =
        image_put(f->s, "docker.io/library/app:1", LAYERS("base", "top"), "A \\u001b \\\"quoted\\\" name");
    struct sm_store *store = open_store(f);
    struct sm_history_entry *steps;
    char id[DIGEST_STR_SIZE], *text, **names;
    const char *value;
    struct json *doc;

    id_of(id, &one);
    name_put(f->s, "host.example/b:latest", &one, NULL);
    assert_int_equal(sm_store_inspect(&text, store, "app:1", NULL, &err), 0);
    assert_null(strchr(text, '\033'));
    assert_int_equal(json_parse(&doc, text, strlen(text), &err), 0);
    assert_int_equal(json_get_string(doc, "Id", true, &value, &err), 0);
    assert_string_equal(value, id);
    assert_int_equal(json_get_string(doc, "Author", true, &value, &err), 0);
    assert_string_equal(value, "A \033 \"quoted\" name");
    assert_int_equal(json_get_strings(doc, "RepoTags", 10, &names, &err), 0);
    assert_string_equal(names[0], "app:1");
    assert_string_equal(names[1], "host.example/b:latest");
    assert_null(names[2]);
    strings_free(names);
    json_free(doc);
    sm_string_free(text);
    /* No history in the document: its layers are there all the same, the newest first. */
    assert_int_equal(sm_store_history(&steps, store, id + 7, NULL, &err), 0);
    assert_string_equal(steps->created_by, "");
    assert_non_null(steps->layer);
    assert_true(steps->size > 20000);
    assert_string_not_equal(steps->layer, steps->next->layer);
    assert_null(steps->next->next);
    sm_history_free(steps);
    assert_int_equal(sm_store_inspect(&text, store, "app:2", NULL, &err), -ENOENT);
    assert_int_equal(unlink(path_in(f, "blobs", &one, "")), 0);
    assert_int_equal(sm_store_inspect(&text, store, "app:1", NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "fsck --repair"));
    sm_store_free(store);
}

static void a_platform_is_chosen(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, "docker.io/library/app:1", LAYERS("base"), "amd64");
    struct digest two = image_put(f->s, NULL, LAYERS("base"), "arm64");
    struct sm_store *store = open_store(f);
    struct sm_image_record *list;
    char name[] = "docker.io/library/app:1", platform[] = "linux/arm64", id[DIGEST_STR_SIZE], *text;

    assert_int_equal(
        names_put(f->s, &(struct name_record){.name = name, .root = two, .manifest = two, .platform = platform}, &err),
        0);
    assert_int_equal(sm_store_inspect(&text, store, "app:1", "linux/arm64", &err), 0);
    id_of(id, &two);
    assert_non_null(strstr(text, id));
    sm_string_free(text);
    assert_int_equal(sm_store_inspect(&text, store, "app:1", "linux/amd64", &err), 0);
    id_of(id, &one);
    assert_non_null(strstr(text, id));
    sm_string_free(text);
    assert_int_equal(sm_store_inspect(&text, store, "app:1", "linux/s390x", &err), -ENOENT);
    assert_non_null(strstr(err.text, "linux/s390x"));
    assert_int_equal(sm_store_inspect(&text, store, "app:1", "linux", &err), -EINVAL);
    /* A name stands for both, and so does a further one. */
    assert_int_equal(sm_store_tag(store, "app:1", "again", &err), 0);
    assert_int_equal(sm_store_remove(&list, store, "again", NULL, NULL, &err), 0);
    assert_non_null(list->next);
    sm_image_records_free(list);
    sm_store_free(store);
}

static int stop_at_once(void *ctx, const struct sm_image_event *event)
{
    *(enum sm_image_event_kind *)ctx = event->kind;
    return 1;
}

static void count_problems(void *ctx, const struct sm_store_problem *problem)
{
    assert_true(problem->object[0] && problem->text[0]);
    ++*(unsigned *)ctx;
}

static void a_check_is_stopped_and_counts(void **state)
{
    struct store_fixture *f = *state;
    struct digest one = image_put(f->s, "docker.io/library/app:1", LAYERS("base", "top"), "x");
    struct sm_fsck_result result = {.size = sizeof(result)};
    struct sm_fsck_options o = SM_FSCK_OPTIONS_INIT;
    struct sm_store *store = open_store(f);
    enum sm_image_event_kind kind = 0;
    unsigned told = 0;

    o.event = stop_at_once;
    o.event_ctx = &kind;
    assert_int_equal(sm_store_fsck(store, &o, &result, &err), -ECANCELED);
    assert_int_equal(kind, SM_IMAGE_CHECKING);
    o.event = NULL;
    o.problem = count_problems;
    o.problem_ctx = &told;
    assert_int_equal(sm_store_fsck(store, &o, &result, &err), 0);
    assert_int_equal(result.problems + told, 0);
    assert_true(result.checked >= 8);
    flip(path_in(f, "blobs", &one, ""), 5);
    assert_int_equal(sm_store_fsck(store, &o, &result, &err), 0);
    assert_true(result.problems > 0 && result.problems == told && result.unrepaired == told);
    /* It came from no registry: what is damaged goes, what is missing stays missing, and that is told with a way out.
     */
    o.repair = 1;
    assert_int_equal(sm_store_fsck(store, &o, &result, &err), 0);
    assert_true(result.unrepaired >= 1);
    assert_false(is_in(f, "blobs", &one));
    sm_store_free(store);
}

static void only_names_are_pulled(void **state)
{
    struct store_fixture *f = *state;
    struct sm_image_options o = SM_IMAGE_OPTIONS_INIT;
    struct sm_store *store = open_store(f);
    struct sm_image *image;

    assert_int_equal(sm_store_pull(NULL, store, "oci:dir", NULL, NULL, &err), -EINVAL);
    assert_int_equal(sm_store_pull(NULL, store, "UPPER", NULL, NULL, &err), -EINVAL);
    o.store = f->dir;
    o.pull = SM_PULL_NEVER;
    assert_int_equal(sm_image_open(&image, "registry.invalid/app", &o, &err), -ENOENT);
    o.pull = 7;
    assert_int_equal(sm_image_open(&image, "registry.invalid/app", &o, &err), -EINVAL);
    o.pull = SM_PULL_MISSING;
    image_put(f->s, "registry.invalid/app:latest", LAYERS("base"), "x");
    assert_int_equal(sm_image_open(&image, "registry.invalid/app", &o, &err), 0);
    assert_string_equal(sm_image_info(image)->architecture, "amd64");
    sm_image_free(image);
    sm_store_free(store);
}

#define STORE_TEST(fn) cmocka_unit_test_setup_teardown(fn, store_fixture_setup, store_fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(a_record_tells_all_about_its_image),
        STORE_TEST(an_empty_store_has_empty_lists),
        STORE_TEST(older_and_newer_callers_are_served_or_told),
        STORE_TEST(names_are_given_and_taken),
        STORE_TEST(an_image_is_described),
        STORE_TEST(a_platform_is_chosen),
        STORE_TEST(a_check_is_stopped_and_counts),
        STORE_TEST(only_names_are_pulled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
