/* SPDX-License-Identifier: Apache-2.0 */
/* Every limit that an image meets on its way in. What is over one is refused with a sentence, never cut. */
#ifndef SM_OCI_LIMITS_H
#define SM_OCI_LIMITS_H

#include "base/checked.h"

/* Documents: index, manifest, config. The distribution project's registries cap manifests at 4 MiB too. */
#define OCI_JSON_MAX_BYTES      (4 * MIB)
#define OCI_JSON_MAX_DEPTH      32
#define OCI_JSON_MAX_STRING     (256 * 1024u) /* one value; MAX_ARG_STRLEN of Linux is half of it */
#define OCI_INDEX_MAX_MANIFESTS 1024
#define OCI_INDEX_MAX_NESTING   4
#define OCI_INDEX_MAX_OPENED    64  /* of one image, nested ones together */
#define OCI_MAX_LAYERS          127 /* what Docker's own drivers stop at */
#define OCI_CONFIG_MAX_LIST     4096
#define OCI_REF_MAX             4096

/* The file behind a name in the store (oci/record.h). */
#define OCI_RECORD_MAX_BYTES  (256 * 1024u)
#define OCI_RECORD_MAX_IMAGES 64 /* one a platform */
#define OCI_RECORD_MAX_SOURCE 8192

/* A snapshot in the store (oci/snapshot_meta.h). Its files' own limits are in snap/limits.h. */
#define SNAPSHOT_PAGE           4096u
#define SNAPSHOT_TEXT_MAX       4096      /* bytes of a text that people are shown */
#define SNAPSHOT_SMALL_FILE_MAX (4 * MIB) /* of each but the memory */

/* One layer. */
#define OCI_LAYER_MAX_BLOB    (64 * GIB)   /* compressed */
#define OCI_LAYER_MAX_TAR     (128 * GIB)  /* decompressed */
#define OCI_LAYER_MAX_DATA    (1024 * GIB) /* sum of file sizes: sparse files count in full but cost nothing */
#define OCI_LAYER_MAX_ENTRIES 2000000u
#define OCI_LAYER_MAX_INDEX   (2 * GIB)
#define OCI_LAYER_MAX_RATIO   250       /* decompressed to compressed ... */
#define OCI_LAYER_RATIO_FLOOR (1 * GIB) /* ... looked at from here on */
#define OCI_PARALLEL_LAYERS   4         /* converted at a time */
#define OCI_PARALLEL_FETCHES  4

/* An archive that holds images (oci/archive.h). The ratio is a layer's. */
#define OCI_ARCHIVE_MAX_ENTRIES 65536u
#define OCI_ARCHIVE_MAX_NAMES   (16 * MIB) /* all names and targets of links together */
#define OCI_ARCHIVE_MAX_BYTES   (512 * GIB)
#define OCI_ARCHIVE_MAX_IMAGES  1024
#define OCI_ARCHIVE_MAX_TAGS    1024       /* of one image */
#define OCI_ARCHIVE_MAX_TRAILER (64 * MIB) /* behind the end mark: padding */
#define OCI_ARCHIVE_FOLLOW_MAX  8          /* links from one file to another */

/* The processes that see a layer's bytes. */
#define OCI_CHILD_MAX_MEMORY                                                                                           \
    (512 * MIB)                    /* address space beside what was mapped before; zstd's window is <= 128 MiB         \
                                    */
#define OCI_CHILD_MAX_SECONDS 1800 /* of processor time */

/* One entry of a layer. Names and paths as Linux has them (NAME_MAX, PATH_MAX). */
#define OCI_NAME_MAX        255
#define OCI_PATH_MAX        4095
#define OCI_LINK_MAX        4095
#define OCI_DEPTH_MAX       256
#define OCI_FOLLOW_MAX      255 /* symbolic links passed on the way to one parent directory */
#define OCI_XATTR_NAME_MAX  255
#define OCI_XATTR_VALUE_MAX 65535 /* EROFS has 16 bits for it */
#define OCI_XATTRS_MAX      256
#define OCI_XATTRS_BYTES    (128 * 1024u) /* of one entry, names and values */
#define OCI_INLINE_MAX      1024          /* files up to here live in the index, then in the EROFS metadata */

/* One image. EROFS counts blocks in 32 bits. */
#define OCI_IMAGE_MAX_NODES  4000000u
#define OCI_IMAGE_MAX_BLOCKS UINT32_MAX
#define OCI_BLOCK            4096u

#endif
