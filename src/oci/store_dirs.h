/* SPDX-License-Identifier: Apache-2.0 */
/* Inside of the store, for the files that are it: store.c, blobs.c, names.c, snapshot_dirs.c, graph.c, gc.c, fsck.c. */
#ifndef SM_OCI_STORE_DIRS_H
#define SM_OCI_STORE_DIRS_H

#include <stdbool.h>
#include <sys/stat.h>

#include "oci/lock.h"
#include "oci/store.h"

struct oci_store {
    char *dir;
    int layers_fd, images_fd, blobs_fd, partial_fd, names_fd, used_fd, locks_fd, tmp_fd;
    int snapshots_fd;       /* -1: it is not there, and cannot be made: read-only, and older than snapshots */
    int enter_ms, alone_ms; /* how long gc_enter and gc_alone wait */
};

/* "WHAT in the image store DIR: why", and what to do where that is known. `code`: an errno value. Returns -code. */
int store_fail(const struct oci_store *s, struct sm_error *err, int code, const char *what);

/* A descriptor of locks/<name>, which is made when it can be, not locked. -errno and a sentence. */
int store_lock_file(struct oci_store *s, const char *name, struct sm_error *err);

/* A regular file, read-only: its descriptor, or -ENOENT without a sentence when it is not there or of another kind. */
int store_open_file(const struct oci_store *s, int dir_fd, const char *path, struct stat *ret_st, struct sm_error *err);

/* A file below a store_temp written to disk and put in its place, over what is there. */
int store_temp_place(const struct store_temp *t, const char *file, int dir_fd, const char *name, struct sm_error *err);

/* One level of files, and the directory `name`, which is open as `dir_fd`. What cannot be removed is left. */
void store_clear_dir(int parent_fd, const char *name, int dir_fd);

/* Take an object's directory out of its place, and its files. 0 also when it is not there. */
int store_remove_dir(const struct oci_store *s, int place_fd, const char *hex, struct sm_error *err);

/*
 * The names in a directory of the store that are 64 hex digits, or with `odd` all others but "." and ".."; to be freed
 * with strings_free (oci/json.h).
 */
int store_list_dir(const struct oci_store *s, int dir_fd, bool odd, char ***ret, size_t *ret_n, struct sm_error *err);

/* The records in names/<file>: also -ENOENT without a sentence; -EBADMSG and a sentence that begins with "it": damaged.
 */
struct name_doc;
int names_read_file(const struct oci_store *s, const char *file, struct name_doc *ret, struct sm_error *err);

#endif
