/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to say about a snapshot: see snapshot_private.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "lib/snapshot_private.h"
#include "oci/snapshot_dirs.h"
#include "oci/text.h"

void snapshot_about_done(struct snapshot_about *a)
{
    snapshot_meta_done(&a->meta);
    free(a->problem);
    a->problem = NULL;
}

static int set_problem(struct snapshot_about *a, const char *text, struct sm_error *err)
{
    a->problem = strdup(text);
    return a->problem ? 0 : sm_error_set(err, ENOMEM, "out of memory while looking at snapshots");
}

static int look(struct snapshot_about *a, int dir_fd, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    int r = snapshot_dir_meta(dir_fd, &a->meta, &why);

    snapshot_dir_usage(dir_fd, &a->disk_bytes, &a->used_s);
    a->known = r >= 0;
    if (r == -ENOMEM) {
        if (err)
            *err = why;
        return r;
    }
    return r < 0 ? set_problem(a, why.text, err) : 0;
}

int snapshot_about_key(struct snapshot_about *ret, struct oci_store *store, const char *key, struct sm_error *err)
{
    struct snapshot_about a = {.known = false};
    struct sm_error why = SM_ERROR_INIT;
    struct snapshot *s = NULL;
    CLEANUP_FD int dir_fd = -1;
    struct digest name;
    int r = snapshot_key_digest(&name, key, err);

    if (r < 0)
        return r;
    dir_fd = snapshot_dir_open(store, &name, err);
    if (dir_fd < 0)
        return dir_fd;
    memcpy(a.key, key, sizeof(a.key));
    r = look(&a, dir_fd, err);
    if (r >= 0 && a.known) {
        if (snapshot_open_key(&s, store, key, true, &why) < 0)
            r = set_problem(&a, why.text, err);
        snapshot_unref(s);
    }
    if (r < 0) {
        snapshot_about_done(&a);
        return r;
    }
    *ret = a;
    return 0;
}

int snapshot_about_dir(struct snapshot_about *ret, struct oci_store *store, const char *dir, struct sm_error *err)
{
    CLEANUP_FD int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct snapshot_about a = {.known = false};
    struct sm_error why = SM_ERROR_INIT;
    struct snapshot *s = NULL;
    char shown[TEXT_SHOWN_SIZE];
    int r;

    if (dir_fd < 0)
        return sm_error_sys(err, errno, "cannot open the snapshot \"%s\"", text_shown(shown, dir));
    r = look(&a, dir_fd, err);
    if (r >= 0 && a.known)
        memcpy(a.key, a.meta.key, sizeof(a.key));
    if (r >= 0 && a.known) {
        if (snapshot_open_path(&s, store, dir, true, &why) < 0)
            r = set_problem(&a, why.text, err);
        snapshot_unref(s);
    }
    if (r < 0) {
        snapshot_about_done(&a);
        return r;
    }
    *ret = a;
    return 0;
}
