/* SPDX-License-Identifier: Apache-2.0 */
/* Telling the caller how far work is, and hearing that it should stop. */
#ifndef SM_OCI_EVENTS_H
#define SM_OCI_EVENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "oci/digest.h"
#include "oci/image.h"

/* Whoever waits looks up this often: a signal handler of the caller's can only set a flag, which `fn` then reads. */
#define EVENT_TICK_MS 100

/* 0; or -ECANCELED when the caller wants it. `events` and `layer` may be NULL. */
int event_tell(const struct oci_events *events, enum oci_event_kind what, const struct digest *layer, uint64_t done,
               uint64_t total, struct sm_error *err);

/* Is it time to tell again? `last_ns` is the caller's and starts as 0. */
bool event_due(const struct oci_events *events, uint64_t *last_ns);

/* What to give poll as its time-out. */
int event_timeout(const struct oci_events *events);

#endif
