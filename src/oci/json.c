/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON: the one file of this area that sees json-c.
 *
 * Theory of operation
 *
 * What: a document is parsed whole by json-c's strict mode, after its size was checked; then scanned for what that mode
 * still lets pass (scan, below), so that nothing is read here that another program would read otherwise. Values are
 * reached through getters that check the type, and, for strings and lists, the limits.
 *
 * Invariants: a struct json is a json-c value under another name, alive as long as its document. Getters leave their
 * outputs alone when they fail.
 *
 * Limits: OCI_JSON_* in limits.h; depth is json-c's to watch and bounds the recursion here.
 */
#include "oci/json.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "oci/limits.h"
#include "oci/text.h"

static struct json_object *value(struct json *v)
{
    return (struct json_object *)(void *)v;
}

static struct json *wrap(struct json_object *v)
{
    return (struct json *)(void *)v;
}

/*
 * What json-c lets pass even when strict: single quotes, NaN, raw control bytes in strings. For those it returns false.
 * And of two members with one name it keeps the last and says nothing. In text that is well-formed otherwise, every
 * member that was written has one ':' outside strings, and every member that was kept is in the tree.
 */
static bool scan(const char *s, size_t len, size_t *ret_members)
{
    static const char plain[] = "{}[]:, \t\r\n0123456789+-.eEtruefalsn"; /* outside strings */
    bool in_string = false;

    *ret_members = 0;
    for (size_t i = 0; i < len; i++) {
        if (in_string ? (unsigned char)s[i] < 0x20 : s[i] != '"' && !memchr(plain, s[i], sizeof(plain) - 1))
            return false;
        if (in_string && s[i] == '\\')
            i++;
        else if (s[i] == '"')
            in_string = !in_string;
        else if (!in_string && s[i] == ':')
            ++*ret_members;
    }
    return true;
}

static size_t count_kept(struct json_object *v) /* as deep as OCI_JSON_MAX_DEPTH */
{
    size_t n = 0;

    if (json_object_is_type(v, json_type_object)) {
        json_object_object_foreach(v, key, member)
        {
            (void)key;
            n += 1 + count_kept(member);
        }
    } else if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++)
            n += count_kept(json_object_array_get_idx(v, i));
    }
    return n;
}

/* The library's own check lets overlong forms pass, which would be other bytes when they are written again. */
static int check_utf8(const char *data, size_t len, struct sm_error *err)
{
    const unsigned char *p = (const unsigned char *)data, *end = p + len;

    while (p < end) {
        size_t n = text_utf8_length(p, (size_t)(end - p));

        if (!n)
            return sm_error_set(err, EBADMSG, "it is not valid JSON: invalid UTF-8 at byte %zu",
                                (size_t)(p - (const unsigned char *)data));
        p += n;
    }
    return 0;
}

static int parse(struct json_object **ret, const char *data, size_t len, struct sm_error *err)
{
    struct json_object *v = NULL;
    struct json_tokener *tok;
    enum json_tokener_error e;
    size_t end;
    int r = check_utf8(data, len, err);

    if (r < 0)
        return r;
    tok = json_tokener_new_ex(OCI_JSON_MAX_DEPTH);
    if (!tok)
        return sm_error_set(err, ENOMEM, "out of memory for JSON");
    json_tokener_set_flags(tok, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    v = json_tokener_parse_ex(tok, data, (int)len);
    e = json_tokener_get_error(tok);
    end = json_tokener_get_parse_end(tok);
    json_tokener_free(tok);
    while (e == json_tokener_success && end < len && strchr(" \t\r\n", data[end]) && data[end])
        end++;
    if (e != json_tokener_success || end != len) {
        json_object_put(v);
        return sm_error_set(err, EBADMSG, "it is not valid JSON: %s at byte %zu",
                            e == json_tokener_success    ? "more behind its end"
                            : e == json_tokener_continue ? "it ends early"
                                                         : json_tokener_error_desc(e),
                            end);
    }
    *ret = v;
    return 0;
}

static int parse_checked(struct json **ret, const void *data, size_t len, enum json_type want, struct sm_error *err)
{
    struct json_object *v = NULL;
    size_t written;
    int r;

    if (len > OCI_JSON_MAX_BYTES)
        return sm_error_set(err, EFBIG, "it is larger than %llu MiB, which is the limit", OCI_JSON_MAX_BYTES / MIB);
    r = parse(&v, data, len, err);
    if (r < 0)
        return r;
    if (!json_object_is_type(v, want))
        r = sm_error_set(err, EBADMSG, "it is not a JSON %s", want == json_type_array ? "array" : "object");
    else if (!scan(data, len, &written))
        r = sm_error_set(err, EBADMSG, "it is not valid JSON: single quotes, NaN, or control bytes in a string");
    else if (count_kept(v) != written)
        r = sm_error_set(err, EBADMSG, "it has a key twice in one object");
    if (r < 0) {
        json_object_put(v);
        return r;
    }
    *ret = wrap(v);
    return 0;
}

int json_parse(struct json **ret, const void *data, size_t len, struct sm_error *err)
{
    return parse_checked(ret, data, len, json_type_object, err);
}

int json_parse_array(struct json **ret, size_t *ret_len, size_t max, const void *data, size_t len, struct sm_error *err)
{
    struct json *doc;
    size_t n;
    int r = parse_checked(&doc, data, len, json_type_array, err);

    if (r < 0)
        return r;
    n = json_object_array_length(value(doc));
    if (n > max) {
        json_free(doc);
        return sm_error_set(err, E2BIG, "it has %zu elements, the limit is %zu", n, max);
    }
    *ret = doc;
    *ret_len = n;
    return 0;
}

void json_free(struct json *doc)
{
    json_object_put(value(doc));
}

int json_text(struct json *v, char **ret, struct sm_error *err)
{
    const char *text =
        json_object_to_json_string_ext(value(v), JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
    char *copy = text ? strdup(text) : NULL; /* `text` is the value's */

    if (!copy)
        return sm_error_set(err, ENOMEM, "out of memory while writing JSON");
    *ret = copy;
    return 0;
}

static void wipe_strings(struct json_object *v) /* as deep as OCI_JSON_MAX_DEPTH */
{
    if (json_object_is_type(v, json_type_string)) {
        /* What json-c hands out is its own buffer, and this document is ours alone. */
        explicit_bzero((char *)(uintptr_t)json_object_get_string(v), (size_t)json_object_get_string_len(v));
    } else if (json_object_is_type(v, json_type_object)) {
        json_object_object_foreach(v, key, member)
        {
            (void)key;
            wipe_strings(member);
        }
    } else if (json_object_is_type(v, json_type_array)) {
        for (size_t i = 0; i < json_object_array_length(v); i++)
            wipe_strings(json_object_array_get_idx(v, i));
    }
}

void json_free_secret(struct json *doc)
{
    wipe_strings(value(doc));
    json_free(doc);
}

/* The member, of the wanted type; *ret NULL when absent or null. */
static int get(struct json *obj, const char *key, enum json_type type, bool required, struct json_object **ret,
               struct sm_error *err)
{
    struct json_object *v = NULL;

    json_object_object_get_ex(value(obj), key, &v);
    if (!v && required)
        return sm_error_set(err, EBADMSG, "\"%s\" is missing", key);
    if (v && !json_object_is_type(v, type))
        return sm_error_set(err, EBADMSG, "\"%s\" is not %s", key,
                            type == json_type_string    ? "a string"
                            : type == json_type_int     ? "a whole number"
                            : type == json_type_boolean ? "true or false"
                            : type == json_type_object  ? "an object"
                                                        : "an array");
    *ret = v;
    return 0;
}

static int check_string(struct json_object *v, const char *key, const char **ret, struct sm_error *err)
{
    size_t len = (size_t)json_object_get_string_len(v);
    const char *s = json_object_get_string(v);

    if (len > OCI_JSON_MAX_STRING || strlen(s) != len)
        return sm_error_set(err, EBADMSG, "\"%s\" holds a string that is too long or has a zero byte", key);
    *ret = s;
    return 0;
}

int json_get_string(struct json *obj, const char *key, bool required, const char **ret, struct sm_error *err)
{
    struct json_object *v = NULL;
    int r = get(obj, key, json_type_string, required, &v, err);

    if (r < 0)
        return r;
    *ret = NULL;
    return v ? check_string(v, key, ret, err) : 0;
}

int json_get_u64(struct json *obj, const char *key, bool required, uint64_t *ret, struct sm_error *err)
{
    struct json_object *v = NULL;
    int r = get(obj, key, json_type_int, required, &v, err);
    int64_t n;

    if (r < 0)
        return r;
    n = v ? json_object_get_int64(v) : 0; /* saturates */
    if (n < 0 || n == INT64_MAX)
        return sm_error_set(err, EBADMSG, "\"%s\" is out of range", key);
    *ret = (uint64_t)n;
    return 0;
}

int json_get_bool(struct json *obj, const char *key, bool *ret, struct sm_error *err)
{
    struct json_object *v = NULL;
    int r = get(obj, key, json_type_boolean, false, &v, err);

    if (r < 0)
        return r;
    *ret = v && json_object_get_boolean(v);
    return 0;
}

int json_get_object(struct json *obj, const char *key, bool required, struct json **ret, struct sm_error *err)
{
    struct json_object *v = NULL;
    int r = get(obj, key, json_type_object, required, &v, err);

    if (r >= 0)
        *ret = wrap(v);
    return r;
}

int json_get_array(struct json *obj, const char *key, bool required, size_t max, struct json **ret, size_t *ret_len,
                   struct sm_error *err)
{
    struct json_object *v = NULL;
    int r = get(obj, key, json_type_array, required, &v, err);
    size_t len;

    if (r < 0)
        return r;
    len = v ? json_object_array_length(v) : 0;
    if (len > max)
        return sm_error_set(err, E2BIG, "\"%s\" has %zu elements, the limit is %zu", key, len, max);
    *ret = wrap(v);
    *ret_len = len;
    return 0;
}

int json_item_object(struct json *array, size_t i, const char *key, struct json **ret, struct sm_error *err)
{
    struct json_object *v = json_object_array_get_idx(value(array), i);

    if (!json_object_is_type(v, json_type_object))
        return sm_error_set(err, EBADMSG, "element %zu of \"%s\" is not an object", i, key);
    *ret = wrap(v);
    return 0;
}

int json_item_string(struct json *array, size_t i, const char *key, const char **ret, struct sm_error *err)
{
    struct json_object *v = json_object_array_get_idx(value(array), i);

    if (!json_object_is_type(v, json_type_string))
        return sm_error_set(err, EBADMSG, "element %zu of \"%s\" is not a string", i, key);
    return check_string(v, key, ret, err);
}

void strings_free(char **list)
{
    for (char **s = list; s && *s; s++)
        free(*s);
    free(list);
}

static int no_memory(struct sm_error *err, char **list)
{
    strings_free(list);
    return sm_error_set(err, ENOMEM, "out of memory for JSON");
}

int json_get_strings(struct json *obj, const char *key, size_t max, char ***ret, struct sm_error *err)
{
    struct json *array;
    char **list;
    size_t len;
    int r = json_get_array(obj, key, false, max, &array, &len, err);

    if (r < 0)
        return r;
    list = calloc(len + 1, sizeof(*list));
    if (!list)
        return no_memory(err, NULL);
    for (size_t i = 0; i < len; i++) {
        const char *s;

        r = json_item_string(array, i, key, &s, err);
        if (r < 0) {
            strings_free(list);
            return r;
        }
        list[i] = strdup(s);
        if (!list[i])
            return no_memory(err, list);
    }
    *ret = list;
    return 0;
}

int json_get_keys(struct json *obj, const char *key, size_t max, char ***ret, struct sm_error *err)
{
    struct json *map;
    char **list;
    size_t len, n = 0;
    int r = json_get_object(obj, key, false, &map, err);

    if (r < 0)
        return r;
    len = map ? (size_t)json_object_object_length(value(map)) : 0;
    if (len > max)
        return sm_error_set(err, E2BIG, "\"%s\" has %zu members, the limit is %zu", key, len, max);
    list = calloc(len + 1, sizeof(*list));
    if (!list)
        return no_memory(err, NULL);
    if (map) {
        json_object_object_foreach(value(map), name, member)
        {
            (void)member;
            list[n] = strdup(name);
            if (!list[n++])
                return no_memory(err, list);
        }
    }
    *ret = list;
    return 0;
}
