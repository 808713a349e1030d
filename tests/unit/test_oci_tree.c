/* SPDX-License-Identifier: Apache-2.0 */
/* Merging layers: a table of what entries do to a tree, and of what is refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "oci/limits.h"
#include "oci/tree.h"
#include "oci_fixture.h"

/*
 * A layer is a row of words: "TYPE:PATH" or "TYPE:PATH=LINK", type f d l (symbolic link) h (hard link) c p. Layers are
 * separated by "|". The tree is described in the same words (tree_words).
 */
static int add_word(struct tree *t, char *word, struct sm_error *err)
{
    static const char types[] = " fdlhc p";
    char *link = strchr(word, '=');
    struct oci_entry e;

    if (link)
        *link++ = '\0';
    e = plain_entry((enum oci_type)(strchr(types, word[0]) - types), word + 2, link);
    return tree_add(t, &e, err);
}

static int add_layers(struct tree *t, const char *layers, struct sm_error *err)
{
    char *copy = strdup(layers), *save, *save_word;
    int r = 0;

    for (char *layer = strtok_r(copy, "|", &save); r >= 0 && layer; layer = strtok_r(NULL, "|", &save)) {
        tree_next_layer(t);
        for (char *w = strtok_r(layer, " ", &save_word); r >= 0 && w; w = strtok_r(NULL, " ", &save_word))
            r = add_word(t, w, err);
    }
    free(copy);
    return r;
}

static const struct {
    const char *layers, *tree;
} good[] = {
    /* shapes of names */
    {"f:a", "f:a#0"},
    {"f:./a//b/./c", "d:a d:a/b f:a/b/c#0"},
    {"d:. d:./ d:/ f:a", "f:a#0"},
    {"d:a/ f:a/..b f:a/b.. f:...", "f:...#0 d:a f:a/..b#0 f:a/b..#0"},
    /* duplicates and replacement */
    {"f:a f:a", "f:a#0"},
    {"f:a|f:a", "f:a#1"},
    {"d:a f:a/b|d:a", "d:a f:a/b#0"},
    {"d:a f:a/b|f:a", "f:a#1"},
    {"f:a|d:a f:a/b", "d:a f:a/b#1"},
    {"d:a f:a/b|l:a=c", "l:a=c"},
    {"l:a=c d:c|d:a", "d:a d:c"},
    {"c:a p:b", "c:a p:b"},
    /* below what is no directory: it becomes one */
    {"f:a f:a/b", "d:a f:a/b#0"},
    {"p:a|f:a/b/c", "d:a d:a/b f:a/b/c#1"},
    {"f:x h:a=x|f:a/b", "d:a f:a/b#1 f:x#0"},
    /* below links: followed, inside the tree */
    {"d:usr d:usr/bin l:bin=usr/bin|f:bin/x", "l:bin=usr/bin d:usr d:usr/bin f:usr/bin/x#1"},
    {"l:e=/etc f:e/x", "l:e=/etc d:etc f:etc/x#0"},
    {"l:e=../../../etc f:e/x", "l:e=../../../etc d:etc f:etc/x#0"},
    {"d:a l:a/up=../b f:a/up/x", "d:a l:a/up=../b d:b f:b/x#0"},
    {"d:r l:a=b l:b=c l:c=r f:a/x", "l:a=b l:b=c l:c=r d:r f:r/x#0"},
    {"l:a=. f:a/a/a/x", "l:a=. f:x#0"},
    {"l:bin=usr|f:bin", "f:bin#1"}, /* the last component is replaced, not followed */
    {"l:a=loop l:loop=a|f:a", "f:a#1 l:loop=a"},
    /* hard links */
    {"f:a h:b=a", "f:a#0*2 f:b#0*2"},
    {"f:a h:b=a h:c=b", "f:a#0*3 f:b#0*3 f:c#0*3"},
    {"f:a|h:b=./a", "f:a#0*2 f:b#0*2"},
    {"f:a|h:b=/a", "f:a#0*2 f:b#0*2"},
    {"f:a h:b=a|f:a", "f:a#1 f:b#0"},
    {"f:a h:b=a|f:.wh.a", "f:b#0"},
    {"f:a l:s=a h:t=s", "f:a#0 l:s=a*2 l:t=a*2"},
    {"d:d f:d/x l:s=d h:y=s/x", "d:d f:d/x#0*2 l:s=d f:y#0*2"},
    {"d:d f:d/x h:d=d/x", "f:d#0"}, /* what it names goes with the directory it replaces; the inode stays */
    {"f:a h:a=a", "f:a#0"},
    /* whiteouts */
    {"f:a f:b|f:.wh.a", "f:b#0"},
    {"d:d f:d/x f:d/y|f:.wh.d", ""},
    {"d:d f:d/x|f:d/.wh.x", "d:d"},
    {"f:a|f:.wh.none", "f:a#0"},
    {"f:a|f:none/.wh.a", "f:a#0"},
    {"f:a|f:a/.wh.x", "f:a#0"},
    {"f:a|f:.wh.a f:a", "f:a#1"},
    {"f:a|f:a f:.wh.a", "f:a#1"},
    {"d:d f:d/old|f:d/new f:.wh.d", "d:d f:d/new#1"},
    {"d:d f:d/x l:s=d|f:s/.wh.x", "d:d l:s=d"},
    {"l:s=/ f:x|f:s/.wh.x", "l:s=/"},
    {"f:a|d:.wh.a", ""},
    {"f:a f:b|h:.wh.a=b", "f:b#0"},
    {"f:.wh..wh.plnk f:.wh..wh.aufs/x f:a", "f:a#0"},
    {"f:.wh.x", ""},
    {"f:a|f:.wh..hidden f:.b", "f:.b#1 f:a#0"},
    /* opaque directories */
    {"d:d f:d/a d:d/e f:d/e/b|f:d/.wh..wh..opq", "d:d"},
    {"d:d f:d/a|f:d/.wh..wh..opq f:d/n", "d:d f:d/n#1"},
    {"d:d f:d/a d:d/e f:d/e/b|d:d/e f:d/n f:d/.wh..wh..opq", "d:d d:d/e f:d/n#1"},
    {"f:a d:d|f:.wh..wh..opq f:b", "f:b#1"},
    {"d:d f:d/a l:s=d|f:s/.wh..wh..opq", "d:d l:s=d"},
    {"f:a|f:x/.wh..wh..opq", "f:a#0"},
};

static void test_good(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        struct sm_error err = SM_ERROR_INIT;
        char text[4096] = "";
        struct tree *t;

        assert_int_equal(tree_new(&t, &err), 0);
        if (add_layers(t, good[i].layers, &err) < 0)
            fail_msg("%s: %s", good[i].layers, err.text);
        tree_words(t, text);
        if (strcmp(text, good[i].tree))
            fail_msg("%s: is \"%s\", should be \"%s\"", good[i].layers, text, good[i].tree);
        tree_free(t);
    }
}

static const struct {
    const char *layers, *word;
} bad[] = {
    {"f:..", "\"..\""},
    {"f:../a", "\"..\""},
    {"f:a/../../b", "\"..\""},
    {"d:a/..", "\"..\""},
    {"f:/etc/passwd", "absolute"},
    {"f://a", "absolute"},
    {"f:.", "root must stay"},
    {"l:/=x", "root must stay"},
    {"l:a=b l:b=a f:a/x", "loop"},
    {"l:a=a f:a/x", "loop"},
    {"l:a=b/a d:b l:b/a=../a f:a/x", "loop"},
    {"h:a=none", "does not exist"},
    {"h:a=none/none", "does not exist"},
    {"f:f h:a=f/x", "does not exist"},
    {"h:a=../x", "\"..\""},
    {"f:x h:a=../../x", "\"..\""},
    {"d:d h:a=d", "is a directory"},
    {"h:a=.", "is a directory"},
    {"f:.wh.", "whiteout of no name"},
    {"f:d/.wh.", "whiteout of no name"},
    {"f:.wh..", "whiteout of no name"},
    {"f:d/.wh...", "whiteout of no name"},
    {"f:.wh.x/y", "below a whiteout"},
    {"f:.wh..wh..opq/y", "below a whiteout"},
    {"l:a=", "empty"},
};

static void test_bad(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct sm_error err = SM_ERROR_INIT;
        struct tree *t;

        assert_int_equal(tree_new(&t, &err), 0);
        if (add_layers(t, bad[i].layers, &err) >= 0)
            fail_msg("accepted: %s", bad[i].layers);
        if (!strstr(err.text, bad[i].word) || !strstr(err.text, "the layer's entry"))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].layers, err.text, bad[i].word);
        assert_true(err.code > 0);
        tree_free(t);
    }
}

static int add_one(struct tree *t, struct oci_entry e)
{
    struct sm_error err = SM_ERROR_INIT;

    return tree_add(t, &e, &err);
}

static void test_limits(void **state)
{
    char *name = malloc(6000), long_link[OCI_LINK_MAX + 2];
    struct oci_xattr many[OCI_XATTRS_MAX + 1], one = {.name = "user.x", .value = name, .len = 1};
    struct oci_entry e;
    struct tree *t;

    assert_int_equal(tree_new(&t, NULL), 0);
    tree_next_layer(t);
    memset(name, 'n', 6000);
    name[OCI_NAME_MAX] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, name, NULL)), 0);
    assert_non_null(tree_find(t, name));
    name[OCI_NAME_MAX] = 'n';
    name[OCI_NAME_MAX + 1] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, name, NULL)), -ENAMETOOLONG);

    for (size_t i = 0; i < 5999; i++)
        name[i] = i % 100 == 99 ? '/' : 'n';
    name[OCI_PATH_MAX] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, name, NULL)), 0);
    name[OCI_PATH_MAX] = 'n';
    name[OCI_PATH_MAX + 1] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, name, NULL)), -ENAMETOOLONG);

    for (size_t i = 0; i < 2 * OCI_DEPTH_MAX + 2; i += 2)
        memcpy(name + i, "d/", 2);
    name[2 * OCI_DEPTH_MAX] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_DIR, name, NULL)), 0);
    /* deeper still by a link to the deepest */
    assert_int_equal(add_one(t, plain_entry(OCI_SYMLINK, "deep", name)), 0);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "deep/x", NULL)), -ENAMETOOLONG);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "deep/x/y", NULL)), -ENAMETOOLONG);
    memcpy(name + 2 * OCI_DEPTH_MAX, "d", 2);
    assert_int_equal(add_one(t, plain_entry(OCI_DIR, name, NULL)), -ENAMETOOLONG);

    memset(long_link, 'l', sizeof(long_link));
    long_link[OCI_LINK_MAX] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_SYMLINK, "l", long_link)), 0);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "l/x", NULL)), -ENAMETOOLONG);
    long_link[OCI_LINK_MAX] = 'l';
    long_link[OCI_LINK_MAX + 1] = '\0';
    assert_int_equal(add_one(t, plain_entry(OCI_SYMLINK, "l", long_link)), -ENAMETOOLONG);

    e = plain_entry(OCI_FILE, "x", NULL);
    for (size_t i = 0; i < ARRAY_SIZE(many); i++)
        many[i] = one;
    e.xattrs = many;
    e.n_xattrs = OCI_XATTRS_MAX + 1;
    assert_int_equal(add_one(t, e), -E2BIG);
    e.n_xattrs = 1;
    many[0].len = OCI_XATTR_VALUE_MAX + 1;
    assert_int_equal(add_one(t, e), -E2BIG);
    many[0] = (struct oci_xattr){.name = "", .value = "", .len = 0};
    assert_int_equal(add_one(t, e), -EINVAL);

    e = plain_entry(OCI_CHAR, "dev", NULL);
    e.major = 0x1000;
    assert_int_equal(add_one(t, e), -EINVAL);
    e.major = 0xfff;
    e.minor = 0xfffff;
    assert_int_equal(add_one(t, e), 0);
    assert_int_equal(tree_find(t, "dev")->inode->rdev, 0xffffffff);
    e.minor++;
    assert_int_equal(add_one(t, e), -EINVAL);
    e = plain_entry(OCI_FILE, "big", NULL);
    e.size = OCI_LAYER_MAX_DATA + 1;
    assert_int_equal(add_one(t, e), -EFBIG);
    e = plain_entry(OCI_FILE, "time", NULL);
    e.mtime_ns = 1000000000;
    assert_int_equal(add_one(t, e), -EINVAL);
    e = plain_entry(OCI_FILE, "mode", NULL);
    e.mode = 0100644;
    assert_int_equal(add_one(t, e), -EINVAL);
    e = plain_entry(OCI_TYPE_END, "type", NULL);
    assert_int_equal(add_one(t, e), -EINVAL);
    tree_free(t);
    free(name);
}

static void test_link_count(void **state)
{
    struct tree *t;
    char name[16];

    assert_int_equal(tree_new(&t, NULL), 0);
    tree_next_layer(t);
    for (unsigned i = 0; i <= OCI_FOLLOW_MAX; i++) {
        char target[16];

        snprintf(name, sizeof(name), "l%u", i);
        snprintf(target, sizeof(target), i < OCI_FOLLOW_MAX ? "l%u" : "d", i + 1);
        assert_int_equal(add_one(t, plain_entry(OCI_SYMLINK, name, target)), 0);
    }
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "l1/x", NULL)), 0); /* OCI_FOLLOW_MAX links */
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "l0/x", NULL)), -ELOOP);
    assert_non_null(tree_find(t, "d/x"));
    tree_free(t);
}

static void test_metadata(void **state)
{
    const struct oci_xattr xattrs[] = {{"user.a", "1", 1},
                                       {"trusted.overlay.opaque", "y", 1},
                                       {"odd.name", "z", 1},
                                       {"security.capability", "\1\0", 2},
                                       {"user.a", "2", 1},
                                       {"system.posix_acl_access", "acl", 3},
                                       {"system.posix_acl_accessx", "", 0}};
    static const uint8_t want[] = {1,   1,   1,   0,   'a', '1', 0, 0, 10, 6, 2, 0, 'c', 'a', 'p', 'a',
                                   'b', 'i', 'l', 'i', 't', 'y', 1, 0, 0,  2, 3, 0, 'a', 'c', 'l', 0};
    struct oci_entry e = plain_entry(OCI_DIR, "d", NULL);
    struct tree_inode *ino;
    struct tree *t;

    assert_int_equal(tree_new(&t, NULL), 0);
    tree_next_layer(t);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "d/x", NULL)), 0);
    ino = tree_find(t, "d")->inode;
    assert_int_equal(ino->mode, 0755);
    assert_int_equal(ino->mtime, 0);
    e.mode = 01777;
    e.uid = 70000;
    e.gid = UINT32_MAX - 1;
    e.mtime = -5;
    e.mtime_ns = 999999999;
    e.xattrs = xattrs;
    e.n_xattrs = ARRAY_SIZE(xattrs);
    assert_int_equal(add_one(t, e), 0);
    ino = tree_find(t, "d")->inode;
    assert_int_equal(ino->mode, 01777);
    assert_int_equal(ino->uid, 70000);
    assert_int_equal(ino->gid, UINT32_MAX - 1);
    assert_int_equal(ino->mtime, -5);
    assert_int_equal(ino->mtime_ns, 999999999);
    assert_int_equal(ino->xattrs_len, sizeof(want));
    assert_memory_equal(ino->xattrs, want, sizeof(want));
    assert_non_null(tree_find(t, "d/x"));
    assert_int_equal(add_one(t, plain_entry(OCI_DIR, "d", NULL)), 0); /* all of it is replaced */
    assert_int_equal(tree_find(t, "d")->inode->xattrs_len, 0);
    /* a directory above does not change with what comes below */
    e.mtime = 77;
    assert_int_equal(add_one(t, e), 0);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "d/y", NULL)), 0);
    assert_int_equal(tree_find(t, "d")->inode->mtime, 77);
    assert_int_equal(tree_count(t), 4);
    tree_free(t);
}

static void test_many(void **state)
{
    struct tree *t;
    char name[32];

    assert_int_equal(tree_new(&t, NULL), 0);
    tree_next_layer(t);
    for (unsigned i = 0; i < 20000; i++) {
        snprintf(name, sizeof(name), "d/%u", i * 7919 % 20000);
        assert_int_equal(add_one(t, plain_entry(OCI_FILE, name, NULL)), 0);
    }
    assert_int_equal(tree_count(t), 20002);
    assert_int_equal(tree_find(t, "d")->n_children, 20000);
    tree_next_layer(t);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "d/5", NULL)), 0);
    assert_int_equal(add_one(t, plain_entry(OCI_FILE, "d/.wh..wh..opq", NULL)), 0);
    assert_int_equal(tree_count(t), 3);
    tree_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),       cmocka_unit_test(test_bad),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_link_count), cmocka_unit_test(test_metadata), cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
