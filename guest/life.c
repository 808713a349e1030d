/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine's life: see life.h.
 *
 * A restore is heard of twice: the driver's notice comes by itself, the host's RENEW on a connection, in any order. Who
 * comes first renews; the generation tells that it is the same restore. Only RENEW has a host name and a signal, and
 * only a RENEW, any, ends the heartbeats: a base's guest is set up, and may have begun to beat, before the notice of
 * its own restore comes, which the driver gives when it has set the clock.
 */
#include "life.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "exec.h"
#include "kernel/lifecycle_abi.h"
#include "lifecycle_regs.h"
#include "listeners.h"

void ga_life_tell(struct ga_life *l, uint32_t kind, uint64_t arg)
{
    if (l->ops->event)
        l->ops->event(l->ctx, kind, arg);
}

/* ---- Restores ---- */

static void renew(struct ga_life *l, const uint8_t generation[AGENT_GENERATION_SIZE])
{
    if (ga_identity_renew(&l->id, generation))
        l->signalled = false;
}

void ga_life_catch_up(struct ga_life *l)
{
    struct sm_lc_notice n;
    ssize_t got;

    while (l->notices.fd >= 0 && (got = read(l->notices.fd, &n, sizeof(n))) >= 0) {
        if (got != (ssize_t)sizeof(n))
            ga_source_close(l->loop, &l->notices); /* no driver that we know */
        else if (n.bits & SM_LC_INT_RESTORED)
            renew(l, n.generation);
    }
}

static void on_notice(struct ga_source *src, uint32_t events)
{
    ga_life_catch_up(src->ctx);
}

int ga_life_watch(struct ga_life *l, int fd)
{
    ga_source_close(l->loop, &l->notices);
    l->notices.fd = fd;
    return ga_source_want(l->loop, &l->notices, EPOLLIN);
}

int ga_life_renew(struct ga_life *l, const uint8_t *data, size_t len, int *ret_signal, struct ga_error *err)
{
    struct ga_reader r = {.p = data, .left = len};
    char hostname[AGENT_MAX_HOSTNAME + 1];
    uint8_t generation[AGENT_GENERATION_SIZE];
    size_t n = 0;

    for (unsigned i = 0; i < sizeof(generation); i += 4)
        ga_put_u32(generation + i, ga_read_u32(&r));
    const char *name = ga_read_str(&r, AGENT_MAX_HOSTNAME, &n);
    uint32_t signo = ga_read_u32(&r);
    if (r.bad || r.left || signo > GA_MAX_SIGNAL)
        return ga_error_set(err, EPROTO, "malformed RENEW frame of %zu bytes", len);
    memcpy(hostname, name, n);
    hostname[n] = '\0';

    renew(l, generation);
    ga_source_close(l->loop, &l->heartbeat); /* also when it is the machine that was baked, and goes on */
    if (n && l->id.root >= 0 && strcmp(hostname, l->id.hostname) != 0) {
        int e = l->ops->set_hostname ? l->ops->set_hostname(l->ctx, hostname) : 0;

        if (e < 0)
            return ga_error_sys(err, -e, "setting the host name '%s'", hostname);
        ga_identity_rename(&l->id, hostname);
    }
    *ret_signal = l->signalled ? 0 : (int)signo;
    l->signalled = true;
    return 0;
}

/* ---- What the host hears ---- */

static void on_heartbeat(struct ga_source *src, uint32_t events)
{
    struct ga_life *l = src->ctx;
    uint64_t times;

    /* A beat that was missed is not made up for. */
    if (read(src->fd, &times, sizeof(times)) == (ssize_t)sizeof(times))
        ga_life_tell(l, SM_LC_EV_HEARTBEAT, ++l->beats);
}

static void start_heartbeat(struct ga_life *l)
{
    const struct timespec every = {.tv_nsec = AGENT_HEARTBEAT_MS * 1000000l};
    int r;

    l->heartbeat.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    r = l->heartbeat.fd < 0 || timerfd_settime(l->heartbeat.fd, 0, &(struct itimerspec){every, every}, NULL) < 0
            ? -errno
            : 0;
    if (r == 0)
        r = ga_source_want(l->loop, &l->heartbeat, EPOLLIN);
    if (r < 0)
        fprintf(stderr, "supermachine agent: no heartbeats: %s\n", strerror(-r));
}

static void on_port(void *ctx, uint16_t port)
{
    ga_life_tell(ctx, SM_LC_EV_LISTENER, port);
}

void ga_life_setup(struct ga_life *l, const struct ga_setup *setup, int root, int cgroup)
{
    struct ga_error err = {0};

    ga_identity_setup(&l->id, root, setup);
    if (setup->flags & AGENT_SETUP_HEARTBEAT)
        start_heartbeat(l);
    if ((setup->flags & AGENT_SETUP_LISTENERS) && cgroup >= 0 &&
        ga_listeners_new(l->loop, cgroup, on_port, l, &l->listeners, &err) < 0)
        fprintf(stderr, "supermachine agent: the host will hear of no listening ports: %s\n", err.text);
}

void ga_life_init(struct ga_life *l, struct ga_loop *loop, const struct ga_server_ops *ops, void *ctx)
{
    *l = (struct ga_life){.loop = loop, .ops = ops, .ctx = ctx, .id = GA_IDENTITY_INIT};
    ga_source_init(&l->notices, -1, on_notice, l);
    ga_source_init(&l->heartbeat, -1, on_heartbeat, l);
}

void ga_life_done(struct ga_life *l)
{
    ga_listeners_free(l->listeners);
    ga_source_close(l->loop, &l->heartbeat);
    ga_source_close(l->loop, &l->notices);
    ga_identity_done(&l->id);
}
