/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the snapshot store: what its files share. */
#ifndef SM_LIB_SNAPSHOT_PRIVATE_H
#define SM_LIB_SNAPSHOT_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/snapshots.h"

/*
 * As snapshot_find and snapshot_open_dir, but nothing is noted as used, and with `here` false one that was made for
 * other hosts will do: to be looked at, moved, removed. For the first, the caller holds gc_enter or gc_alone, and
 * sentences begin with "its".
 */
int snapshot_open_key(struct snapshot **ret, struct oci_store *store, const char *key, bool here, struct sm_error *err);
int snapshot_open_path(struct snapshot **ret, struct oci_store *store, const char *dir, bool here,
                       struct sm_error *err);

/* The memory of what `m` is a difference to; the caller holds gc_enter. -EBADMSG: not there, or not that one. */
int snapshot_base_open(struct oci_store *store, const struct snapshot_meta *m, int *ret_memory_fd,
                       struct sm_error *err);

/* As snapshot_verify, without its base, and sentences begin with "its". */
int snapshot_verify_own(const struct snapshot *s, struct sm_error *err);

/* Length and CRC-32C of a small file. -EBADMSG: it is no such file. `noun` is for sentences. */
int snapshot_sum_file(int fd, const char *noun, uint64_t *ret_bytes, uint32_t *ret_crc, struct sm_error *err);

/*
 * The files of a snapshot as it says of itself in `m`, whose own numbers about files are not used: are they right?
 * Returns these numbers in *ret. diff_fd -1: it is full.
 */
int snapshot_measure(struct snapshot_meta *ret, const struct snapshot_meta *m, int state_fd, int memory_fd, int diff_fd,
                     struct sm_error *err);

/*
 * As snapshot_draft_publish, of a snapshot that was made before: `meta` is all its own, and full; the files must be
 * what it says. d->key is the caller's to set.
 */
int snapshot_draft_publish_as(struct snapshot_draft *d, const struct snapshot_meta *meta, bool force,
                              struct snapshot **ret, struct sm_error *err);

/* What there is to say about a snapshot, however damaged. Begins zeroed. */
struct snapshot_about {
    char key[SNAPSHOT_KEY_SIZE]; /* "": not known */
    bool known;                  /* `meta` is there; else all of it is NULL and 0 */
    struct snapshot_meta meta;
    uint64_t disk_bytes;
    int64_t used_s;
    char *problem; /* why it can't be used here, in a sentence; NULL: nothing is known against it */
};

/* The caller holds gc_enter. -ENOENT without a sentence: it is not there. */
int snapshot_about_key(struct snapshot_about *ret, struct oci_store *store, const char *key, struct sm_error *err);
int snapshot_about_dir(struct snapshot_about *ret, struct oci_store *store, const char *dir, struct sm_error *err);
void snapshot_about_done(struct snapshot_about *a);

/* Is that the name of a directory, and not of something in the store? */
bool snapshot_is_dir(const char *typed);

/*
 * Keys of what a user means by `typed`, which is no directory: at least one, to be freed with strings_free. -ENOENT and
 * a sentence. The caller holds gc_enter or gc_alone.
 */
int snapshot_keys_find(struct oci_store *store, const char *typed, char ***ret, size_t *ret_n, struct sm_error *err);

/* The same where it must be one: also -EEXIST, and the sentence lists them. */
int snapshot_key_find(struct oci_store *store, const char *typed, char ret[SNAPSHOT_KEY_SIZE], struct sm_error *err);

/* As snapshot_open_path, of what a user means. */
int snapshot_open_typed(struct snapshot **ret, struct oci_store *store, const char *typed, bool here,
                        struct sm_error *err);

/* As a user would write it, to be freed; NULL: it is of no image. */
int snapshot_image_name(const struct snapshot_meta *m, char **ret, struct sm_error *err);

#endif
