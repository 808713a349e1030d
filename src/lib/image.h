/* SPDX-License-Identifier: Apache-2.0 */
/* The public image object: an opened image and its store, counted. */
#ifndef SM_LIB_IMAGE_H
#define SM_LIB_IMAGE_H

#include <stdatomic.h>

#include "oci/image.h"

struct sm_image {
    atomic_uint refs; /* the caller's and each machine's; all else never changes once opened */
    struct oci_store *store;
    struct oci_image *oci;
    char *ref; /* as it was opened */
    struct sm_image_info info;
};

struct sm_image *image_ref(struct sm_image *image);

#endif
