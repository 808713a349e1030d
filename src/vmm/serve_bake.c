/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control server: a bake is armed, fires, and is told (BAKE, the event BAKED). When it fires is machine/bake.c's. The
 * descriptors that came with BAKE are kept until then; a capture writes to them as a SAVE does.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "machine/bake.h"
#include "vmm/server_private.h"

struct serve_bake {
    struct server *server;
    uint32_t flags;
    struct machine_files files;
};

void serve_bake_done(struct server *s)
{
    struct serve_bake *b = STEAL_PTR(s->bake);

    if (!b)
        return;
    close_fd(&b->files.state);
    close_fd(&b->files.memory);
    close_fd(&b->files.diff);
    free(b);
}

static int on_capture(void *ctx, struct machine_saved *ret, struct sm_error *err)
{
    const struct serve_bake *b = ctx;
    unsigned how =
        (b->flags & CONTROL_BAKE_STOP ? MACHINE_SAVE_STAY : 0) | (b->flags & CONTROL_BAKE_DIFF ? MACHINE_SAVE_DIFF : 0);
    int r = machine_save(b->server->machine, &b->files, how, ret, err);

    if (r == 0 && b->flags & CONTROL_BAKE_STOP)
        b->server->state = SERVER_SAVED;
    return r;
}

static void on_ended(void *ctx, const struct bake_outcome *outcome)
{
    struct server *s = ((struct serve_bake *)ctx)->server;
    char text[BAKE_MAX_TEXT];
    struct control_report rep = {.type = CONTROL_BAKED,
                                 .baked = {.exit = (enum control_bake_exit)outcome->exit,
                                           .trigger = (enum control_trigger)outcome->trigger,
                                           .code = outcome->code,
                                           .text = text,
                                           .saved = server_saved(&outcome->saved)}};

    snprintf(text, sizeof(text), "%s", outcome->text);
    serve_bake_done(s); /* before it is told: the owner may ask for the next one at once */
    server_reply(s, &rep);
}

static struct serve_bake *bake_new(struct server *s, uint32_t flags, struct fds *fds)
{
    struct serve_bake *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    b->server = s;
    b->flags = flags;
    b->files = (struct machine_files){.state = -1, .memory = -1, .diff = -1, .base = -1, .prefetch = -1};
    if (flags & CONTROL_BAKE_POOL)
        return b;
    b->files.state = steal_fd(&fds->fd[0]);
    b->files.memory = steal_fd(&fds->fd[1]);
    if (flags & CONTROL_BAKE_DIFF)
        b->files.diff = steal_fd(&fds->fd[2]);
    return b;
}

int serve_bake(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err)
{
    const struct control_bake *c = &req->bake;
    struct bake_config config = {.triggers = {.heartbeat = c->heartbeat,
                                              .pre_exec = c->flags & CONTROL_BAKE_PRE_EXEC,
                                              .listener = c->flags & CONTROL_BAKE_LISTENER,
                                              .require_listener = c->flags & CONTROL_BAKE_REQUIRE_LISTENER,
                                              .after_ms = c->after_ms,
                                              .quiesce_ms = c->quiesce_ms,
                                              .save = !(c->flags & CONTROL_BAKE_POOL),
                                              .pool = c->flags & CONTROL_BAKE_POOL},
                                 .stay = c->flags & CONTROL_BAKE_STOP,
                                 .capture = on_capture,
                                 .ended = on_ended};

    if (s->state != SERVER_RUNNING)
        return server_wrong_time(err, "BAKE");
    if (s->bake)
        return sm_error_set(err, EBUSY, "the machine is being baked already");
    s->bake = bake_new(s, c->flags, fds);
    if (!s->bake)
        return sm_error_sys(err, ENOMEM, "no memory to bake a machine");
    config.ctx = s->bake;
    int r = machine_bake(s->machine, &config, err);
    if (r < 0)
        serve_bake_done(s);
    return r;
}
