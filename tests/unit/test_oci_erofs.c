/* SPDX-License-Identifier: Apache-2.0 */
/* The EROFS writer, checked by a small reader of its own that follows the format's description. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/io.h"
#include "oci/erofs.h"
#include "oci/limits.h"
#include "oci_fixture.h"

static const uint8_t uuid[16] = "0123456789abcdef";

struct disk {
    uint8_t *p;
    uint64_t size;
};

struct inode {
    uint64_t at; /* of its first byte */
    uint32_t format, mode, block, uid, gid, mtime_ns, nlink;
    uint64_t size, xattr_at, xattr_size;
    int64_t mtime;
};

static uint64_t le(const struct disk *d, uint64_t at, unsigned bytes)
{
    uint64_t v = 0;

    assert_true(range_within(at, bytes, d->size));
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)d->p[at + i] << 8 * i;
    return v;
}

static struct inode read_inode(const struct disk *d, uint64_t nid)
{
    uint64_t at = nid * 32, icount = le(d, at + 2, 2);
    struct inode i = {
        .at = at,
        .format = (uint32_t)le(d, at, 2),
        .mode = (uint32_t)le(d, at + 4, 2),
        .size = le(d, at + 8, 8),
        .block = (uint32_t)le(d, at + 16, 4),
        .uid = (uint32_t)le(d, at + 24, 4),
        .gid = (uint32_t)le(d, at + 28, 4),
        .mtime = (int64_t)le(d, at + 32, 8),
        .mtime_ns = (uint32_t)le(d, at + 40, 4),
        .nlink = (uint32_t)le(d, at + 44, 4),
        .xattr_at = at + 64,
        .xattr_size = icount ? 12 + 4 * (icount - 1) : 0,
    };

    assert_true(i.format == (1 | 0 << 1) || i.format == (1 | 2 << 1));
    assert_true(at % 4096 + 64 <= 4096);
    return i;
}

/* Where byte `off` of an inode's content is; within inline content the block must be the inode's. */
static uint64_t content_at(const struct inode *i, uint64_t off)
{
    uint64_t whole = i->format >> 1 == 2 ? i->size / 4096 * 4096 : i->size, tail;

    if (off < whole)
        return i->block * 4096ull + off;
    tail = i->at + 64 + i->xattr_size;
    assert_true(tail % 4096 + (i->size - whole) <= 4096);
    assert_int_equal(tail / 4096, i->at / 4096);
    return tail + off - whole;
}

/* Look `name` up, checking the directory's order on the way. 0: not there. */
static uint64_t lookup(const struct disk *d, uint64_t dir, const char *name)
{
    struct inode i = read_inode(d, dir);
    char last[256] = "", cur[256];
    uint64_t found = 0;

    assert_int_equal(i.mode & S_IFMT, S_IFDIR);
    for (uint64_t off = 0; off < i.size; off += 4096) {
        uint64_t at = content_at(&i, off), len = i.size - off < 4096 ? i.size - off : 4096;
        uint64_t n = le(d, at + 8, 2) / 12;

        assert_true(n > 0 && le(d, at + 8, 2) % 12 == 0);
        for (uint64_t k = 0; k < n; k++) {
            uint64_t from = le(d, at + 12 * k + 8, 2), to = k + 1 < n ? le(d, at + 12 * k + 20, 2) : len;

            assert_true(from < to && to <= len && to - from <= 255 + (k + 1 == n ? 4096 : 0));
            memset(cur, 0, sizeof(cur));
            for (uint64_t c = from; c < to && d->p[at + c]; c++)
                cur[c - from] = (char)d->p[at + c];
            assert_true(!last[0] || strcmp(last, cur) < 0);
            strcpy(last, cur);
            if (!strcmp(cur, name))
                found = le(d, at + 12 * k, 8);
        }
    }
    return found;
}

static uint64_t root_nid(const struct disk *d)
{
    return le(d, 1024 + 14, 2);
}

static struct inode find(const struct disk *d, const char *path)
{
    char *copy = strdup(path), *save;
    uint64_t nid = root_nid(d);

    for (char *c = strtok_r(copy, "/", &save); c; c = strtok_r(NULL, "/", &save)) {
        nid = lookup(d, nid, c);
        if (!nid)
            fail_msg("%s: not found", path);
    }
    free(copy);
    return read_inode(d, nid);
}

static struct disk write_disk(struct tree *t, const struct erofs_layer *layers, unsigned n)
{
    int fd = memory_file("", 0);
    struct sm_error err = SM_ERROR_INIT;
    struct disk d;
    struct stat st;

    if (erofs_write(t, layers, n, uuid, fd, &d.size, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, d.size);
    assert_int_equal(d.size % 4096, 0);
    d.p = malloc(d.size);
    assert_int_equal(io_pread_full(fd, d.p, d.size, 0), d.size);
    close(fd);
    return d;
}

static void add(struct tree *t, struct oci_entry e)
{
    struct sm_error err = SM_ERROR_INIT;

    if (tree_add(t, &e, &err) < 0)
        fail_msg("%s", err.text);
}

static struct tree *new_tree(void)
{
    struct tree *t;

    assert_int_equal(tree_new(&t, NULL), 0);
    tree_next_layer(t);
    return t;
}

static void test_empty(void **state)
{
    struct tree *t = new_tree();
    struct disk d = write_disk(t, NULL, 0);
    struct inode root;

    assert_int_equal(d.size, 4096);
    assert_int_equal(le(&d, 1024, 4), 0xe0f5e1e2);
    assert_int_equal(le(&d, 1024 + 12, 1), 12);
    assert_int_equal(le(&d, 1024 + 16, 8), 1);
    assert_int_equal(le(&d, 1024 + 36, 4), 1);
    assert_memory_equal(d.p + 1024 + 48, uuid, 16);
    assert_int_equal(le(&d, 1024 + 80, 4), 0);
    root = read_inode(&d, root_nid(&d));
    assert_int_equal(root.mode, S_IFDIR | 0755);
    assert_int_equal(root.nlink, 2);
    assert_int_equal(lookup(&d, root_nid(&d), "."), root_nid(&d));
    assert_int_equal(lookup(&d, root_nid(&d), ".."), root_nid(&d));
    free(d.p);
    tree_free(t);
}

static void test_kinds(void **state)
{
    static const char content[] = "small content";
    int index_fd = memory_file(content, sizeof(content));
    struct erofs_layer layers[] = {{index_fd, 5 * 4096}, {-1, 8 * 4096}};
    const struct oci_xattr x[] = {{"user.k", "value", 5}};
    struct tree *t = new_tree();
    struct oci_entry e;
    struct inode i;
    struct disk d;

    e = plain_entry(OCI_FILE, "d/small", NULL);
    e.size = 5;
    e.content_offset = 6;
    e.xattrs = x;
    e.n_xattrs = 1;
    e.uid = 100000;
    e.gid = UINT32_MAX - 1;
    e.mtime = -1;
    e.mtime_ns = 123456789;
    e.mode = 06755;
    add(t, e);
    e = plain_entry(OCI_FILE, "d/large", NULL);
    e.size = 2 * 4096 + 1;
    e.data_off = 4096;
    add(t, e);
    add(t, plain_entry(OCI_FILE, "d/empty", NULL));
    add(t, plain_entry(OCI_SYMLINK, "l", "some/where"));
    e = plain_entry(OCI_CHAR, "c", NULL);
    e.major = 300;
    e.minor = 70000;
    add(t, e);
    add(t, plain_entry(OCI_BLOCK_DEV, "b", NULL));
    add(t, plain_entry(OCI_FIFO, "p", NULL));
    add(t, plain_entry(OCI_SOCKET, "s", NULL));
    add(t, plain_entry(OCI_HARDLINK, "d/again", "d/large"));
    tree_next_layer(t);
    e = plain_entry(OCI_FILE, "d/upper", NULL);
    e.size = 4096;
    e.data_off = 7 * 4096;
    add(t, e);

    d = write_disk(t, layers, 2);
    assert_int_equal(le(&d, 1024 + 36, 4), d.size / 4096 + 13);
    i = find(&d, "d/small");
    assert_int_equal(i.mode, S_IFREG | 06755);
    assert_int_equal(i.uid, 100000);
    assert_int_equal(i.gid, UINT32_MAX - 1);
    assert_int_equal(i.mtime, -1);
    assert_int_equal(i.mtime_ns, 123456789);
    assert_int_equal(i.nlink, 1);
    assert_int_equal(i.xattr_size, 12 + 12);
    assert_memory_equal(d.p + i.xattr_at + 12, "\1\1\5\0kvalue\0\0", 12);
    assert_memory_equal(d.p + content_at(&i, 0), "conte", 5);
    i = find(&d, "d/large");
    assert_int_equal(content_at(&i, 0), d.size + 4096);
    assert_int_equal(i.size, 2 * 4096 + 1);
    assert_int_equal(i.nlink, 2);
    assert_int_equal(find(&d, "d/again").at, i.at);
    i = find(&d, "d/upper");
    assert_int_equal(content_at(&i, 0), d.size + 5 * 4096 + 7 * 4096);
    assert_int_equal(find(&d, "d/empty").size, 0);
    i = find(&d, "l");
    assert_int_equal(i.mode, S_IFLNK | 0777);
    assert_int_equal(i.size, 10);
    assert_memory_equal(d.p + content_at(&i, 0), "some/where", 10);
    i = find(&d, "c");
    assert_int_equal(i.mode & S_IFMT, S_IFCHR);
    assert_int_equal(i.block, (70000 & 0xff) | 300 << 8 | (70000 & ~0xff) << 12);
    assert_int_equal(find(&d, "b").mode & S_IFMT, S_IFBLK);
    assert_int_equal(find(&d, "p").mode & S_IFMT, S_IFIFO);
    assert_int_equal(find(&d, "s").mode & S_IFMT, S_IFSOCK);
    assert_int_equal(find(&d, "").nlink, 3);
    assert_int_equal(find(&d, "d").nlink, 2);
    assert_int_equal(lookup(&d, lookup(&d, root_nid(&d), "d"), ".."), root_nid(&d));
    free(d.p);
    tree_free(t);
    close(index_fd);
}

/* Links of every length, with attributes of many sizes: whatever fits inline must not cross a block. */
static void test_packing(void **state)
{
    static char value[OCI_XATTR_VALUE_MAX], link[OCI_LINK_MAX + 1];
    struct tree *t = new_tree();
    struct disk d;
    char name[32];
    unsigned n = 0;

    memset(value, 'v', sizeof(value));
    memset(link, 'l', sizeof(link));
    for (size_t len = 1; len <= OCI_LINK_MAX; len += len < 3900 ? 61 : 1) {
        struct oci_xattr x = {"user.v", value, (uint32_t)(len * 7919 % (n % 4 ? 300 : 9000))};
        struct oci_entry e;

        snprintf(name, sizeof(name), "%zu", len);
        link[len] = '\0';
        e = plain_entry(OCI_SYMLINK, name, link);
        e.xattrs = &x;
        e.n_xattrs = n++ % 3 != 0;
        add(t, e);
        link[len] = 'l';
    }
    d = write_disk(t, NULL, 0);
    for (size_t len = 1; len <= OCI_LINK_MAX; len += len < 3900 ? 61 : 1) {
        struct inode i;

        snprintf(name, sizeof(name), "%zu", len);
        i = find(&d, name);
        assert_int_equal(i.size, len);
        assert_memory_equal(d.p + content_at(&i, 0), link, len);
    }
    free(d.p);
    tree_free(t);
}

static void test_large_dirs(void **state)
{
    static const unsigned sizes[] = {1, 50, 126, 127, 128, 1000, 5000};
    struct tree *t = new_tree();
    char name[300], pad[256];
    struct disk d;

    for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
        for (unsigned k = 0; k < sizes[s]; k++) {
            memset(pad, '!', sizeof(pad)); /* sorts before "." */
            pad[k % 250] = '\0';
            snprintf(name, sizeof(name), "%u/%s%u", sizes[s], k % 3 ? "" : pad, k);
            if (strlen(strchr(name, '/') + 1) <= 255)
                add(t, plain_entry(k % 2 ? OCI_DIR : OCI_FIFO, name, NULL));
        }
    }
    d = write_disk(t, NULL, 0);
    for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
        unsigned dirs = 0;

        for (unsigned k = 0; k<sizes[s]; k += sizes[s]> 200 ? 97 : 1) {
            memset(pad, '!', sizeof(pad));
            pad[k % 250] = '\0';
            snprintf(name, sizeof(name), "%u/%s%u", sizes[s], k % 3 ? "" : pad, k);
            if (strlen(strchr(name, '/') + 1) <= 255)
                assert_int_equal(find(&d, name).mode & S_IFMT, k % 2 ? S_IFDIR : S_IFIFO);
        }
        snprintf(name, sizeof(name), "%u", sizes[s]);
        for (unsigned k = 0; k < sizes[s]; k++)
            dirs += k % 2;
        if (sizes[s] < 250)
            assert_int_equal(find(&d, name).nlink, 2 + dirs);
        assert_int_equal(lookup(&d, lookup(&d, root_nid(&d), name), ".."), root_nid(&d));
        assert_int_equal(lookup(&d, lookup(&d, root_nid(&d), name), "none"), 0);
    }
    free(d.p);
    tree_free(t);
}

static void test_reproducible(void **state)
{
    struct disk d[2];

    for (int round = 0; round < 2; round++) {
        struct tree *t = new_tree();
        char name[16];

        for (unsigned i = 0; i < 300; i++) { /* another order of entries, the same tree */
            snprintf(name, sizeof(name), "%u", round ? i : 299 - i);
            add(t, plain_entry(OCI_SYMLINK, name, name));
        }
        d[round] = write_disk(t, NULL, 0);
        tree_free(t);
    }
    assert_int_equal(d[0].size, d[1].size);
    assert_memory_equal(d[0].p, d[1].p, d[0].size);
    free(d[0].p);
    free(d[1].p);
}

static void test_check(void **state)
{
    struct tree *t = new_tree();
    struct disk d = write_disk(t, NULL, 0);
    int fd = memory_file(d.p, d.size), cut = memory_file(d.p, 100);

    assert_int_equal(erofs_check(fd, 4096), 1);
    assert_int_equal(erofs_check(fd, 8192), 0);
    assert_int_equal(erofs_check(cut, 4096), 0);
    for (uint64_t at = 1024; at < 4096; at += 7) {
        uint8_t flipped = d.p[at] ^ 1;

        assert_int_equal(io_pwrite_full(fd, &flipped, 1, at), 0);
        assert_int_equal(erofs_check(fd, 4096), 0);
        assert_int_equal(io_pwrite_full(fd, &d.p[at], 1, at), 0);
    }
    close(fd);
    close(cut);
    free(d.p);
    tree_free(t);
}

static void test_too_large(void **state)
{
    struct erofs_layer layers[20];
    struct sm_error err = SM_ERROR_INIT;
    struct tree *t = new_tree();
    int fd = memory_file("", 0);
    uint64_t size;

    for (size_t i = 0; i < ARRAY_SIZE(layers); i++)
        layers[i] = (struct erofs_layer){-1, OCI_LAYER_MAX_DATA};
    assert_int_equal(erofs_write(t, layers, ARRAY_SIZE(layers), uuid, fd, &size, &err), -EFBIG);
    assert_non_null(strstr(err.text, "16 TiB"));
    tree_free(t);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),      cmocka_unit_test(test_kinds),        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_large_dirs), cmocka_unit_test(test_reproducible), cmocka_unit_test(test_check),
        cmocka_unit_test(test_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
