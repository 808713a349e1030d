/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of pulling: images in a registry that plays a script, pulls of them, a look at what the store then has. */
#ifndef SM_TESTS_PULL_FIXTURE_H
#define SM_TESTS_PULL_FIXTURE_H

#include <stddef.h>
#include <stdint.h>

#include "fake_registry.h"
#include "oci/names.h"
#include "oci/pull.h"
#include "oci/ref.h"
#include "oci/store.h"
#include "oci_fixture.h"

#define INDEX_TYPE    "application/vnd.oci.image.index.v1+json"
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define CONFIG_TYPE   "application/vnd.oci.image.config.v1+json"
#define LAYER_TYPE    "application/vnd.oci.image.layer.v1.tar"
#define NAME          "reg.example/app:one"
#define SIZE          (1 << 20) /* of a layer's file */

extern char *pull_dir;
extern struct oci_store *pull_store;
extern const char *open_platform;

struct object {
    struct digest digest;
    size_t len;
};

struct stopper {
    enum oci_event_kind at;
    uint64_t done; /* at least */
    unsigned seen[OCI_EVENT_DONE + 1], layers_done;
    int (*act)(void);
    int to, from; /* pipes */
};

struct object add(const void *data, size_t len);
struct object add_layer(char name, size_t size);
void describe(char *to, size_t size, const char *type, const struct object *o);
struct object add_image_of(const char *arch, const char *layer_type, const struct object *layers, unsigned n);
struct object add_image(const struct object *layers, unsigned n);
struct object add_index(const struct object *items, const char *type, unsigned n);
int try_pull(const char *name, const struct oci_events *events, struct oci_pull_result *ret, struct sm_error *err);
struct oci_pull_result pull(const char *name);
void pull_fails(const char *name, int code, const char *word);
int try_open(const char *name, enum oci_pull_policy policy, struct sm_error *err);
void opens(const char *name, enum oci_pull_policy policy);
void open_fails(const char *name, enum oci_pull_policy policy, int code, const char *word);
void path_of(char path[600], const char *sub, const struct digest *d);
int64_t size_of(const char *sub, const struct digest *d);
unsigned count(const char *sub);
void nothing_is_named(void);
void remove_layer(const struct digest *d);
void remove_blob(const struct digest *d);
void put_file(const char *sub, const struct digest *d, const void *data, size_t len);
int pull_set_up(void **state);
int pull_tear_down(void **state);
int on_event(void *ctx, const struct oci_event *e);

#endif
