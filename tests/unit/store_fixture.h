/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of the image store: a store of their own, with images in it that are whole. Failures end the test. */
#ifndef STORE_FIXTURE_H
#define STORE_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "oci/digest.h"
#include "oci/image.h"
#include "oci/store.h"

struct store_fixture {
    char *dir;
    struct oci_store *s;
};

/* For cmocka: *state is the fixture. */
int store_fixture_setup(void **state);
int store_fixture_teardown(void **state);

/*
 * The blobs of an image of one layer for each of `layers`, which ends with NULL: each has one file, called so, with
 * more in it than fits an index. The same layers are the same image, but for `note`. The manifest's digest.
 */
struct digest image_blobs(struct oci_store *s, const char *const *layers, const char *note);

/* The layer's blob and diff id, as image_blobs makes them. */
struct digest layer_digest(const char *layer);

/* The same with its layers converted and merged; and a name, where that is not NULL (else it has none). */
struct digest image_put(struct oci_store *s, const char *name, const char *const *layers, const char *note);

/* A record; with a `root` of its own where that is not NULL. */
void name_put(struct oci_store *s, const char *name, const struct digest *manifest, const struct digest *root);

/* Files in a directory of the store. */
unsigned count_in(const struct store_fixture *f, const char *sub);
bool is_in(const struct store_fixture *f, const char *sub, const struct digest *name);

/* Path of an object, or of a file of it; in a static buffer. */
const char *path_in(const struct store_fixture *f, const char *sub, const struct digest *name, const char *file);

/* One bit of the byte at `off` turned over. */
void flip(const char *path, int64_t off);

#endif
