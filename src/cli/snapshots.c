/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshots of the store, printed: see snapshots.h. */
#include "cli/snapshots.h"

#include "cli/json.h"
#include "cli/record.h"

const char *snapshot_kind(const struct sm_snapshot_record *r)
{
    switch (r->kind) {
    case SM_SNAPSHOT_BASE:
        return "base";
    case SM_SNAPSHOT_BAKE:
        return "bake";
    case SM_SNAPSHOT_VM:
        return "vm";
    }
    return "unknown";
}

static void member(FILE *f, const char *key, const char *value)
{
    fprintf(f, "\"%s\":", key);
    value ? json_string(f, value) : (void)fputs("null", f);
    putc(',', f);
}

void snapshot_json(FILE *f, const struct sm_snapshot_record *r)
{
    putc('{', f);
    member(f, "key", r->key);
    member(f, "kind", snapshot_kind(r));
    member(f, "base", r->base);
    member(f, "image", r->image);
    member(f, "image_id", r->image_id);
    member(f, "platform", r->platform);
    member(f, "trigger", r->trigger);
    member(f, "tag", r->tag);
    member(f, "version", r->version);
    member(f, "problem", r->problem);
    fprintf(f, "\"memory_mib\":%u,\"cpus\":%u,\"workload\":%s,", r->memory_mib, r->vcpus,
            r->is_workload ? "true" : "false");
    time_json(f, "created", r->created);
    putc(',', f);
    time_json(f, "used", r->used);
    fprintf(f, ",\"disk_bytes\":%llu}", (unsigned long long)r->disk_bytes);
}

void snapshots_json(FILE *f, const struct sm_snapshot_record *list)
{
    putc('[', f);
    for (const struct sm_snapshot_record *r = list; r; r = r->next) {
        snapshot_json(f, r);
        if (r->next)
            putc(',', f);
    }
    putc(']', f);
}

const char *snapshot_short(char buf[FORMAT_SIZE], const char *key)
{
    snprintf(buf, FORMAT_SIZE, "%.12s", key);
    return buf;
}
