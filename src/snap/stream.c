/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Stream of state: see stream.h.
 *
 * Theory of operation
 *
 * All sections' bytes lie in one buffer, one behind the other; a small table says where. Saving appends to both.
 * Loading looks the section up by (tag, index), so the order of sections does not matter, and walks its bytes with the
 * bounded reader. Fields of one section have an order and no names in the file: a section's version is what tells one
 * list of fields from another.
 *
 * What is checked here: that a section is there, is not too new, is neither too short nor too long for its fields, and
 * that counts and booleans are in range. What a value means is checked by its owner, with snap_check().
 *
 * Limits: snap/limits.h. Not done: two users of one stream at the same time.
 */
#include "snap/stream.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"

#define SENTENCE 384

void snap_stream_init(struct snap_stream *s)
{
    memset(s, 0, sizeof(*s));
    s->data = buf_init(SNAP_STATE_MAX_BYTES);
}

void snap_stream_clear(struct snap_stream *s)
{
    buf_done(&s->data);
}

static void set_error(struct snap_stream *s, int code, const char *text)
{
    if (snap_ok(s))
        sm_error_set(&s->error, code, "%s", text);
    s->in = reader_init(NULL, 0);
}

/* The section by its name, for a sentence. */
static void refuse(struct snap_stream *s, const char *field, const char *why)
{
    char text[SENTENCE];

    snprintf(text, sizeof(text), "the snapshot's state is not usable: section \"%s %u\"%s%s%s: %s", s->name, s->index,
             field ? ", field \"" : "", field ? field : "", field ? "\"" : "", why);
    set_error(s, EBADMSG, text);
}

void snap_check(struct snap_stream *s, bool ok, const char *field, const char *fmt, ...)
{
    char why[SENTENCE / 2];
    va_list ap;

    if (ok || !s->loading || !snap_ok(s))
        return;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    refuse(s, field, why);
}

void snap_fail(struct snap_stream *s, int code, const char *fmt, ...)
{
    char text[SENTENCE];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    set_error(s, code, text);
}

int snap_done(const struct snap_stream *s, struct sm_error *err)
{
    if (snap_ok(s))
        return 0;
    return sm_error_set(err, s->error.code, "%s", s->error.text);
}

static const struct snap_section *find(const struct snap_stream *s, uint32_t tag, unsigned index)
{
    for (unsigned i = 0; i < s->n_sections; i++)
        if (s->section[i].tag == tag && s->section[i].index == index)
            return &s->section[i];
    return NULL;
}

bool snap_has(const struct snap_stream *s, uint32_t tag, unsigned index)
{
    return find(s, tag, index) != NULL;
}

static void begin_loading(struct snap_stream *s, uint32_t tag, unsigned version)
{
    const struct snap_section *found = find(s, tag, s->index);

    s->version = (uint16_t)version;
    s->in = reader_init(NULL, 0);
    if (!snap_ok(s))
        return;
    if (!found) {
        refuse(s, NULL, "it is missing");
        return;
    }
    s->version = found->version;
    s->in = reader_init(s->data.data + found->offset, found->length);
    snap_check(s, found->version > 0 && found->version <= version, NULL,
               "it has version %u; this supermachine reads versions 1 to %u", found->version, version);
}

void snap_begin(struct snap_stream *s, uint32_t tag, unsigned index, unsigned version, const char *name)
{
    assert(!s->name && index <= UINT16_MAX && version > 0 && version <= UINT16_MAX);
    s->name = name;
    s->index = (uint16_t)index;
    if (s->loading) {
        begin_loading(s, tag, version);
        return;
    }
    assert(!find(s, tag, index));
    s->version = (uint16_t)version;
    if (s->n_sections == SNAP_STATE_MAX_SECTIONS) {
        snap_fail(s, E2BIG, "cannot save section \"%s %u\": a snapshot has at most %u sections", name, index,
                  SNAP_STATE_MAX_SECTIONS);
        return;
    }
    s->section[s->n_sections++] = (struct snap_section){
        .tag = tag, .index = (uint16_t)index, .version = (uint16_t)version, .offset = (uint32_t)s->data.len};
}

void snap_end(struct snap_stream *s)
{
    assert(s->name);
    if (s->loading) {
        snap_check(s, s->in.left == 0, NULL, "it has %zu bytes more than its fields", s->in.left);
    } else if (snap_ok(s)) {
        struct snap_section *sec = &s->section[s->n_sections - 1];

        sec->length = (uint32_t)(s->data.len - sec->offset);
        if (sec->length > SNAP_SECTION_MAX_BYTES)
            snap_fail(s, E2BIG, "cannot save section \"%s %u\": it has %u bytes, at most %u are allowed", s->name,
                      s->index, sec->length, SNAP_SECTION_MAX_BYTES);
    }
    s->name = NULL;
}

/* All fields go through here: `len` bytes at `p`, as they are in the file. Zeros when loading fails. */
static void transfer(struct snap_stream *s, const char *field, uint8_t *p, size_t len)
{
    assert(s->name);
    if (s->loading) {
        const void *from = snap_ok(s) ? reader_bytes(&s->in, len) : NULL;

        if (from) {
            memcpy(p, from, len);
            return;
        }
        memset(p, 0, len);
        if (snap_ok(s))
            refuse(s, field, "the section ends before it");
        return;
    }
    if (!snap_ok(s))
        return;
    buf_bytes(&s->data, p, len);
    if (s->data.bad)
        snap_fail(s, E2BIG, "cannot save section \"%s %u\", field \"%s\": out of memory, or the state is over %llu MiB",
                  s->name, s->index, field, SNAP_STATE_MAX_BYTES / MIB);
}

/* `v` is looked at when saving only: what is loaded over may be anything before. */
static uint64_t number(struct snap_stream *s, const char *field, uint64_t v, unsigned bytes)
{
    uint8_t raw[8];

    for (unsigned i = 0; i < bytes; i++)
        raw[i] = (uint8_t)(v >> (8 * i));
    transfer(s, field, raw, bytes);
    v = 0;
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)raw[i] << (8 * i);
    return v;
}

void snap_u8(struct snap_stream *s, const char *field, uint8_t *v)
{
    *v = (uint8_t)number(s, field, s->loading ? 0 : *v, 1);
}

void snap_u16(struct snap_stream *s, const char *field, uint16_t *v)
{
    *v = (uint16_t)number(s, field, s->loading ? 0 : *v, 2);
}

void snap_u32(struct snap_stream *s, const char *field, uint32_t *v)
{
    *v = (uint32_t)number(s, field, s->loading ? 0 : *v, 4);
}

void snap_u64(struct snap_stream *s, const char *field, uint64_t *v)
{
    *v = number(s, field, s->loading ? 0 : *v, 8);
}

void snap_bool(struct snap_stream *s, const char *field, bool *v)
{
    uint64_t n = number(s, field, s->loading ? 0 : *v, 1);

    snap_check(s, n <= 1, field, "%u is neither 0 nor 1", (unsigned)n);
    *v = n == 1;
}

void snap_bytes(struct snap_stream *s, const char *field, void *p, size_t len)
{
    transfer(s, field, p, len);
}

void snap_count(struct snap_stream *s, const char *field, uint32_t *v, uint32_t max)
{
    assert(s->loading || *v <= max);
    *v = (uint32_t)number(s, field, s->loading ? 0 : *v, 4);
    snap_check(s, *v <= max, field, "%u is over the limit of %u", *v, max);
    if (s->loading && !snap_ok(s))
        *v = 0;
}
