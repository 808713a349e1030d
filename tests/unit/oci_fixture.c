/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of images: see oci_fixture.h. */
#include "oci_fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "oci/tree.h"

struct oci_entry plain_entry(enum oci_type type, const char *path, const char *link)
{
    return (struct oci_entry){
        .type = type, .path = path, .link = link ? link : "", .mode = type == OCI_DIR ? 0755 : 0644};
}

int memory_file(const void *data, size_t len)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(io_pwrite_full(fd, data, len, 0), 0);
    return fd;
}

char *temp_dir(void)
{
    char name[] = "/tmp/supermachine-test-XXXXXX";

    assert_non_null(mkdtemp(name));
    return strdup(name);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void temp_dir_remove(char *dir)
{
    assert_int_equal(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(dir);
}

void write_file(const char *dir, const char *name, const void *data, size_t len)
{
    char path[512];
    int fd;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    for (char *p = path + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(path, 0700);
        *p = '/';
    }
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(io_write_full(fd, data, len), 0);
    close(fd);
}

static void pad(struct buf *tar)
{
    assert_non_null(buf_reserve(tar, (512 - tar->len % 512) % 512));
}

void tar_add(struct buf *tar, const char *name, char type, const char *link, const void *data, size_t len)
{
    char h[512] = "";
    unsigned sum = 0;

    snprintf(h, 100, "%s", name);
    snprintf(h + 100, 8, "%07o", type == '5' ? 0755 : 0644);
    snprintf(h + 108, 8, "%07o", 0);
    snprintf(h + 116, 8, "%07o", 0);
    snprintf(h + 124, 12, "%011zo", len);
    snprintf(h + 136, 12, "%011o", 1000);
    memset(h + 148, ' ', 8);
    h[156] = type;
    snprintf(h + 157, 100, "%s", link ? link : "");
    memcpy(h + 257, "ustar\00000", 8);
    snprintf(h + 329, 8, "%07o", 1);
    snprintf(h + 337, 8, "%07o", 3);
    for (size_t i = 0; i < sizeof(h); i++)
        sum += (unsigned char)h[i];
    snprintf(h + 148, 8, "%06o", sum);
    buf_bytes(tar, h, sizeof(h));
    if (len)
        buf_bytes(tar, data, len);
    pad(tar);
    assert_false(tar->bad);
}

void tar_pax(struct buf *tar, const char *key, const char *value)
{
    char record[1024];
    size_t len = strlen(key) + strlen(value) + 3, digits = 1;

    while (snprintf(NULL, 0, "%zu", len + digits) != (int)digits)
        digits++;
    snprintf(record, sizeof(record), "%zu %s=%s\n", len + digits, key, value);
    tar_add(tar, "pax", 'x', NULL, record, strlen(record));
}

void tar_end(struct buf *tar)
{
    assert_non_null(buf_reserve(tar, 1024));
}

struct digest digest_of_buf(const void *data, size_t len)
{
    struct digest d;

    assert_int_equal(digest_of(&d, data, len, NULL), 0);
    return d;
}

struct describe {
    char *to;
    const char *prefix;
};

static void describe(struct tree_node *n, void *ctx)
{
    static const char types[] = " fdl?cbps";
    struct describe *d = ctx, sub;
    char prefix[256];

    d->to += sprintf(d->to, "%c:%s%s", types[n->inode->type], d->prefix, n->name);
    if (n->inode->type == OCI_FILE)
        d->to += sprintf(d->to, "#%u", n->inode->layer);
    if (n->inode->type == OCI_SYMLINK)
        d->to += sprintf(d->to, "=%s", n->inode->target);
    if (n->inode->names > 1)
        d->to += sprintf(d->to, "*%u", n->inode->names);
    d->to += sprintf(d->to, " ");
    snprintf(prefix, sizeof(prefix), "%s%s/", d->prefix, n->name);
    sub = (struct describe){d->to, prefix};
    tree_each_child(n, describe, &sub);
    d->to = sub.to;
}

void tree_words(struct tree *t, char *ret)
{
    struct describe d = {ret, ""};

    *ret = '\0';
    tree_each_child(tree_root(t), describe, &d);
    if (d.to > ret)
        d.to[-1] = '\0';
}
