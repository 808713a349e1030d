/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control protocol, encode and decode: see control.h for what the frames mean.
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

static void put_header(struct buf *out, unsigned type, uint32_t id)
{
    buf_u16(out, (uint16_t)type);
    buf_u16(out, 0);
    buf_u32(out, id);
}

/* A string into a fixed array of `size` bytes; sets bad when it does not fit. */
static void get_chars(struct reader *r, char *dst, size_t size)
{
    uint32_t len = reader_u32(r);
    const char *p = len < size ? reader_bytes(r, len) : NULL;

    if (!p || memchr(p, '\0', len)) {
        r->bad = true;
        dst[0] = '\0';
        return;
    }
    memcpy(dst, p, len);
    dst[len] = '\0';
}

/* Bytes with a length, any values; NUL-terminated behind the last. */
static char *get_blob(struct reader *r, size_t max, uint32_t *ret_len)
{
    uint32_t len = reader_u32(r);
    const char *p = len <= max ? reader_bytes(r, len) : NULL;
    char *copy = p ? malloc((size_t)len + 1) : NULL;

    if (!copy) {
        r->bad = true;
        return NULL;
    }
    memcpy(copy, p, len);
    copy[len] = '\0';
    *ret_len = len;
    return copy;
}

static void put_blob(struct buf *out, const char *data, uint32_t len)
{
    buf_u32(out, len);
    if (len)
        buf_bytes(out, data, len);
}

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

/* --- RESTORE and SAVE --- */

#define SNAPSHOT_FDS 2 /* state, memory */

static const char *check_restore(const uint8_t generation[CONTROL_GENERATION_SIZE])
{
    static const uint8_t none[CONTROL_GENERATION_SIZE];

    return memcmp(generation, none, sizeof(none)) ? NULL : "no generation";
}

static void get_restore(struct reader *r, uint8_t generation[CONTROL_GENERATION_SIZE])
{
    const void *p = reader_bytes(r, CONTROL_GENERATION_SIZE);

    if (p)
        memcpy(generation, p, CONTROL_GENERATION_SIZE);
    if (check_restore(generation))
        r->bad = true;
}

static const char *check_save(uint32_t flags)
{
    return flags & ~CONTROL_SAVE_ALL_FLAGS ? "unknown flags" : NULL;
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
        why = why ? why : check_restore(req->generation);
        buf_bytes(out, req->generation, CONTROL_GENERATION_SIZE);
        break;
    case CONTROL_SAVE:
        why = why ? why : check_save(req->save_flags);
        buf_u32(out, req->save_flags);
        break;
    case CONTROL_START:
    case CONTROL_STOP:
    case CONTROL_CONSOLE_TAIL:
    case CONTROL_STATS:
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
        get_restore(&r, req.generation);
        want_fds = SNAPSHOT_FDS;
        break;
    case CONTROL_SAVE:
        req.save_flags = reader_u32(&r);
        if (check_save(req.save_flags))
            r.bad = true;
        want_fds = SNAPSHOT_FDS;
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

/* --- STATS --- */

static void put_stats(struct buf *out, const struct control_stats *s)
{
    buf_u64(out, s->memory_bytes);
    buf_u64(out, s->setup_ns);
    buf_u64(out, s->uptime_ns);
    buf_u64(out, s->events_lost);
    buf_u32(out, s->vcpus);
    buf_u32(out, s->sandbox);
    buf_u32(out, s->n_exits);
    for (uint32_t i = 0; i < s->n_exits; i++) {
        buf_str(out, s->exits[i].name);
        buf_u64(out, s->exits[i].count);
    }
    buf_str(out, s->profile);
}

static const char *check_stats(const struct control_stats *s)
{
    if (s->n_exits > CONTROL_MAX_EXIT_KINDS)
        return "too many exit kinds";
    for (uint32_t i = 0; i < s->n_exits; i++)
        if (strnlen(s->exits[i].name, sizeof(s->exits[i].name)) > CONTROL_EXIT_NAME_MAX)
            return "exit kind's name too long";
    if (s->profile && strlen(s->profile) > CONTROL_MAX_PROFILE)
        return "profile too long";
    return NULL;
}

static void get_stats(struct reader *r, struct control_stats *s)
{
    s->memory_bytes = reader_u64(r);
    s->setup_ns = reader_u64(r);
    s->uptime_ns = reader_u64(r);
    s->events_lost = reader_u64(r);
    s->vcpus = reader_u32(r);
    s->sandbox = reader_u32(r);
    s->n_exits = reader_u32(r);
    if (s->n_exits > CONTROL_MAX_EXIT_KINDS) {
        r->bad = true;
        return;
    }
    for (uint32_t i = 0; i < s->n_exits; i++) {
        get_chars(r, s->exits[i].name, sizeof(s->exits[i].name));
        s->exits[i].count = reader_u64(r);
    }
    s->profile = reader_str(r, CONTROL_MAX_PROFILE);
}

/* --- reports --- */

static bool is_event(unsigned type)
{
    return type == CONTROL_LIFECYCLE || type == CONTROL_EXITED;
}

static size_t text_len(const char *s)
{
    return s ? strlen(s) : 0;
}

int control_report_encode(const struct control_report *rep, struct buf *out, struct sm_error *err)
{
    const char *why = is_event(rep->type) != (rep->id == 0) ? "an event has id 0, a reply its request's" : NULL;

    put_header(out, rep->type, rep->id);
    switch (rep->type) {
    case CONTROL_OK:
        break;
    case CONTROL_ERROR:
        if (rep->error.code <= 0 || text_len(rep->error.text) > CONTROL_MAX_TEXT)
            why = "not an error";
        buf_u32(out, (uint32_t)rep->error.code);
        buf_str(out, rep->error.text);
        break;
    case CONTROL_CONSOLE:
        if (rep->console.len > CONTROL_MAX_CONSOLE)
            why = "console text too long";
        else
            put_blob(out, rep->console.data, rep->console.len);
        break;
    case CONTROL_STATS_REPLY:
        why = why ? why : check_stats(rep->stats);
        if (!why)
            put_stats(out, rep->stats);
        break;
    case CONTROL_SAVED:
        buf_u64(out, rep->saved.pause_ns);
        buf_u64(out, rep->saved.data_pages);
        buf_u64(out, rep->saved.zero_pages);
        break;
    case CONTROL_LIFECYCLE:
        buf_u32(out, rep->lifecycle.kind);
        buf_u64(out, rep->lifecycle.arg);
        break;
    case CONTROL_EXITED:
        if (!*control_exit_name(rep->exited.reason) || text_len(rep->exited.text) > CONTROL_MAX_TEXT ||
            rep->exited.console_len > CONTROL_MAX_CONSOLE) {
            why = "unknown reason or text too long";
            break;
        }
        buf_u32(out, rep->exited.reason);
        buf_str(out, rep->exited.text);
        put_blob(out, rep->exited.console, rep->exited.console_len);
        break;
    default:
        why = "unknown type";
    }
    if (why)
        return sm_error_set(err, EINVAL, "control report %u: %s", (unsigned)rep->type, why);
    if (out->bad)
        return sm_error_set(err, EMSGSIZE, "control report %u is too large", (unsigned)rep->type);
    return 0;
}

int control_report_decode(const void *frame, size_t len, struct control_report *ret, struct sm_error *err)
{
    struct reader r = reader_init(frame, len);
    struct control_report rep = {0};
    unsigned type = reader_u16(&r);
    unsigned zero = reader_u16(&r);
    uint32_t code;

    rep.id = reader_u32(&r);
    if (r.bad || zero != 0 || is_event(type) != (rep.id == 0) || len > CONTROL_MAX_FRAME)
        return sm_error_set(err, EPROTO, "control frame of %zu bytes has no valid header", len);
    rep.type = (enum control_report_type)type;
    switch (type) {
    case CONTROL_OK:
        break;
    case CONTROL_ERROR:
        code = reader_u32(&r);
        if (code == 0 || code > INT32_MAX)
            r.bad = true;
        rep.error.code = (int)(code & INT32_MAX);
        rep.error.text = reader_str(&r, CONTROL_MAX_TEXT);
        break;
    case CONTROL_CONSOLE:
        rep.console.data = get_blob(&r, CONTROL_MAX_CONSOLE, &rep.console.len);
        break;
    case CONTROL_STATS_REPLY:
        rep.stats = calloc(1, sizeof(*rep.stats));
        if (!rep.stats)
            return sm_error_sys(err, ENOMEM, "control frame STATS");
        get_stats(&r, rep.stats);
        break;
    case CONTROL_SAVED:
        rep.saved.pause_ns = reader_u64(&r);
        rep.saved.data_pages = reader_u64(&r);
        rep.saved.zero_pages = reader_u64(&r);
        break;
    case CONTROL_LIFECYCLE:
        rep.lifecycle.kind = reader_u32(&r);
        rep.lifecycle.arg = reader_u64(&r);
        break;
    case CONTROL_EXITED:
        rep.exited.reason = (enum control_exit_reason)reader_u32(&r);
        if (!*control_exit_name(rep.exited.reason))
            r.bad = true;
        rep.exited.text = reader_str(&r, CONTROL_MAX_TEXT);
        rep.exited.console = get_blob(&r, CONTROL_MAX_CONSOLE, &rep.exited.console_len);
        break;
    default:
        return sm_error_set(err, EPROTO, "control frame of unknown type %u", type);
    }
    if (r.bad || r.left) {
        control_report_done(&rep);
        return sm_error_set(err, EPROTO, "control frame of type %u is cut short, too long or out of range", type);
    }
    *ret = rep;
    return 0;
}

void control_report_done(struct control_report *rep)
{
    if (!rep)
        return;
    switch (rep->type) {
    case CONTROL_ERROR:
        free(rep->error.text);
        break;
    case CONTROL_CONSOLE:
        free(rep->console.data);
        break;
    case CONTROL_STATS_REPLY:
        if (rep->stats)
            free(rep->stats->profile);
        free(rep->stats);
        break;
    case CONTROL_EXITED:
        free(rep->exited.text);
        free(rep->exited.console);
        break;
    case CONTROL_OK:
    case CONTROL_SAVED:
    case CONTROL_LIFECYCLE:
        break;
    }
    *rep = (struct control_report){0};
}

uint32_t control_frame_id(const void *frame, size_t len)
{
    struct reader r = reader_init(frame, len);

    reader_u32(&r);
    return reader_u32(&r);
}

const char *control_exit_name(enum control_exit_reason reason)
{
    switch (reason) {
    case CONTROL_EXIT_STOPPED:
        return "stopped";
    case CONTROL_EXIT_POWER_OFF:
        return "power-off";
    case CONTROL_EXIT_RESET:
        return "reset";
    case CONTROL_EXIT_PANIC:
        return "panic";
    case CONTROL_EXIT_TRIPLE_FAULT:
        return "triple-fault";
    case CONTROL_EXIT_VCPU_ERROR:
        return "vcpu-error";
    }
    return "";
}
