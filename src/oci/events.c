/* SPDX-License-Identifier: Apache-2.0 */
/* Events: see events.h. */
#include "oci/events.h"

#include <errno.h>

#include "base/io.h"

#define EVERY_NS 50000000u

int event_tell(const struct oci_events *events, enum oci_event_kind what, const struct digest *layer, uint64_t done,
               uint64_t total, struct sm_error *err)
{
    char name[DIGEST_STR_SIZE];

    if (!events || !events->fn)
        return 0;
    if (layer)
        digest_str(layer, name);
    if (!events->fn(events->ctx, &(struct oci_event){what, layer ? name : NULL, done, total}))
        return 0;
    return sm_error_set(err, ECANCELED, "stopped before the end: what has been done so far is kept for the next time");
}

bool event_due(const struct oci_events *events, uint64_t *last_ns)
{
    uint64_t now;

    if (!events || !events->fn)
        return false;
    now = io_now_ns();
    if (now - *last_ns < EVERY_NS)
        return false;
    *last_ns = now;
    return true;
}

int event_timeout(const struct oci_events *events)
{
    return events && events->fn ? EVENT_TICK_MS : -1;
}
