/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control protocol, reports: encode and decode. See control.h for what the frames mean.
 *
 * Theory of operation
 *
 * As in control.c: put_x/get_x side by side, getters read everything first and look at `reader.bad` once, leftovers are
 * refused, so that a frame has exactly one reading. Nothing here does I/O.
 */
#include "proto/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "proto/control_wire.h"

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

/* --- STATS --- */

static void put_stats(struct buf *out, const struct control_stats *s)
{
    buf_u64(out, s->memory_bytes);
    buf_u64(out, s->setup_ns);
    buf_u64(out, s->uptime_ns);
    buf_u64(out, s->built_ns);
    buf_u64(out, s->mapped_ns);
    buf_u64(out, s->loaded_ns);
    buf_u64(out, s->first_exit_ns);
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
    s->built_ns = reader_u64(r);
    s->mapped_ns = reader_u64(r);
    s->loaded_ns = reader_u64(r);
    s->first_exit_ns = reader_u64(r);
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

/* --- SAVED and BAKED --- */

static void put_saved(struct buf *out, const struct control_saved *s)
{
    buf_u64(out, s->total_ns);
    buf_u64(out, s->pause_ns);
    buf_u64(out, s->data_pages);
    buf_u64(out, s->zero_pages);
    buf_u64(out, s->live_pages);
    buf_u32(out, s->devices);
    buf_u32(out, s->listeners);
}

static void get_saved(struct reader *r, struct control_saved *s)
{
    s->total_ns = reader_u64(r);
    s->pause_ns = reader_u64(r);
    s->data_pages = reader_u64(r);
    s->zero_pages = reader_u64(r);
    s->live_pages = reader_u64(r);
    s->devices = reader_u32(r);
    s->listeners = reader_u32(r);
}

static const char *check_baked(const struct control_baked *b)
{
    if (!*control_bake_exit_name(b->exit) || !*control_trigger_name(b->trigger) || b->code < 0)
        return "a number out of range";
    if (b->text && strlen(b->text) > CONTROL_MAX_TEXT)
        return "text too long";
    return NULL;
}

static void put_baked(struct buf *out, const struct control_baked *b)
{
    buf_u32(out, b->exit);
    buf_u32(out, b->trigger);
    buf_u32(out, (uint32_t)b->code);
    buf_str(out, b->text);
    put_saved(out, &b->saved);
}

static void get_baked(struct reader *r, struct control_baked *b)
{
    b->exit = (enum control_bake_exit)reader_u32(r);
    b->trigger = (enum control_trigger)reader_u32(r);
    uint32_t code = reader_u32(r);
    b->code = (int)(code & INT32_MAX);
    b->text = reader_str(r, CONTROL_MAX_TEXT);
    get_saved(r, &b->saved);
    if (code > INT32_MAX || check_baked(b))
        r->bad = true;
}

/* --- reports --- */

static bool is_event(unsigned type)
{
    return type == CONTROL_LIFECYCLE || type == CONTROL_EXITED || type == CONTROL_BAKED;
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
        put_saved(out, &rep->saved);
        break;
    case CONTROL_BAKED:
        why = why ? why : check_baked(&rep->baked);
        if (!why)
            put_baked(out, &rep->baked);
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
        get_saved(&r, &rep.saved);
        break;
    case CONTROL_BAKED:
        get_baked(&r, &rep.baked);
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
    case CONTROL_BAKED:
        free(rep->baked.text);
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

const char *control_trigger_name(enum control_trigger trigger)
{
    static const char *const names[] = {
        [CONTROL_TRIGGER_HEARTBEAT] = "heartbeat", [CONTROL_TRIGGER_PRE_EXEC] = "pre-exec",
        [CONTROL_TRIGGER_LISTENER] = "listener",   [CONTROL_TRIGGER_PARKED] = "workload-parked",
        [CONTROL_TRIGGER_AFTER] = "wall-clock",    [CONTROL_TRIGGER_NONE] = "none",
    };

    return (size_t)trigger < ARRAY_SIZE(names) ? names[trigger] : "";
}

const char *control_bake_exit_name(enum control_bake_exit e)
{
    static const char *const names[] = {
        [CONTROL_BAKE_CANCELED] = "canceled",
        [CONTROL_BAKE_STOPPED] = "stopped",
        [CONTROL_BAKE_SNAPSHOT_SAVED] = "snapshot_saved",
        [CONTROL_BAKE_SYSTEM_OFF] = "system_off",
        [CONTROL_BAKE_READY] = "bake_ready",
    };

    return (size_t)e < ARRAY_SIZE(names) ? names[e] : "";
}
