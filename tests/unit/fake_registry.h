/* SPDX-License-Identifier: Apache-2.0 */
/* A registry that plays a script, in place of oci/registry.c: it counts what it is asked, and fails as it is told. */
#ifndef FAKE_REGISTRY_H
#define FAKE_REGISTRY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oci/digest.h"

#define FAKE_OBJECTS 32
#define FAKE_TAGS    8

struct fake_registry {
    struct {
        struct digest digest;
        char *data;
        size_t len;
    } objects[FAKE_OBJECTS];
    struct {
        const char *name;
        struct digest digest;
    } tags[FAKE_TAGS];
    unsigned n_objects, n_tags;

    /* how it behaves */
    bool unreachable;   /* no answer to anything */
    bool no_digest;     /* HEAD does not tell one */
    bool wrong;         /* blobs of layers come with a byte that is not theirs */
    size_t step;        /* bytes that one wait brings to each fetch */
    uint64_t cut_after; /* bytes of layers after which fetches fail; 0: never */

    /* what it was asked */
    unsigned heads, manifests, documents, fetches, running, most_running;
    uint64_t bytes; /* of layers */
};

/* The one that is asked. */
extern struct fake_registry fake_registry;

void fake_registry_reset(void); /* frees everything */
/* Copies `data`. */
struct digest fake_registry_add(const void *data, size_t len);
void fake_registry_tag(const char *name, const struct digest *digest); /* takes an old one's place */
unsigned fake_registry_requests(void);

#endif
