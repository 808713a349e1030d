/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the public image store: what the files of its verbs and image.c share. */
#ifndef SM_LIB_STORE_H
#define SM_LIB_STORE_H

#include "oci/image.h"
#include "oci/manifest.h"
#include "oci/names.h"
#include "oci/ref.h"
#include "oci/registry.h"

struct sm_store {
    struct oci_store *oci;
};

/* A caller's callback for events, as the oci part calls it. */
struct event_bridge {
    int (*fn)(void *ctx, const struct sm_image_event *event);
    void *ctx;
    struct oci_events events;
};

/* NULL where nobody listens. Lives as long as `b`. */
const struct oci_events *event_bridge(struct event_bridge *b, int (*fn)(void *ctx, const struct sm_image_event *event),
                                      void *ctx);

/* `given` may be NULL. What its strings point at stays the caller's. */
int registry_options_from(struct registry_options *ret, const struct sm_registry_options *given, struct sm_error *err);

/* The best of several records of one name for `platform` (NULL: this host's, else the first). -ENOENT and a sentence.
 */
int record_choose(const struct name_record **ret, const struct name_record *list, size_t n, const char *platform,
                  const char *typed, struct sm_error *err);

/* "nginx:1.27" for "docker.io/library/nginx:1.27"; NULL for an untagged record. To be freed. */
int record_familiar(const struct name_record *r, char **ret, struct sm_error *err);

/* The same by digest, "nginx@sha256:...". */
int record_pinned(const struct name_record *r, char **ret, struct sm_error *err);

/*
 * Where an image came from, to be asked for more of it: its name, else its source, with the digest of what that meant.
 * -ENOENT and a sentence when that was no registry.
 */
int record_registry(struct oci_ref *ret, const struct name_record *r, struct sm_error *err);

/* Public records of these; what the store has no more of an image is unknown in them. */
int records_publish(struct sm_image_record **ret, struct oci_store *s, const struct name_record *list, size_t n,
                    struct sm_error *err);

/* An image's manifest and configuration, out of the store. */
struct image_docs {
    struct manifest_doc manifest;
    char manifest_media[128]; /* fit to be shown */
    uint64_t manifest_size;
    struct json *config;
    struct config_doc config_doc;
};

/* -ENOENT and a sentence when they are not there. */
int image_docs_read(struct image_docs *ret, struct oci_store *s, const struct digest *manifest, struct sm_error *err);
void image_docs_done(struct image_docs *d); /* takes a zeroed one */

/* An image of the store, found by what a user typed; the record is one of the list. Begins zeroed. */
struct found_image {
    struct name_record *list;
    size_t n;
    const struct name_record *record;
    struct image_docs docs;
};

/* On failure, too, it is the caller's to free. */
int found_image_get(struct found_image *f, struct oci_store *s, const char *typed, const char *platform,
                    struct sm_error *err);
void found_image_done(struct found_image *f);

/* Bytes of it all as a registry keeps it. */
uint64_t image_docs_size(const struct image_docs *d);

/* When it was built, by its own word, in seconds since 1970; 0: unknown. */
int64_t image_docs_created(const struct image_docs *d);

#endif
