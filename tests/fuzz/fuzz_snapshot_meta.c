/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: a snapshot's metadata.json. Input: the document, which is read as it is, and once more with its checksum made
 * right. What is understood is within its limits, can be written, and is the same when read again.
 */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "oci/snapshot_meta.h"

#define SUM_BYTES 75

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void same_list(const char *const *a, const char *const *b)
{
    for (; *a && *b; a++, b++)
        assert(!strcmp(*a, *b));
    assert(!*a && !*b);
}

static void same(const struct snapshot_meta *a, const struct snapshot_meta *b)
{
    assert(a->kind == b->kind && !strcmp(a->key, b->key) && !strcmp(a->base, b->base) && a->base_crc == b->base_crc);
    assert(!strcmp(a->image_digest, b->image_digest) && !strcmp(a->image_name, b->image_name));
    assert(!strcmp(a->platform, b->platform) && !strcmp(a->kernel, b->kernel) && !strcmp(a->initramfs, b->initramfs));
    assert(!strcmp(a->kernel_args, b->kernel_args) && !strcmp(a->version, b->version) && !strcmp(a->arch, b->arch));
    assert(!strcmp(a->cpu, b->cpu) && !strcmp(a->trigger, b->trigger) && !strcmp(a->tag, b->tag));
    assert(!strcmp(a->cwd, b->cwd) && !strcmp(a->user, b->user) && a->workload == b->workload);
    assert(a->memory_mib == b->memory_mib && a->vcpus == b->vcpus && a->created_s == b->created_s);
    assert(a->state_bytes == b->state_bytes && a->state_crc == b->state_crc && a->memory_data == b->memory_data &&
           a->memory_crc == b->memory_crc && a->diff_bytes == b->diff_bytes && a->diff_crc == b->diff_crc);
    same_list(a->entrypoint, b->entrypoint);
    same_list(a->cmd, b->cmd);
    same_list(a->env, b->env);
}

static void try(const uint8_t *data, size_t len)
{
    struct sm_error err = SM_ERROR_INIT;
    struct snapshot_meta m, again;
    struct digest key;
    struct buf b;

    if (snapshot_meta_parse(&m, data, len, &err) < 0) {
        assert(err.code && err.text[0]);
        return;
    }
    assert(m.memory_mib >= 1 && m.memory_mib <= SM_VM_MEMORY_MIB_MAX && m.vcpus >= 1 && m.vcpus <= SM_VM_VCPUS_MAX);
    assert(snapshot_key_digest(&key, m.key, NULL) == 0);
    assert(!m.base[0] == !m.diff_bytes && (!m.base[0] || snapshot_key_digest(&key, m.base, NULL) == 0));
    assert(m.memory_data <= (uint64_t)m.memory_mib << 20);
    if (snapshot_meta_write(&b, &m, NULL) >= 0) { /* else it was near a limit, and is longer as we write it */
        int r = snapshot_meta_parse(&again, b.data, b.len, NULL);

        assert(r == 0);
        (void)r;
        same(&m, &again);
        snapshot_meta_done(&again);
        buf_done(&b);
    }
    snapshot_meta_done(&m);
}

/* The input is the document without its sum, or with another one. */
static void try_sealed(const uint8_t *data, size_t len)
{
    char hex[DIGEST_HEX_SIZE], end[SUM_BYTES + 1];
    struct digest d;
    uint8_t *copy = malloc(len + SUM_BYTES);

    assert(copy);
    memcpy(copy, data, len);
    if (digest_of(&d, data, len, NULL) == 0) {
        digest_hex(&d, hex);
        snprintf(end, sizeof(end), ",\"sum\":\"%s\"}\n", hex);
        memcpy(copy + len, end, SUM_BYTES);
        try(copy, len + SUM_BYTES);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    try(data, len);
    try_sealed(data, len);
    if (len > SUM_BYTES)
        try_sealed(data, len - SUM_BYTES);
    return 0;
}
