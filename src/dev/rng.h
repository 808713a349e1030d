/* SPDX-License-Identifier: Apache-2.0 */
/* virtio entropy device (virtio 1.2 §5.4), fed by getrandom(2). */
#ifndef SM_DEV_RNG_H
#define SM_DEV_RNG_H

#include "dev/virtio.h"

int rng_new(struct virtio_dev **ret, struct sm_error *err);

#endif
