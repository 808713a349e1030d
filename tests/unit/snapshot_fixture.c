/* SPDX-License-Identifier: Apache-2.0 */
/* Small snapshots: see snapshot_fixture.h. */
#include "snapshot_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "snap/file.h"
#include "snap/runs.h"

#define BASE_PAGES ((const uint32_t[]){0, 5, 7, 300, FIXTURE_PAGES - 1})
#define DIFF_PAGES ((const uint32_t[]){7})

const char *key_of(char c)
{
    static char keys[8][SNAPSHOT_KEY_SIZE];
    static unsigned next;
    char *key = keys[next++ % 8];

    memset(key, c, SNAPSHOT_KEY_SIZE - 1);
    key[SNAPSHOT_KEY_SIZE - 1] = '\0';
    return key;
}

struct snapshot_meta plain_meta(const char *image)
{
    static const char *const cmd[] = {"/bin/sh", "-c", "echo \"hello\"\n", NULL}, *const env[] = {"A=1", NULL};

    return (struct snapshot_meta){
        .kind = image ? SNAPSHOT_BAKE : SNAPSHOT_BASE,
        .image_digest = image,
        .image_name = image ? "docker.io/library/app:1.2" : NULL,
        .platform = image ? "linux/amd64" : NULL,
        .kernel = "1111111111111111111111111111111111111111111111111111111111111111",
        .initramfs = "2222222222222222222222222222222222222222222222222222222222222222",
        .memory_mib = FIXTURE_MIB,
        .vcpus = 2,
        .trigger = image ? "pre-exec" : NULL,
        .cmd = image ? cmd : NULL,
        .env = image ? env : NULL,
    };
}

void write_state(int fd, uint8_t byte)
{
    static struct snap_stream s;
    uint8_t bytes[200];

    memset(bytes, byte, sizeof(bytes));
    snap_stream_init(&s);
    snap_begin(&s, SNAP_TAG('T', 'E', 'S', 'T'), 0, 1, "test");
    snap_bytes(&s, "bytes", bytes, sizeof(bytes));
    snap_end(&s);
    assert_int_equal(snap_file_write(&s, fd, NULL), 0);
    snap_stream_clear(&s);
}

void write_memory(int fd, const uint32_t *pages, size_t n, uint8_t byte)
{
    uint8_t page[SNAP_PAGE];

    memset(page, byte, sizeof(page));
    assert_int_equal(ftruncate(fd, (off_t)(FIXTURE_MIB * MIB)), 0);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)pages[i] * SNAP_PAGE), SNAP_PAGE);
}

void write_runs(int fd, const uint32_t *pages, size_t n, bool prefetch)
{
    static uint64_t bitmap[SNAP_BITMAP_WORDS(FIXTURE_PAGES)];
    struct snap_runs runs;

    memset(bitmap, 0, sizeof(bitmap));
    for (size_t i = 0; i < n; i++)
        snap_bit_set(bitmap, pages[i]);
    assert_int_equal(snap_runs_make(&runs, bitmap, FIXTURE_PAGES, SNAP_RUNS_TARGET, NULL), 0);
    assert_int_equal(snap_runs_write(&runs, prefetch ? SNAP_RUNS_PREFETCH : SNAP_RUNS_DIFF, fd, NULL), 0);
    snap_runs_done(&runs);
}

void fill_draft(struct snapshot_draft *d, bool diff, uint8_t byte)
{
    write_state(d->state_fd, byte);
    if (diff) {
        write_memory(d->memory_fd, DIFF_PAGES, ARRAY_SIZE(DIFF_PAGES), byte);
        write_runs(d->diff_fd, DIFF_PAGES, ARRAY_SIZE(DIFF_PAGES), false);
    } else {
        write_memory(d->memory_fd, BASE_PAGES, ARRAY_SIZE(BASE_PAGES), byte);
    }
}

struct snapshot *snapshot_put(struct oci_store *s, const char *key, const char *image, const struct snapshot *base,
                              uint8_t byte)
{
    struct snapshot_meta meta = plain_meta(image);
    struct sm_error err = SM_ERROR_INIT;
    struct snapshot_draft *d;
    struct snapshot *ret;

    if (base)
        snapshot_base_of(&meta, base);
    if (snapshot_draft_new(&d, s, key, &err) < 0)
        fail_msg("%s", err.text);
    fill_draft(d, base, byte);
    if (snapshot_draft_publish(d, &meta, true, &ret, &err) < 0)
        fail_msg("%s", err.text);
    snapshot_draft_free(d);
    return ret;
}

uint8_t byte_of_page(const struct snapshot *s, uint32_t page)
{
    struct snap_runs runs;
    int fd = s->memory_fd;
    uint8_t byte;

    if (s->diff_fd >= 0) {
        fd = s->base_memory_fd;
        assert_int_equal(snap_runs_read(&runs, SNAP_RUNS_DIFF, FIXTURE_PAGES, s->diff_fd, NULL), 0);
        for (uint32_t i = 0; i < runs.n; i++) {
            if (page >= runs.run[i].first && page - runs.run[i].first < runs.run[i].count)
                fd = s->memory_fd;
        }
        snap_runs_done(&runs);
    }
    assert_int_equal(pread(fd, &byte, 1, (off_t)page * SNAP_PAGE), 1);
    return byte;
}

const char *snapshot_path(const struct store_fixture *f, const char *key, const char *file)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/snapshots/%s%s%s", f->dir, key, file[0] ? "/" : "", file);
    return path;
}
