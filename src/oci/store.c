/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store.
 *
 * Theory of operation
 *
 * What: a directory with
 *
 *   layers/<64 hex>/data, index   one converted layer, named by its diff id
 *   images/<64 hex>/meta.erofs    the merged metadata, named by a hash over the layers' diff ids
 *   blobs/, partial/              what images came as: blobs.c
 *   snapshots/<64 hex>/           saved machines: snapshot_dirs.c
 *   sums/                         digests of the files that machines boot from: lib/filesum.c
 *   names/, used/                 what they are called, and when they were used: names.c
 *   locks/<kind>-<64 hex>         empty files, locked by whoever makes that object; only prune removes them
 *   locks/gc, locks/names         see gc.c, names.c
 *   tmp/<random>/                 what is being made; its directory is locked by the process that makes it
 *
 * Every name in it is made here from digests and random numbers. Objects appear whole: written below tmp, synced,
 * renamed. They never change. So a reader needs no lock, and an open descriptor stays good whatever happens to names.
 *
 * Killed at any point, a process leaves only directories below tmp, whose locks the kernel has released: opening the
 * store removes every directory there that it can lock. A directory just made and not yet locked could be taken for
 * such a one, so its maker looks again after locking, and makes another when it is gone.
 *
 * A damaged object (index header, sizes and superblock are looked at when it is opened) counts as missing: it is made
 * anew and takes the other's place.
 */
#include "oci/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/erofs.h"
#include "oci/gc.h"
#include "oci/index.h"
#include "oci/json.h"
#include "oci/limits.h"
#include "oci/store_dirs.h"
#include "oci/text.h"

#define TEMP_TRIES        100
#define STORE_MAX_OBJECTS 1000000u

static const char *const kind_names[] = {
    [STORE_LAYER] = "layer", [STORE_IMAGE] = "image", [STORE_BLOB] = "blob", [STORE_SNAPSHOT] = "snapshot"};

static int place_of(const struct oci_store *s, enum store_kind kind)
{
    switch (kind) {
    case STORE_LAYER:
        return s->layers_fd;
    case STORE_IMAGE:
        return s->images_fd;
    case STORE_SNAPSHOT:
        return s->snapshots_fd;
    case STORE_BLOB:
        break;
    }
    return s->blobs_fd;
}

int store_fail(const struct oci_store *s, struct sm_error *err, int code, const char *what)
{
    char shown[TEXT_SHOWN_SIZE];

    text_shown(shown, s->dir);
    if (code == ENOSPC || code == EDQUOT)
        return sm_error_set(err, code,
                            "%s in the image store \"%s\": the disk is full; make room there, for example with "
                            "`supermachine prune`",
                            what, shown);
    if (code == EROFS || code == EACCES || code == EPERM)
        return sm_error_set(err, code,
                            "%s in the image store \"%s\": %s; choose a directory that can be written with "
                            "SUPERMACHINE_HOME",
                            what, shown, code == EROFS ? "its file system is read-only" : "permission denied");
    return sm_error_sys(err, code, "%s in the image store \"%s\"", what, shown);
}

/* Opening */

static int default_dir(char **ret, struct sm_error *err)
{
    const char *own = getenv("SUPERMACHINE_HOME"), *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int n;

    if (own && own[0])
        n = asprintf(ret, "%s", own);
    else if (xdg && xdg[0] == '/')
        n = asprintf(ret, "%s/supermachine", xdg);
    else if (home && home[0])
        n = asprintf(ret, "%s/.local/share/supermachine", home);
    else
        return sm_error_set(err, ENOENT, "there is no place for images: set HOME, XDG_DATA_HOME or SUPERMACHINE_HOME");
    return n < 0 ? sm_error_set(err, ENOMEM, "out of memory") : 0;
}

static int make_dirs(const char *dir, struct sm_error *err)
{
    CLEANUP_FREE char *path = strdup(dir);
    char shown[TEXT_SHOWN_SIZE];

    if (!path)
        return sm_error_set(err, ENOMEM, "out of memory");
    for (char *p = path + 1; p[-1]; p++) {
        bool end = !*p;

        if (*p && *p != '/')
            continue;
        *p = '\0';
        if (mkdir(path, 0700) < 0 && errno != EEXIST && (end || errno != EACCES))
            return sm_error_sys(err, errno, "cannot make the directory \"%s\" for images", text_shown(shown, path));
        if (end)
            break;
        *p = '/';
    }
    return 0;
}

/* `late`: not there in stores of older versions, which may be read-only now. */
static int open_subdir(const struct oci_store *s, int store_fd, const char *name, bool late, int *ret,
                       struct sm_error *err)
{
    if (mkdirat(store_fd, name, 0700) < 0 && errno != EEXIST) {
        if (late && (errno == EROFS || errno == EACCES))
            return 0; /* then the descriptor stays -1 */
        return store_fail(s, err, errno, "cannot make a directory");
    }
    *ret = openat(store_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return *ret < 0 ? store_fail(s, err, errno, "cannot open a directory") : 0;
}

void store_clear_dir(int parent_fd, const char *name, int dir_fd)
{
    DIR *d = io_scan_dir(dir_fd);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            unlinkat(dir_fd, e->d_name, 0);
    }
    if (d)
        closedir(d);
    unlinkat(parent_fd, name, AT_REMOVEDIR);
}

static void sweep(const struct oci_store *s)
{
    DIR *d = io_scan_dir(s->tmp_fd);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        CLEANUP_FD int fd = -1;

        if (e->d_name[0] == '.')
            continue;
        fd = openat(s->tmp_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB))
            store_clear_dir(s->tmp_fd, e->d_name, fd);
    }
    if (d)
        closedir(d);
}

static int open_subdirs(struct oci_store *s, struct sm_error *err)
{
    struct {
        const char *name;
        int *fd;
        bool late;
    } subdirs[] = {
        {"layers", &s->layers_fd, false},   {"images", &s->images_fd, false}, {"blobs", &s->blobs_fd, false},
        {"partial", &s->partial_fd, false}, {"names", &s->names_fd, false},   {"used", &s->used_fd, false},
        {"locks", &s->locks_fd, false},     {"tmp", &s->tmp_fd, false},       {"snapshots", &s->snapshots_fd, true},
    };
    CLEANUP_FD int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return store_fail(s, err, errno, "cannot open the directory");
    for (size_t i = 0; i < ARRAY_SIZE(subdirs); i++) {
        int r = open_subdir(s, fd, subdirs[i].name, subdirs[i].late, subdirs[i].fd, err);

        if (r < 0)
            return r;
    }
    return 0;
}

int oci_store_open(struct oci_store **ret, const char *dir, struct sm_error *err)
{
    struct oci_store *s = malloc(sizeof(*s));
    int r = 0;

    if (!s)
        return sm_error_set(err, ENOMEM, "out of memory");
    *s = (struct oci_store){NULL, -1, -1, -1, -1, -1, -1, -1, -1, -1, GC_WAIT_MS, GC_ALONE_MS};
    if (dir) {
        s->dir = strdup(dir);
        r = s->dir ? 0 : sm_error_set(err, ENOMEM, "out of memory");
    } else {
        r = default_dir(&s->dir, err);
    }
    if (r >= 0)
        r = make_dirs(s->dir, err);
    if (r >= 0)
        r = open_subdirs(s, err);
    if (r < 0) {
        oci_store_free(s);
        return r;
    }
    sweep(s);
    *ret = s;
    return 0;
}

void oci_store_free(struct oci_store *s)
{
    if (!s)
        return;
    close_fd(&s->layers_fd);
    close_fd(&s->images_fd);
    close_fd(&s->blobs_fd);
    close_fd(&s->partial_fd);
    close_fd(&s->names_fd);
    close_fd(&s->used_fd);
    close_fd(&s->locks_fd);
    close_fd(&s->tmp_fd);
    close_fd(&s->snapshots_fd);
    free(s->dir);
    free(s);
}

const char *oci_store_path(const struct oci_store *s)
{
    return s->dir;
}

int store_lock_file(struct oci_store *s, const char *name, struct sm_error *err)
{
    int fd = openat(s->locks_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

    /* A store that cannot be written is good enough for who only reads; NFS wants writers to be able to write. */
    if (fd < 0 && (errno == EROFS || errno == EACCES)) {
        int saved = errno;

        fd = openat(s->locks_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        errno = fd < 0 ? saved : 0;
    }
    return fd < 0 ? store_fail(s, err, errno, "cannot make a lock") : fd;
}

static int open_lock(struct oci_store *s, enum store_kind kind, const struct digest *name, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE], file[DIGEST_HEX_SIZE + 16];

    digest_hex(name, hex);
    snprintf(file, sizeof(file), "%s-%s", kind_names[kind], hex);
    return store_lock_file(s, file, err);
}

int store_lock_told(struct oci_store *s, enum store_kind kind, const struct digest *name,
                    int (*waiting)(void *ctx, const char *who), void *ctx, struct sm_error *err)
{
    CLEANUP_FD int fd = open_lock(s, kind, name, err);
    int r;

    if (fd < 0)
        return fd;
    r = lock_take(fd, LOCK_EX, &(struct lock_wait){.timeout_ms = -1, .waiting = waiting, .ctx = ctx});
    if (r == -ECANCELED)
        return sm_error_set(err, ECANCELED, "stopped while waiting for another process");
    return r < 0 ? store_fail(s, err, -r, "cannot lock") : steal_fd(&fd);
}

int store_try_lock(struct oci_store *s, enum store_kind kind, const struct digest *name, struct sm_error *err)
{
    CLEANUP_FD int fd = open_lock(s, kind, name, err);

    if (fd < 0)
        return fd;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK || errno == EINTR ? -EAGAIN : store_fail(s, err, errno, "cannot lock");
    return steal_fd(&fd);
}

/* Objects */

int store_open_file(const struct oci_store *s, int dir_fd, const char *path, struct stat *ret_st, struct sm_error *err)
{
    CLEANUP_FD int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (fd < 0)
        return errno == ENOENT || errno == ELOOP ? -ENOENT : store_fail(s, err, errno, "cannot open an object");
    if (fstat(fd, ret_st) < 0)
        return store_fail(s, err, errno, "cannot look at an object");
    return S_ISREG(ret_st->st_mode) ? steal_fd(&fd) : -ENOENT;
}

/* A regular file of an object, read-only: its descriptor, -ENOENT when it is not there. */
static int open_part(struct oci_store *s, enum store_kind kind, const struct digest *name, const char *file,
                     struct stat *ret_st, struct sm_error *err)
{
    char path[DIGEST_HEX_SIZE + 16];

    digest_hex(name, path);
    snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%s", file);
    return store_open_file(s, place_of(s, kind), path, ret_st, err);
}

static bool is_hex_name(const char *name)
{
    size_t n = strspn(name, "0123456789abcdef");

    return n == DIGEST_HEX_SIZE - 1 && !name[n];
}

int store_list_dir(const struct oci_store *s, int dir_fd, bool odd, char ***ret, size_t *ret_n, struct sm_error *err)
{
    DIR *d = dir_fd < 0 ? NULL : io_scan_dir(dir_fd);
    int r = 0;
    size_t n = 0, size = 64;
    char **list = calloc(size, sizeof(*list));
    struct dirent *e;

    if (dir_fd < 0 && list) { /* see struct oci_store */
        *ret = list;
        *ret_n = 0;
        return 0;
    }
    if (!d) {
        r = store_fail(s, err, errno, "cannot list a directory");
    } else if (!list) {
        r = sm_error_set(err, ENOMEM, "out of memory");
    }
    while (r >= 0 && (errno = 0, e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || is_hex_name(e->d_name) == odd)
            continue;
        if (n + 1 == size) { /* room for the NULL at the end */
            char **larger = reallocarray(list, size * 2, sizeof(*list));

            if (!larger) {
                r = sm_error_set(err, ENOMEM, "out of memory");
                break;
            }
            memset(larger + size, 0, size * sizeof(*list));
            list = larger;
            size *= 2;
        }
        list[n] = strdup(e->d_name);
        if (!list[n++])
            r = sm_error_set(err, ENOMEM, "out of memory");
        else if (n > STORE_MAX_OBJECTS)
            r = sm_error_set(err, E2BIG, "there are more than %u objects of a kind in the image store \"%s\"",
                             STORE_MAX_OBJECTS, s->dir);
    }
    if (r >= 0 && errno)
        r = store_fail(s, err, errno, "cannot list a directory");
    if (d)
        closedir(d);
    if (r < 0) {
        strings_free(list);
        return r;
    }
    *ret = list;
    *ret_n = n;
    return 0;
}

int store_open_layer(struct oci_store *s, const struct digest *diff_id, int *ret_data_fd, int *ret_index_fd,
                     uint64_t *ret_data_size, struct sm_error *err)
{
    struct sm_error ignored = SM_ERROR_INIT;
    CLEANUP_FD int data_fd = -1;
    CLEANUP_FD int index_fd = -1;
    struct index_reader *index;
    struct stat st;
    int r;

    index_fd = open_part(s, STORE_LAYER, diff_id, "index", &st, err);
    if (index_fd < 0)
        return index_fd;
    data_fd = open_part(s, STORE_LAYER, diff_id, "data", &st, err);
    if (data_fd < 0)
        return data_fd;
    r = index_reader_new(&index, index_fd, &ignored);
    if (r == -EBADMSG)
        return -ENOENT;
    if (r < 0)
        return store_fail(s, err, -r, "cannot read a converted layer");
    *ret_data_size = index_data_size(index);
    index_reader_free(index);
    if ((uint64_t)st.st_size != *ret_data_size)
        return -ENOENT;
    *ret_data_fd = steal_fd(&data_fd);
    *ret_index_fd = steal_fd(&index_fd);
    return 0;
}

int store_open_image(struct oci_store *s, const struct digest *key, uint64_t data_size, int *ret_fd, uint64_t *ret_size,
                     struct sm_error *err)
{
    CLEANUP_FD int fd = -1;
    struct stat st;
    int r;

    fd = open_part(s, STORE_IMAGE, key, "meta.erofs", &st, err);
    if (fd < 0)
        return fd;
    if (!is_aligned((uint64_t)st.st_size, OCI_BLOCK))
        return -ENOENT;
    r = erofs_check(fd, (uint64_t)st.st_size + data_size);
    if (r < 0)
        return store_fail(s, err, -r, "cannot read a merged image");
    if (!r)
        return -ENOENT;
    *ret_size = (uint64_t)st.st_size;
    *ret_fd = steal_fd(&fd);
    return 0;
}

/* Making objects */

static int random_name(char name[40], struct sm_error *err)
{
    uint64_t r[2];

    if (getrandom(r, sizeof(r), 0) != (ssize_t)sizeof(r))
        return sm_error_sys(err, errno, "cannot get random bytes");
    snprintf(name, 40, "%016llx%016llx", (unsigned long long)r[0], (unsigned long long)r[1]);
    return 0;
}

/* 1: made and locked; 0: somebody swept it away in between. */
static int try_temp(struct store_temp *t, struct sm_error *err)
{
    struct stat by_fd, by_name;
    int r = random_name(t->name, err);

    if (r < 0)
        return r;
    if (mkdirat(t->store->tmp_fd, t->name, 0700) < 0)
        return store_fail(t->store, err, errno, "cannot make a temporary directory");
    t->dir_fd = openat(t->store->tmp_fd, t->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (t->dir_fd < 0)
        return errno == ENOENT ? 0 : store_fail(t->store, err, errno, "cannot open a temporary directory");
    if (!flock(t->dir_fd, LOCK_EX | LOCK_NB) && !fstat(t->dir_fd, &by_fd) &&
        !fstatat(t->store->tmp_fd, t->name, &by_name, AT_SYMLINK_NOFOLLOW) && by_fd.st_ino == by_name.st_ino)
        return 1;
    close_fd(&t->dir_fd);
    return 0;
}

int store_temp_new(struct store_temp *ret, struct oci_store *s, struct sm_error *err)
{
    struct store_temp t = {.store = s, .dir_fd = -1};

    for (int i = 0; i < TEMP_TRIES; i++) {
        int r = try_temp(&t, err);

        if (r < 0)
            return r;
        if (r) {
            *ret = t;
            return 0;
        }
    }
    return sm_error_set(err, EBUSY, "temporary directories vanish from the image store \"%s\"", s->dir);
}

int store_temp_file(const struct store_temp *t, const char *name, struct sm_error *err)
{
    int fd = openat(t->dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    return fd < 0 ? store_fail(t->store, err, errno, "cannot make a file") : fd;
}

static int sync_files(const struct store_temp *t, enum store_kind kind, struct sm_error *err)
{
    static const char *const layer[] = {"data", "index", NULL}, *const image[] = {"meta.erofs", NULL};

    for (const char *const *name = kind == STORE_LAYER ? layer : image; *name; name++) {
        CLEANUP_FD int fd = openat(t->dir_fd, *name, O_RDONLY | O_CLOEXEC);

        if (fd < 0 || fsync(fd) < 0)
            return store_fail(t->store, err, errno, "cannot write an object to disk");
    }
    return fsync(t->dir_fd) < 0 ? store_fail(t->store, err, errno, "cannot write an object to disk") : 0;
}

int store_remove_dir(const struct oci_store *s, int place_fd, const char *hex, struct sm_error *err)
{
    CLEANUP_FD int fd = -1;
    char name[40];
    int r = random_name(name, err);

    if (r < 0)
        return r;
    /* Out of its place first: a process that dies between two files must not leave half an object there. */
    if (renameat(place_fd, hex, s->tmp_fd, name) < 0)
        return errno == ENOENT ? 0 : store_fail(s, err, errno, "cannot remove an object");
    fd = openat(s->tmp_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0)
        store_clear_dir(s->tmp_fd, name, fd); /* or whoever opens the store next does */
    else
        unlinkat(s->tmp_fd, name, 0); /* no directory: it was never an object */
    return 0;
}

int store_temp_place(const struct store_temp *t, const char *file, int dir_fd, const char *name, struct sm_error *err)
{
    CLEANUP_FD int fd = openat(t->dir_fd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0 || fsync(fd) < 0)
        return store_fail(t->store, err, errno, "cannot write a file to disk");
    if (renameat(t->dir_fd, file, dir_fd, name) < 0 || fsync(dir_fd) < 0)
        return store_fail(t->store, err, errno, "cannot put a file in its place");
    return 0;
}

int store_temp_commit(struct store_temp *t, enum store_kind kind, const struct digest *name, struct sm_error *err)
{
    int place_fd = place_of(t->store, kind), r = sync_files(t, kind, err);
    char hex[DIGEST_HEX_SIZE];

    if (r < 0)
        return r;
    digest_hex(name, hex);
    r = renameat(t->store->tmp_fd, t->name, place_fd, hex);
    if (r < 0 && (errno == EEXIST || errno == ENOTEMPTY)) { /* a damaged one */
        r = store_remove_dir(t->store, place_fd, hex, err);
        if (r < 0)
            return r;
        r = renameat(t->store->tmp_fd, t->name, place_fd, hex);
    }
    if (r < 0 || fsync(place_fd) < 0)
        return store_fail(t->store, err, errno, "cannot put an object in its place");
    close_fd(&t->dir_fd);
    return 0;
}

void store_temp_discard(struct store_temp *t)
{
    if (t->dir_fd < 0)
        return;
    store_clear_dir(t->store->tmp_fd, t->name, t->dir_fd);
    close_fd(&t->dir_fd);
}
