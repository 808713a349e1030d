/* SPDX-License-Identifier: Apache-2.0 */
/* What the public interface and the oci part call differently: events, options of registries. See store.h. */
#include <errno.h>

#include "base/checked.h"
#include "lib/options.h"
#include "lib/store.h"

static int forward(void *ctx, const struct oci_event *e)
{
    static const enum sm_image_event_kind kinds[] = {
        [OCI_EVENT_RESOLVING] = SM_IMAGE_RESOLVING, [OCI_EVENT_WAITING] = SM_IMAGE_WAITING,
        [OCI_EVENT_FETCHING] = SM_IMAGE_FETCHING,   [OCI_EVENT_CONVERTING] = SM_IMAGE_CONVERTING,
        [OCI_EVENT_MERGING] = SM_IMAGE_MERGING,     [OCI_EVENT_DONE] = SM_IMAGE_DONE,
        [OCI_EVENT_LOADING] = SM_IMAGE_LOADING,     [OCI_EVENT_SAVING] = SM_IMAGE_SAVING,
    };
    const struct event_bridge *b = ctx;
    struct sm_image_event event = {.kind = kinds[e->what], .layer = e->layer, .done = e->done, .total = e->total};

    if (e->what == OCI_EVENT_DONE && e->layer)
        event.kind = SM_IMAGE_LAYER_DONE;
    return b->fn(b->ctx, &event);
}

const struct oci_events *event_bridge(struct event_bridge *b, int (*fn)(void *ctx, const struct sm_image_event *event),
                                      void *ctx)
{
    *b = (struct event_bridge){.fn = fn, .ctx = ctx, .events = {.fn = forward, .ctx = b}};
    return fn ? &b->events : NULL;
}

int registry_options_from(struct registry_options *ret, const struct sm_registry_options *given, struct sm_error *err)
{
    struct sm_registry_options o = {0};
    int r = OPTIONS_COPY(&o, given, err);

    if (r < 0)
        return r;
    *ret = (struct registry_options){
        .ca_file = o.ca_file,
        .cert_file = o.cert_file,
        .key_file = o.key_file,
        .auth_file = o.auth_file,
        .config_file = o.config_file,
        .plain_http = o.plain_http != 0,
        .connect_timeout_ms = o.connect_timeout_ms,
        .total_timeout_ms = o.document_timeout_ms,
    };
    return 0;
}
