/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making snapshots.
 *
 * Theory of operation
 *
 * What: a draft is a directory with files to be filled: in the store below tmp/, or beside the directory that it will
 * be, on the same file system, under a hidden name, ".NAME.snapshot-<16 hex>". Its maker has it locked. Publishing
 * reads what was written (no snapshot gets into its place that its own reader would refuse), writes metadata.json last,
 * waits until all of it is on disk, and renames.
 *
 * Killed at any point, a process leaves what was there before, and a draft that nobody looks at: opening the store
 * removes those of the store, the next draft of the same name the others. A draft that fails, for want of space say,
 * goes with snapshot_draft_free.
 *
 * A base could be pruned, or made anew, while a difference to it is being written: nobody holds the store for as long
 * as a machine takes to start. So publishing looks for it again, holding gc_enter.
 *
 * In place of a directory that is there comes only a snapshot in the place of a snapshot, or of nothing.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "lib/snapshot_cpu.h"
#include "lib/snapshot_private.h"
#include "oci/gc.h"
#include "oci/snapshot_dirs.h"
#include "oci/text.h"

#define HIDDEN_MARK ".snapshot-"
#define NAME_ROOM   40 /* for what is put around a directory's name */
#define PLACE_TRIES 10

/* Either `temp`, or a directory of its own at parent_fd. */
struct draft_place {
    struct store_temp temp;
    char *dest; /* NULL: in the store */
    int parent_fd, dir_fd;
    char name[NAME_MAX + 1], hidden[NAME_MAX + 1];
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while making a snapshot");
}

static int draft_dir(const struct snapshot_draft *d)
{
    return d->place->dest ? d->place->dir_fd : d->place->temp.dir_fd;
}

/* "WHAT (DEST): why, and what to do". */
static int fail(const struct snapshot_draft *d, struct sm_error *err, int code, const char *what)
{
    const char *where = d->place->dest ? d->place->dest : oci_store_path(d->store);
    char shown[TEXT_SHOWN_SIZE];

    text_shown(shown, where);
    if (code == ENOSPC || code == EDQUOT)
        return sm_error_set(err, code, "%s in \"%s\": the disk is full; make room there%s", what, shown,
                            d->place->dest ? "" : ", for example with `supermachine prune`");
    if (code == EROFS || code == EACCES || code == EPERM)
        return sm_error_set(err, code, "%s in \"%s\": %s; choose %s", what, shown,
                            code == EROFS ? "its file system is read-only" : "permission denied",
                            d->place->dest ? "another directory"
                                           : "a directory that can be written with SUPERMACHINE_HOME");
    return sm_error_sys(err, code, "%s in \"%s\"", what, shown);
}

static int random_u64(uint64_t *ret, size_t n, struct sm_error *err)
{
    if (getrandom(ret, n * sizeof(*ret), 0) != (ssize_t)(n * sizeof(*ret)))
        return sm_error_sys(err, errno, "cannot get random bytes");
    return 0;
}

static int set_key(struct snapshot_draft *d, const char *key, struct sm_error *err)
{
    struct digest checked;
    uint64_t r[4];
    int e = key ? snapshot_key_digest(&checked, key, err) : random_u64(r, ARRAY_SIZE(r), err);

    if (e < 0)
        return e;
    if (key)
        memcpy(d->key, key, sizeof(d->key));
    else
        snprintf(d->key, sizeof(d->key), "%016llx%016llx%016llx%016llx", (unsigned long long)r[0],
                 (unsigned long long)r[1], (unsigned long long)r[2], (unsigned long long)r[3]);
    return 0;
}

static int make_file(const struct snapshot_draft *d, const char *name, int *ret, struct sm_error *err)
{
    *ret = openat(draft_dir(d), name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return *ret < 0 ? fail(d, err, errno, "cannot make a snapshot") : 0;
}

static int make_files(struct snapshot_draft *d, struct sm_error *err)
{
    int r = make_file(d, SNAPSHOT_STATE, &d->state_fd, err);

    if (r >= 0)
        r = make_file(d, SNAPSHOT_MEMORY, &d->memory_fd, err);
    return r < 0 ? r : make_file(d, SNAPSHOT_DIFF, &d->diff_fd, err);
}

static int draft_alloc(struct snapshot_draft **ret, struct oci_store *store, const char *key, struct sm_error *err)
{
    struct snapshot_draft *d = malloc(sizeof(*d));
    struct draft_place *place = malloc(sizeof(*place));
    int r;

    if (!d || !place) {
        free(d);
        free(place);
        return no_memory(err);
    }
    *place = (struct draft_place){.temp = STORE_TEMP_INIT, .parent_fd = -1, .dir_fd = -1};
    *d = (struct snapshot_draft){.store = store, .state_fd = -1, .memory_fd = -1, .diff_fd = -1, .place = place};
    r = set_key(d, key, err);
    if (r < 0) {
        snapshot_draft_free(d);
        return r;
    }
    *ret = d;
    return 0;
}

int snapshot_draft_new(struct snapshot_draft **ret, struct oci_store *store, const char *key, struct sm_error *err)
{
    struct snapshot_draft *d;
    int r = draft_alloc(&d, store, key, err);

    if (r < 0)
        return r;
    r = store_temp_new(&d->place->temp, store, err);
    if (r >= 0)
        r = make_files(d, err);
    if (r < 0) {
        snapshot_draft_free(d);
        return r;
    }
    *ret = d;
    return 0;
}

/* A directory of the user's */

static void clear_dir(int parent_fd, const char *name, int dir_fd)
{
    for (const char *const *file = snapshot_files; *file; file++)
        unlinkat(dir_fd, *file, 0);
    unlinkat(parent_fd, name, AT_REMOVEDIR);
}

/* What killed processes left of drafts for the same name. */
static void sweep(const struct draft_place *p)
{
    DIR *d = io_scan_dir(p->parent_fd);
    char begin[NAME_MAX + 1];
    struct dirent *e;
    int n = snprintf(begin, sizeof(begin), ".%s%s", p->name, HIDDEN_MARK);

    while (d && (e = readdir(d))) {
        CLEANUP_FD int fd = -1;

        if (strncmp(e->d_name, begin, (size_t)n) != 0)
            continue;
        fd = openat(p->parent_fd, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0 && !flock(fd, LOCK_EX | LOCK_NB))
            clear_dir(p->parent_fd, e->d_name, fd);
    }
    if (d)
        closedir(d);
}

/* The parent, opened, and the name in it. */
static int split_dest(struct snapshot_draft *d, const char *dest, struct sm_error *err)
{
    struct draft_place *p = d->place;
    size_t len = strlen(dest);
    char *slash, shown[TEXT_SHOWN_SIZE];

    while (len > 1 && dest[len - 1] == '/')
        len--;
    p->dest = strndup(dest, len);
    if (!p->dest)
        return no_memory(err);
    slash = strrchr(p->dest, '/');
    len = strlen(slash ? slash + 1 : p->dest);
    if (!len || len > NAME_MAX - NAME_ROOM || !strcmp(slash ? slash + 1 : p->dest, ".") ||
        !strcmp(slash ? slash + 1 : p->dest, ".."))
        return sm_error_set(err, EINVAL, "a snapshot can't be called \"%s\": name a directory, which is made",
                            text_shown(shown, dest));
    memcpy(p->name, slash ? slash + 1 : p->dest, len + 1);
    if (slash)
        *slash = '\0'; /* for one call */
    p->parent_fd = open(!slash ? "." : p->dest[0] ? p->dest : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (slash)
        *slash = '/';
    if (p->parent_fd < 0)
        return sm_error_sys(err, errno, "cannot open the directory that \"%s\" is to be in", text_shown(shown, dest));
    return 0;
}

/* A snapshot or an empty directory may be replaced. */
static int check_there(const struct snapshot_draft *d, struct sm_error *err)
{
    const struct draft_place *p = d->place;
    CLEANUP_FD int fd = openat(p->parent_fd, p->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    char shown[TEXT_SHOWN_SIZE];
    struct dirent *e;
    bool empty = true;
    DIR *dir;

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 && errno != ENOTDIR && errno != ELOOP)
        return fail(d, err, errno, "cannot look at what is there");
    if (fd >= 0 && !faccessat(fd, SNAPSHOT_METADATA, F_OK, AT_SYMLINK_NOFOLLOW))
        return 0;
    dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir)
        fd = -1;
    while (dir && empty && (e = readdir(dir)))
        empty = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    if (dir)
        closedir(dir);
    if (!dir || !empty)
        return sm_error_set(err, EEXIST, "\"%s\" is there and is not a snapshot: choose another name",
                            text_shown(shown, p->dest));
    return 0;
}

/* 1: made and locked; 0: somebody swept it away in between. */
static int try_hidden(struct snapshot_draft *d, struct sm_error *err)
{
    struct draft_place *p = d->place;
    struct stat by_fd, by_name;
    uint64_t number;
    int r = random_u64(&number, 1, err);

    if (r < 0)
        return r;
    snprintf(p->hidden, sizeof(p->hidden), ".%.*s%s%016llx", NAME_MAX - NAME_ROOM, p->name, HIDDEN_MARK,
             (unsigned long long)number);
    if (mkdirat(p->parent_fd, p->hidden, 0700) < 0)
        return fail(d, err, errno, "cannot make a snapshot");
    p->dir_fd = openat(p->parent_fd, p->hidden, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (p->dir_fd < 0)
        return errno == ENOENT ? 0 : fail(d, err, errno, "cannot make a snapshot");
    if (!flock(p->dir_fd, LOCK_EX | LOCK_NB) && !fstat(p->dir_fd, &by_fd) &&
        !fstatat(p->parent_fd, p->hidden, &by_name, AT_SYMLINK_NOFOLLOW) && by_fd.st_ino == by_name.st_ino)
        return 1;
    close_fd(&p->dir_fd);
    return 0;
}

static int make_hidden(struct snapshot_draft *d, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];

    for (int i = 0; i < PLACE_TRIES; i++) {
        int r = try_hidden(d, err);

        if (r)
            return r < 0 ? r : 0;
    }
    return sm_error_set(err, EBUSY, "another process makes \"%s\" as well", text_shown(shown, d->place->dest));
}

int snapshot_draft_new_dir(struct snapshot_draft **ret, struct oci_store *store, const char *dest, struct sm_error *err)
{
    struct snapshot_draft *d;
    int r = draft_alloc(&d, store, NULL, err);

    if (r < 0)
        return r;
    r = split_dest(d, dest, err);
    if (r >= 0)
        r = check_there(d, err);
    if (r >= 0) {
        sweep(d->place);
        r = make_hidden(d, err);
    }
    if (r >= 0)
        r = make_files(d, err);
    if (r < 0) {
        snapshot_draft_free(d);
        return r;
    }
    *ret = d;
    return 0;
}

void snapshot_draft_free(struct snapshot_draft *d)
{
    if (!d)
        return;
    close_fd(&d->state_fd);
    close_fd(&d->memory_fd);
    close_fd(&d->diff_fd);
    if (d->place->dir_fd >= 0)
        clear_dir(d->place->parent_fd, d->place->hidden, d->place->dir_fd);
    close_fd(&d->place->dir_fd);
    close_fd(&d->place->parent_fd);
    store_temp_discard(&d->place->temp);
    free(d->place->dest);
    free(d->place);
    free(d);
}

/* Publishing */

/* Returns its descriptor. */
static int write_metadata(const struct snapshot_draft *d, const struct snapshot_meta *m, struct sm_error *err)
{
    /* Publishing again, by force say, writes it again. */
    CLEANUP_FD int fd = openat(draft_dir(d), SNAPSHOT_METADATA, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct buf text;
    int r = fd < 0 ? fail(d, err, errno, "cannot write a snapshot's metadata") : snapshot_meta_write(&text, m, err);

    if (r < 0)
        return r;
    r = io_write_full(fd, text.data, text.len);
    buf_done(&text);
    return r < 0 ? fail(d, err, -r, "cannot write a snapshot's metadata") : steal_fd(&fd);
}

/*
 * All writing is begun before the first is waited for: then one commit of the file system's journal, the first wait's,
 * has them all.
 */
static int sync_files(const struct snapshot_draft *d, bool diff, int metadata_fd, struct sm_error *err)
{
    const int fds[] = {d->memory_fd, d->state_fd, metadata_fd, d->diff_fd};
    size_t n = diff ? 4 : 3;

    for (size_t i = 0; i < n; i++)
        sync_file_range(fds[i], 0, 0, SYNC_FILE_RANGE_WRITE); /* advice: fsync tells what fails */
    for (size_t i = 0; i < n; i++)
        if (fsync(fds[i]) < 0)
            return fail(d, err, errno, "cannot write a snapshot to disk");
    if (!diff && unlinkat(draft_dir(d), SNAPSHOT_DIFF, 0) < 0 && errno != ENOENT)
        return fail(d, err, errno, "cannot write a snapshot to disk");
    return 0;
}

static int put_in_place(struct snapshot_draft *d, bool force, struct sm_error *err)
{
    struct draft_place *p = d->place;
    char shown[TEXT_SHOWN_SIZE];
    struct digest key;
    int r;

    if (!p->dest) {
        r = snapshot_key_digest(&key, d->key, err);
        if (r >= 0)
            r = snapshot_dir_commit(&p->temp, &key, force, err);
        if (r == -EEXIST)
            r = sm_error_set(err, EEXIST, "there is a snapshot %.12s already: replace it by force, or remove it",
                             d->key);
        return r;
    }
    r = check_there(d, err);
    if (r >= 0) {
        r = snapshot_dir_put(p->parent_fd, p->hidden, p->dir_fd, p->parent_fd, p->name, force);
        if (r == -EEXIST)
            r = sm_error_set(err, EEXIST, "there is a snapshot \"%s\" already: replace it by force, or remove it",
                             text_shown(shown, p->dest));
        else if (r < 0)
            r = fail(d, err, -r, "cannot put a snapshot in its place");
    }
    if (r >= 0)
        close_fd(&p->dir_fd);
    return r;
}

/* The files are measured and written: the rest, in the order that counts. */
static int publish(struct snapshot_draft *d, const struct snapshot_meta *m, bool force, struct snapshot **ret,
                   struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_enter(d->store, err), base_fd = -1;
    CLEANUP_FD int metadata_fd = -1;
    int r = lock_fd;

    if (r >= 0 && m->base[0]) {
        r = snapshot_base_open(d->store, m, &base_fd, err);
        if (r < 0)
            return sm_error_wrap(err, "the snapshot %.12s", d->key);
    }
    if (r >= 0)
        r = metadata_fd = write_metadata(d, m, err);
    if (r >= 0)
        r = sync_files(d, m->base[0], metadata_fd, err);
    if (r >= 0)
        r = put_in_place(d, force, err);
    if (r < 0 || !ret)
        return r < 0 ? r : 0;
    return d->place->dest ? snapshot_open_path(ret, d->store, d->place->dest, false, err)
                          : snapshot_open_key(ret, d->store, d->key, false, err);
}

static int check_draft(struct snapshot_draft *d, struct snapshot_meta *m, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    int r = snapshot_measure(m, m, d->state_fd, d->memory_fd, m->base[0] ? d->diff_fd : -1, &why);

    return r < 0 ? sm_error_set(err, -r, "the snapshot %.12s is not whole: %s", d->key, why.text) : 0;
}

static int check_exact(const struct snapshot_meta *got, const struct snapshot_meta *said, struct sm_error *err)
{
    if (got->state_crc != said->state_crc || got->state_bytes != said->state_bytes)
        return sm_error_set(err, EBADMSG, "the state of the snapshot %.12s is not what was saved: the checksum differs",
                            said->key);
    if (got->memory_crc != said->memory_crc)
        return sm_error_set(err, EBADMSG,
                            "the memory of the snapshot %.12s is not what was saved: the checksum differs", said->key);
    return 0;
}

int snapshot_draft_publish_as(struct snapshot_draft *d, const struct snapshot_meta *meta, bool force,
                              struct snapshot **ret, struct sm_error *err)
{
    struct snapshot_meta m = *meta;
    int r = check_draft(d, &m, err);

    if (r >= 0)
        r = check_exact(&m, meta, err);
    return r < 0 ? r : publish(d, &m, force, ret, err);
}

int snapshot_draft_publish(struct snapshot_draft *d, const struct snapshot_meta *meta, bool force,
                           struct snapshot **ret, struct sm_error *err)
{
    struct snapshot_meta m = *meta;
    char cpu[SNAPSHOT_CPU_SIZE];
    time_t now = time(NULL);
    int r;

    memcpy(m.key, d->key, sizeof(m.key));
    m.version = sm_version();
    m.arch = SNAPSHOT_ARCH;
    m.cpu = snapshot_cpu(cpu);
    m.created_s = now < 0 ? 0 : now;
    r = check_draft(d, &m, err);
    return r < 0 ? r : publish(d, &m, force, ret, err);
}
