/* SPDX-License-Identifier: Apache-2.0 */
/* What images from archives are called. */
#ifndef SM_OCI_LOAD_NAMES_H
#define SM_OCI_LOAD_NAMES_H

#include <stdbool.h>

#include "base/error.h"

/*
 * The canonical name (oci/ref.h) for one that somebody wrote, to be freed; what cannot be one is refused. With
 * `maybe_tag` a word without ':', '/' and '@' is taken for a tag alone, and the name becomes "localhost/STEM:TAG", STEM
 * being the archive's file name without its extensions. A digest behind a name is left out. *ret is NULL when nothing
 * is left: a name of a digest alone, a tag alone and a `file` that is NULL or makes no name.
 */
int load_name(char **ret, const char *written, bool maybe_tag, const char *file, struct sm_error *err);

/* Does a user who writes `wanted` mean this name of an archive? By the whole name, or by its tag. */
bool load_name_matches(const char *written, const char *wanted);

#endif
