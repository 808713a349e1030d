/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile layers, from the tar's bytes to the merged tree: each is refused with a sentence, or gives the tree that an
 * unpacker who stays in its root would give. Nothing of a layer ever is a path on the host.
 *
 * The classes are those of umoci's tests (github.com/opencontainers/umoci at f5d1219, oci/layer/). Where each is
 * tested:
 *
 *   umoci                                          here
 *   tar_extract_test.go
 *     TestUnpackEntrySanitiseScoping               refused[]: "..", "/.."
 *     TestUnpackEntrySymlinkScoping                contained[]: names through links
 *     TestUnpackEntryNonDirParent                  contained[]: below what is no directory
 *     TestUnpackEntryParentDir                     contained[]: parents that are missing
 *     TestUnpackEntryWhiteout                      contained[]: whiteouts; refused[]: of no name; test_parents_stay
 *     TestUnpackOpaqueWhiteout (11 trees)          contained[]: opaque whiteouts
 *     TestUnpackHardlink                           contained[]: hard links; test_hard_link_metadata
 *     TestUnpackEntryMap                           test_oci_tree.c test_metadata: owners are kept as they are
 *     TestIsDirlink                                contained[]: a directory over a link replaces it (umoci's default)
 *   tar_extract_linux_test.go (overlayfs)          test_oci_tree.c good[]: opaque directories; the guest's overlay
 * never sees a layer's own attributes: test_metadata tar_extract.go, UnpackEntry                    refused[]: the root
 * as something else (CVE-2021-29136) unpack_test.go TestLayerCompressionCheck       test_oci_json.c: media types;
 * test_convert.py: compression by content xattr_linux_test.go                            test_oci_tree.c test_metadata,
 * test_limits layer_fuzzer.go                                tests/fuzz/fuzz_layer.c, fuzz_tree.c test/hardening.bats
 * (blob, descriptor)         test_convert.py test_damaged_blob; test_oci_load.c damaged[] test/unpack.bats mknod
 * contained[]: devices; setuid, setcap: test_metadata
 *
 * and beside them: duplicates of different types, whiteouts as links and devices, pax and sparse tricks, headers that
 * promise what never comes, counts. Decompression bombs: tests/integration/test_convert.py test_bomb.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/index.h"
#include "oci/layer.h"
#include "oci/limits.h"
#include "oci/tree.h"
#include "oci_fixture.h"

struct slice {
    const uint8_t *p;
    size_t left;
};

static ssize_t next_slice(void *ctx, const void **ret)
{
    struct slice *s = ctx;
    size_t n = s->left < 10240 ? s->left : 10240;

    *ret = s->p;
    s->p = n ? s->p + n : s->p;
    s->left -= n;
    return (ssize_t)n;
}

/* One extended header of several records, "KEY=VALUE"; ends with NULL. */
static void add_pax(struct buf *tar, const char *const *records)
{
    char text[1024];
    size_t at = 0;

    for (; *records; records++) {
        size_t len = strlen(*records) + 2, digits = 1;

        while (snprintf(NULL, 0, "%zu", len + digits) != (int)digits)
            digits++;
        at += (size_t)snprintf(text + at, sizeof(text) - at, "%zu %s\n", len + digits, *records);
    }
    tar_add(tar, "pax", 'x', NULL, text, at);
}

static int merge(struct tree *t, int index_fd, struct sm_error *err)
{
    struct index_reader *reader;
    struct oci_entry e;
    int r = index_reader_new(&reader, index_fd, err);

    if (r < 0)
        return r;
    tree_next_layer(t);
    while ((r = index_read(reader, &e, err)) > 0) {
        r = tree_add(t, &e, err);
        if (r < 0)
            break;
    }
    index_reader_free(reader);
    return r;
}

/* One layer's tar onto the tree. */
static int apply(struct tree *t, const struct buf *tar, struct sm_error *err)
{
    struct slice s = {tar->data, tar->len};
    int data_fd = memory_file("", 0), index_fd = memory_file("", 0);
    int r = layer_convert(&(struct unpack_source){next_slice, &s}, data_fd, index_fd, err);

    if (r >= 0)
        r = merge(t, index_fd, err);
    close(data_fd);
    close(index_fd);
    return r;
}

/* "TYPE:PATH[=LINK]", types f d l h c b p. */
static void add_word(struct buf *tar, char *word)
{
    static const char types[] = "fdlhcbp", flags[] = "0521346";
    char *link = strchr(word, '=');

    if (link)
        *link++ = '\0';
    tar_add(tar, word + 2, flags[strchr(types, word[0]) - types], link, "content", word[0] == 'f' ? 7 : 0);
}

/* Layers are separated by "|". */
static int apply_words(struct tree *t, const char *layers, struct sm_error *err)
{
    char *copy = strdup(layers), *save, *save_word;
    int r = 0;

    for (char *layer = strtok_r(copy, "|", &save); r >= 0 && layer; layer = strtok_r(NULL, "|", &save)) {
        struct buf tar = buf_init(1 << 20);

        for (char *w = strtok_r(layer, " ", &save_word); w; w = strtok_r(NULL, " ", &save_word))
            add_word(&tar, w);
        tar_end(&tar);
        r = apply(t, &tar, err);
        buf_done(&tar);
    }
    free(copy);
    return r;
}

static const struct {
    const char *layers, *tree;
} contained[] = {
    /* names through links: the link's target is looked up inside the root */
    {"l:link=/ f:link/file", "f:file#0 l:link=/"},
    {"l:link=/../ f:link/file", "f:file#0 l:link=/../"},
    {"l:link=/../../../../../../../../../../../../../../../ f:link/file",
     "f:file#0 l:link=/../../../../../../../../../../../../../../../"},
    {"l:link=/./.././.././.././.././.././.././.././.././../ f:link/file",
     "f:file#0 l:link=/./.././.././.././.././.././.././.././.././../"},
    {"l:link=.. f:link/file", "f:file#0 l:link=.."},
    {"l:link=/etc|f:link/passwd", "d:etc f:etc/passwd#1 l:link=/etc"},
    {"l:link=../../etc d:link/a h:link/b=link/a/../x", NULL},
    /* below what is no directory */
    {"f:nondir f:nondir/foo/bar/baz", "d:nondir d:nondir/foo d:nondir/foo/bar f:nondir/foo/bar/baz#0"},
    {"f:nondir|f:nondir/foo/bar/baz", "d:nondir d:nondir/foo d:nondir/foo/bar f:nondir/foo/bar/baz#1"},
    {"c:dev|f:dev/x", "d:dev f:dev/x#1"},
    /* parents that are missing */
    {"f:a/b/c/file", "d:a d:a/b d:a/b/c f:a/b/c/file#0"},
    /* whiteouts */
    {"f:rootpath f:stay|f:.wh.rootpath", "f:stay#0"},
    {"f:.hiddenroot f:stay|f:.wh..hiddenroot", "f:stay#0"},
    {"f:some/path/file f:stay|f:some/path/.wh.file", "d:some d:some/path f:stay#0"},
    {"f:another/path/.hiddenfile|f:another/path/.wh..hiddenfile", "d:another d:another/path"},
    {"f:rootpath/file1 f:rootpath/file2 f:rootpath/.subdir/file3|f:.wh.rootpath", ""},
    {"f:.hiddenroot/file1 f:.hiddenroot/.subdir/file3|f:.wh..hiddenroot", ""},
    {"f:some/path/dir/file1 f:some/path/dir/.subdir/file3|f:some/path/.wh.dir", "d:some d:some/path"},
    {"f:another/path/.hiddendir/file1|f:another/path/.wh..hiddendir", "d:another d:another/path"},
    {"d:t f:t/x l:l=t|f:l/.wh.x", "l:l=t d:t"},
    {"d:etc f:etc/x l:l=../../etc|f:l/.wh.x", "d:etc l:l=../../etc"},
    {"f:a f:b|h:.wh.a=b", "f:b#0"},
    {"f:a f:b|l:.wh.a=b", "f:b#0"},
    {"f:a f:b|c:.wh.a", "f:b#0"},
    {"f:a f:b|d:.wh.a", "f:b#0"},
    /* opaque whiteouts: EmptyDir, OneLevel, OneLevelNoUpper, TwoLevel, TwoLevelNoUpper */
    {"d:t|f:t/.wh..wh..opq", "d:t"},
    {"d:t f:t/file p:t/fifo|l:t/link=.. l:t/badlink=./nothing f:t/.wh..wh..opq",
     "d:t l:t/badlink=./nothing l:t/link=.."},
    {"d:t f:t/file l:t/link=.. l:t/badlink=./nothing p:t/fifo|f:t/.wh..wh..opq", "d:t"},
    {"d:t l:t/link=.. l:t/badlink=./nothing l:t/dir/link=../badlink l:t/dir/verybadlink2=/../../../../etc/shadow|"
     "f:t/file d:t/dir f:t/dir/file l:t/dir/verybadlink=../../../../../../etc/shadow f:t/.wh..wh..opq",
     "d:t d:t/dir f:t/dir/file#1 l:t/dir/verybadlink=../../../../../../etc/shadow f:t/file#1"},
    {"d:t f:t/file l:t/link=.. d:t/dir f:t/dir/file l:t/dir/verybadlink=../../../../../../etc/shadow|"
     "f:t/.wh..wh..opq",
     "d:t"},
    /* MultiLevel, MultiLevelNoUpper */
    {"d:t l:t/1_link=.. f:t/1a/2_file d:t/1a/2a f:t/1a/2a/3_A f:t/1a/2a/3_B f:t/1a/2b/3_B d:t/1a/2b/3 d:t/1a/2b/3/4 "
     "d:t/1a/2b/3/4 d:t/1b f:t/1b/2_A d:t/1b/2 f:t/1b/2/3_file|"
     "f:t/1_file d:t/1a l:t/1a/2_link=../../../ d:t/1a/2b f:t/1a/2b/3_A f:t/1a/2b/3_A f:t/.wh..wh..opq",
     "d:t f:t/1_file#1 d:t/1a l:t/1a/2_link=../../../ d:t/1a/2b f:t/1a/2b/3_A#1"},
    {"d:t f:t/1_file l:t/1_link=.. d:t/1a f:t/1a/2_file d:t/1a/2a f:t/1a/2a/3_A f:t/1b/2/3_file|f:t/.wh..wh..opq",
     "d:t"},
    /* MissingUpperAncestor, UpperWhiteout, UpperDirWhiteout */
    {"d:t d:t/some d:t/some/dir d:t/another d:t/another/dir f:t/another/dir/somewhere|"
     "f:t/some/dir/somewhere f:t/.wh..wh..opq",
     "d:t d:t/some d:t/some/dir f:t/some/dir/somewhere#1"},
    {"d:t f:t/fileC|f:t/.wh.fileB f:t/fileA f:t/fileB f:t/.wh.fileA f:t/.wh.fileC f:t/.wh..wh..opq",
     "d:t f:t/fileA#1 f:t/fileB#1"},
    {"d:t f:t/file l:t/dir1/link=../badlink l:t/dir1/bad2=/../../etc/shadow l:t/dir2/link=../badlink|f:t/.wh.dir2 "
     "d:t/dir1 f:t/dir1/file l:t/dir1/bad=../../../../etc/shadow f:t/.wh.dir1 d:t/dir2 f:t/dir2/file f:t/.wh..wh..opq",
     "d:t d:t/dir1 l:t/dir1/bad=../../../../etc/shadow f:t/dir1/file#1 d:t/dir2 f:t/dir2/file#1"},
    {"d:t f:t/x l:l=/t|f:l/.wh..wh..opq", "l:l=/t d:t"},
    {"f:t|f:t/.wh..wh..opq", "f:t#0"},
    /* hard links: of a link it is the link that gets a further name; absolute is from the root */
    {"f:regular h:hard=/regular l:link=../../../regular h:hard2=link",
     "f:hard#0*2 l:hard2=../../../regular*2 l:link=../../../regular*2 f:regular#0*2"},
    {"l:e=/etc/passwd h:x=e f:x", "l:e=/etc/passwd f:x#0"},
    {"f:a h:b=a|f:b", "f:a#0 f:b#1"},
    {"d:d l:d/up=.. f:x h:y=d/up/x", "d:d l:d/up=.. f:x#0*2 f:y#0*2"},
    /* duplicates of different types: the last one stays */
    {"f:x d:x l:x=/etc c:x p:x b:x f:x", "f:x#0"},
    {"d:x f:x/y l:x=/etc", "l:x=/etc"},
    {"l:x=/etc d:x f:x/passwd", "d:x f:x/passwd#0"},
    {"l:x=/etc|d:x|f:x/passwd", "d:x f:x/passwd#2"},
    {"f:x h:y=x d:x", "d:x f:y#0"},
    {"d:x f:x/y f:x d:x", "d:x"},
    /* devices are entries like others: the guest's own, behind its own kernel */
    {"c:dev/null b:dev/sda p:dev/p|f:dev/.wh.sda", "d:dev c:dev/null p:dev/p"},
};

static void test_contained(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(contained); i++) {
        struct sm_error err = SM_ERROR_INIT;
        char text[4096];
        struct tree *t;
        int r;

        assert_int_equal(tree_new(&t, NULL), 0);
        r = apply_words(t, contained[i].layers, &err);
        if (!contained[i].tree) {
            assert_true(r < 0);
        } else if (r < 0) {
            fail_msg("%s: %s", contained[i].layers, err.text);
        } else {
            tree_words(t, text);
            if (strcmp(text, contained[i].tree))
                fail_msg("%s:\n is \"%s\",\n should be \"%s\"", contained[i].layers, text, contained[i].tree);
        }
        tree_free(t);
    }
}

static const struct {
    const char *layers, *word;
} refused[] = {
    {"f:/../file", "absolute"},
    {"f:../file", "\"..\""},
    {"f:a/../../file", "\"..\""},
    {"d:..", "\"..\""},
    {"f:/etc/passwd", "absolute"},
    {"f:../.wh.etc", "\"..\""},
    {"f:../.wh..wh..opq", "\"..\""},
    {"f:.wh.", "whiteout of no name"},
    {"f:some/path/.wh.", "whiteout of no name"},
    {"f:d/.wh..", "whiteout of no name"},
    {"f:d/.wh...", "whiteout of no name"},
    {"f:.wh.x/y", "below a whiteout"},
    {"l:.=/etc", "root must stay"},
    {"f:.", "root must stay"},
    {"h:.=x", "root must stay"},
    {"c:/", "root must stay"},
    {"h:a=../../../etc/passwd", "\"..\""},
    {"h:a=/etc/passwd", "does not exist"},
    {"l:e=/etc h:a=e/passwd", "does not exist"},
    {"l:e=../../etc h:a=e/shadow", "does not exist"},
    {"h:a=a", "does not exist"},
    {"h:a=b h:b=a", "does not exist"},
    {"d:d h:a=d", "is a directory"},
    {"f:a|f:.wh.a h:b=a", "does not exist"},
    {"l:a=b l:b=a f:a/x", "loop"},
    {"l:a=.. l:b=a/b f:b/x", "loop"},
};

static void test_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        struct sm_error err = SM_ERROR_INIT;
        struct tree *t;

        assert_int_equal(tree_new(&t, NULL), 0);
        if (apply_words(t, refused[i].layers, &err) >= 0)
            fail_msg("accepted: %s", refused[i].layers);
        if (!strstr(err.text, refused[i].word))
            fail_msg("%s: \"%s\" does not say \"%s\"", refused[i].layers, err.text, refused[i].word);
        tree_free(t);
    }
}

/* What is put into a directory or taken from it changes nothing about the directory. */
static void test_parents_stay(void **state)
{
    struct buf tar = buf_init(1 << 20);
    struct tree *t;

    assert_int_equal(tree_new(&t, NULL), 0);
    tar_pax(&tar, "mtime", "123.000000456");
    tar_add(&tar, "d", '5', NULL, NULL, 0);
    tar_add(&tar, "d/x", '0', NULL, "x", 1);
    tar_end(&tar);
    assert_int_equal(apply(t, &tar, NULL), 0);
    assert_int_equal(apply_words(t, "f:d/.wh.x|f:d/y|f:d/.wh..wh..opq", NULL), 0);
    assert_int_equal(tree_find(t, "d")->n_children, 0);
    assert_int_equal(tree_find(t, "d")->inode->mtime, 123);
    assert_int_equal(tree_find(t, "d")->inode->mtime_ns, 456);
    tree_free(t);
    buf_done(&tar);
}

static void test_hard_link_metadata(void **state)
{
    struct buf tar = buf_init(1 << 20);
    struct tree *t;

    assert_int_equal(tree_new(&t, NULL), 0);
    tar_add(&tar, "regular", '0', NULL, "x", 1);
    add_pax(&tar, (const char *const[]){"uid=1337", "mtime=5", NULL});
    tar_add(&tar, "hard", '1', "regular", NULL, 0);
    tar_end(&tar);
    assert_int_equal(apply(t, &tar, NULL), 0);
    assert_ptr_equal(tree_find(t, "hard")->inode, tree_find(t, "regular")->inode);
    assert_int_equal(tree_find(t, "regular")->inode->uid, 0);
    assert_int_equal(tree_find(t, "regular")->inode->mtime, 1000);
    tree_free(t);
    buf_done(&tar);
}

/* A name, a link or a size from an extended header goes through the same door as one from the plain header. */
static const struct {
    const char *records[5];
    char type;
    const char *word; /* "": refused or harmless */
} pax[] = {
    {{"path=../evil"}, '0', "\"..\""},
    {{"path=/evil"}, '0', "absolute"},
    {{"path=d/../../evil"}, '5', "\"..\""},
    {{"path=."}, '2', "root must stay"},
    {{"path=.wh."}, '0', "whiteout of no name"},
    {{"path=good", "path=../evil"}, '0', "\"..\""},
    {{"linkpath=../../etc/passwd"}, '1', "\"..\""},
    {{"linkpath="}, '2', ""},
    {{"size=9223372036854775807"}, '0', ""},
    {{"size=18446744073709551616"}, '0', ""},
    {{"size=-1"}, '0', ""},
    {{"size=1099511627777"}, '0', "limit"},
    {{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name=../evil", "GNU.sparse.realsize=512"}, '0', "\"..\""},
    {{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9223372036854775807"}, '0', "limit"},
    {{"GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=-1"}, '0', ""},
    {{"GNU.sparse.size=1099511627777", "GNU.sparse.numblocks=1", "GNU.sparse.map=0,1"}, '0', "limit"},
    {{"GNU.sparse.size=10", "GNU.sparse.numblocks=1", "GNU.sparse.map=1099511627776,1"}, '0', ""},
    {{"GNU.sparse.size=10", "GNU.sparse.numblocks=2", "GNU.sparse.map=5,1,2,3"}, '0', ""},
    {{"GNU.sparse.size=10", "GNU.sparse.numblocks=1", "GNU.sparse.map=-5,10"}, '0', ""},
    {{"uid=4294967295"}, '0', "owner"},
    {{"gid=-1"}, '0', "owner"},
    {{"SCHILY.devmajor=1048576"}, '3', "device"},
    {{"hdrcharset=BINARY", "path=../evil"}, '0', "\"..\""},
};

static void test_extended_headers(void **state)
{
    static const char sparse[1024] = "1\n0\n512\n"; /* of GNU's format 1.0: one piece, then its content */

    for (size_t i = 0; i < ARRAY_SIZE(pax); i++) {
        struct buf tar = buf_init(1 << 20);
        struct sm_error err = SM_ERROR_INIT;
        char text[4096];
        struct tree *t;

        assert_int_equal(tree_new(&t, NULL), 0);
        add_pax(&tar, pax[i].records);
        tar_add(&tar, "short", pax[i].type, "target", sparse, pax[i].type == '0' ? sizeof(sparse) : 0);
        tar_end(&tar);
        if (apply(t, &tar, &err) >= 0) {
            tree_words(t, text);
            if (pax[i].word[0] || strstr(text, "evil"))
                fail_msg("accepted: %s: %s", pax[i].records[0], text);
        } else if (!strstr(err.text, pax[i].word)) {
            fail_msg("%s: \"%s\" does not say \"%s\"", pax[i].records[0], err.text, pax[i].word);
        }
        tree_free(t);
        buf_done(&tar);
    }
}

static void set_checksum(uint8_t *h)
{
    unsigned sum = 0;
    char text[8];

    memset(h + 148, ' ', 8);
    for (size_t i = 0; i < 512; i++)
        sum += h[i];
    snprintf(text, sizeof(text), "%06o", sum);
    memcpy(h + 148, text, 7);
}

/* Headers that promise gigabytes which never come, for every kind that a reader could set aside memory for. */
static void test_empty_promises(void **state)
{
    static const char kinds[] = "xgLKS0";

    for (size_t i = 0; kinds[i]; i++) {
        static const uint8_t huge[2][12] = {{'7', '7', '7', '7', '7', '7', '7', '7', '7', '7', '7', 0},
                                            {0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

        for (size_t k = 0; k < 2; k++) {
            struct buf tar = buf_init(1 << 20);
            struct sm_error err = SM_ERROR_INIT;
            struct tree *t;

            assert_int_equal(tree_new(&t, NULL), 0);
            tar_add(&tar, "name", kinds[i], NULL, NULL, 0);
            memcpy(tar.data + 124, huge[k], 12);
            set_checksum(tar.data);
            tar_add(&tar, "behind", '0', NULL, "x", 1);
            tar_end(&tar);
            if (apply(t, &tar, &err) >= 0 && tree_find(t, "behind"))
                fail_msg("kind %c: what is behind the content was read as an entry", kinds[i]);
            tree_free(t);
            buf_done(&tar);
        }
    }
}

/* Directory headers without end. */
struct endless {
    uint8_t chunk[64 * 512];
    uint64_t left; /* entries */
};

static ssize_t next_headers(void *ctx, const void **ret)
{
    struct endless *s = ctx;
    size_t n = s->left < 64 ? (size_t)s->left : 64;

    s->left -= n;
    *ret = s->chunk;
    return (ssize_t)(n * 512);
}

static void test_too_many_entries(void **state)
{
    struct endless *s = malloc(sizeof(*s));
    struct sm_error err = SM_ERROR_INIT;
    struct buf tar = buf_init(4096);
    int data_fd = memory_file("", 0), index_fd = memory_file("", 0);

    tar_add(&tar, "d", '5', NULL, NULL, 0);
    for (size_t i = 0; i < 64; i++)
        memcpy(s->chunk + i * 512, tar.data, 512);
    s->left = OCI_LAYER_MAX_ENTRIES + 1;
    assert_int_equal(layer_convert(&(struct unpack_source){next_headers, s}, data_fd, index_fd, &err), -EFBIG);
    assert_non_null(strstr(err.text, "2000000 entries"));
    close(data_fd);
    close(index_fd);
    buf_done(&tar);
    free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contained),        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_parents_stay),     cmocka_unit_test(test_hard_link_metadata),
        cmocka_unit_test(test_extended_headers), cmocka_unit_test(test_empty_promises),
        cmocka_unit_test(test_too_many_entries),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
