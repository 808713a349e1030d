/* SPDX-License-Identifier: Apache-2.0 */
/* Control server: machines come from snapshots and go into them (RESTORE, SAVE, TOUCHED). */
#include <errno.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "vmm/server_private.h"

int serve_restore(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    if (s->state != SERVER_CONFIGURED || !(s->config.flags & CONTROL_CONFIG_RESTORE))
        return server_wrong_time(err, "RESTORE");
    if (req->restore.flags)
        return sm_error_set(err, ENOSYS, "this worker restores full snapshots only");
    s->start_ns = io_now_ns();
    s->state = SERVER_FAILED;
    int r = server_build_machine(s, err);
    if (r == 0)
        r = machine_restore(s->machine, fds->fd[0], fds->fd[1], req->restore.generation, err);
    /* Before the process is shut in, so that it has none of them then; the memory stays mapped. */
    for (unsigned i = 0; i < fds->n; i++)
        close_fd(&fds->fd[i]);
    return r < 0 ? r : server_go(s, err);
}

int serve_touched(struct server *s, struct fds *fds, struct sm_error *err)
{
    return sm_error_set(err, ENOSYS, "this worker makes no list of touched pages");
}

void serve_save(struct server *s, const struct control_request *req, struct fds *fds)
{
    bool stay = req->save_flags & CONTROL_SAVE_STOP;
    struct sm_error err = SM_ERROR_INIT;
    struct machine_saved saved = {0};
    int r = s->state == SERVER_RUNNING ? 0 : server_wrong_time(&err, "SAVE");

    if (r == 0 && req->save_flags & ~CONTROL_SAVE_STOP)
        r = sm_error_set(&err, ENOSYS, "this worker saves full snapshots only");
    if (r == 0)
        r = machine_save(s->machine, fds->fd[0], fds->fd[1], stay, &saved, &err);
    const struct control_report rep = {
        .type = CONTROL_SAVED,
        .id = req->id,
        .saved = {.pause_ns = saved.pause_ns, .data_pages = saved.data_pages, .zero_pages = saved.zero_pages}};

    if (r < 0) {
        server_reply_result(s, req->id, r, &err);
        return;
    }
    if (stay)
        s->state = SERVER_SAVED;
    server_reply(s, &rep);
}
