/* SPDX-License-Identifier: Apache-2.0 */
/* The guest kernel's command line: options every machine wants, the owner's own, then the devices. Pure. */
#ifndef SM_MACHINE_CMDLINE_H
#define SM_MACHINE_CMDLINE_H

#include <stdbool.h>

#include "base/buf.h"

struct cmdline {
    bool verbose;      /* the kernel tells everything it does */
    const char *extra; /* printable ASCII; "" for nothing */
    unsigned n_virtio; /* slots in use, from 0 */
};

/* NUL-terminated into `out`, which must be empty; out->bad when it grows over its cap. */
void cmdline_build(const struct cmdline *c, struct buf *out);

#endif
