/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: whether it is right, and its repair. */
#include <errno.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/snapshot_private.h"
#include "lib/store.h"
#include "oci/fsck.h"
#include "oci/pull.h"

struct check {
    struct sm_store *store;
    const struct sm_fsck_options *o;
    struct oci_open_options pull;
    struct sm_fsck_result result;
    uint32_t removed, lacking; /* problems that were removed; those that say that an image lacks something */
};

static void tell(const struct check *c, const char *object, const char *text, bool removed)
{
    if (c->o->problem)
        c->o->problem(c->o->problem_ctx,
                      &(struct sm_store_problem){.object = object, .text = text, .removed = removed});
}

static void on_problem(void *ctx, const struct fsck_problem *p)
{
    struct check *c = ctx;

    c->removed += p->removed;
    c->lacking += p->kind == FSCK_IMAGE && !p->removed;
    tell(c, p->object, p->text, p->removed);
}

static int on_step(void *ctx, uint64_t done, uint64_t total)
{
    const struct check *c = ctx;

    if (!c->o->event)
        return 0;
    return c->o->event(c->o->event_ctx,
                       &(struct sm_image_event){.kind = SM_IMAGE_CHECKING, .done = done, .total = total});
}

/* Its base is in the list, too: that one's bytes are looked at once. */
static int on_snapshot(void *ctx, struct oci_store *s, const char *key, struct sm_error *err)
{
    struct snapshot *snapshot;
    int r = snapshot_open_key(&snapshot, s, key, false, err);

    if (r < 0)
        return r;
    r = snapshot_verify_own(snapshot, err);
    snapshot_unref(snapshot);
    return r;
}

/*
 * Fetch an image again: by digest, so that it is this one, whatever its tag means now. That makes a record of the
 * reference with the digest, which nobody has asked for, unless it was there.
 */
static int fetch_again(struct check *c, const struct name_record *image, struct sm_error *err)
{
    CLEANUP_FREE char *canonical = NULL;
    struct name_record before = {.name = NULL};
    struct oci_ref ref;
    int r = record_registry(&ref, image, err);

    if (r < 0)
        return r;
    c->pull.platform = image->platform;
    r = ref_canonical(&ref, &canonical, err);
    if (r >= 0) {
        bool known = names_get(c->store->oci, canonical, image->platform, &before, NULL) == 0;

        r = oci_pull(c->store->oci, &ref, &c->pull, NULL, err);
        if (r >= 0 && !known)
            r = names_remove(c->store->oci, canonical, image->platform, err);
    }
    name_record_done(&before);
    ref_done(&ref);
    return r == -ENOENT && !err->code ? 0 : r; /* no sentence: the record has gone by itself */
}

/* -ECANCELED and what the store says end it; what a registry says is one more problem. */
static int repair(struct check *c, const struct fsck_result *found, struct sm_error *err)
{
    uint32_t failed = 0;

    for (size_t i = 0; i < found->n_lacking; i++) {
        struct sm_error why = SM_ERROR_INIT;
        CLEANUP_FREE char *object = NULL;
        int r = fetch_again(c, &found->lacking[i], &why);

        if (r == -ECANCELED)
            return sm_error_set(err, ECANCELED, "%s", why.text);
        if (r >= 0)
            continue;
        failed++;
        if (asprintf(&object, "image %s", found->lacking[i].name) < 0)
            return sm_error_set(err, ENOMEM, "out of memory");
        tell(c, object, why.text, false);
    }
    c->result.unrepaired += failed;
    return 0;
}

int sm_store_fsck(struct sm_store *store, const struct sm_fsck_options *given, struct sm_fsck_result *result,
                  struct sm_error *err)
{
    struct sm_fsck_options o = {0};
    struct fsck_result found = {.problems = 0};
    struct registry_options registry;
    struct event_bridge bridge;
    struct check c = {.store = store, .o = &o};
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = registry_options_from(&registry, o.registry, err);
    if (r < 0)
        return r;
    c.pull = (struct oci_open_options){
        .policy = OCI_PULL_ALWAYS,
        .registry = &registry,
        .events = event_bridge(&bridge, o.event, o.event_ctx),
    };
    r = fsck_store(
        store->oci,
        &(struct fsck_options){
            .repair = o.repair != 0, .problem = on_problem, .step = on_step, .snapshot = on_snapshot, .ctx = &c},
        &found, err);
    if (r < 0)
        return r;
    c.result.checked = found.checked;
    c.result.problems = found.problems;
    c.result.unproven = found.unproven;
    c.result.unrepaired = found.problems - c.removed;
    if (o.repair) {
        c.result.unrepaired -= c.lacking; /* counted anew below */
        r = repair(&c, &found, err);
    }
    fsck_result_done(&found);
    if (r >= 0 && result)
        options_give(result, &c.result, sizeof(c.result));
    return r;
}
