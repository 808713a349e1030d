/* SPDX-License-Identifier: Apache-2.0 */
/* References: how a user names an image. */
#ifndef SM_OCI_REF_H
#define SM_OCI_REF_H

#include <stdbool.h>

#include "base/error.h"
#include "oci/digest.h"

enum ref_kind {
    REF_REGISTRY,       /* [HOST[:PORT]/]REPOSITORY[:TAG][@sha256:DIGEST] */
    REF_OCI_DIR,        /* oci:DIR[:TAG] */
    REF_OCI_ARCHIVE,    /* oci-archive:FILE[:TAG] */
    REF_DOCKER_ARCHIVE, /* docker-archive:FILE[:TAG] */
};

struct oci_ref {
    enum ref_kind kind;
    char *host; /* registry: "docker.io", "localhost:5000", "[::1]:5000"; NULL for others */
    char *path; /* registry: the repository, "library/nginx"; others: DIR or FILE, where "-" is standard input */
    /*
     * NULL: none. Registry: "latest" when neither tag nor digest was written. Others: whatever is behind the ':' that
     * ends DIR or FILE, so it may be a whole reference, "docker.io/library/nginx:1.27".
     */
    char *tag;
    bool has_digest; /* registry only; with a tag beside it, the digest decides */
    struct digest digest;
};

#define OCI_REF_INIT ((struct oci_ref){.kind = REF_REGISTRY})

/* The grammar of the distribution project with Docker's defaults, and the transports above. */
int ref_parse(struct oci_ref *ret, const char *s, struct sm_error *err);
void ref_done(struct oci_ref *ref); /* takes a zeroed one */

/*
 * Of the registry kind. Canonical: "docker.io/library/nginx:latest", with "@sha256:..." behind it when there is a
 * digest. Familiar: as a user would write it, "nginx:latest". Either, parsed, gives the same reference again.
 */
int ref_canonical(const struct oci_ref *ref, char **ret, struct sm_error *err);
int ref_familiar(const struct oci_ref *ref, char **ret, struct sm_error *err);

#endif
