/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: how an image was made, by its own word (image-spec config.md, "history"). */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "lib/store.h"
#include "lib/timestamp.h"
#include "oci/json.h"
#include "oci/limits.h"

struct published_step {
    struct sm_history_entry e;
    char *created_by, *comment;
    char layer[DIGEST_STR_SIZE];
};

void sm_history_free(struct sm_history_entry *list)
{
    while (list) {
        struct published_step *p = CONTAINER_OF(list, struct published_step, e);

        list = list->next;
        free(p->created_by);
        free(p->comment);
        free(p);
    }
}

static int copy_text(char **ret, struct json *step, const char *key, struct sm_error *err)
{
    const char *value;
    int r = json_get_string(step, key, false, &value, err);

    if (r < 0)
        return r;
    *ret = strdup(value ? value : "");
    return *ret ? 0 : sm_error_set(err, ENOMEM, "out of memory while reading an image's history");
}

/* `layer`: NULL for a step that made none. */
static int fill_step(struct published_step *p, struct json *step, const struct descriptor *layer, struct sm_error *err)
{
    const char *created = NULL;
    int r = step ? copy_text(&p->created_by, step, "created_by", err) : 0;

    if (r >= 0 && step)
        r = copy_text(&p->comment, step, "comment", err);
    if (r >= 0 && step)
        r = json_get_string(step, "created", false, &created, err);
    if (r < 0)
        return r;
    p->e.created_by = p->created_by ? p->created_by : "";
    p->e.comment = p->comment ? p->comment : "";
    if (created && timestamp_parse(created, &p->e.created) < 0)
        p->e.created = 0;
    if (layer) {
        digest_str(&layer->digest, p->layer);
        p->e.layer = p->layer;
        p->e.size = layer->size;
    }
    return 0;
}

/* Put before the list, which so has the newest first. */
static int add_step(struct sm_history_entry **list, struct json *step, const struct descriptor *layer,
                    struct sm_error *err)
{
    struct published_step *p = calloc(1, sizeof(*p));

    if (!p)
        return sm_error_set(err, ENOMEM, "out of memory while reading an image's history");
    p->e.next = *list;
    *list = &p->e;
    return fill_step(p, step, layer, err);
}

/* Steps that made a layer go with the manifest's layers in their order; layers that no step tells of come last. */
static int read_history(struct sm_history_entry **list, const struct image_docs *docs, struct sm_error *err)
{
    struct json *steps, *step;
    size_t n, layer = 0;
    bool empty;
    int r = json_get_array(docs->config, "history", false, OCI_CONFIG_MAX_LIST, &steps, &n, err);

    for (size_t i = 0; r >= 0 && i < n; i++) {
        r = json_item_object(steps, i, "history", &step, err);
        if (r >= 0)
            r = json_get_bool(step, "empty_layer", &empty, err);
        if (r >= 0)
            r = add_step(list, step, empty || layer == docs->manifest.n_layers ? NULL : &docs->manifest.layers[layer++],
                         err);
    }
    for (; r >= 0 && layer < docs->manifest.n_layers; layer++)
        r = add_step(list, NULL, &docs->manifest.layers[layer], err);
    return r;
}

int sm_store_history(struct sm_history_entry **ret, struct sm_store *store, const char *name, const char *platform,
                     struct sm_error *err)
{
    struct sm_history_entry *list = NULL;
    struct found_image found = {.n = 0};
    int r = found_image_get(&found, store->oci, name, platform, err);

    if (r >= 0)
        r = read_history(&list, &found.docs, err);
    if (r < 0)
        sm_history_free(list);
    else
        *ret = list;
    found_image_done(&found);
    return r < 0 ? r : 0;
}
