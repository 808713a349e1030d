/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of snapshots on disk: small ones that are whole, in a store of their own. Failures end the test. */
#ifndef SNAPSHOT_FIXTURE_H
#define SNAPSHOT_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/snapshots.h"
#include "store_fixture.h"

#define FIXTURE_MIB   32u /* of memory, nearly all of it holes */
#define FIXTURE_PAGES (FIXTURE_MIB * 256u)

/* 64 hex digits, each `c`. In a static buffer of its own for each of a few calls. */
const char *key_of(char c);

/* Metadata of a bake of `image` ("sha256:..."), of a base where that is NULL. Points at literals and `image`. */
struct snapshot_meta plain_meta(const char *image);

/* What belongs in state, in memory (page `n` of those named full of `byte`), and a list of those pages. */
void write_state(int fd, uint8_t byte);
void write_memory(int fd, const uint32_t *pages, size_t n, uint8_t byte);
void write_runs(int fd, const uint32_t *pages, size_t n, bool prefetch);

/* Fill a draft: a full one, or with `diff` one that changes page 7. The same `byte` gives the same bytes. */
void fill_draft(struct snapshot_draft *d, bool diff, uint8_t byte);

/* Made and published; the snapshot is the caller's. `base` NULL: a full one. */
struct snapshot *snapshot_put(struct oci_store *s, const char *key, const char *image, const struct snapshot *base,
                              uint8_t byte);

/* The byte that page `page` of the opened snapshot is full of, whatever file it is in. */
uint8_t byte_of_page(const struct snapshot *s, uint32_t page);

/* The path of a file of a snapshot in the store, or with "" of it; in a static buffer. */
const char *snapshot_path(const struct store_fixture *f, const char *key, const char *file);

#endif
