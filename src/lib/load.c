/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: from an archive into it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "lib/options.h"
#include "lib/store.h"
#include "oci/load.h"

/* What came without a name may have one from before: then it has no record of its own. */
static bool is_loaded(const struct name_record *r, const struct oci_loaded_image *image)
{
    return digest_equal(&r->manifest, &image->manifest) && (image->name[0] == '@' || !strcmp(r->name, image->name));
}

/* The records of what was loaded. One that somebody has removed since is left out. */
static int publish_loaded(struct sm_image_record **ret, struct oci_store *s, const struct oci_loaded *loaded,
                          struct sm_error *err)
{
    struct name_record *all, *mine;
    size_t n, n_mine = 0;
    int r = names_list(s, &all, &n, NULL, err);

    if (r < 0)
        return r;
    mine = calloc(n ? n : 1, sizeof(*mine)); /* borrows from `all` */
    for (size_t i = 0; mine && i < n; i++)
        for (size_t k = 0; k < loaded->n; k++)
            if (is_loaded(&all[i], &loaded->images[k])) {
                mine[n_mine++] = all[i];
                break;
            }
    r = mine ? records_publish(ret, s, mine, n_mine, err) : sm_error_set(err, ENOMEM, "out of memory");
    free(mine);
    name_records_free(all, n);
    return r;
}

int sm_store_load(struct sm_image_record **ret, struct sm_store *store, int fd, const struct sm_load_options *given,
                  struct sm_error *err)
{
    struct sm_load_options o = {0};
    struct oci_loaded loaded = {.n = 0};
    struct event_bridge bridge;
    int r = OPTIONS_COPY(&o, given, err);

    if (r < 0)
        return r;
    r = oci_load(&loaded, store->oci, fd,
                 &(struct oci_load_options){
                     .file = o.file,
                     .name = o.name,
                     .platform = o.platform,
                     .events = event_bridge(&bridge, o.event, o.event_ctx),
                 },
                 err);
    if (r >= 0 && ret)
        r = publish_loaded(ret, store->oci, &loaded, err);
    oci_loaded_done(&loaded);
    return r < 0 ? r : 0;
}
