/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image, opened: verified, converted and cached, ready to be a machine's root disk.
 *
 * Not thread-safe; several processes may open the same image at once.
 */
#ifndef SM_OCI_IMAGE_H
#define SM_OCI_IMAGE_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

struct oci_store;
struct oci_image;

/* `dir`: NULL for $SUPERMACHINE_HOME, else $XDG_DATA_HOME/supermachine, else ~/.local/share/supermachine. */
int oci_store_open(struct oci_store **ret, const char *dir, struct sm_error *err);
void oci_store_free(struct oci_store *store);

/* Its directory, as it was found; lives as long as the store. */
const char *oci_store_path(const struct oci_store *store);

/* Long work, told as it happens, layer by layer. */
enum oci_event_kind {
    OCI_EVENT_RESOLVING,  /* asking the registry what the name means */
    OCI_EVENT_WAITING,    /* another process makes this layer; its result will be used */
    OCI_EVENT_FETCHING,   /* bytes that have come, of the blob's size */
    OCI_EVENT_CONVERTING, /* bytes of the blob that were converted, of its size */
    OCI_EVENT_MERGING,    /* all layers are there: their metadata becomes one file system */
    OCI_EVENT_DONE,       /* of a layer: it is in the store (done 0: it was before); without one: the image is */
    OCI_EVENT_LOADING,    /* an archive is read: bytes that came, of its size */
    OCI_EVENT_SAVING,     /* an archive is written */
};

struct oci_event {
    enum oci_event_kind what;
    const char *layer; /* its blob's digest, "sha256:..."; NULL: about the image */
    uint64_t done, total;
};

/*
 * Called in the thread that does the work: whenever something begins or ends, and at least some times a second while
 * there is work. Non-zero: stop; the call that works then fails with -ECANCELED, and what is done so far is kept.
 */
struct oci_events {
    int (*fn)(void *ctx, const struct oci_event *event);
    void *ctx;
};

/* When to ask a registry. Names of other kinds (directories, archives) are read every time. */
enum oci_pull_policy {
    OCI_PULL_MISSING, /* when the store has no such name: otherwise the network is not touched */
    OCI_PULL_ALWAYS,  /* is the name still the same? Without an answer it is an error */
    OCI_PULL_NEVER,
};

struct registry_options; /* oci/registry.h */

struct oci_open_options {
    const char *platform; /* "os/arch[/variant]", NULL: linux on this host's architecture */
    enum oci_pull_policy policy;
    const struct registry_options *registry; /* NULL: its defaults */
    const struct oci_events *events;
};

/*
 * `ref`: a registry's name (oci/ref.h) or the beginning of the digest of an image in the store, "oci:DIR[:TAG]",
 * "oci-archive:FILE", "docker-archive:FILE[:TAG]". `options` may be NULL. The store must outlive the image.
 */
int oci_image_open(struct oci_image **ret, struct oci_store *store, const char *ref,
                   const struct oci_open_options *options, struct sm_error *err);
void oci_image_free(struct oci_image *img);

/* The image's run configuration (image-spec config.md). Lists end with NULL and are never NULL; strings may be "". */
struct oci_config {
    char **entrypoint, **cmd, **env;
    char *working_dir, *user, *stop_signal;
    char **exposed_ports; /* "80/tcp" */
    char *os, *architecture, *variant;
};

const struct oci_config *oci_image_config(const struct oci_image *img);
const char *oci_image_digest(const struct oci_image *img); /* of the manifest, "sha256:..." */

/* A piece of the root disk: `length` bytes of `fd` from `offset` (all multiples of 4096). The image owns `fd`. */
struct oci_extent {
    int fd;
    uint64_t offset, length;
};

/* The root disk (EROFS): its pieces back to back, the metadata first. Returns how many. */
unsigned oci_image_extents(const struct oci_image *img, const struct oci_extent **ret);

#endif
