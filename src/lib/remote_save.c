/* SPDX-License-Identifier: Apache-2.0 */
/* Saving a machine of another process: asks whoever runs it (remote.c). */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/options.h"
#include "lib/remote.h"
#include "lib/store.h"

/* Its owner may be in another directory. */
static int absolute(const char *path, char **ret, struct sm_error *err)
{
    char here[PATH_MAX] = "";

    if (path[0] && path[0] != '/' && !getcwd(here, sizeof(here)))
        return sm_error_sys(err, errno, "cannot find out the working directory");
    if (asprintf(ret, "%s%s%s", here, here[0] ? "/" : "", path) < 0)
        return sm_error_set(err, ENOMEM, "out of memory");
    return 0;
}

int sm_remote_save(struct sm_store *store, const char *name, const char *dest, uint32_t flags,
                   struct sm_save_result *result, struct sm_error *err)
{
    struct remote_request req = {.flags = flags};
    CLEANUP_FREE char *path = NULL;
    struct sm_save_result ours = {0};
    struct remote_saved saved;
    int r;

    if (flags & ~REMOTE_SAVE_ALL_FLAGS)
        return sm_error_set(err, EINVAL, "a snapshot is wanted in a way that this version does not know");
    if (dest && !dest[0])
        return sm_error_set(err, EINVAL, "a snapshot needs a directory with a name");
    r = absolute(dest ? dest : "", &path, err);
    if (r < 0)
        return r;
    req.path = path;
    r = remote_ask(oci_store_path(store->oci), name, &req, &saved, err);
    if (r < 0 || !result)
        return r;
    ours.pause_ns = saved.pause_ns;
    ours.data_bytes = saved.data_bytes;
    memcpy(ours.key, saved.key, sizeof(ours.key));
    options_give(result, &ours, sizeof(ours));
    return 0;
}
