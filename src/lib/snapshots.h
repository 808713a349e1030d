/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Snapshots on disk: found and opened, made, checked. A snapshot is a directory (docs/snapshot-format.md), in the store
 * by its key, or anywhere.
 */
#ifndef SM_LIB_SNAPSHOTS_H
#define SM_LIB_SNAPSHOTS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/error.h"
#include "oci/image.h"
#include "oci/snapshot_meta.h"

/* An opened snapshot: nothing in it ever changes, whatever happens to its directory. Counted; any thread. */
struct snapshot {
    atomic_uint refs;
    struct snapshot_meta meta;
    int dir_fd, state_fd, memory_fd;
    int diff_fd, base_memory_fd; /* -1: it is full */
    int prefetch_fd;             /* -1: there is none */
};

/*
 * Find the snapshot `key` in the store, open it and what it needs, and note that it was used. -ENOENT without a
 * sentence: there is none. -EBADMSG (damaged, or its base is not there or another one now) and -ENOTSUP (another
 * format, architecture, page size or processor): there is one that can't be used, and the sentence says why; make it
 * anew and publish that by force.
 *
 * Sizes are checked, and everything in metadata.json. What is in the files is their readers' to check; all of it:
 * snapshot_verify.
 */
int snapshot_find(struct snapshot **ret, struct oci_store *store, const char *key, struct sm_error *err);

/* The same for a directory. Its base, when it has one, is in the store. Also -ENOENT has a sentence. */
int snapshot_open_dir(struct snapshot **ret, struct oci_store *store, const char *dir, struct sm_error *err);

struct snapshot *snapshot_ref(struct snapshot *s);
void snapshot_unref(struct snapshot *s); /* takes NULL */

/* What a caller knows that the snapshot must have been made of. NULL or 0: anything will do. */
struct snapshot_want {
    const char *image_digest, *kernel, *initramfs;
    uint32_t memory_mib, vcpus;
};

/* -ENOTSUP and a sentence that names what is not so. */
int snapshot_suits(const struct snapshot *s, const struct snapshot_want *want, struct sm_error *err);

/*
 * Hold the right to make the snapshot `key`: returns a descriptor, closing it gives it up. Waits for whoever has it;
 * `waiting` as in store_lock_told. Look again with snapshot_find once it is held.
 */
int snapshot_lock(struct oci_store *store, const char *key, int (*waiting)(void *ctx, const char *who), void *ctx,
                  struct sm_error *err);

/* --- Making one --- */

/* Files to be filled, in a place where nobody looks for them. A process that dies leaves nothing that counts. */
struct snapshot_draft {
    struct oci_store *store;
    char key[SNAPSHOT_KEY_SIZE];
    int state_fd, memory_fd, diff_fd; /* empty files; diff stays empty for a full snapshot */
    struct draft_place *place;        /* private */
};

/* Into the store. `key` NULL: a random one. The caller holds snapshot_lock() on a key of its own. */
int snapshot_draft_new(struct snapshot_draft **ret, struct oci_store *store, const char *key, struct sm_error *err);

/* Into the directory `dest`, which is made by publishing; its parent must be there. The key is random. */
int snapshot_draft_new_dir(struct snapshot_draft **ret, struct oci_store *store, const char *dest,
                           struct sm_error *err);

/*
 * Look at what was written, write metadata.json, make everything durable and put it in its place. Of `meta`, the draft
 * fills in key, version, arch, cpu, created_s, and all about the files; the caller everything else: kind, base and
 * base_crc (snapshot_base_of), image, kernel, ...
 *
 * -EEXIST and a sentence when there is something already: with `force` a snapshot that is there is replaced, in one
 * step. On any failure what was there before is still there. `ret` (may be NULL): the snapshot, as snapshot_find has
 * it. The draft stays the caller's to free.
 */
int snapshot_draft_publish(struct snapshot_draft *d, const struct snapshot_meta *meta, bool force,
                           struct snapshot **ret, struct sm_error *err);

/* Also what was not published goes. Takes NULL. */
void snapshot_draft_free(struct snapshot_draft *d);

/* A difference to `s`, or to what `s` is itself a difference to: fills in base and base_crc. */
void snapshot_base_of(struct snapshot_meta *meta, const struct snapshot *s);

/*
 * Which pages a restore soon needs. First an empty file to write the list to (returns its descriptor, the caller's),
 * then the list is put beside the snapshot's other files; when somebody else was first, theirs stays. Both fail where
 * the directory can't be written: without a list everything works.
 */
int snapshot_prefetch_file(const struct snapshot *s, struct sm_error *err);
int snapshot_prefetch_add(const struct snapshot *s, int fd, struct sm_error *err);

/*
 * Read every byte: is it what its metadata says? -EBADMSG and the first mismatch. `step` (may be NULL) is told now and
 * then how many more bytes were read; non-zero: -ECANCELED.
 */
int snapshot_verify(const struct snapshot *s, int (*step)(void *ctx, uint64_t bytes), void *ctx, struct sm_error *err);

#endif
