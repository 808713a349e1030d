/* SPDX-License-Identifier: Apache-2.0 */
/* What an archive holds, by name and by digest. */
#ifndef SM_OCI_ARCHIVE_FILES_H
#define SM_OCI_ARCHIVE_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"

enum archive_form { /* told by the first bytes, as unpack_decompress does */
                    FORM_PLAIN,
                    FORM_GZIP,
                    FORM_ZSTD,
};

struct archive_file {
    char *name;   /* without "." and empty components */
    char *target; /* a link: the name of what it stands for; NULL: a file */
    struct digest digest;
    uint64_t size;
    enum archive_form form;
    unsigned number; /* in the order of the archive */
};

struct archive_files {
    struct archive_file *files;
    size_t n, cap;
    unsigned *by_digest; /* after files_seal: indexes of files in `files`, which is sorted by name */
    size_t n_by_digest;
};

void files_done(struct archive_files *f); /* takes a zeroed one */

/* Names that lead out of the archive are refused. `file`: its digest, size, form and number are taken. */
int files_add(struct archive_files *f, const char *name, const struct archive_file *file, struct sm_error *err);
int files_add_link(struct archive_files *f, const char *name, const char *target, bool hard, struct sm_error *err);

/* Nothing more will come. Names that stand for two things are refused, and blobs (blobs/sha256/HEX) that are not what
 * their name says. */
int files_seal(struct archive_files *f, struct sm_error *err);

/* Links are followed. NULL: there is no such file. */
const struct archive_file *files_find(const struct archive_files *f, const char *name);
const struct archive_file *files_by_digest(const struct archive_files *f, const struct digest *d);

enum archive_form form_of(const uint8_t *head, size_t len);

#endif
