/* SPDX-License-Identifier: Apache-2.0 */
/* Images of the store, printed: see record.h. */
#include "cli/record.h"

#include <stdbool.h>
#include <string.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/json.h"

int store_open(struct sm_store **ret)
{
    struct sm_error err = SM_ERROR_INIT;

    return sm_store_open(ret, NULL, &err) < 0 ? complain("%s", err.text) : 0;
}

static void member(FILE *f, const char *key, const char *value)
{
    fprintf(f, "\"%s\":", key);
    if (value)
        json_string(f, value);
    else
        fputs("null", f);
    putc(',', f);
}

void time_json(FILE *f, const char *key, int64_t t)
{
    char text[FORMAT_SIZE];

    if (t)
        fprintf(f, "\"%s\":\"%s\"", key, format_time(text, t));
    else
        fprintf(f, "\"%s\":null", key);
}

void record_json(FILE *f, const struct sm_image_record *r)
{
    putc('{', f);
    member(f, "name", r->name);
    member(f, "repository", r->repository);
    member(f, "tag", r->tag);
    member(f, "id", r->id);
    member(f, "digest", r->digest);
    member(f, "platform", r->platform);
    member(f, "source", r->source);
    time_json(f, "created", r->created);
    putc(',', f);
    time_json(f, "added", r->added);
    putc(',', f);
    time_json(f, "used", r->used);
    fprintf(f, ",\"size\":%llu}", (unsigned long long)r->size);
}

void records_json(FILE *f, const struct sm_image_record *list)
{
    putc('[', f);
    for (const struct sm_image_record *r = list; r; r = r->next) {
        record_json(f, r);
        if (r->next)
            putc(',', f);
    }
    putc(']', f);
}

const char *record_title(const struct sm_image_record *r)
{
    return r->name ? r->name : r->id;
}

static bool has_id(const struct sm_image_record *list, const char *id, const struct sm_image_record *end)
{
    for (; list && list != end; list = list->next)
        if (strcmp(list->id, id) == 0)
            return true;
    return false;
}

int removed_print(struct sm_store *store, const struct sm_image_record *removed)
{
    struct sm_error err = SM_ERROR_INIT;
    struct sm_image_record *left;

    for (const struct sm_image_record *r = removed; r; r = r->next)
        if (r->name)
            printf("Untagged: %s\n", r->name);
    if (sm_store_list(&left, store, &err) < 0)
        return complain("%s", err.text);
    for (const struct sm_image_record *r = removed; r; r = r->next)
        if (!has_id(left, r->id, NULL) && !has_id(removed, r->id, r))
            printf("Deleted: %s\n", r->id);
    sm_image_records_free(left);
    return 0;
}
