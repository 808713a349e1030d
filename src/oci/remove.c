/* SPDX-License-Identifier: Apache-2.0 */
/* Removing a name or an image: see gc_remove in gc.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/gc.h"
#include "oci/removal.h"
#include "oci/text.h"

#define LISTED_MAX  5
#define LISTED_SIZE 700

struct found {
    struct name_record *list;
    size_t n;
    bool by_id;
};

static bool is_found(const struct found *f, const struct name_record *r)
{
    for (size_t i = 0; i < f->n; i++) {
        if (!strcmp(f->list[i].name, r->name) && !strcmp(f->list[i].platform, r->platform))
            return true;
    }
    return false;
}

static int several_names(const struct graph *g, const struct graph_image *image, const char *typed,
                         struct sm_error *err)
{
    char text[LISTED_SIZE] = "", shown[TEXT_SHOWN_SIZE];
    size_t len = 0;

    for (uint32_t i = 0; i < image->n && i < LISTED_MAX; i++)
        len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%.120s", i ? ", " : "",
                                text_shown(shown, g->records[image->first + i].r.name));
    return sm_error_set(err, EEXIST, "the image \"%s\" has several names: %s%s; remove these, or all of it by force",
                        text_shown(shown, typed), text, image->n > LISTED_MAX ? " and others" : "");
}

/* The records of one image that were meant: all of them, or some of its names. */
static int remove_from(struct removal *r, const struct graph_image *image, const struct found *f, struct sm_error *err)
{
    uint32_t meant = 0;
    int code = 0;

    for (uint32_t i = 0; i < image->n; i++)
        meant += is_found(f, &r->g->records[image->first + i].r);
    if (!meant)
        return 0;
    if (f->by_id || meant == image->n)
        return removal_image(r, image, err);
    for (uint32_t i = 0; code >= 0 && i < image->n; i++) {
        if (is_found(f, &r->g->records[image->first + i].r))
            code = removal_record(r, image->first + i, err);
    }
    return code;
}

static int remove_found(struct oci_store *s, const char *typed, const struct found *f, bool force,
                        struct gc_result *ret, struct sm_error *err)
{
    struct removal r;
    int code = removal_init(&r, s, false, err);

    if (code < 0)
        return code;
    for (uint32_t i = 0; code >= 0 && f->by_id && !force && i < r.g->n_images; i++) {
        const struct graph_image *image = &r.g->images[i];

        for (uint32_t k = 0; code >= 0 && k < image->n; k++) {
            if (image->named > 1 && is_found(f, &r.g->records[image->first + k].r))
                code = several_names(r.g, image, typed, err);
        }
    }
    for (uint32_t i = 0; code >= 0 && i < r.g->n_images; i++)
        code = remove_from(&r, &r.g->images[i], f, err);
    if (code >= 0)
        removal_give(&r, ret);
    removal_done(&r);
    return code;
}

int gc_remove(struct oci_store *s, const char *typed, bool force, struct gc_result *ret, struct sm_error *err)
{
    CLEANUP_FD int lock_fd = gc_alone(s, err);
    struct sm_error why = SM_ERROR_INIT;
    struct found f;
    int r;

    if (lock_fd < 0)
        return lock_fd;
    r = names_find(s, typed, &f.list, &f.n, &f.by_id, &why);
    if (r == -ENOENT && force) {
        if (ret)
            *ret = (struct gc_result){.bytes = 0};
        return 0;
    }
    if (r < 0) {
        if (err)
            *err = why;
        return r;
    }
    r = remove_found(s, typed, &f, force, ret, err);
    name_records_free(f.list, f.n);
    return r;
}
