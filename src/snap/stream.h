/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stream that saves or loads: whoever owns state writes one function that names its fields in order, and the stream's
 * direction says which way the bytes go. Nothing else can make save and restore differ.
 *
 *     void widget_state(struct widget *w, struct snap_stream *s)
 *     {
 *         snap_begin(s, SNAP_TAG('W', 'D', 'G', 'T'), 0, 1, "widget");
 *         snap_u32(s, "level", &w->level);
 *         snap_check(s, w->level <= MAX, "level", "%u is over %u", w->level, MAX);
 *         snap_end(s);
 *     }
 *
 * Errors stick: the first one is kept with a sentence that names section and field, everything after it does nothing
 * (fields load as zeros, and a check does not look), and snap_done() tells it. So an object's function needs no error
 * path of its own, but may not use what it has loaded before it has asked snap_ok(). An object that failed to load
 * holds zeros and valid values only, and is good for being freed.
 *
 * A stream knows no object and no file. It has one user at a time: vCPU threads that each save themselves take turns.
 */
#ifndef SM_SNAP_STREAM_H
#define SM_SNAP_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "base/buf.h"
#include "snap/limits.h"

#define SNAP_TAG(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

struct snap_section {
    uint32_t tag;
    uint16_t index;   /* which one of several alike */
    uint16_t version; /* of the section's fields; > 0 */
    uint32_t offset;  /* in `data` */
    uint32_t length;
};

struct snap_stream {
    bool loading;
    struct buf data;
    struct snap_section section[SNAP_STATE_MAX_SECTIONS];
    unsigned n_sections;

    /* Between snap_begin() and snap_end(). */
    const char *name; /* NULL: outside */
    uint16_t index, version;
    struct reader in;

    struct sm_error error; /* the first; code 0: none */
};

/* For saving. For loading: snap_file_read(). */
void snap_stream_init(struct snap_stream *s);
void snap_stream_clear(struct snap_stream *s);

/*
 * Open section (tag, index). Saving: a new one of `version`. Loading: the one that is there, which may be older but not
 * newer than `version`; snap_version() tells. `name` is for sentences, with `index` behind it.
 */
void snap_begin(struct snap_stream *s, uint32_t tag, unsigned index, unsigned version, const char *name);

/* Close it. Loading: all of it must have been read. */
void snap_end(struct snap_stream *s);

static inline bool snap_loading(const struct snap_stream *s)
{
    return s->loading;
}

static inline bool snap_ok(const struct snap_stream *s)
{
    return s->error.code == 0;
}

static inline unsigned snap_version(const struct snap_stream *s)
{
    return s->version;
}

/* Is the section there? For optional ones, when loading. */
bool snap_has(const struct snap_stream *s, uint32_t tag, unsigned index);

/* Fields, little-endian. `field` is a literal, for sentences. */
void snap_u8(struct snap_stream *s, const char *field, uint8_t *v);
void snap_u16(struct snap_stream *s, const char *field, uint16_t *v);
void snap_u32(struct snap_stream *s, const char *field, uint32_t *v);
void snap_u64(struct snap_stream *s, const char *field, uint64_t *v);
void snap_bool(struct snap_stream *s, const char *field, bool *v); /* one byte, 0 or 1 */
void snap_bytes(struct snap_stream *s, const char *field, void *p, size_t len);

/* A number of things, at most `max`: a larger one is refused and *v is 0. */
void snap_count(struct snap_stream *s, const char *field, uint32_t *v, uint32_t max);

/* When loading, refuse unless `ok`. */
void snap_check(struct snap_stream *s, bool ok, const char *field, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Something went wrong beside the stream's bytes (a system call, say): -code and a sentence, in either direction. */
void snap_fail(struct snap_stream *s, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* 0, or the first error and its sentence. */
int snap_done(const struct snap_stream *s, struct sm_error *err);

#endif
