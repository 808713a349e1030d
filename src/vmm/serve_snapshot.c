/* SPDX-License-Identifier: Apache-2.0 */
/* Control server: machines come from snapshots and go into them (RESTORE, SAVE, TOUCHED). */
#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "vmm/server_private.h"

/* A frame's descriptors in their order (proto/control.h). */
static struct machine_files restore_files(uint32_t flags, const struct fds *fds)
{
    struct machine_files files = {.state = fds->fd[0], .memory = fds->fd[1], .diff = -1, .base = -1, .prefetch = -1};
    unsigned next = 2;

    if (flags & CONTROL_RESTORE_DIFF) {
        files.base = fds->fd[next++];
        files.diff = fds->fd[next++];
    }
    if (flags & CONTROL_RESTORE_PREFETCH)
        files.prefetch = fds->fd[next];
    return files;
}

int serve_restore(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    const struct machine_files files = restore_files(req->restore.flags, fds);

    if (s->state != SERVER_CONFIGURED || !(s->config.flags & CONTROL_CONFIG_RESTORE))
        return server_wrong_time(err, "RESTORE");
    s->start_ns = io_now_ns();
    s->state = SERVER_FAILED;
    int r = s->machine ? 0 : server_build_machine(s, err); /* it may have been prepared */
    if (r == 0)
        r = machine_restore(s->machine, &files, req->restore.generation, err);
    return r < 0 ? r : server_go(s, err);
}

int serve_touched(struct server *s, struct fds *fds, struct sm_error *err)
{
    return s->state == SERVER_RUNNING ? machine_touched(s->machine, fds->fd[0], err)
                                      : server_wrong_time(err, "TOUCHED");
}

struct control_saved server_saved(const struct machine_saved *saved)
{
    return (struct control_saved){.total_ns = saved->total_ns,
                                  .pause_ns = saved->pause_ns,
                                  .data_pages = saved->data_pages,
                                  .zero_pages = saved->zero_pages,
                                  .live_pages = saved->live_pages,
                                  .devices = saved->devices,
                                  .listeners = saved->listeners};
}

/* A save that is under way, with what it has taken of the request. */
struct save {
    struct server *server;
    uint32_t id;
    bool stay;
    struct machine_files files;
};

static void save_free(struct save *save)
{
    if (!save)
        return;
    close_fd(&save->files.state);
    close_fd(&save->files.memory);
    close_fd(&save->files.diff);
    free(save);
}

static void on_saved(void *ctx, int r, const struct machine_saved *saved, struct sm_error *err)
{
    struct save *save = ctx;
    struct server *s = save->server;

    if (r < 0) {
        server_reply_result(s, save->id, r, err);
    } else {
        if (save->stay)
            s->state = SERVER_SAVED;
        server_reply(s, &(struct control_report){.type = CONTROL_SAVED, .id = save->id, .saved = server_saved(saved)});
    }
    save_free(save);
}

static int start_save(struct save *save, uint32_t flags, struct sm_error *err)
{
    unsigned how = (save->stay ? MACHINE_SAVE_STAY : 0) | (flags & CONTROL_SAVE_DIFF ? MACHINE_SAVE_DIFF : 0);
    struct machine *m = save->server->machine;
    struct machine_saved saved;

    if (flags & CONTROL_SAVE_LIVE)
        return machine_save_live(m, &save->files, how, on_saved, save, err);
    int r = machine_save(m, &save->files, how, &saved, err);
    if (r == 0)
        on_saved(save, 0, &saved, err);
    return r;
}

void serve_save(struct server *s, const struct control_request *req, struct fds *fds)
{
    struct sm_error err = SM_ERROR_INIT;
    struct save *save = calloc(1, sizeof(*save));
    int r = save ? 0 : sm_error_sys(&err, ENOMEM, "no memory to save a machine");

    if (r == 0 && s->state != SERVER_RUNNING)
        r = server_wrong_time(&err, "SAVE");
    if (save)
        *save = (struct save){.server = s,
                              .id = req->id,
                              .stay = req->save_flags & CONTROL_SAVE_STOP,
                              .files = {.state = steal_fd(&fds->fd[0]),
                                        .memory = steal_fd(&fds->fd[1]),
                                        .diff = fds->n > 2 ? steal_fd(&fds->fd[2]) : -1,
                                        .base = -1,
                                        .prefetch = -1}};
    if (r == 0)
        r = start_save(save, req->save_flags, &err);
    if (r < 0) {
        server_reply_result(s, req->id, r, &err);
        save_free(save);
    }
}
