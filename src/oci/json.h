/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON documents from images: parsed strictly, read through typed getters.
 *
 * A getter's sentence names the key; the caller wraps it with the document. A key that is absent or null is the same
 * thing, as Go's programs write either.
 */
#ifndef SM_OCI_JSON_H
#define SM_OCI_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct json; /* a value; belongs to its document */

/* The document must be an object. Duplicate keys, bad UTF-8, trailing bytes, and what is over limits.h are refused. */
int json_parse(struct json **ret, const void *data, size_t len, struct sm_error *err);
/* The same for a document that is an array of at most `max` elements. */
int json_parse_array(struct json **ret, size_t *ret_len, size_t max, const void *data, size_t len,
                     struct sm_error *err);
void json_free(struct json *doc);

/* For documents with secrets: overwrites every string in it before it is freed. (The parser's own buffers are not.) */
void json_free_secret(struct json *doc);

/* Required ones fail when absent; otherwise *ret is NULL (0 for numbers) and the result 0. Strings hold no NUL. */
int json_get_string(struct json *obj, const char *key, bool required, const char **ret, struct sm_error *err);
int json_get_u64(struct json *obj, const char *key, bool required, uint64_t *ret, struct sm_error *err);
int json_get_bool(struct json *obj, const char *key, bool *ret, struct sm_error *err); /* absent: false */
int json_get_object(struct json *obj, const char *key, bool required, struct json **ret, struct sm_error *err);
int json_get_array(struct json *obj, const char *key, bool required, size_t max, struct json **ret, size_t *ret_len,
                   struct sm_error *err);

/* Elements of an array got above. `key` only names it. */
int json_item_object(struct json *array, size_t i, const char *key, struct json **ret, struct sm_error *err);
int json_item_string(struct json *array, size_t i, const char *key, const char **ret, struct sm_error *err);

/* A value (a document, an object, an array) as text again, without spaces. To be freed. */
int json_text(struct json *value, char **ret, struct sm_error *err);

/* Copies that end with NULL; an absent key is the empty list. json_get_keys: the names of an object's members. */
int json_get_strings(struct json *obj, const char *key, size_t max, char ***ret, struct sm_error *err);
int json_get_keys(struct json *obj, const char *key, size_t max, char ***ret, struct sm_error *err);
void strings_free(char **list);

#endif
