/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of images: entries, tars, files and directories that clean up after themselves. Failures end the test. */
#ifndef OCI_FIXTURE_H
#define OCI_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "oci/digest.h"
#include "oci/entry.h"

/* An entry with everything plain: mode 0755 for directories, 0644 for the rest. */
struct oci_entry plain_entry(enum oci_type type, const char *path, const char *link);

/* A file without a name, holding `len` bytes. */
int memory_file(const void *data, size_t len);

/* A new directory; removed with all that is in it by temp_dir_remove, which frees the name. */
char *temp_dir(void);
void temp_dir_remove(char *dir);
void write_file(const char *dir, const char *name, const void *data, size_t len); /* missing parents are made */

/* A ustar archive. `type`: the type flag. tar_end writes the end mark. */
void tar_add(struct buf *tar, const char *name, char type, const char *link, const void *data, size_t len);
void tar_pax(struct buf *tar, const char *key, const char *value); /* for the entry that follows */
void tar_end(struct buf *tar);

/*
 * What is in a tree, as words "TYPE:PATH", type f d l (symbolic link) c b p s, in the order of names, directories
 * before what is in them. A file's word has "#LAYER" behind it, a link's "=TARGET", an inode of several names "*NAMES".
 */
struct tree;
void tree_words(struct tree *t, char *ret);

struct digest digest_of_buf(const void *data, size_t len);

#endif
