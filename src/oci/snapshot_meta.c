/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a snapshot says of itself.
 *
 * Theory of operation
 *
 * What: metadata.json is one JSON object, described in docs/snapshot-format.md. Its last member is "sum", the SHA-256
 * of all bytes before it, so that every bit of the file is under a checksum, as of the others: who finds a snapshot by
 * what this file says must not be told something else by a bad disk.
 *
 * "format" is looked at first, so that another version is told from a damaged file; then the sum; then everything else.
 * A checksum is easily made: each number has its range, each name its form, and all text that people are shown is
 * without control bytes. Whatever is written is read back before it leaves this file.
 *
 * Limits: OCI_JSON_* for the document, OCI_CONFIG_MAX_LIST for lists, SNAPSHOT_TEXT_MAX for text, the machine's own for
 * its size.
 */
#include "oci/snapshot_meta.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "oci/json.h"
#include "oci/json_write.h"
#include "oci/limits.h"
#include "oci/platform.h"
#include "oci/text.h"

#define SUM_BEGIN ",\"sum\":\""
#define SUM_END   "\"}\n"
#define SUM_BYTES (sizeof(SUM_BEGIN) - 1 + 2 * DIGEST_BYTES + sizeof(SUM_END) - 1)

static const char *const kinds[] = {[SNAPSHOT_BASE] = "base", [SNAPSHOT_BAKE] = "bake", [SNAPSHOT_VM] = "vm"};

enum form { TEXT, HASH, ANY };

static const struct {
    const char *key;
    size_t at; /* of a const char * in struct snapshot_meta */
    enum form form;
} strings[] = {
    {"image_digest", offsetof(struct snapshot_meta, image_digest), TEXT},
    {"image_name", offsetof(struct snapshot_meta, image_name), TEXT},
    {"platform", offsetof(struct snapshot_meta, platform), TEXT},
    {"kernel", offsetof(struct snapshot_meta, kernel), HASH},
    {"initramfs", offsetof(struct snapshot_meta, initramfs), HASH},
    {"kernel_args", offsetof(struct snapshot_meta, kernel_args), TEXT},
    {"version", offsetof(struct snapshot_meta, version), TEXT},
    {"arch", offsetof(struct snapshot_meta, arch), TEXT},
    {"cpu", offsetof(struct snapshot_meta, cpu), TEXT},
    {"trigger", offsetof(struct snapshot_meta, trigger), TEXT},
    {"tag", offsetof(struct snapshot_meta, tag), TEXT},
    {"cwd", offsetof(struct snapshot_meta, cwd), ANY},
    {"user", offsetof(struct snapshot_meta, user), ANY},
};

static const struct {
    const char *key;
    size_t at; /* of a const char *const * */
} lists[] = {
    {"entrypoint", offsetof(struct snapshot_meta, entrypoint)},
    {"cmd", offsetof(struct snapshot_meta, cmd)},
    {"env", offsetof(struct snapshot_meta, env)},
};

_Static_assert(ARRAY_SIZE(lists) == ARRAY_SIZE(((struct snapshot_meta *)0)->own.lists), "each list has an owner");

static const char **string_at(struct snapshot_meta *m, size_t i)
{
    return (const char **)((char *)m + strings[i].at);
}

static const char *string_of(const struct snapshot_meta *m, size_t i)
{
    const char *s = *(const char *const *)((const char *)m + strings[i].at);

    return s ? s : "";
}

static const char *const *list_of(const struct snapshot_meta *m, size_t i)
{
    return *(const char *const *const *)((const char *)m + lists[i].at);
}

void snapshot_meta_done(struct snapshot_meta *m)
{
    for (size_t i = 0; i < ARRAY_SIZE(m->own.lists); i++)
        strings_free(m->own.lists[i]);
    json_free(m->own.doc);
    *m = (struct snapshot_meta){.kind = SNAPSHOT_BASE};
}

const char *snapshot_kind_name(enum snapshot_kind kind)
{
    return kinds[kind];
}

int snapshot_key_digest(struct digest *ret, const char *key, struct sm_error *err)
{
    char text[DIGEST_STR_SIZE], shown[TEXT_SHOWN_SIZE];

    if (strlen(key) != 2 * DIGEST_BYTES)
        return sm_error_set(err, EINVAL, "\"%s\" is not the key of a snapshot, which has 64 hex digits",
                            text_shown(shown, key));
    snprintf(text, sizeof(text), "sha256:%s", key);
    return digest_parse(ret, text, "the key of a snapshot", err);
}

/* Reading. Sentences go on from "its metadata is not right: ". */

static bool is_hash(const char *s)
{
    return strlen(s) == 2 * DIGEST_BYTES && strspn(s, "0123456789abcdef") == 2 * DIGEST_BYTES;
}

static bool is_text(const char *s)
{
    size_t len = strlen(s);

    if (len > SNAPSHOT_TEXT_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    }
    return true;
}

static int take_strings(struct snapshot_meta *m, struct json *doc, struct sm_error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
        const char **s = string_at(m, i);
        int r = json_get_string(doc, strings[i].key, true, s, err);

        if (r < 0)
            return r;
        if ((strings[i].form == HASH && !is_hash(*s)) || (strings[i].form == TEXT && !is_text(*s)))
            return sm_error_set(err, EBADMSG, "\"%s\" is not %s", strings[i].key,
                                strings[i].form == HASH ? "64 hex digits" : "one line of text");
    }
    return 0;
}

static int take_lists(struct snapshot_meta *m, struct json *doc, struct sm_error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        int r = json_get_strings(doc, lists[i].key, OCI_CONFIG_MAX_LIST, &m->own.lists[i], err);

        if (r < 0)
            return r;
        *(const char *const **)((char *)m + lists[i].at) = (const char *const *)m->own.lists[i];
    }
    return 0;
}

static int take_number(struct json *doc, const char *key, uint64_t min, uint64_t max, uint64_t *ret,
                       struct sm_error *err)
{
    int r = json_get_u64(doc, key, true, ret, err);

    if (r >= 0 && (*ret < min || *ret > max))
        return sm_error_set(err, EBADMSG, "\"%s\" is %llu, and must be %llu to %llu", key, (unsigned long long)*ret,
                            (unsigned long long)min, (unsigned long long)max);
    return r;
}

static int take_u32(struct json *doc, const char *key, uint32_t min, uint32_t max, uint32_t *ret, struct sm_error *err)
{
    uint64_t v;
    int r = take_number(doc, key, min, max, &v, err);

    if (r >= 0)
        *ret = (uint32_t)v;
    return r;
}

static int take_key(struct json *doc, const char *key, bool may_be_empty, char ret[SNAPSHOT_KEY_SIZE],
                    struct sm_error *err)
{
    const char *s;
    int r = json_get_string(doc, key, true, &s, err);

    if (r < 0)
        return r;
    if (!is_hash(s) && !(may_be_empty && !s[0]))
        return sm_error_set(err, EBADMSG, "\"%s\" is not 64 hex digits", key);
    memcpy(ret, s, strlen(s) + 1);
    return 0;
}

static int take_kind(struct snapshot_meta *m, struct json *doc, struct sm_error *err)
{
    const char *s;
    int r = json_get_string(doc, "kind", true, &s, err);

    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        if (!strcmp(s, kinds[i])) {
            m->kind = (enum snapshot_kind)i;
            return 0;
        }
    }
    return sm_error_set(err, EBADMSG, "\"kind\" is none that there is");
}

static int take_numbers(struct snapshot_meta *m, struct json *doc, struct sm_error *err)
{
    uint64_t created;
    int r = take_u32(doc, "memory_mib", 1, SM_VM_MEMORY_MIB_MAX, &m->memory_mib, err);

    if (r >= 0)
        r = take_u32(doc, "vcpus", 1, SM_VM_VCPUS_MAX, &m->vcpus, err);
    if (r >= 0)
        r = take_number(doc, "created", 0, INT64_MAX, &created, err);
    if (r >= 0)
        r = take_u32(doc, "base_crc", 0, UINT32_MAX, &m->base_crc, err);
    if (r >= 0)
        r = take_number(doc, "state_bytes", 1, SNAPSHOT_SMALL_FILE_MAX, &m->state_bytes, err);
    if (r >= 0)
        r = take_u32(doc, "state_crc", 0, UINT32_MAX, &m->state_crc, err);
    if (r >= 0)
        r = take_number(doc, "memory_data", 0, m->memory_mib * MIB, &m->memory_data, err);
    if (r >= 0)
        r = take_u32(doc, "memory_crc", 0, UINT32_MAX, &m->memory_crc, err);
    if (r >= 0)
        r = take_number(doc, "diff_bytes", 0, SNAPSHOT_SMALL_FILE_MAX, &m->diff_bytes, err);
    if (r >= 0)
        r = take_u32(doc, "diff_crc", 0, UINT32_MAX, &m->diff_crc, err);
    if (r >= 0)
        r = json_get_bool(doc, "workload", &m->workload, err);
    if (r >= 0)
        m->created_s = (int64_t)created;
    return r;
}

/* What one field says about another. */
static int check_whole(const struct snapshot_meta *m, struct sm_error *err)
{
    struct platform platform;
    struct digest d;
    int r = 0;

    if (m->kind == SNAPSHOT_BASE ? m->image_digest[0] || m->base[0] || m->workload : !m->image_digest[0])
        return sm_error_set(err, EBADMSG, "a %s snapshot must have %s", kinds[m->kind],
                            m->kind == SNAPSHOT_BASE ? "neither image, base nor command" : "an image");
    if (!m->base[0] != !m->diff_bytes || (!m->base[0] && (m->base_crc || m->diff_crc)))
        return sm_error_set(err, EBADMSG, "it has a list of pages without a base, or a base without one");
    if (!strcmp(m->base, m->key))
        return sm_error_set(err, EBADMSG, "it is its own base");
    if (m->image_digest[0])
        r = digest_parse(&d, m->image_digest, "\"image_digest\"", err);
    if (r >= 0 && m->platform[0])
        r = platform_parse(&platform, m->platform, err);
    return r < 0 ? -EBADMSG : 0; /* -ENOTSUP is for other versions */
}

static int check_format(struct json *doc, struct sm_error *err)
{
    uint64_t format, page;
    int r = json_get_u64(doc, "format", true, &format, err);

    if (r < 0)
        return r;
    if (format != SNAPSHOT_FORMAT)
        return sm_error_set(err, ENOTSUP,
                            "its metadata is of version %llu of the format, and this program knows version %d: make "
                            "the snapshot anew",
                            (unsigned long long)format, SNAPSHOT_FORMAT);
    r = json_get_u64(doc, "page", true, &page, err);
    if (r >= 0 && page != SNAPSHOT_PAGE)
        return sm_error_set(err, ENOTSUP,
                            "its metadata says that it has pages of %llu bytes, and this host has %u: make the "
                            "snapshot anew",
                            (unsigned long long)page, SNAPSHOT_PAGE);
    return r;
}

/* `data` is well-formed JSON. */
static int check_sum(const char *data, size_t len, struct sm_error *err)
{
    size_t body = len < SUM_BYTES ? 0 : len - SUM_BYTES;
    const char *at = data + body;
    char hex[DIGEST_HEX_SIZE];
    struct digest d;
    int r;

    if (!body || memcmp(at, SUM_BEGIN, sizeof(SUM_BEGIN) - 1) != 0 ||
        memcmp(data + len - (sizeof(SUM_END) - 1), SUM_END, sizeof(SUM_END) - 1) != 0)
        return sm_error_set(err, EBADMSG, "it does not end with its checksum");
    r = digest_of(&d, data, body, err);
    if (r < 0)
        return r;
    digest_hex(&d, hex);
    if (memcmp(at + sizeof(SUM_BEGIN) - 1, hex, 2 * DIGEST_BYTES) != 0)
        return sm_error_set(err, EBADMSG, "its checksum does not fit: it is damaged, or was changed");
    return 0;
}

static int take_all(struct snapshot_meta *m, const void *data, size_t len, struct sm_error *err)
{
    struct json *doc;
    int r = json_parse(&doc, data, len, err);

    if (r < 0)
        return r;
    m->own.doc = doc;
    r = check_format(doc, err);
    if (r >= 0)
        r = check_sum(data, len, err);
    if (r >= 0)
        r = take_kind(m, doc, err);
    if (r >= 0)
        r = take_key(doc, "key", false, m->key, err);
    if (r >= 0)
        r = take_key(doc, "base", true, m->base, err);
    if (r >= 0)
        r = take_strings(m, doc, err);
    if (r >= 0)
        r = take_numbers(m, doc, err);
    if (r >= 0)
        r = take_lists(m, doc, err);
    return r < 0 ? r : check_whole(m, err);
}

int snapshot_meta_parse(struct snapshot_meta *ret, const void *data, size_t len, struct sm_error *err)
{
    struct snapshot_meta m = {.kind = SNAPSHOT_BASE};
    struct sm_error why = SM_ERROR_INIT;
    int r = take_all(&m, data, len, &why);

    if (r >= 0) {
        *ret = m;
        return 0;
    }
    snapshot_meta_done(&m);
    if (r == -ENOMEM || r == -ENOTSUP)
        return sm_error_set(err, -r, "%s", why.text);
    return sm_error_set(err, EBADMSG, "its metadata is not right: %s", why.text);
}

/* Writing */

static void put_key(struct buf *b, const char *key)
{
    json_write_raw(b, ",");
    json_write_string(b, key);
    json_write_raw(b, ":");
}

static void put_string(struct buf *b, const char *key, const char *value)
{
    put_key(b, key);
    json_write_string(b, value);
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

static void put_all(struct buf *b, const struct snapshot_meta *m)
{
    char head[64];

    snprintf(head, sizeof(head), "{\"format\":%d,\"page\":%u", SNAPSHOT_FORMAT, SNAPSHOT_PAGE);
    json_write_raw(b, head);
    put_string(b, "kind", kinds[m->kind]);
    put_string(b, "key", m->key);
    put_string(b, "base", m->base);
    put_number(b, "base_crc", m->base_crc);
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        put_string(b, strings[i].key, string_of(m, i));
    put_number(b, "memory_mib", m->memory_mib);
    put_number(b, "vcpus", m->vcpus);
    put_number(b, "created", m->created_s < 0 ? 0 : (uint64_t)m->created_s);
    put_number(b, "state_bytes", m->state_bytes);
    put_number(b, "state_crc", m->state_crc);
    put_number(b, "memory_data", m->memory_data);
    put_number(b, "memory_crc", m->memory_crc);
    put_number(b, "diff_bytes", m->diff_bytes);
    put_number(b, "diff_crc", m->diff_crc);
    put_key(b, "workload");
    json_write_raw(b, m->workload ? "true" : "false");
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++)
        put_list(b, lists[i].key, list_of(m, i));
}

static int put_sum(struct buf *b, struct sm_error *err)
{
    char hex[DIGEST_HEX_SIZE];
    struct digest d;
    int r = b->bad ? -E2BIG : digest_of(&d, b->data, b->len, err);

    if (r < 0)
        return r;
    digest_hex(&d, hex);
    json_write_raw(b, SUM_BEGIN);
    json_write_raw(b, hex);
    json_write_raw(b, SUM_END);
    return b->bad ? -E2BIG : 0;
}

static bool same_list(const char *const *a, const char *const *b)
{
    static const char *const none[] = {NULL};

    a = a ? a : none;
    b = b ? b : none;
    for (; *a && *b; a++, b++) {
        if (strcmp(*a, *b) != 0)
            return false;
    }
    return !*a && !*b;
}

/* Bytes that are not UTF-8 were written as something else. */
static bool same_text(const struct snapshot_meta *a, const struct snapshot_meta *b)
{
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
        if (strcmp(string_of(a, i), string_of(b, i)) != 0)
            return false;
    }
    for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
        if (!same_list(list_of(a, i), list_of(b, i)))
            return false;
    }
    return true;
}

int snapshot_meta_write(struct buf *ret, const struct snapshot_meta *m, struct sm_error *err)
{
    struct buf b = buf_init(OCI_JSON_MAX_BYTES);
    struct sm_error why = SM_ERROR_INIT;
    struct snapshot_meta again;
    int r;

    put_all(&b, m);
    r = put_sum(&b, &why);
    if (r == -E2BIG)
        r = sm_error_set(&why, E2BIG, "its arguments and environment are too long, or memory is short");
    if (r >= 0)
        r = snapshot_meta_parse(&again, b.data, b.len, &why);
    if (r >= 0) {
        if (!same_text(m, &again))
            r = sm_error_set(&why, EINVAL, "some of its text is not UTF-8");
        snapshot_meta_done(&again);
    }
    if (r < 0) {
        buf_done(&b);
        return sm_error_set(err, r == -EBADMSG ? EINVAL : -r, "the snapshot cannot be described: %s", why.text);
    }
    *ret = b;
    return 0;
}
