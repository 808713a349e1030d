/* SPDX-License-Identifier: Apache-2.0 */
/* The lock between removal and everybody else: see gc.h. */
#include "oci/gc.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "base/cleanup.h"
#include "oci/store_dirs.h"
#include "oci/text.h"

static int take(struct oci_store *s, int how, int timeout_ms, struct sm_error *err)
{
    char who[LOCK_WHO_SIZE], shown[TEXT_SHOWN_SIZE];
    CLEANUP_FD int fd = store_lock_file(s, "gc", err);
    int r;

    if (fd < 0)
        return fd;
    r = lock_take(fd, how, &(struct lock_wait){.timeout_ms = timeout_ms});
    if (r == -ETIMEDOUT)
        return sm_error_set(err, EBUSY, "%s works on the image store \"%s\": try again when it is done",
                            lock_who(who, fd), text_shown(shown, s->dir));
    return r < 0 ? store_fail(s, err, -r, "cannot lock") : steal_fd(&fd);
}

int gc_enter(struct oci_store *s, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    int fd = take(s, LOCK_SH, s->enter_ms, &why);

    /* A store that cannot be written and where nothing was ever removed: there is nobody to keep out. */
    if (fd == -EROFS || fd == -EACCES)
        fd = fcntl(s->locks_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0 && err)
        *err = why;
    return fd;
}

int gc_alone(struct oci_store *s, struct sm_error *err)
{
    return take(s, LOCK_EX, s->alone_ms, err);
}
