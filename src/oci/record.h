/* SPDX-License-Identifier: Apache-2.0 */
/* The file behind a name: one JSON document with an image for each platform. Read as hostile input. */
#ifndef SM_OCI_RECORD_H
#define SM_OCI_RECORD_H

#include "base/buf.h"
#include "oci/names.h"

/* All records of one name, each with its name; platforms differ. */
struct name_doc {
    struct name_record *list;
    size_t n;
};

/* On failure nothing is left to be freed. At least one record. */
int name_doc_parse(struct name_doc *ret, const void *data, size_t len, struct sm_error *err);
void name_doc_done(struct name_doc *doc); /* takes a zeroed one */

/* At least one record. -EINVAL when it could not be read back: a name that is not UTF-8, or over the limits. */
int name_doc_write(struct buf *ret, const struct name_doc *doc, struct sm_error *err);

/* A copy of one record's strings too; on failure nothing is left to be freed. */
int name_record_copy(struct name_record *ret, const struct name_record *r, struct sm_error *err);

/* Puts a copy into the list, in the place of the one with the same platform: that one goes to *ret_old (zeroed when
 * there is none). */
int name_doc_set(struct name_doc *doc, const struct name_record *r, struct name_record *ret_old, struct sm_error *err);

/* The name of an image that has none: "@sha256:...". */
#define NAME_UNTAGGED_SIZE (DIGEST_STR_SIZE + 1)
const char *name_untagged(char buf[NAME_UNTAGGED_SIZE], const struct digest *manifest);

#endif
