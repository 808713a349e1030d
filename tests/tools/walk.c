/* SPDX-License-Identifier: Apache-2.0 */
/*
 * walk ROOT [EXCLUDE...]: describes every entry below ROOT, one line each, sorted by path, so that two trees can be
 * compared with diff: a guest's root file system and what another tool unpacked from the same image.
 *
 * A line is: path, type and mode (octal), uid:gid, size (not of directories: file systems differ), link count (not of
 * directories: likewise), rdev, mtime, sha256 of contents or link target, extended attributes in hex. Bytes outside
 * printable ASCII, spaces and '%' are written %XX. Mount points below ROOT and EXCLUDE (paths from ROOT, without the
 * leading slash) are left out with all that is in them. Exits 1 when something could not be read, and says what.
 *
 * Static, so that it runs in any image.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#define OPENSSL_SUPPRESS_DEPRECATED /* the one-shot interface would link every algorithm in */
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XATTR_MAX (64 * 1024) /* XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux */

struct walk {
    dev_t root_dev; /* of directories: overlayfs gives files other ones */
    char **exclude;
    int failures;
};

static void fail(struct walk *w, const char *what, const char *path)
{
    fprintf(stderr, "walk: %s %s: %s\n", what, path, strerror(errno));
    w->failures++;
}

static void put_escaped(const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c <= ' ' || c >= 0x7f || c == '%')
            printf("%%%02X", c);
        else
            putchar(c);
    }
}

static void put_hex(const void *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        printf("%02x", ((const unsigned char *)data)[i]);
}

static void put_contents(struct walk *w, int dirfd, const char *name, const char *path)
{
    static unsigned char block[256 * 1024];
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256_CTX sha;
    ssize_t n;
    int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0) {
        fail(w, "open", path);
        return;
    }
    SHA256_Init(&sha);
    while ((n = read(fd, block, sizeof(block))) > 0)
        SHA256_Update(&sha, block, (size_t)n);
    if (n < 0)
        fail(w, "read", path);
    close(fd);
    SHA256_Final(digest, &sha);
    printf(" sha256:");
    put_hex(digest, sizeof(digest));
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void put_xattrs(struct walk *w, int dirfd, const char *name, const char *path)
{
    static char names[XATTR_MAX], value[XATTR_MAX];
    char link[64 + NAME_MAX + 1];
    char *sorted[1024];
    size_t count = 0;

    /* There is no llistxattrat(): go by the descriptor of the directory in /proc. */
    snprintf(link, sizeof(link), "/proc/self/fd/%d/%s", dirfd, name);
    ssize_t len = llistxattr(link, names, sizeof(names));
    if (len < 0) {
        if (errno != ENOTSUP)
            fail(w, "list attributes of", path);
        return;
    }
    for (char *p = names; p < names + len && count < 1024; p += strlen(p) + 1)
        sorted[count++] = p;
    qsort(sorted, count, sizeof(sorted[0]), by_name);
    for (size_t i = 0; i < count; i++) {
        ssize_t n = lgetxattr(link, sorted[i], value, sizeof(value));

        if (n < 0) {
            fail(w, sorted[i], path);
            continue;
        }
        putchar(' ');
        put_escaped(sorted[i]);
        putchar('=');
        put_hex(value, (size_t)n);
    }
}

static void put_entry(struct walk *w, int dirfd, const char *name, const char *path, const struct stat *st)
{
    put_escaped(path);
    printf(" %o %u:%u", (unsigned)st->st_mode, (unsigned)st->st_uid, (unsigned)st->st_gid);
    if (S_ISDIR(st->st_mode))
        printf(" - -");
    else
        printf(" %lld %lu", (long long)st->st_size, (unsigned long)st->st_nlink);
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode))
        printf(" %u:%u", major(st->st_rdev), minor(st->st_rdev));
    else
        printf(" -");
    printf(" %lld.%09ld", (long long)st->st_mtim.tv_sec, st->st_mtim.tv_nsec);
    if (S_ISREG(st->st_mode)) {
        put_contents(w, dirfd, name, path);
    } else if (S_ISLNK(st->st_mode)) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

        if (n < 0) {
            fail(w, "read link", path);
        } else {
            target[n] = '\0';
            printf(" ->");
            put_escaped(target);
        }
    } else {
        printf(" -");
    }
    put_xattrs(w, dirfd, name, path);
    putchar('\n');
}

static bool excluded(const struct walk *w, const char *path)
{
    for (char **e = w->exclude; *e; e++)
        if (strcmp(*e, path) == 0)
            return true;
    return false;
}

/* Entries of the open directory `fd` (taken over), whose path from the root is `path` ("" for the root itself). */
static void walk_dir(struct walk *w, int fd, const char *path)
{
    struct dirent *entry;
    size_t count = 0, room = 0;
    char **names = NULL;
    DIR *dir = fdopendir(fd);

    if (!dir) {
        fail(w, "open", path);
        close(fd);
        return;
    }
    while ((entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (count == room && !(names = realloc(names, (room = room ? room * 2 : 64) * sizeof(names[0]))))
            abort();
        if (!(names[count++] = strdup(entry->d_name)))
            abort();
    }
    if (count)
        qsort(names, count, sizeof(names[0]), by_name);
    for (size_t i = 0; i < count; i++) {
        char *child = NULL;
        struct stat st;

        if (asprintf(&child, "%s%s%s", path, *path ? "/" : "", names[i]) < 0)
            abort();
        if (fstatat(dirfd(dir), names[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
            fail(w, "stat", child);
        } else if (!excluded(w, child) && !(S_ISDIR(st.st_mode) && st.st_dev != w->root_dev)) {
            put_entry(w, dirfd(dir), names[i], child, &st);
            if (S_ISDIR(st.st_mode)) {
                int sub = openat(dirfd(dir), names[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

                if (sub < 0)
                    fail(w, "open", child);
                else
                    walk_dir(w, sub, child);
            }
        }
        free(child);
        free(names[i]);
    }
    free(names);
    closedir(dir);
}

int main(int argc, char **argv)
{
    struct walk w = {0};
    struct stat st;

    if (argc < 2) {
        fprintf(stderr, "usage: walk ROOT [EXCLUDE...]\n");
        return 2;
    }
    int fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        fprintf(stderr, "walk: %s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    w.root_dev = st.st_dev;
    w.exclude = argv + 2;
    walk_dir(&w, fd, "");
    if (fflush(stdout) != 0) {
        fprintf(stderr, "walk: standard output: %s\n", strerror(errno));
        return 1;
    }
    return w.failures ? 1 : 0;
}
