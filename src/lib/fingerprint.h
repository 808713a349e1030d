/* SPDX-License-Identifier: Apache-2.0 */
/* The key of a snapshot: a hash over everything that what is in it depends on. */
#ifndef SM_LIB_FINGERPRINT_H
#define SM_LIB_FINGERPRINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/snapshot_meta.h"

/* A file that is put into the image before the bake. */
struct fingerprint_file {
    const char *path; /* in the guest */
    uint32_t mode, uid, gid;
    const char *sum; /* SHA-256 of its content, hex */
};

/*
 * NULL lists and strings, and 0, are values like others: absent differs from empty only where it says so. Left to this
 * file: versions of the program and of the format, and what the host's processor is.
 */
struct fingerprint_input {
    const char *image_digest;       /* of the manifest; NULL: a base snapshot, and nothing below `vcpus` counts */
    const char *platform;           /* of the image */
    const char *kernel, *initramfs; /* SHA-256 of their files, hex: file_digest_cached */
    const char *kernel_args;
    uint32_t memory_mib, vcpus;

    /* Of the command that runs, or ran, in it. A bake before any command leaves these out (see `workload`). */
    const char *const *entrypoint, *const *cmd, *const *env;
    const char *cwd, *user;
    bool workload; /* the five above count */

    const struct fingerprint_file *files; /* in the order they are put */
    size_t n_files;

    const char *trigger;                             /* its kind and number, as in snapshot_meta */
    uint32_t after_ms, quiesce_ms, heartbeat_target; /* what it goes by */
    bool require_listener;

    const char *const *warmup; /* argv; NULL: none */
    const char *tag;
};

int fingerprint_key(const struct fingerprint_input *in, char ret[SNAPSHOT_KEY_SIZE], struct sm_error *err);

#endif
