/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots, found and opened.
 *
 * Theory of operation
 *
 * What: a snapshot's directory is opened once, and the files below it; its metadata is read and believed as far as
 * snapshot_meta_parse checks it; then it must suit this host, and every file must have the size that it says. A
 * difference needs its base too: a full snapshot of the same machine size in the store, by its key, and by the sum of
 * its memory, because a base that is made anew has the same key and other pages.
 *
 * What is opened stays good: files are never written again, only unlinked. So a snapshot that is replaced or removed
 * does not matter to who has it open. Nothing is removed while the pieces are gathered (gc_enter), but another snapshot
 * may take the place of this one or of its base: where something was missing, and the directory is another one now, all
 * begins anew.
 *
 * Sentences: "the snapshot KEY: its memory is truncated ...".
 *
 * Not looked at: what is in state, memory and lists (the worker reads them as hostile; snapshot_verify.c does too).
 */
#include "lib/snapshot_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "lib/snapshot_cpu.h"
#include "oci/gc.h"
#include "oci/limits.h"
#include "oci/snapshot_dirs.h"
#include "oci/store.h"
#include "oci/text.h"

#define KEY_SHOWN  12  /* digits of a key in sentences */
#define OPEN_TRIES 100 /* as often may it be replaced while it is opened */

struct snapshot *snapshot_ref(struct snapshot *s)
{
    atomic_fetch_add_explicit(&s->refs, 1, memory_order_relaxed);
    return s;
}

void snapshot_unref(struct snapshot *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) > 1)
        return;
    snapshot_meta_done(&s->meta);
    close_fd(&s->dir_fd);
    close_fd(&s->state_fd);
    close_fd(&s->memory_fd);
    close_fd(&s->diff_fd);
    close_fd(&s->base_memory_fd);
    close_fd(&s->prefetch_fd);
    free(s);
}

/* Opening */

static int open_file(int dir_fd, const char *name, const char *noun, uint64_t want, int *ret, struct sm_error *err)
{
    uint64_t size;
    int fd = snapshot_dir_file(dir_fd, name, &size);

    if (fd == -ENOENT)
        return sm_error_set(err, EBADMSG, "its %s is not there", noun);
    if (fd < 0)
        return sm_error_sys(err, -fd, "its %s cannot be opened", noun);
    *ret = fd;
    if (size != want)
        return sm_error_set(err, EBADMSG, "its %s is %s: it has %llu bytes and should have %llu", noun,
                            size < want ? "truncated" : "too long", (unsigned long long)size, (unsigned long long)want);
    return 0;
}

static int check_host(const struct snapshot_meta *m, struct sm_error *err)
{
    char own[SNAPSHOT_CPU_SIZE], shown[TEXT_SHOWN_SIZE];

    if (strcmp(m->arch, SNAPSHOT_ARCH) != 0)
        return sm_error_set(err, ENOTSUP, "it was made for the architecture %s, and this host is %s",
                            text_shown(shown, m->arch), SNAPSHOT_ARCH);
    return snapshot_cpu_suits(m->cpu, snapshot_cpu(own), err);
}

/* What a difference needs of its base; `m` is the difference's. */
static int check_base(const struct snapshot_meta *m, const struct snapshot_meta *base, struct sm_error *err)
{
    if (strcmp(base->key, m->base) != 0)
        return sm_error_set(err, EBADMSG, "its base says that it is another snapshot");
    if (base->base[0])
        return sm_error_set(err, EBADMSG, "its base is not a full snapshot");
    if (base->memory_crc != m->base_crc)
        return sm_error_set(err, EBADMSG, "its base was made anew since: make it anew too");
    if (base->memory_mib != m->memory_mib || base->vcpus != m->vcpus || strcmp(base->arch, m->arch) != 0)
        return sm_error_set(err, EBADMSG, "its base is of another machine");
    return 0;
}

static int open_base_files(int dir_fd, const struct snapshot_meta *m, int *ret_memory_fd, struct sm_error *err)
{
    struct snapshot_meta base;
    int r = snapshot_dir_meta(dir_fd, &base, err);

    if (r < 0)
        return sm_error_wrap(err, "its base");
    r = check_base(m, &base, err);
    snapshot_meta_done(&base);
    return r < 0 ? r : open_file(dir_fd, SNAPSHOT_MEMORY, "base's memory", m->memory_mib * MIB, ret_memory_fd, err);
}

/* -EAGAIN: it was replaced meanwhile. */
static int try_base(struct oci_store *store, const struct snapshot_meta *m, int *ret_memory_fd, struct sm_error *err)
{
    CLEANUP_FD int dir_fd = -1, memory_fd = -1;
    struct digest key;
    int r = snapshot_key_digest(&key, m->base, err);

    if (r < 0)
        return r;
    dir_fd = snapshot_dir_open(store, &key, err);
    if (dir_fd == -ENOENT)
        return sm_error_set(err, EBADMSG, "its base %.*s is not in the store: make it anew", KEY_SHOWN, m->base);
    if (dir_fd < 0)
        return dir_fd;
    r = open_base_files(dir_fd, m, &memory_fd, err);
    if (r == -EBADMSG && !snapshot_dir_is(store, &key, dir_fd))
        return -EAGAIN;
    if (r < 0)
        return r;
    snapshot_dir_used(dir_fd);
    *ret_memory_fd = steal_fd(&memory_fd);
    return 0;
}

int snapshot_base_open(struct oci_store *store, const struct snapshot_meta *m, int *ret_memory_fd, struct sm_error *err)
{
    int r = -EAGAIN;

    for (int i = 0; r == -EAGAIN && i < OPEN_TRIES; i++)
        r = try_base(store, m, ret_memory_fd, err);
    return r == -EAGAIN ? sm_error_set(err, EBUSY, "its base is replaced all the time") : r;
}

static int open_files(struct snapshot *s, struct oci_store *store, struct sm_error *err)
{
    const struct snapshot_meta *m = &s->meta;
    uint64_t size;
    int r = open_file(s->dir_fd, SNAPSHOT_STATE, "state", m->state_bytes, &s->state_fd, err);

    if (r >= 0)
        r = open_file(s->dir_fd, SNAPSHOT_MEMORY, "memory", m->memory_mib * MIB, &s->memory_fd, err);
    if (r >= 0 && m->base[0])
        r = open_file(s->dir_fd, SNAPSHOT_DIFF, "list of changed pages", m->diff_bytes, &s->diff_fd, err);
    if (r >= 0 && m->base[0])
        r = snapshot_base_open(store, m, &s->base_memory_fd, err);
    if (r < 0)
        return r;
    s->prefetch_fd = snapshot_dir_file(s->dir_fd, SNAPSHOT_PREFETCH, &size); /* only advice */
    if (s->prefetch_fd >= 0 && size > SNAPSHOT_SMALL_FILE_MAX)
        close_fd(&s->prefetch_fd);
    if (s->prefetch_fd < 0)
        s->prefetch_fd = -1;
    return 0;
}

/* dir_fd stays the caller's. `key` NULL: any. */
static int open_dir(struct snapshot **ret, struct oci_store *store, int dir_fd, const char *key, bool here,
                    struct sm_error *err)
{
    struct snapshot *s = malloc(sizeof(*s));
    int r;

    if (!s)
        return sm_error_set(err, ENOMEM, "out of memory");
    *s = (struct snapshot){.dir_fd = fcntl(dir_fd, F_DUPFD_CLOEXEC, 0),
                           .state_fd = -1,
                           .memory_fd = -1,
                           .diff_fd = -1,
                           .base_memory_fd = -1,
                           .prefetch_fd = -1};
    atomic_init(&s->refs, 1);
    r = s->dir_fd < 0 ? sm_error_sys(err, errno, "it cannot be opened") : snapshot_dir_meta(dir_fd, &s->meta, err);
    if (r >= 0 && key && strcmp(key, s->meta.key) != 0)
        r = sm_error_set(err, EBADMSG, "its metadata is of another snapshot");
    if (r >= 0 && here)
        r = check_host(&s->meta, err);
    if (r >= 0)
        r = open_files(s, store, err);
    if (r < 0) {
        snapshot_unref(s);
        return r;
    }
    *ret = s;
    return 0;
}

int snapshot_open_key(struct snapshot **ret, struct oci_store *store, const char *key, bool here, struct sm_error *err)
{
    struct digest name;
    int r = snapshot_key_digest(&name, key, err);

    if (r < 0)
        return r;
    for (int i = 0; i < OPEN_TRIES; i++) {
        CLEANUP_FD int dir_fd = snapshot_dir_open(store, &name, err);

        r = dir_fd < 0 ? dir_fd : open_dir(ret, store, dir_fd, key, here, err);
        if (r != -EBADMSG || snapshot_dir_is(store, &name, dir_fd))
            return r;
    }
    return sm_error_set(err, EBUSY, "it is replaced all the time");
}

int snapshot_find(struct snapshot **ret, struct oci_store *store, const char *key, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_enter(store, err);
    struct sm_error why = SM_ERROR_INIT;
    int r;

    if (lock_fd < 0)
        return lock_fd;
    r = snapshot_open_key(ret, store, key, true, &why);
    if (r == -ENOENT)
        return r;
    if (r < 0)
        return sm_error_set(err, -r, "the snapshot %.*s: %s", KEY_SHOWN, key, why.text);
    snapshot_dir_used((*ret)->dir_fd);
    return 0;
}

int snapshot_open_path(struct snapshot **ret, struct oci_store *store, const char *dir, bool here, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_enter(store, err);
    struct sm_error why = SM_ERROR_INIT;
    char shown[TEXT_SHOWN_SIZE];
    int r = -EBADMSG;

    if (lock_fd < 0)
        return lock_fd;
    text_shown(shown, dir);
    for (int i = 0; i < OPEN_TRIES; i++) {
        CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (dir_fd < 0)
            return sm_error_sys(err, errno, "cannot open the snapshot \"%s\"", shown);
        r = open_dir(ret, store, dir_fd, NULL, here, &why);
        if (r != -EBADMSG || snapshot_dir_is_at(dir_fd, AT_FDCWD, dir))
            break;
    }
    return r < 0 ? sm_error_set(err, -r, "the snapshot \"%s\": %s", shown, why.text) : 0;
}

int snapshot_open_dir(struct snapshot **ret, struct oci_store *store, const char *dir, struct sm_error *err)
{
    return snapshot_open_path(ret, store, dir, true, err);
}

/* What it should be */

int snapshot_suits(const struct snapshot *s, const struct snapshot_want *want, struct sm_error *err)
{
    const struct snapshot_meta *m = &s->meta;
    char shown[TEXT_SHOWN_SIZE];

    if (want->image_digest && strcmp(want->image_digest, m->image_digest) != 0)
        return sm_error_set(err, ENOTSUP, "the snapshot %.*s is of another image, %s", KEY_SHOWN, m->key,
                            m->image_name[0] ? text_shown(shown, m->image_name) : "or of none");
    if (want->kernel && strcmp(want->kernel, m->kernel) != 0)
        return sm_error_set(err, ENOTSUP, "the snapshot %.*s was made with another guest kernel", KEY_SHOWN, m->key);
    if (want->initramfs && strcmp(want->initramfs, m->initramfs) != 0)
        return sm_error_set(err, ENOTSUP, "the snapshot %.*s was made with another guest agent", KEY_SHOWN, m->key);
    if (want->memory_mib && want->memory_mib != m->memory_mib)
        return sm_error_set(err, ENOTSUP, "the snapshot %.*s has %u MiB of memory, not %u", KEY_SHOWN, m->key,
                            m->memory_mib, want->memory_mib);
    if (want->vcpus && want->vcpus != m->vcpus)
        return sm_error_set(err, ENOTSUP, "the snapshot %.*s has %u vCPUs, not %u", KEY_SHOWN, m->key, m->vcpus,
                            want->vcpus);
    return 0;
}

void snapshot_base_of(struct snapshot_meta *meta, const struct snapshot *s)
{
    bool full = !s->meta.base[0];

    memcpy(meta->base, full ? s->meta.key : s->meta.base, sizeof(meta->base));
    meta->base_crc = full ? s->meta.memory_crc : s->meta.base_crc;
}

int snapshot_lock(struct oci_store *store, const char *key, int (*waiting)(void *ctx, const char *who), void *ctx,
                  struct sm_error *err)
{
    struct digest name;
    int r = snapshot_key_digest(&name, key, err);

    while (r >= 0) {
        CLEANUP_FD int fd = store_lock_told(store, STORE_SNAPSHOT, &name, waiting, ctx, err);
        struct stat st;

        if (fd < 0)
            return fd;
        /* Who prunes removes locks that nobody holds: it may have been one between opening and locking. */
        if (fstat(fd, &st) < 0)
            return sm_error_sys(err, errno, "cannot lock a snapshot");
        if (st.st_nlink)
            return steal_fd(&fd);
    }
    return r;
}
