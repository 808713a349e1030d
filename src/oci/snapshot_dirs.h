/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots as directories: in the store (snapshots/<key>), or anywhere. What is in their files is not looked at. */
#ifndef SM_OCI_SNAPSHOT_DIRS_H
#define SM_OCI_SNAPSHOT_DIRS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/snapshot_meta.h"
#include "oci/store.h"

#define SNAPSHOT_STATE        "state"
#define SNAPSHOT_MEMORY       "memory"
#define SNAPSHOT_DIFF         "diff"
#define SNAPSHOT_PREFETCH     "prefetch"
#define SNAPSHOT_PREFETCH_NEW "prefetch.new" /* what one is written as, where that needs a name */
#define SNAPSHOT_METADATA     "metadata.json"

/* All that may be in one; ends with NULL. */
extern const char *const snapshot_files[];

/* The directory's descriptor; -ENOENT without a sentence. The caller holds gc_enter until all of it is open. */
int snapshot_dir_open(struct oci_store *s, const struct digest *key, struct sm_error *err);

/*
 * Is `dir_fd`, opened before, still what `name` in `at_fd` is? While one is opened, another may take its place, and its
 * files go: whoever has failed then looks whether to begin again.
 */
bool snapshot_dir_is_at(int dir_fd, int at_fd, const char *name);
bool snapshot_dir_is(struct oci_store *s, const struct digest *key, int dir_fd);

/* A regular file of it, read-only, and its size: -ENOENT without a sentence; what the system says, without one. */
int snapshot_dir_file(int dir_fd, const char *name, uint64_t *ret_size);

/* Its metadata.json: also -EBADMSG with a sentence when that is missing, and as snapshot_meta_parse. */
int snapshot_dir_meta(int dir_fd, struct snapshot_meta *ret, struct sm_error *err);

/* Bytes of disk (files have holes), and when it was used last, in seconds since 1970. */
void snapshot_dir_usage(int dir_fd, uint64_t *ret_bytes, int64_t *ret_used_s);

/* It is used now. A hint: what goes wrong is not told. */
void snapshot_dir_used(int dir_fd);

/* Keys of all that are in the store, 64 hex digits each; to be freed with strings_free. */
int snapshot_dirs_list(struct oci_store *s, char ***ret, size_t *ret_n, struct sm_error *err);

/*
 * Put the directory `from` of from_fd, open as dir_fd, whose files are on disk, in the place `to` of to_fd (on the same
 * file system), and remove what was there. -EEXIST: there is something, and `replace` is false; else -errno, and what
 * was there is there still. No sentences.
 */
int snapshot_dir_put(int from_fd, const char *from, int dir_fd, int to_fd, const char *to, bool replace);

/* A temporary directory becomes the snapshot `key`; as store_temp_commit, but its files are on disk already. -EEXIST
 * without a sentence: there is one, and `replace` is false. */
int snapshot_dir_commit(struct store_temp *t, const struct digest *key, bool replace, struct sm_error *err);

/* Out of the store. The caller holds gc_alone, or that snapshot's lock. */
int snapshot_dir_remove(struct oci_store *s, const struct digest *key, struct sm_error *err);

#endif
