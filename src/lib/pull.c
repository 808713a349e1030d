/* SPDX-License-Identifier: Apache-2.0 */
/* The public image store: from a registry into it. */
#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/store.h"
#include "oci/pull.h"
#include "oci/text.h"

static int pull_options_from(struct oci_open_options *ret, struct registry_options *registry, struct event_bridge *b,
                             const struct sm_pull_options *o, struct sm_error *err)
{
    int r = registry_options_from(registry, o->registry, err);

    if (r < 0)
        return r;
    *ret = (struct oci_open_options){
        .platform = o->platform,
        .policy = OCI_PULL_ALWAYS,
        .registry = registry,
        .events = event_bridge(b, o->event, o->event_ctx),
    };
    return 0;
}

/* The record of what was pulled. */
static int publish_pulled(struct sm_image_record **ret, struct oci_store *s, const struct oci_ref *ref,
                          const char *platform, struct sm_error *err)
{
    CLEANUP_FREE char *canonical = NULL;
    struct name_record record = {.name = NULL};
    int r = ref_canonical(ref, &canonical, err);

    if (r < 0)
        return r;
    r = names_get(s, canonical, platform, &record, err);
    if (r == -ENOENT)
        return sm_error_set(err, ENOENT, "somebody removed the image right after it was pulled");
    if (r >= 0)
        r = records_publish(ret, s, &record, 1, err);
    name_record_done(&record);
    return r;
}

int sm_store_pull(struct sm_image_record **ret, struct sm_store *store, const char *name,
                  const struct sm_pull_options *given, struct sm_pull_result *result, struct sm_error *err)
{
    struct oci_pull_result pulled = {.fetched = 0};
    struct oci_ref ref = {.kind = REF_REGISTRY};
    struct oci_open_options options;
    struct registry_options registry;
    struct sm_pull_options o = {0};
    struct event_bridge bridge;
    char shown[TEXT_SHOWN_SIZE];
    int r = OPTIONS_COPY(&o, given, err);

    if (r >= 0)
        r = pull_options_from(&options, &registry, &bridge, &o, err);
    if (r >= 0)
        r = ref_parse(&ref, name, err);
    if (r < 0)
        return r;
    if (ref.kind != REF_REGISTRY)
        r = sm_error_set(err, EINVAL,
                         "\"%s\" is not in a registry: 'supermachine load' takes archives into the store, and "
                         "'supermachine run' takes it as it is",
                         text_shown(shown, name));
    if (r >= 0)
        r = oci_pull(store->oci, &ref, &options, &pulled, err);
    if (r >= 0 && ret)
        r = publish_pulled(ret, store->oci, &ref, o.platform, err);
    ref_done(&ref);
    if (r >= 0 && result)
        options_give(result, &(struct sm_pull_result){.fetched_bytes = pulled.fetched, .up_to_date = pulled.up_to_date},
                     sizeof(*result));
    return r < 0 ? r : 0;
}
