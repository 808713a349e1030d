/* SPDX-License-Identifier: Apache-2.0 */
/* What a snapshot says of itself: its metadata.json, written here and read as hostile input. */
#ifndef SM_OCI_SNAPSHOT_META_H
#define SM_OCI_SNAPSHOT_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/error.h"
#include "oci/digest.h"

#define SNAPSHOT_FORMAT   1 /* of the directory and of metadata.json */
#define SNAPSHOT_KEY_SIZE DIGEST_HEX_SIZE

enum snapshot_kind {
    SNAPSHOT_BASE, /* kernel and agent are up, nothing else: what bakes are differences to */
    SNAPSHOT_BAKE, /* of an image, made anew whenever it is missing */
    SNAPSHOT_VM,   /* of somebody's machine: nobody can make it again */
};

/*
 * Strings and lists point at whatever whoever filled it in owns, or after snapshot_meta_parse at `own`. NULL is "" or
 * the empty list where it is written; what was read has no NULL.
 */
struct snapshot_meta {
    enum snapshot_kind kind;
    char key[SNAPSHOT_KEY_SIZE];  /* its name */
    char base[SNAPSHOT_KEY_SIZE]; /* the full snapshot that it is a difference to; "": it is full */
    uint32_t base_crc;            /* memory_crc of that one: bases are made anew, under the same key */

    const char *image_digest; /* of the manifest, "sha256:..."; "": no image (of a base) */
    const char *image_name;   /* for people */
    const char *platform;     /* "linux/amd64" */

    const char *kernel, *initramfs; /* SHA-256 of what was booted, 64 hex digits */
    const char *kernel_args;
    const char *version; /* of the program that made it */
    const char *arch;    /* SNAPSHOT_ARCH */
    const char *cpu;     /* of the host that made it: lib/snapshot_cpu.h */
    uint32_t memory_mib, vcpus;

    const char *trigger; /* as --trigger has it: "pre-exec", "heartbeat=3"; "": none */
    const char *tag;     /* of a warm-up */
    int64_t created_s;   /* since 1970 */

    bool workload; /* its command runs in it already */
    const char *const *entrypoint, *const *cmd, *const *env;
    const char *cwd, *user;

    /* Its files. */
    uint64_t state_bytes, diff_bytes; /* diff_bytes 0: there is none */
    uint64_t memory_data;             /* bytes of the memory file that are no holes */
    uint32_t state_crc, diff_crc;     /* CRC-32C of all bytes */
    uint32_t memory_crc;              /* snap_memory_sum() */

    struct {
        struct json *doc;
        char **lists[3];
    } own;
};

#if defined(__x86_64__)
#define SNAPSHOT_ARCH "x86_64"
#elif defined(__aarch64__)
#define SNAPSHOT_ARCH "arm64"
#else
#error "no name for this architecture"
#endif

/*
 * -EBADMSG and a sentence that begins with "its metadata": damaged; -ENOTSUP: of another version of the format. What
 * was made for another architecture or host passes: it can be listed.
 */
int snapshot_meta_parse(struct snapshot_meta *ret, const void *data, size_t len, struct sm_error *err);
void snapshot_meta_done(struct snapshot_meta *m); /* takes a zeroed one */

/* -EINVAL and a sentence when it could not be read back. */
int snapshot_meta_write(struct buf *ret, const struct snapshot_meta *m, struct sm_error *err);

/* "base", "bake", "vm". */
const char *snapshot_kind_name(enum snapshot_kind kind);

/* A key as a name in the store. -EINVAL and a sentence when it is none. */
int snapshot_key_digest(struct digest *ret, const char *key, struct sm_error *err);

#endif
