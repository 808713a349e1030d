/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of the public interface: all about one, as JSON. docs/snapshot-format.md lists the members. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buf.h"
#include "base/cleanup.h"
#include "lib/snapshot_private.h"
#include "lib/store.h"
#include "oci/gc.h"
#include "oci/json_write.h"
#include "oci/limits.h"

#define INSPECT_MAX_BYTES (8 * OCI_JSON_MAX_BYTES) /* escaping makes text longer, six times at most */

static void put_key(struct buf *b, const char *key)
{
    json_write_raw(b, b->len > 1 ? "," : "");
    json_write_string(b, key);
    json_write_raw(b, ":");
}

static void put_string(struct buf *b, const char *key, const char *value)
{
    put_key(b, key);
    json_write_string(b, value ? value : "");
}

static void put_number(struct buf *b, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    put_key(b, key);
    json_write_raw(b, text);
}

static void put_list(struct buf *b, const char *key, const char *const *list)
{
    put_key(b, key);
    json_write_raw(b, "[");
    for (size_t i = 0; list && list[i]; i++) {
        json_write_raw(b, i ? "," : "");
        json_write_string(b, list[i]);
    }
    json_write_raw(b, "]");
}

static void put_meta(struct buf *b, const struct snapshot_meta *m, const char *image)
{
    put_string(b, "Kind", snapshot_kind_name(m->kind));
    put_string(b, "Base", m->base);
    put_string(b, "Image", image);
    put_string(b, "ImageId", m->image_digest);
    put_string(b, "Platform", m->platform);
    put_string(b, "Kernel", m->kernel);
    put_string(b, "Initramfs", m->initramfs);
    put_string(b, "KernelArgs", m->kernel_args);
    put_string(b, "Version", m->version);
    put_string(b, "Architecture", m->arch);
    put_string(b, "Processor", m->cpu);
    put_number(b, "MemoryMiB", m->memory_mib);
    put_number(b, "VCPUs", m->vcpus);
    put_string(b, "Trigger", m->trigger);
    put_string(b, "Tag", m->tag);
    put_number(b, "Created", (uint64_t)m->created_s);
    put_key(b, "Workload");
    json_write_raw(b, m->workload ? "true" : "false");
    put_list(b, "Entrypoint", m->entrypoint);
    put_list(b, "Cmd", m->cmd);
    put_list(b, "Env", m->env);
    put_string(b, "WorkingDir", m->cwd);
    put_string(b, "User", m->user);
    put_number(b, "StateBytes", m->state_bytes);
    put_number(b, "MemoryDataBytes", m->memory_data);
}

static int describe(struct buf *b, const struct snapshot_about *a, const char *path, struct sm_error *err)
{
    CLEANUP_FREE char *image = NULL;
    int r = a->known ? snapshot_image_name(&a->meta, &image, err) : 0;

    if (r < 0)
        return r;
    json_write_raw(b, "{");
    put_string(b, "Key", a->key);
    if (a->known)
        put_meta(b, &a->meta, image);
    put_number(b, "Used", a->used_s < 0 ? 0 : (uint64_t)a->used_s);
    put_number(b, "DiskBytes", a->disk_bytes);
    put_string(b, "Path", path);
    put_string(b, "Problem", a->problem);
    json_write_raw(b, "}");
    buf_u8(b, 0);
    return b->bad ? sm_error_set(err, ENOMEM, "out of memory while describing a snapshot") : 0;
}

static int find(struct snapshot_about *ret, char **ret_path, struct oci_store *s, const char *name,
                struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_enter(s, err);
    char key[SNAPSHOT_KEY_SIZE];
    bool is_dir = snapshot_is_dir(name);
    int r = lock_fd;

    if (r >= 0 && !is_dir)
        r = snapshot_key_find(s, name, key, err);
    if (r < 0)
        return r;
    r = is_dir ? asprintf(ret_path, "%s", name) : asprintf(ret_path, "%s/snapshots/%s", oci_store_path(s), key);
    if (r < 0) {
        *ret_path = NULL;
        return sm_error_set(err, ENOMEM, "out of memory while describing a snapshot");
    }
    r = is_dir ? snapshot_about_dir(ret, s, name, err) : snapshot_about_key(ret, s, key, err);
    return r == -ENOENT && !is_dir ? sm_error_set(err, ENOENT, "the snapshot %.12s is no directory", key) : r;
}

int sm_snapshot_inspect(char **ret, struct sm_store *store, const char *name, struct sm_error *err)
{
    struct buf text = buf_init(INSPECT_MAX_BYTES);
    struct snapshot_about about = {.known = false};
    CLEANUP_FREE char *path = NULL;
    int r = find(&about, &path, store->oci, name, err);

    if (r >= 0)
        r = describe(&text, &about, path, err);
    if (r >= 0) {
        *ret = (char *)text.data;
        text = buf_init(0);
    }
    buf_done(&text);
    snapshot_about_done(&about);
    return r < 0 ? r : 0;
}
