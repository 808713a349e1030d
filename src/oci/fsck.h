/* SPDX-License-Identifier: Apache-2.0 */
/* Is everything in the store what its name says? And what is not, out of it. */
#ifndef SM_OCI_FSCK_H
#define SM_OCI_FSCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/image.h"
#include "oci/names.h"

enum fsck_kind {
    FSCK_NAME,    /* a record's file */
    FSCK_BLOB,    /* a document or a compressed layer */
    FSCK_PARTIAL, /* half of one */
    FSCK_LAYER,   /* converted */
    FSCK_META,    /* merged metadata of an image */
    FSCK_SNAPSHOT,
    FSCK_IMAGE, /* whole as its parts may be, something that it needs is not there */
};

/* Lives for the call only. */
struct fsck_problem {
    enum fsck_kind kind;
    const char *object; /* "layer sha256:...", "image docker.io/library/nginx:latest" */
    const char *text;   /* one sentence */
    bool removed;       /* it was taken away, or made right: nothing is left to do about this object */
};

struct fsck_options {
    bool repair;
    void (*problem)(void *ctx, const struct fsck_problem *problem); /* may be NULL */
    /* Now and then; bytes of what is to be looked at. Non-zero stops it with -ECANCELED. May be NULL. */
    int (*step)(void *ctx, uint64_t done, uint64_t total);
    /*
     * Is the snapshot `key` what it should be? 0; -EBADMSG and a sentence; -ENOTSUP: that can't be told here; -ENOENT:
     * it is not there any more; else what ends the check. NULL: only their metadata is looked at.
     */
    int (*snapshot)(void *ctx, struct oci_store *s, const char *key, struct sm_error *err);
    void *ctx;
};

struct fsck_result {
    uint32_t checked, problems, removed;
    uint32_t unproven;           /* of which only the structure could be checked, or less: see fsck.c */
    struct name_record *lacking; /* images that miss something, now: to be pulled again (by manifest's digest) */
    size_t n_lacking;
};

/* 0 also when there are problems. Others may use the store meanwhile. */
int fsck_store(struct oci_store *s, const struct fsck_options *o, struct fsck_result *ret, struct sm_error *err);
void fsck_result_done(struct fsck_result *r); /* takes a zeroed one */

#endif
