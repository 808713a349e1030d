/* SPDX-License-Identifier: Apache-2.0 */
/* References: how a user names an image. */
#ifndef SM_OCI_REF_H
#define SM_OCI_REF_H

#include "base/error.h"

/* "oci:DIR[:TAG]". The first ':' behind the scheme ends DIR, so a tag may hold any character and DIR no colon. */
struct oci_ref {
    char *dir;
    char *tag; /* NULL: none given */
};

int ref_parse(struct oci_ref *ret, const char *s, struct sm_error *err);
void ref_done(struct oci_ref *ref); /* takes a zeroed one */

#endif
