/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records of names.
 *
 * Theory of operation
 *
 * What: the document of one name is
 *
 *   {"version":1,"name":NAME,"images":[{"platform":..,"root":DIGEST,"manifest":DIGEST,"created":SECONDS,"source":..}]}
 *
 * written here and read back through the typed getters, as anything from a disk is: a name without control bytes, known
 * platforms that differ, well-formed digests, everything within OCI_RECORD_* of limits.h. An untagged name says its own
 * manifest's digest, and has that one image.
 *
 * Whatever is written is read back before it leaves this file, so that nothing is stored that would count as damaged.
 */
#include "oci/record.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/json.h"
#include "oci/json_write.h"
#include "oci/limits.h"
#include "oci/platform.h"
#include "oci/text.h"

#define RECORD_VERSION 1

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory for names of images");
}

void name_record_done(struct name_record *r)
{
    free(r->name);
    free(r->platform);
    free(r->source);
    *r = (struct name_record){.name = NULL};
}

void name_records_free(struct name_record *list, size_t n)
{
    for (size_t i = 0; list && i < n; i++)
        name_record_done(&list[i]);
    free(list);
}

void name_doc_done(struct name_doc *doc)
{
    name_records_free(doc->list, doc->n);
    *doc = (struct name_doc){NULL, 0};
}

bool name_is_untagged(const struct name_record *r)
{
    return r->name[0] == '@';
}

const char *name_untagged(char buf[NAME_UNTAGGED_SIZE], const struct digest *manifest)
{
    buf[0] = '@';
    digest_str(manifest, buf + 1);
    return buf;
}

int name_record_copy(struct name_record *ret, const struct name_record *r, struct sm_error *err)
{
    struct name_record copy = *r;

    copy.name = strdup(r->name);
    copy.platform = strdup(r->platform);
    copy.source = strdup(r->source ? r->source : "");
    if (!copy.name || !copy.platform || !copy.source) {
        name_record_done(&copy);
        return no_memory(err);
    }
    *ret = copy;
    return 0;
}

int name_doc_set(struct name_doc *doc, const struct name_record *r, struct name_record *ret_old, struct sm_error *err)
{
    struct name_record copy, *larger;
    int code = name_record_copy(&copy, r, err);

    if (code < 0)
        return code;
    *ret_old = (struct name_record){.name = NULL};
    for (size_t i = 0; i < doc->n; i++) {
        if (!strcmp(doc->list[i].platform, r->platform)) {
            *ret_old = doc->list[i];
            doc->list[i] = copy;
            return 0;
        }
    }
    larger = reallocarray(doc->list, doc->n + 1, sizeof(*larger));
    if (!larger) {
        name_record_done(&copy);
        return no_memory(err);
    }
    doc->list = larger;
    doc->list[doc->n++] = copy;
    return 0;
}

/* Reading */

static bool is_plain(const char *s, size_t max)
{
    size_t len = strlen(s);

    if (!len || len > max)
        return false;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)s[i] <= 0x20 || s[i] == 0x7f)
            return false;
    }
    return true;
}

static int take_digest(struct digest *ret, struct json *obj, const char *key, struct sm_error *err)
{
    const char *s;
    int r = json_get_string(obj, key, true, &s, err);

    return r < 0 ? r : digest_parse(ret, s, key, err);
}

static int check_platform(const char *s, struct sm_error *err)
{
    char again[PLATFORM_STR_SIZE];
    struct platform p;
    int r = platform_parse(&p, s, err);

    if (r < 0)
        return r;
    return strcmp(platform_str(again, &p), s) ? sm_error_set(err, EBADMSG, "its platform is not in the usual words")
                                              : 0;
}

/* The strings stay the document's. */
static int take_image(struct name_record *ret, struct json *obj, const char *name, struct sm_error *err)
{
    const char *platform, *source;
    char own[NAME_UNTAGGED_SIZE];
    uint64_t created;
    int r = json_get_string(obj, "platform", true, &platform, err);

    if (r >= 0)
        r = json_get_string(obj, "source", false, &source, err);
    if (r >= 0)
        r = json_get_u64(obj, "created", true, &created, err);
    if (r >= 0)
        r = take_digest(&ret->root, obj, "root", err);
    if (r >= 0)
        r = take_digest(&ret->manifest, obj, "manifest", err);
    if (r >= 0)
        r = check_platform(platform, err);
    if (r < 0)
        return r;
    if (source && strlen(source) > OCI_RECORD_MAX_SOURCE)
        return sm_error_set(err, EBADMSG, "its \"source\" is too long");
    if (name[0] == '@' && strcmp(name, name_untagged(own, &ret->manifest)))
        return sm_error_set(err, EBADMSG, "its name is of another image");
    ret->name = (char *)(uintptr_t)name;
    ret->platform = (char *)(uintptr_t)platform;
    ret->source = (char *)(uintptr_t)(source ? source : "");
    ret->created_s = (int64_t)created;
    return 0;
}

static int take_doc(struct name_doc *doc, struct json *json, struct sm_error *err)
{
    struct json *images, *obj;
    uint64_t version;
    const char *name;
    size_t n;
    int r = json_get_u64(json, "version", true, &version, err);

    if (r >= 0)
        r = json_get_string(json, "name", true, &name, err);
    if (r >= 0)
        r = json_get_array(json, "images", true, OCI_RECORD_MAX_IMAGES, &images, &n, err);
    if (r < 0)
        return r;
    if (version != RECORD_VERSION)
        return sm_error_set(err, EBADMSG, "it is of another version");
    if (!is_plain(name, OCI_REF_MAX))
        return sm_error_set(err, EBADMSG, "its name is too long or holds odd characters");
    if (!n || (name[0] == '@' && n > 1))
        return sm_error_set(err, EBADMSG, "it has not as many images as it should");
    for (size_t i = 0; i < n; i++) {
        struct name_record rec = {.name = NULL}, old;

        r = json_item_object(images, i, "images", &obj, err);
        if (r >= 0)
            r = take_image(&rec, obj, name, err);
        if (r >= 0)
            r = name_doc_set(doc, &rec, &old, err);
        if (r < 0)
            return r;
        if (old.name) {
            name_record_done(&old);
            return sm_error_set(err, EBADMSG, "it has a platform twice");
        }
    }
    return 0;
}

int name_doc_parse(struct name_doc *ret, const void *data, size_t len, struct sm_error *err)
{
    struct name_doc doc = {NULL, 0};
    struct json *json;
    int r;

    if (len > OCI_RECORD_MAX_BYTES)
        return sm_error_set(err, EFBIG, "it is larger than %u bytes, which is the limit", OCI_RECORD_MAX_BYTES);
    r = json_parse(&json, data, len, err);
    if (r < 0)
        return r;
    r = take_doc(&doc, json, err);
    json_free(json);
    if (r < 0) {
        name_doc_done(&doc);
        return r;
    }
    *ret = doc;
    return 0;
}

/* Writing */

static void write_member(struct buf *b, const char *key, const char *value)
{
    json_write_raw(b, ",");
    json_write_string(b, key);
    json_write_raw(b, ":");
    json_write_string(b, value);
}

static void write_image(struct buf *b, const struct name_record *r)
{
    char digest[DIGEST_STR_SIZE], number[64];

    json_write_raw(b, "{\"platform\":");
    json_write_string(b, r->platform);
    digest_str(&r->root, digest);
    write_member(b, "root", digest);
    digest_str(&r->manifest, digest);
    write_member(b, "manifest", digest);
    write_member(b, "source", r->source ? r->source : "");
    snprintf(number, sizeof(number), ",\"created\":%lld}", (long long)r->created_s);
    json_write_raw(b, number);
}

int name_doc_write(struct buf *ret, const struct name_doc *doc, struct sm_error *err)
{
    struct buf b = buf_init(OCI_RECORD_MAX_BYTES);
    char number[64], shown[TEXT_SHOWN_SIZE];
    struct name_doc again;
    int r;

    snprintf(number, sizeof(number), "{\"version\":%d", RECORD_VERSION);
    json_write_raw(&b, number);
    write_member(&b, "name", doc->list[0].name);
    json_write_raw(&b, ",\"images\":[");
    for (size_t i = 0; i < doc->n; i++) {
        if (i)
            json_write_raw(&b, ",");
        write_image(&b, &doc->list[i]);
    }
    json_write_raw(&b, "]}\n");
    text_shown(shown, doc->list[0].name);
    if (b.bad) {
        buf_done(&b);
        return sm_error_set(err, E2BIG, "the record of the name \"%s\" is too large, or memory is short", shown);
    }
    r = name_doc_parse(&again, b.data, b.len, err);
    if (r >= 0 && strcmp(again.list[0].name, doc->list[0].name)) {
        r = sm_error_set(err, EINVAL, "it is not UTF-8");
        name_doc_done(&again);
    } else if (r >= 0) {
        name_doc_done(&again);
    }
    if (r < 0) {
        buf_done(&b);
        return sm_error_wrap(err, "the name \"%s\" cannot be stored", shown);
    }
    *ret = b;
    return 0;
}
