/* SPDX-License-Identifier: Apache-2.0 */
/* Images of the public interface: see image.h. */
#include "lib/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/store.h"

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

static int policy_from(enum oci_pull_policy *ret, enum sm_pull_policy given, struct sm_error *err)
{
    static const enum oci_pull_policy policies[] = {
        [SM_PULL_MISSING] = OCI_PULL_MISSING,
        [SM_PULL_ALWAYS] = OCI_PULL_ALWAYS,
        [SM_PULL_NEVER] = OCI_PULL_NEVER,
    };

    if ((unsigned)given >= ARRAY_SIZE(policies))
        return sm_error_set(err, EINVAL, "there is no pull policy %d", (int)given);
    *ret = policies[given];
    return 0;
}

int sm_image_open(struct sm_image **ret, const char *ref, const struct sm_image_options *given, struct sm_error *err)
{
    struct sm_image_options options = {0};
    struct oci_open_options oci_options = {0};
    struct registry_options registry;
    struct event_bridge bridge;
    struct sm_image *image;
    int r = OPTIONS_COPY(&options, given, err);

    if (r >= 0)
        r = registry_options_from(&registry, options.registry, err);
    if (r >= 0)
        r = policy_from(&oci_options.policy, options.pull, err);
    if (r < 0)
        return r;
    image = calloc(1, sizeof(*image));
    if (!image)
        return sm_error_sys(err, ENOMEM, "cannot open image '%s'", ref);
    atomic_init(&image->refs, 1);
    image->ref = strdup(ref);
    if (!image->ref) {
        r = sm_error_sys(err, ENOMEM, "cannot open image '%s'", ref);
        goto fail;
    }
    r = oci_store_open(&image->store, options.store, err);
    if (r < 0)
        goto fail;
    oci_options.platform = options.platform;
    oci_options.registry = &registry;
    oci_options.events = event_bridge(&bridge, options.event, options.event_ctx);
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
    free(image->ref);
    free(image);
}

const struct sm_image_info *sm_image_info(const struct sm_image *image)
{
    return &image->info;
}
