/* SPDX-License-Identifier: Apache-2.0 */
/* The library's side of the agent protocol against a hostile guest: whatever it sends, and whatever the caller does. */
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/agent.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What the caller does, by the bits of the input's first byte. */
#define DO_SETUP  1u
#define DO_EXEC   2u
#define DO_HOLD   4u /* is not done with output */
#define DO_FREE   8u /* frees the agent inside a callback */
#define DO_STDIN  16u
#define DO_PUT    32u
#define DO_RENEW  64u /* and pre-exec */
#define DO_ATTACH 128u

#define MAX_EXECS 3u

static const char *const argv[] = {"true", NULL};

struct caller {
    struct agent *a;
    uint8_t how;
    unsigned finals, calls;
    unsigned execs, ends; /* started, and their ends */
    size_t held[2];
};

static void called(struct caller *c)
{
    c->calls++;
    if ((c->how & DO_FREE) && c->calls == 2) {
        agent_free(c->a);
        c->a = NULL;
    }
}

static void final(struct caller *c)
{
    if (++c->finals > 1)
        abort();
    called(c);
}

/* An exec has ended: the connection is good for another. */
static void ended(struct caller *c)
{
    struct agent_exec x = {.argv = argv, .open_stdin = c->how & DO_STDIN};

    if (++c->ends > c->execs || c->finals)
        abort();
    c->held[0] = c->held[1] = 0;
    if ((c->how & DO_EXEC) && c->execs < MAX_EXECS && agent_exec(c->a, &x, NULL) == 0)
        c->execs++;
    called(c);
}

static void on_done(struct agent *a, void *ctx)
{
    called(ctx);
}

static void on_started(struct agent *a, void *ctx, uint32_t pid)
{
    called(ctx);
}

static void on_output(struct agent *a, void *ctx, enum agent_stream stream, const void *data, size_t len)
{
    struct caller *c = ctx;
    size_t *held = &c->held[stream == AGENT_STREAM_STDERR];

    if (len == 0 || len > AGENT_DATA_MAX)
        abort();
    if (c->how & DO_HOLD) {
        *held += len;
        if (*held > AGENT_WINDOW)
            abort();
    } else {
        agent_output_done(a, stream, len);
    }
    called(c);
}

static void on_stdin_room(struct agent *a, void *ctx)
{
    static const uint8_t zeros[1000];

    agent_stdin(a, zeros, sizeof(zeros));
    called(ctx);
}

static void on_exit_(struct agent *a, void *ctx, const struct agent_exit *end)
{
    if (end->status < 0 || end->status > 255 || (end->signal && end->status != 128 + end->signal))
        abort();
    ended(ctx);
}

static void on_start_error(struct agent *a, void *ctx, int exit_code, const struct sm_error *err)
{
    if (exit_code < 125 || exit_code > 127 || !err->text[0] || err->code <= 0)
        abort();
    ended(ctx);
}

static void on_error(struct agent *a, void *ctx, const struct sm_error *err)
{
    for (const char *p = err->text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            abort();
    if (!err->text[0] || err->code <= 0)
        abort();
    final(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct agent_ops ops = {on_done,  on_started,     on_output, on_stdin_room,
                                         on_exit_, on_start_error, on_error};
    static const uint8_t zeros[AGENT_WINDOW + 1];
    struct agent_setup setup = {.root_device = "/dev/vda", .root_fstype = "erofs"};
    struct caller c = {.how = size ? data[0] : 0};
    struct agent_exec x = {.argv = argv, .open_stdin = c.how & DO_STDIN};
    struct loop *loop;
    int sv[2];

    if (size < 1)
        return 0;
    if (loop_new(&loop) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0 ||
        agent_new(loop, sv[0], &ops, &c, &c.a, NULL) < 0)
        abort();
    if (c.how & DO_SETUP)
        agent_setup(c.a, &setup, NULL);
    if (c.how & DO_RENEW) {
        agent_renew(c.a, zeros, "clone", 1, NULL);
        agent_pre_exec(c.a, NULL);
    }
    if (c.how & DO_PUT)
        agent_put(c.a, "/file", 0644, 0, 0, zeros, sizeof(zeros), NULL);
    if (c.how & DO_ATTACH && agent_attach(c.a, NULL) == 0)
        c.execs++;
    if (c.how & DO_EXEC && agent_exec(c.a, &x, NULL) == 0) {
        c.execs++;
        if (c.how & DO_STDIN)
            agent_stdin(c.a, zeros, sizeof(zeros));
    }
    if (write(sv[1], data + 1, size - 1) < 0)
        abort();
    shutdown(sv[1], SHUT_WR);
    /* What was written ends in a final callback, since the stream ends; a few rounds must be enough. */
    for (unsigned i = 0; i < 1000 && !c.finals && c.a; i++)
        loop_once(loop, 0);
    if (!c.finals && c.a)
        abort();
    agent_free(c.a);
    close(sv[1]);
    loop_free(loop);
    return 0;
}
