/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What names mean: which image each stands for, for each platform, where it came from; and when images were last used.
 *
 * A record is one name for one platform. An image whose name now means another goes on without one: its record's name
 * is then "@sha256:...", its own manifest's digest.
 */
#ifndef SM_OCI_NAMES_H
#define SM_OCI_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"

struct name_record {
    char *name;         /* canonical (oci/ref.h), or "@sha256:..." */
    struct digest root; /* what the name meant where it came from: an index, or the same as `manifest` */
    struct digest manifest;
    char *platform;    /* of the image, "os/arch[/variant]" */
    int64_t created_s; /* when this record was made, since 1970 */
    char *source;      /* where it came from, for people; "" when there is nothing to say */
};

void name_record_done(struct name_record *r); /* takes a zeroed one */
void name_records_free(struct name_record *list, size_t n);
bool name_is_untagged(const struct name_record *r);

/*
 * `platform`: the best one for it is found, as select.c does; NULL: this host's, else the first. -ENOENT without a
 * sentence: there is none, or its file is damaged (which fsck reports).
 */
int names_get(struct oci_store *s, const char *canonical, const char *platform, struct name_record *ret,
              struct sm_error *err);

/*
 * From now on, also after a crash, the name stands for this. What it meant before for the same platform goes on as an
 * untagged record unless another name stands for it. `name` NULL: an untagged record. created_s 0: now. The caller
 * holds gc_enter() since before it found the image whole, or what the record reaches may have gone.
 */
int names_put(struct oci_store *s, const struct name_record *r, struct sm_error *err);

/* Only the record, of one platform, or with NULL of all; objects are gc.h's business. -ENOENT without a sentence. */
int names_remove(struct oci_store *s, const char *name, const char *platform, struct sm_error *err);

/* All of them: by name, untagged ones last. `ret_damaged` (may be NULL): how many files could not be understood. */
int names_list(struct oci_store *s, struct name_record **ret, size_t *ret_n, size_t *ret_damaged, struct sm_error *err);

/*
 * What a user means by `typed`: a whole id ("sha256:..." or 64 hex digits), a name (all its platforms), or the first
 * digits of an id, at least 4. All records of that image, or of that name, at least one. -ENOENT and a sentence: there
 * is no such image; -EINVAL: neither a name nor an id; -EEXIST: digits that several images begin with (listed).
 * `ret_by_id` may be NULL.
 */
int names_find(struct oci_store *s, const char *typed, struct name_record **ret, size_t *ret_n, bool *ret_by_id,
               struct sm_error *err);

/* An image (by its manifest's digest) is used now. Only a hint for prune: what goes wrong is not told. */
void image_used(struct oci_store *s, const struct digest *manifest);
/* Seconds since 1970; 0: never. */
int64_t image_last_used(struct oci_store *s, const struct digest *manifest);

#endif
