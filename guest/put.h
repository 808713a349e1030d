/* SPDX-License-Identifier: Apache-2.0 */
/* PUT: a file of the host's becomes one of the image's root, a piece at a time. */
#ifndef GUEST_PUT_H
#define GUEST_PUT_H

#include "wire.h"

struct ga_put {
    bool active;
    int fd;
    uint64_t left; /* bytes to come */
    uint32_t mode, uid, gid;
};

/*
 * PUT's payload, and then each of PUT_DATA. 1 when the file is complete, 0 when bytes are missing, or -errno with a
 * sentence. After 1 or an error nothing is open.
 */
int ga_put_begin(struct ga_put *p, int root, const uint8_t *data, size_t len, struct ga_error *err);
int ga_put_data(struct ga_put *p, const uint8_t *data, size_t len, struct ga_error *err);

/* Give up; what was written stays. Also when nothing was begun. */
void ga_put_done(struct ga_put *p);

#endif
