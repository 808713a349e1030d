/* SPDX-License-Identifier: Apache-2.0 */
/* Images out of the store: the archive's bytes, what others find in it, and what is missing. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "archive_fixture.h"
#include "base/checked.h"
#include "base/io.h"
#include "oci/blobs.h"
#include "oci/export.h"
#include "oci/limits.h"
#include "oci/manifest.h"
#include "oci/names.h"
#include "oci/tar_write.h"
#include "oci/unpack.h"
#include "oci_fixture.h"
#include "store_fixture.h"

#define X "docker.io/library/x:1"
#define Y "host.io/y:1"
#define Z "host.io/z:2"

static const char *const base[] = {"base", NULL};
static const char *const both[] = {"base", "top", NULL};

/* Names end with NULL; "@" is the first image without a name. */
static int save_to(struct store_fixture *f, int fd, const char *const *names, const struct oci_save_options *o,
                   struct sm_error *err)
{
    struct name_record *all, chosen[8];
    size_t n, count = 0;
    int r;

    *err = (struct sm_error)SM_ERROR_INIT;
    assert_int_equal(names_list(f->s, &all, &n, NULL, NULL), 0);
    for (; *names; names++) {
        for (size_t i = 0; i < n; i++) {
            if (!strncmp(all[i].name, *names, strlen(*names)))
                chosen[count++] = all[i];
        }
    }
    r = oci_save(f->s, chosen, count, fd, o, err);
    name_records_free(all, n);
    return r;
}

static struct buf save(struct store_fixture *f, const char *const *names)
{
    struct buf b = buf_init(64 * MIB);
    struct sm_error err;
    int fd = memory_file("", 0);
    struct stat st;

    if (save_to(f, fd, names, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(io_pread_full(fd, buf_reserve(&b, (size_t)st.st_size), (size_t)st.st_size, 0), st.st_size);
    close(fd);
    return b;
}

static ssize_t next_piece(void *ctx, const void **ret)
{
    struct buf *b = ctx;
    size_t n = b->len < 1000 ? b->len : 1000;

    *ret = b->data;
    b->data += n;
    b->len -= n;
    return (ssize_t)n;
}

static int take_entry(void *ctx, const struct oci_entry *e, struct sm_error *err)
{
    struct members *a = ctx;

    assert_int_equal(e->uid, 0);
    assert_int_equal(e->gid, 0);
    assert_int_equal(e->mtime, 0);
    assert_int_equal(e->mode, e->type == OCI_DIR ? 0755 : 0444);
    if (a->n)
        assert_true(strcmp(a->m[a->n - 1].name, e->path) < 0); /* sorted, each once */
    add_file(a, e->path, NULL, 0);
    return 0;
}

static int take_data(void *ctx, const void *data, size_t len, uint64_t offset, struct sm_error *err)
{
    struct members *a = ctx;
    struct member *m = &a->m[a->n - 1];

    assert_int_equal(offset, m->len);
    m->data = realloc(m->data, m->len + len + 1);
    memcpy(m->data + m->len, data, len);
    m->len += len;
    m->data[m->len] = '\0';
    return 0;
}

static int take_end(void *ctx, struct sm_error *err)
{
    return 0;
}

static struct members members_of(const struct buf *tar)
{
    struct members a = {.n = 0};
    struct buf rest = *tar;

    assert_int_equal(unpack_tar(&(struct unpack_source){next_piece, &rest},
                                &(struct unpack_tar_sink){take_entry, take_data, take_end, &a}, NULL),
                     0);
    return a;
}

static void test_contents(void **state)
{
    struct store_fixture *f = *state;
    struct digest x = image_put(f->s, X, both, "x"), y = image_put(f->s, Y, base, "y");
    struct buf tar = save(f, (const char *const[]){X, Y, NULL});
    struct members a = members_of(&tar);
    struct index_doc index;
    size_t blobs = 0;

    for (size_t i = 0; i < a.n; i++) {
        struct digest d;
        char hex[DIGEST_HEX_SIZE];

        if (strncmp(a.m[i].name, "blobs/sha256/", 13) || !a.m[i].name[13])
            continue;
        d = digest_of_buf(a.m[i].data, a.m[i].len);
        digest_hex(&d, hex);
        assert_string_equal(a.m[i].name + 13, hex);
        blobs++;
    }
    assert_int_equal(blobs, 6); /* two manifests, two configs, two layers of which one is in both images */
    find_blob(&a, &x);
    find_blob(&a, &y);
    assert_int_equal(layout_doc_check(find_member(&a, "oci-layout")->data, find_member(&a, "oci-layout")->len, NULL),
                     0);
    assert_int_equal(
        index_doc_parse(&index, find_member(&a, "index.json")->data, find_member(&a, "index.json")->len, NULL), 0);
    assert_int_equal(index.n, 2);
    assert_true(digest_equal(&index.items[0].digest, &x));
    assert_int_equal(index.items[0].size, find_blob(&a, &x)->len);
    assert_string_equal(index.items[0].image_name, X);
    assert_string_equal(index.items[0].ref_name, X); /* both tags are "1" */
    assert_string_equal(index.items[1].ref_name, Y);
    assert_non_null(strstr(find_member(&a, "manifest.json")->data, "\"RepoTags\":[\"x:1\"]"));
    assert_non_null(strstr(find_member(&a, "manifest.json")->data, "\"RepoTags\":[\"host.io/y:1\"]"));
    index_doc_done(&index);
    members_done(&a);
    buf_done(&tar);
}

static void test_same_bytes(void **state)
{
    struct store_fixture *f = *state;
    struct buf one, two;

    image_put(f->s, X, both, "x");
    image_put(f->s, Y, base, "y");
    one = save(f, (const char *const[]){X, Y, NULL});
    two = save(f, (const char *const[]){Y, X, Y, NULL});
    assert_int_equal(one.len, two.len);
    assert_memory_equal(one.data, two.data, one.len);
    assert_int_equal(one.len % 512, 0);
    buf_done(&one);
    buf_done(&two);
}

static void test_names(void **state)
{
    struct store_fixture *f = *state;
    struct digest x = image_put(f->s, X, both, "x"), none = image_put(f->s, NULL, base, "none");
    struct buf tar;
    struct members a;
    struct index_doc index;
    const char *docker;

    name_put(f->s, Z, &x, NULL);
    tar = save(f, (const char *const[]){X, Z, "@", NULL});
    a = members_of(&tar);
    docker = find_member(&a, "manifest.json")->data;
    assert_int_equal(
        index_doc_parse(&index, find_member(&a, "index.json")->data, find_member(&a, "index.json")->len, NULL), 0);
    assert_int_equal(index.n, 3);
    assert_string_equal(index.items[0].ref_name, "1");
    assert_string_equal(index.items[1].ref_name, "2");
    assert_string_equal(index.items[1].image_name, Z);
    assert_null(index.items[2].ref_name);
    assert_true(digest_equal(&index.items[2].digest, &none));
    assert_non_null(strstr(docker, "\"RepoTags\":[\"x:1\",\"host.io/z:2\"]"));
    assert_non_null(strstr(docker, "\"RepoTags\":[]"));
    index_doc_done(&index);
    members_done(&a);
    buf_done(&tar);
}

/* What was saved, loaded into another store, is the same; and saved from there, it is the same bytes. */
static void test_round_trip(void **state)
{
    struct store_fixture *f = *state;
    struct digest x = image_put(f->s, X, both, "x"), none = image_put(f->s, NULL, base, "none");
    struct buf tar = save(f, (const char *const[]){X, "@", NULL}), again;
    struct oci_loaded l;
    struct sm_error err;
    void *other;

    store_fixture_setup(&other);
    if (load_buf(other, &tar, &(struct oci_load_options){0}, &l, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.images[0].name, X);
    assert_true(digest_equal(&l.images[0].manifest, &x));
    assert_int_equal(l.images[1].name[0], '@');
    assert_true(digest_equal(&l.images[1].manifest, &none));
    again = save(other, (const char *const[]){X, "@", NULL});
    assert_int_equal(tar.len, again.len);
    assert_memory_equal(tar.data, again.data, tar.len);
    oci_loaded_done(&l);
    buf_done(&tar);
    buf_done(&again);
    store_fixture_teardown(&other);
}

struct lost {
    struct store_fixture *f;
    void *data;
    size_t len;
    unsigned asked;
    bool give;
};

static int fetch(void *ctx, const struct name_record *image, const struct descriptor *blob, struct sm_error *err)
{
    struct lost *lost = ctx;
    struct digest d = digest_of_buf(lost->data, lost->len);

    assert_string_equal(image->name, X);
    assert_true(digest_equal(&blob->digest, &d));
    assert_int_equal(blob->size, lost->len);
    lost->asked++;
    if (!lost->give)
        return sm_error_set(err, EHOSTUNREACH, "there is no network");
    return blob_put(lost->f->s, &d, lost->data, lost->len, err);
}

static void test_missing_blob(void **state)
{
    struct store_fixture *f = *state;
    struct digest layer = layer_digest("top");
    struct lost lost = {.f = f};
    const struct oci_save_options o = {.fetch = fetch, .fetch_ctx = &lost};
    struct sm_error err;
    int fd = memory_file("", 0);
    struct stat st;

    image_put(f->s, X, both, "x");
    assert_int_equal(blob_read(f->s, &layer, MIB, &lost.data, &lost.len, NULL), 0);
    assert_int_equal(unlink(path_in(f, "blobs", &layer, "")), 0);
    assert_int_equal(save_to(f, fd, (const char *const[]){X, NULL}, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "does not keep the compressed form of sha256:"));
    assert_int_equal(save_to(f, fd, (const char *const[]){X, NULL}, &o, &err), -EHOSTUNREACH);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, 0); /* nothing is written before all is there */
    lost.give = true;
    assert_int_equal(save_to(f, fd, (const char *const[]){X, NULL}, &o, &err), 0);
    assert_int_equal(lost.asked, 2);
    close(fd);
    free(lost.data);
}

static void test_damaged_blob(void **state)
{
    struct store_fixture *f = *state;
    struct digest x = image_put(f->s, X, both, "x"), layer = layer_digest("top");
    struct sm_error err;
    int fd = memory_file("", 0);

    flip(path_in(f, "blobs", &layer, ""), 600);
    assert_int_equal(save_to(f, fd, (const char *const[]){X, NULL}, NULL, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "is damaged in the image store"));
    flip(path_in(f, "blobs", &x, ""), 6);
    assert_int_equal(save_to(f, fd, (const char *const[]){X, NULL}, NULL, &err), -ENOENT);
    assert_non_null(strstr(err.text, "missing or damaged"));
    close(fd);
}

static int stop(void *ctx, const struct oci_event *event)
{
    assert_int_equal(event->what, OCI_EVENT_SAVING);
    assert_true(event->done <= event->total);
    return 1;
}

static void test_pipe(void **state)
{
    struct store_fixture *f = *state;
    const struct oci_events events = {stop, NULL};
    struct buf want;
    struct sm_error err;
    uint8_t *got;
    int fd[2];

    image_put(f->s, X, both, "x");
    want = save(f, (const char *const[]){X, NULL});
    got = malloc(want.len);
    assert_int_equal(pipe2(fd, O_CLOEXEC), 0);
    assert_true(fcntl(fd[1], F_SETPIPE_SZ, (int)want.len) >= (int)want.len);
    assert_int_equal(save_to(f, fd[1], (const char *const[]){X, NULL}, NULL, &err), 0);
    assert_int_equal(io_read_full(fd[0], got, want.len), want.len);
    assert_memory_equal(got, want.data, want.len);
    /* a reader that does not read can be given up */
    assert_int_equal(fcntl(fd[1], F_SETFL, O_NONBLOCK), 0);
    assert_true(fcntl(fd[1], F_SETPIPE_SZ, 4096) > 0);
    assert_int_equal(
        save_to(f, fd[1], (const char *const[]){X, NULL}, &(struct oci_save_options){.events = &events}, &err),
        -ECANCELED);
    close(fd[0]);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(save_to(f, fd[1], (const char *const[]){X, NULL}, NULL, &err), -EPIPE);
    close(fd[1]);
    free(got);
    buf_done(&want);
}

/* The sizes around what fits into a plain header. Only the headers are written. */
static void test_large_files(void **state)
{
    static const uint64_t sizes[] = {0, 1, 511, 512, 077777777777, 077777777777 + 1, 64 * GIB, 1ull << 62};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        int fd = memory_file("", 0);
        struct tar_writer w = {.fd = fd};
        uint8_t bytes[4096];
        bool large = sizes[i] > 077777777777;
        ssize_t len;

        assert_int_equal(tar_file(&w, "blobs/x", sizes[i], NULL), 0);
        len = io_pread_full(fd, bytes, sizeof(bytes), 0);
        assert_int_equal(len, large ? 3 * 512 : 512);
        assert_int_equal(bytes[156], large ? 'x' : '0');
        if (large) {
            char want[64], length[16];

            snprintf(want, sizeof(want), " size=%llu\n", (unsigned long long)sizes[i]);
            snprintf(length, sizeof(length), "%zu", strlen(want) + 2);
            assert_memory_equal(bytes + 512, length, 2);
            assert_memory_equal(bytes + 514, want, strlen(want));
            assert_int_equal(bytes[512 + strlen(want) + 2], 0);
        }
        close(fd);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, store_fixture_setup, store_fixture_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_contents),     TEST(test_same_bytes),   TEST(test_names), TEST(test_round_trip),
        TEST(test_missing_blob), TEST(test_damaged_blob), TEST(test_pipe),  cmocka_unit_test(test_large_files),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
