/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys of snapshots.
 *
 * Theory of operation
 *
 * What: SHA-256 over a row of fields. Each field is its name and its value, both with their lengths before them, and a
 * letter for the kind of value; lists have their number of elements. So no two inputs give the same bytes, whatever is
 * in their strings, and a field that is added later, or goes, changes every key. The row begins with versions: of this
 * row, of the snapshot's format, of the program.
 *
 * The program's version is in it because agent, worker and library are made to go together; the host's processor
 * because a guest that was saved has looked at it (snapshot_cpu.h). A host after a change of either bakes anew.
 *
 * A base's row ends behind the machine. Of a bake before any command, the command is left out: it comes later, with
 * each run's own.
 */
#include "lib/fingerprint.h"

#include <string.h>

#include "lib/snapshot_cpu.h"
#include "oci/digest.h"
#include "snap/file.h"

#define ROW_VERSION 1

static void add_u64(struct hasher *h, uint64_t v)
{
    uint8_t bytes[8];

    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(v >> (8 * i));
    hasher_add(h, bytes, sizeof(bytes));
}

static void add_bytes(struct hasher *h, const char *s)
{
    add_u64(h, strlen(s));
    hasher_add(h, s, strlen(s));
}

static void add_name(struct hasher *h, const char *name, char kind)
{
    add_bytes(h, name);
    hasher_add(h, &kind, 1);
}

static void add_number(struct hasher *h, const char *name, uint64_t v)
{
    add_name(h, name, 'n');
    add_u64(h, v);
}

/* NULL is no value, which is not the same as an empty one. */
static void add_string(struct hasher *h, const char *name, const char *s)
{
    add_name(h, name, s ? 's' : '0');
    if (s)
        add_bytes(h, s);
}

static void add_list(struct hasher *h, const char *name, const char *const *list)
{
    uint64_t n = 0;

    while (list && list[n])
        n++;
    add_name(h, name, list ? 'l' : '0');
    add_u64(h, n);
    for (uint64_t i = 0; i < n; i++)
        add_bytes(h, list[i]);
}

static void add_machine(struct hasher *h, const struct fingerprint_input *in)
{
    char cpu[SNAPSHOT_CPU_SIZE];

    add_number(h, "row", ROW_VERSION);
    add_number(h, "format", SNAPSHOT_FORMAT);
    add_number(h, "state format", SNAP_FILE_VERSION);
    add_string(h, "version", sm_version());
    add_string(h, "arch", SNAPSHOT_ARCH);
    add_string(h, "cpu", snapshot_cpu(cpu));
    add_string(h, "kernel", in->kernel);
    add_string(h, "initramfs", in->initramfs);
    add_string(h, "kernel args", in->kernel_args);
    add_number(h, "memory", in->memory_mib);
    add_number(h, "vcpus", in->vcpus);
}

static void add_image(struct hasher *h, const struct fingerprint_input *in)
{
    add_string(h, "image", in->image_digest);
    add_string(h, "platform", in->platform);
    if (in->workload) {
        add_list(h, "entrypoint", in->entrypoint);
        add_list(h, "cmd", in->cmd);
        add_list(h, "env", in->env);
        add_string(h, "cwd", in->cwd);
        add_string(h, "user", in->user);
    }
    add_number(h, "files", in->n_files);
    for (size_t i = 0; i < in->n_files; i++) {
        add_string(h, "path", in->files[i].path);
        add_number(h, "mode", in->files[i].mode);
        add_number(h, "uid", in->files[i].uid);
        add_number(h, "gid", in->files[i].gid);
        add_string(h, "sum", in->files[i].sum);
    }
    add_string(h, "trigger", in->trigger);
    add_number(h, "after", in->after_ms);
    add_number(h, "quiesce", in->quiesce_ms);
    add_number(h, "heartbeat", in->heartbeat_target);
    add_number(h, "listener", in->require_listener);
    add_list(h, "warm-up", in->warmup);
    add_string(h, "tag", in->tag);
}

int fingerprint_key(const struct fingerprint_input *in, char ret[SNAPSHOT_KEY_SIZE], struct sm_error *err)
{
    struct hasher *h;
    struct digest d;
    int r = hasher_new(&h, err);

    if (r < 0)
        return r;
    add_machine(h, in);
    if (in->image_digest)
        add_image(h, in);
    hasher_end(h, &d);
    hasher_free(h);
    digest_hex(&d, ret);
    return 0;
}
