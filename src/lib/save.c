/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public image store: images as an archive. A layer's compressed bytes may have been given up since it was
 * converted; they are fetched from where it came.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/pipe_guard.h"
#include "lib/store.h"
#include "oci/export.h"
#include "oci/gc.h"
#include "oci/pull.h"

struct fetcher {
    struct oci_store *store;
    struct oci_open_options options;
};

static int fetch_blob(void *ctx, const struct name_record *image, const struct descriptor *blob, struct sm_error *err)
{
    const struct fetcher *f = ctx;
    struct oci_ref ref;
    int r = record_registry(&ref, image, err);

    if (r < 0)
        return r;
    r = oci_pull_blob(f->store, &ref, &blob->digest, blob->size, &f->options, err);
    ref_done(&ref);
    return r;
}

/* The records of all names: of each, that of one platform; of an id, all that stand for it. */
struct chosen {
    struct name_record *records; /* borrow from `lists` */
    struct name_record **lists;
    size_t *lengths;
    size_t n, n_lists;
};

static void chosen_done(struct chosen *c)
{
    for (size_t i = 0; i < c->n_lists; i++)
        name_records_free(c->lists[i], c->lengths[i]);
    free(c->lists);
    free(c->lengths);
    free(c->records);
}

static int choose(struct chosen *c, struct oci_store *s, const char *name, const char *platform, struct sm_error *err)
{
    const struct name_record *from, *one;
    struct name_record *records;
    size_t add = 1, n;
    bool by_id;
    int r = names_find(s, name, &c->lists[c->n_lists], &n, &by_id, err);

    if (r < 0)
        return r;
    c->lengths[c->n_lists] = n;
    from = c->lists[c->n_lists++];
    if (by_id) {
        add = n;
    } else {
        r = record_choose(&one, from, n, platform, name, err);
        if (r < 0)
            return r;
        from = one;
    }
    records = reallocarray(c->records, c->n + add, sizeof(*records));
    if (!records)
        return sm_error_set(err, ENOMEM, "out of memory");
    memcpy(records + c->n, from, add * sizeof(*records));
    c->records = records;
    c->n += add;
    return 0;
}

static int choose_all(struct chosen *c, struct oci_store *s, const char *const *names, const char *platform,
                      struct sm_error *err)
{
    size_t n = 0;
    int r = 0;

    while (names[n])
        n++;
    c->lists = calloc(n + 1, sizeof(*c->lists));
    c->lengths = calloc(n + 1, sizeof(*c->lengths));
    if (!c->lists || !c->lengths)
        return sm_error_set(err, ENOMEM, "out of memory");
    for (size_t i = 0; r >= 0 && i < n; i++)
        r = choose(c, s, names[i], platform, err);
    if (r >= 0 && c->n == 0)
        r = sm_error_set(err, EINVAL, "no image to save was named");
    return r;
}

int sm_store_save(struct sm_store *store, const char *const *names, int fd, const struct sm_save_options *given,
                  struct sm_error *err)
{
    struct fetcher fetcher = {.store = store->oci};
    struct registry_options registry;
    struct sm_save_options o = {0};
    struct chosen chosen = {.n = 0};
    struct event_bridge bridge;
    struct pipe_guard guard;
    CLEANUP_FD int lock = -1;
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = registry_options_from(&registry, o.registry, err);
    if (r < 0)
        return r;
    fetcher.options = (struct oci_open_options){
        .registry = &registry,
        .events = event_bridge(&bridge, o.event, o.event_ctx),
    };
    lock = gc_enter(store->oci, err);
    if (lock < 0)
        return lock;
    r = choose_all(&chosen, store->oci, names, o.platform, err);
    pipe_guard_enter(&guard);
    if (r >= 0)
        r = oci_save(
            store->oci, chosen.records, chosen.n, fd,
            &(struct oci_save_options){.fetch = fetch_blob, .fetch_ctx = &fetcher, .events = fetcher.options.events},
            err);
    pipe_guard_leave(&guard);
    chosen_done(&chosen);
    return r < 0 ? r : 0;
}
