/* SPDX-License-Identifier: Apache-2.0 */
/* Images of the public interface: see image.h. */
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "lib/options.h"

static const char *const *as_const(char **list)
{
    return (const char *const *)list;
}

static void fill_info(struct sm_image *image)
{
    const struct oci_config *c = oci_image_config(image->oci);

    image->info = (struct sm_image_info){
        .digest = oci_image_digest(image->oci),
        .os = c->os,
        .architecture = c->architecture,
        .variant = c->variant,
        .entrypoint = as_const(c->entrypoint),
        .cmd = as_const(c->cmd),
        .env = as_const(c->env),
        .working_dir = c->working_dir,
        .user = c->user,
        .stop_signal = c->stop_signal,
        .exposed_ports = as_const(c->exposed_ports),
    };
}

static void tell(void *ctx, const char *what, uint64_t done, uint64_t total)
{
    const struct sm_image_options *options = ctx;

    options->event(options->event_ctx,
                   &(struct sm_image_event){.kind = SM_IMAGE_CONVERTING, .done = done, .total = total});
}

int sm_image_open(struct sm_image **ret, const char *ref, const struct sm_image_options *given, struct sm_error *err)
{
    struct sm_image_options options = {0};
    struct oci_open_options oci_options = {0};
    struct oci_progress progress;
    struct sm_image *image;
    int r = OPTIONS_COPY(&options, given, err);

    if (r < 0)
        return r;
    image = calloc(1, sizeof(*image));
    if (!image)
        return sm_error_sys(err, ENOMEM, "cannot open image '%s'", ref);
    atomic_init(&image->refs, 1);
    r = oci_store_open(&image->store, options.store, err);
    if (r < 0)
        goto fail;
    progress = (struct oci_progress){.fn = tell, .ctx = &options};
    oci_options.platform = options.platform;
    oci_options.progress = options.event ? &progress : NULL;
    r = oci_image_open(&image->oci, image->store, ref, &oci_options, err);
    if (r < 0)
        goto fail;
    fill_info(image);
    *ret = image;
    return 0;

fail:
    sm_image_free(image);
    return r;
}

struct sm_image *image_ref(struct sm_image *image)
{
    atomic_fetch_add_explicit(&image->refs, 1, memory_order_relaxed);
    return image;
}

void sm_image_free(struct sm_image *image)
{
    if (!image || atomic_fetch_sub_explicit(&image->refs, 1, memory_order_acq_rel) > 1)
        return;
    oci_image_free(image->oci);
    oci_store_free(image->store);
    free(image);
}

const struct sm_image_info *sm_image_info(const struct sm_image *image)
{
    return &image->info;
}
