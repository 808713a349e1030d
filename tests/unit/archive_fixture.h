/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of archives: their files one by one, so that a test can break each; and images in them. */
#ifndef ARCHIVE_FIXTURE_H
#define ARCHIVE_FIXTURE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "oci/digest.h"
#include "oci/load.h"
#include "store_fixture.h"

#define MEMBERS_MAX 64

struct member {
    char *name, *link;
    char type; /* '0' file, '1' hard link, '2' symbolic link, '5' directory */
    char *data;
    size_t len;
};

struct members {
    struct member m[MEMBERS_MAX];
    size_t n;
};

/* Data are copied. The same blob twice is one member. */
struct member *add_file(struct members *a, const char *name, const void *data, size_t len);
struct member *add_text(struct members *a, const char *name, const char *text);
void add_link(struct members *a, const char *name, char type, const char *target);
struct digest add_blob(struct members *a, const void *data, size_t len);
struct member *find_member(struct members *a, const char *name); /* must be there */
struct member *find_blob(struct members *a, const struct digest *d);
void drop_member(struct members *a, struct member *m);
void set_data(struct member *m, const char *text);
void reverse_members(struct members *a);
void members_done(struct members *a);

/* As a tar, with its end mark; `prefix` before each name. To be freed by buf_done. */
struct buf members_tar(const struct members *a, const char *prefix);

/* The same bytes, wrapped: RFC 1952, stored. */
struct buf gzip_stored(const struct buf *plain);

/* A layer of one file that is called and filled so. */
struct buf layer_tar_of(const char *file);

/* An image of such layers (ends with NULL) for linux on `arch`, NULL: this host's. */
struct image_parts {
    struct digest manifest, config, layers[4];
    char descriptor[512]; /* without its closing brace */
};

struct image_parts add_oci_image(struct members *a, const char *const *layers, const char *arch);

/* oci-layout and index.json. `items`: whole descriptors, separated by commas. */
void add_layout(struct members *a, const char *items);

/* One with these annotations; NULL: without. */
void add_layout_named(struct members *a, const struct image_parts *img, const char *ref_name, const char *image_name);

const char *host_arch(void);

/*
 * What old Docker writes, around this manifest.json: config.json, aaaa/layer.tar (file "a"), bbbb/layer.tar (file "b",
 * gzip), cccc/layer.tar (a symbolic link to aaaa's), dddd/layer.tar (a hard link to cccc's). The config's digest.
 */
struct digest add_docker(struct members *a, const char *json);

/* oci_load from a file of these bytes. */
int load_buf(struct store_fixture *f, const struct buf *bytes, const struct oci_load_options *o, struct oci_loaded *ret,
             struct sm_error *err);
int load_members(struct store_fixture *f, const struct members *a, const struct oci_load_options *o,
                 struct oci_loaded *ret, struct sm_error *err);

/* No name, no blob, no image, nothing in tmp. */
void assert_nothing_there(const struct store_fixture *f);

#endif
