/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control protocol, requests: encode and decode. See control.h for what the frames mean; reports are in
 * control_report.c.
 *
 * Theory of operation
 *
 * Each body has a pair put_x/get_x side by side, and a check_x that both use: what we would refuse, we do not send.
 * Getters read everything first and look at `reader.bad` once; the caller refuses leftovers, so a frame has exactly one
 * reading. Nothing here does I/O.
 */
#include "proto/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "proto/control_wire.h"

static bool printable(const char *s)
{
    for (; *s; s++)
        if (*s < 0x20 || *s > 0x7e)
            return false;
    return true;
}

/* --- CONFIG --- */

static const char *check_config(const struct control_config *c)
{
    if (c->memory_mib < CONTROL_MIN_MEMORY_MIB || c->memory_mib > CONTROL_MAX_MEMORY_MIB)
        return "memory size out of range";
    if (c->vcpus < 1 || c->vcpus > CONTROL_MAX_VCPUS)
        return "number of vCPUs out of range";
    if (c->flags & ~CONTROL_CONFIG_ALL_FLAGS)
        return "unknown flags";
    if (c->flags & CONTROL_CONFIG_RESTORE && c->flags & CONTROL_CONFIG_INITRAMFS)
        return "a restored machine loads nothing";
    if (c->flags & CONTROL_CONFIG_PREPARE && !(c->flags & CONTROL_CONFIG_RESTORE))
        return "only a machine that is restored can be prepared";
    /* 2^32 - 1 is VMADDR_CID_ANY; the device's cid field has 64 bits of which the upper 32 must be zero. */
    if (c->guest_cid < CONTROL_MIN_CID || c->guest_cid >= UINT32_MAX)
        return "guest cid out of range";
    if (strnlen(c->cmdline, sizeof(c->cmdline)) > CONTROL_MAX_CMDLINE || !printable(c->cmdline))
        return "kernel command line too long or not printable";
    return NULL;
}

static unsigned config_fds(const struct control_config *c)
{
    return 1u + !(c->flags & CONTROL_CONFIG_RESTORE) + !!(c->flags & CONTROL_CONFIG_INITRAMFS) +
           !!(c->flags & CONTROL_CONFIG_CONSOLE);
}

static void put_config(struct buf *out, const struct control_config *c)
{
    buf_u32(out, CONTROL_VERSION);
    buf_u32(out, c->memory_mib);
    buf_u32(out, c->vcpus);
    buf_u32(out, c->flags);
    buf_u64(out, c->guest_cid);
    buf_str(out, c->cmdline);
}

static int get_config(struct reader *r, unsigned n_fds, struct control_config *c, struct sm_error *err)
{
    uint32_t version = reader_u32(r);

    if (!r->bad && version != CONTROL_VERSION)
        return sm_error_set(err, EPROTO,
                            "this worker speaks control protocol %u, its owner %u; install matching versions",
                            (unsigned)CONTROL_VERSION, version);
    c->memory_mib = reader_u32(r);
    c->vcpus = reader_u32(r);
    c->flags = reader_u32(r);
    c->guest_cid = reader_u64(r);
    get_chars(r, c->cmdline, sizeof(c->cmdline));
    const char *why = r->bad ? "cut short" : check_config(c);
    if (!why && n_fds != config_fds(c))
        why = "wrong number of descriptors";
    return why ? sm_error_set(err, EPROTO, "control frame CONFIG: %s", why) : 0;
}

/* --- DISK --- */

static const char *check_disk(const struct control_disk *d)
{
    if (d->n_extents < 1 || d->n_extents > CONTROL_MAX_EXTENTS)
        return "number of extents out of range";
    if (d->writable && d->n_extents != 1)
        return "a writable disk has one extent";
    if (strnlen(d->serial, sizeof(d->serial)) > CONTROL_SERIAL_MAX || !printable(d->serial))
        return "serial too long or not printable";
    uint64_t total = 0;
    for (uint32_t i = 0; i < d->n_extents; i++) {
        const struct control_extent *e = &d->extents[i];
        uint64_t end;

        if (e->length == 0 || e->length % 512 || !CHECKED_ADD(e->offset, e->length, &end) || end > INT64_MAX ||
            !CHECKED_ADD(total, e->length, &total) || total > INT64_MAX)
            return "extent out of range";
        if (e->fd >= CONTROL_MAX_FDS)
            return "extent without a descriptor";
    }
    return NULL;
}

static void put_disk(struct buf *out, const struct control_disk *d)
{
    buf_u8(out, d->writable);
    buf_str(out, d->serial);
    buf_u32(out, d->n_extents);
    for (uint32_t i = 0; i < d->n_extents; i++) {
        buf_u32(out, d->extents[i].fd);
        buf_u64(out, d->extents[i].offset);
        buf_u64(out, d->extents[i].length);
    }
}

static int get_disk(struct reader *r, unsigned n_fds, struct control_disk *d, struct sm_error *err)
{
    const char *why = NULL;
    uint8_t writable = reader_u8(r);

    get_chars(r, d->serial, sizeof(d->serial));
    d->n_extents = reader_u32(r);
    d->writable = writable == 1;
    if (r->bad || writable > 1)
        why = "cut short or not a flag";
    else if (d->n_extents < 1 || d->n_extents > CONTROL_MAX_EXTENTS)
        why = "number of extents out of range";
    if (why)
        return sm_error_set(err, EPROTO, "control frame DISK: %s", why);
    d->extents = calloc(d->n_extents, sizeof(*d->extents));
    if (!d->extents)
        return sm_error_sys(err, ENOMEM, "control frame DISK");
    for (uint32_t i = 0; i < d->n_extents; i++) {
        d->extents[i].fd = reader_u32(r);
        d->extents[i].offset = reader_u64(r);
        d->extents[i].length = reader_u64(r);
        if (d->extents[i].fd >= n_fds)
            why = "extent without a descriptor";
    }
    if (r->bad)
        why = "cut short";
    else if (!why)
        why = check_disk(d);
    return why ? sm_error_set(err, EPROTO, "control frame DISK: %s", why) : 0;
}

/* --- snapshots --- */

static const char *check_generation(const uint8_t generation[CONTROL_GENERATION_SIZE])
{
    static const uint8_t none[CONTROL_GENERATION_SIZE];

    return memcmp(generation, none, sizeof(none)) ? NULL : "no generation";
}

static void get_generation(struct reader *r, uint8_t generation[CONTROL_GENERATION_SIZE])
{
    const void *p = reader_bytes(r, CONTROL_GENERATION_SIZE);

    if (p)
        memcpy(generation, p, CONTROL_GENERATION_SIZE);
    if (check_generation(generation))
        r->bad = true;
}

static const char *check_restore(const struct control_restore *c)
{
    return c->flags & ~CONTROL_RESTORE_ALL_FLAGS ? "unknown flags" : check_generation(c->generation);
}

/* state, memory; base memory, diff; prefetch */
static unsigned restore_fds(const struct control_restore *c)
{
    return 2u + (c->flags & CONTROL_RESTORE_DIFF ? 2 : 0) + !!(c->flags & CONTROL_RESTORE_PREFETCH);
}

static void get_restore(struct reader *r, struct control_restore *c)
{
    c->flags = reader_u32(r);
    get_generation(r, c->generation);
    if (check_restore(c))
        r->bad = true;
}

static const char *check_save(uint32_t flags)
{
    return flags & ~CONTROL_SAVE_ALL_FLAGS ? "unknown flags" : NULL;
}

/* state, memory; diff */
static unsigned save_fds(uint32_t flags)
{
    return 2u + !!(flags & CONTROL_SAVE_DIFF);
}

static const char *check_bake(const struct control_bake *b)
{
    if (b->flags & ~CONTROL_BAKE_ALL_FLAGS)
        return "unknown flags";
    if (!(b->flags & (CONTROL_BAKE_PRE_EXEC | CONTROL_BAKE_LISTENER)) && !b->heartbeat && !b->after_ms)
        return "no trigger";
    if (b->flags & CONTROL_BAKE_REQUIRE_LISTENER && (!(b->flags & CONTROL_BAKE_LISTENER) || !b->after_ms))
        return "a listener is required, but not waited for within a time";
    if (b->flags & CONTROL_BAKE_POOL && b->flags & (CONTROL_BAKE_DIFF | CONTROL_BAKE_STOP))
        return "a pool's bake saves nothing";
    return NULL;
}

static unsigned bake_fds(const struct control_bake *b)
{
    return b->flags & CONTROL_BAKE_POOL ? 0 : 2u + !!(b->flags & CONTROL_BAKE_DIFF);
}

static void put_bake(struct buf *out, const struct control_bake *b)
{
    buf_u32(out, b->flags);
    buf_u64(out, b->heartbeat);
    buf_u32(out, b->after_ms);
    buf_u32(out, b->quiesce_ms);
}

static void get_bake(struct reader *r, struct control_bake *b)
{
    b->flags = reader_u32(r);
    b->heartbeat = reader_u64(r);
    b->after_ms = reader_u32(r);
    b->quiesce_ms = reader_u32(r);
    if (check_bake(b))
        r->bad = true;
}

/* --- requests --- */

int control_request_encode(const struct control_request *req, struct buf *out, struct sm_error *err)
{
    const char *why = req->id == 0 ? "no id" : NULL;

    put_header(out, req->type, req->id);
    switch (req->type) {
    case CONTROL_CONFIG:
        why = why ? why : check_config(&req->config);
        if (!why)
            put_config(out, &req->config);
        break;
    case CONTROL_DISK:
        why = why ? why : check_disk(&req->disk);
        if (!why)
            put_disk(out, &req->disk);
        break;
    case CONTROL_VSOCK_CONNECT:
        buf_u32(out, req->port);
        break;
    case CONTROL_RESTORE:
        why = why ? why : check_restore(&req->restore);
        buf_u32(out, req->restore.flags);
        buf_bytes(out, req->restore.generation, CONTROL_GENERATION_SIZE);
        break;
    case CONTROL_SAVE:
        why = why ? why : check_save(req->save_flags);
        buf_u32(out, req->save_flags);
        break;
    case CONTROL_BAKE:
        why = why ? why : check_bake(&req->bake);
        put_bake(out, &req->bake);
        break;
    case CONTROL_REWIND:
        why = why ? why : check_generation(req->generation);
        buf_bytes(out, req->generation, CONTROL_GENERATION_SIZE);
        break;
    case CONTROL_START:
    case CONTROL_STOP:
    case CONTROL_CONSOLE_TAIL:
    case CONTROL_STATS:
    case CONTROL_TOUCHED:
        break;
    default:
        why = "unknown type";
    }
    if (why)
        return sm_error_set(err, EINVAL, "control request %u: %s", (unsigned)req->type, why);
    if (out->bad)
        return sm_error_set(err, EMSGSIZE, "control request %u is too large", (unsigned)req->type);
    return 0;
}

int control_request_decode(const void *frame, size_t len, unsigned n_fds, struct control_request *ret,
                           struct sm_error *err)
{
    struct reader r = reader_init(frame, len);
    struct control_request req = {0};
    unsigned type = reader_u16(&r);
    unsigned zero = reader_u16(&r);
    unsigned want_fds = 0;
    int rc = 0;

    req.id = reader_u32(&r);
    if (r.bad || zero != 0 || req.id == 0 || len > CONTROL_MAX_FRAME)
        return sm_error_set(err, EPROTO, "control frame of %zu bytes has no valid header", len);
    switch (type) {
    case CONTROL_CONFIG:
        rc = get_config(&r, n_fds, &req.config, err);
        want_fds = n_fds; /* checked in there */
        break;
    case CONTROL_DISK:
        rc = get_disk(&r, n_fds, &req.disk, err);
        want_fds = n_fds;
        break;
    case CONTROL_VSOCK_CONNECT:
        req.port = reader_u32(&r);
        want_fds = 1;
        break;
    case CONTROL_RESTORE:
        get_restore(&r, &req.restore);
        want_fds = restore_fds(&req.restore);
        break;
    case CONTROL_SAVE:
        req.save_flags = reader_u32(&r);
        if (check_save(req.save_flags))
            r.bad = true;
        want_fds = save_fds(req.save_flags);
        break;
    case CONTROL_BAKE:
        get_bake(&r, &req.bake);
        want_fds = bake_fds(&req.bake);
        break;
    case CONTROL_REWIND:
        get_generation(&r, req.generation);
        break;
    case CONTROL_TOUCHED:
        want_fds = 1;
        break;
    case CONTROL_START:
    case CONTROL_STOP:
    case CONTROL_CONSOLE_TAIL:
    case CONTROL_STATS:
        break;
    default:
        return sm_error_set(err, EPROTO, "control frame of unknown type %u", type);
    }
    req.type = (enum control_request_type)type;
    if (rc == 0 && (r.bad || r.left || n_fds != want_fds))
        rc = sm_error_set(err, EPROTO, "control frame of type %u has a wrong length or number of descriptors", type);
    if (rc < 0) {
        control_request_done(&req);
        return rc;
    }
    *ret = req;
    return 0;
}

void control_request_done(struct control_request *req)
{
    if (!req || req->type != CONTROL_DISK)
        return;
    free(req->disk.extents);
    req->disk.extents = NULL;
}

uint32_t control_frame_id(const void *frame, size_t len)
{
    struct reader r = reader_init(frame, len);

    reader_u32(&r);
    return reader_u32(&r);
}
