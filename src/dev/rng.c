/* SPDX-License-Identifier: Apache-2.0 */
/* virtio entropy device (virtio 1.2 §5.4): see rng.h. One queue of device-writable buffers, filled and given back. */
#include "dev/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/error.h"
#include "dev/iov.h"

#define RNG_QUEUE_SIZE  8
#define RNG_MAX_REQUEST (64 * 1024) /* bytes for one chain; the driver asks again for more */
#define RNG_ROUND       16          /* chains in one round of the loop */

struct rng {
    struct virtio_dev dev;
    struct virtq_chain chain; /* scratch */
};

/* Bytes filled, at most RNG_MAX_REQUEST; short when the host has none to give. */
static uint32_t fill(struct iov_run *run)
{
    uint32_t done = 0;

    while (run->len > 0 && done < RNG_MAX_REQUEST) {
        size_t want = run->iov->iov_len;

        if (want > RNG_MAX_REQUEST - done)
            want = RNG_MAX_REQUEST - done;
        ssize_t n = getrandom(run->iov->iov_base, want, GRND_NONBLOCK);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        iov_skip(run, (uint64_t)n);
        done += (uint32_t)n;
    }
    return done;
}

static void rng_notify(struct virtio_dev *dev, unsigned q)
{
    struct rng *rng = CONTAINER_OF(dev, struct rng, dev);
    struct virtq *vq = &dev->vq[q];
    struct virtq_chain *chain = &rng->chain;

    for (unsigned i = 0; i < RNG_ROUND; i++) {
        int r = virtq_pop(vq, chain);

        if (r == 0 && virtq_enable_notify(vq))
            continue;
        if (r <= 0) {
            if (r < 0)
                virtio_broken(dev, "bad chain in the entropy queue");
            virtio_signal(dev, q);
            return;
        }
        struct iov_run run = {.iov = chain->iov + chain->n_out, .n = chain->n_in, .len = chain->in_len};
        virtq_push(vq, chain->head, fill(&run));
    }
    virtio_signal(dev, q);
    virtio_requeue(dev, q);
}

static void rng_free(struct virtio_dev *dev)
{
    free(CONTAINER_OF(dev, struct rng, dev));
}

static const struct virtio_dev_ops rng_ops;

int rng_new(struct virtio_dev **ret, struct sm_error *err)
{
    struct rng *rng = calloc(1, sizeof(*rng));

    if (!rng)
        return sm_error_set(err, ENOMEM, "no memory for the entropy device");
    rng->dev.ops = &rng_ops;
    rng->dev.id = VIRTIO_ID_RNG;
    rng->dev.n_queues = 1;
    rng->dev.queue_size[0] = RNG_QUEUE_SIZE;
    *ret = &rng->dev;
    return 0;
}

static const struct virtio_dev_ops rng_ops = {
    .name = "rng",
    .notify = rng_notify,
    .free = rng_free,
};
