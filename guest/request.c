/* SPDX-License-Identifier: Apache-2.0 */
/* Decoders of SETUP and EXEC: see request.h. */
#include "request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * Strings are copied out of the payload into one block. A str takes 4 bytes more than its text there and 1 more here,
 * so a block of the payload's size (and one byte, for an empty payload) always holds them all.
 */
struct arena {
    char *p;
};

static char *read_str(struct ga_reader *r, struct arena *a, size_t max)
{
    size_t len = 0;
    const char *s = ga_read_str(r, max, &len);
    char *copy = a->p;

    if (!s)
        return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    a->p += len + 1;
    return copy;
}

int ga_setup_decode(const uint8_t *data, size_t len, struct ga_setup *ret, struct ga_error *err)
{
    struct ga_reader r = {.p = data, .left = len};
    struct ga_setup s = {.arena = malloc(len + 1)};
    struct arena a = {.p = s.arena};

    if (!s.arena)
        return ga_error_set(err, ENOMEM, "no memory for a request of %zu bytes", len);
    s.hostname = read_str(&r, &a, AGENT_MAX_HOSTNAME);
    s.root_device = read_str(&r, &a, AGENT_MAX_PATH);
    s.root_fstype = read_str(&r, &a, AGENT_MAX_HOSTNAME);
    s.overlay_bytes = ga_read_u64(&r);
    s.flags = ga_read_u32(&r);
    s.resolv_conf = read_str(&r, &a, AGENT_MAX_FILE);
    s.hosts = read_str(&r, &a, AGENT_MAX_FILE);
    if (r.bad || r.left || (s.flags & ~AGENT_SETUP_FLAGS)) {
        ga_setup_done(&s);
        return ga_error_set(err, EPROTO, "malformed SETUP frame of %zu bytes", len);
    }
    *ret = s;
    return 0;
}

void ga_setup_done(struct ga_setup *s)
{
    free(s->arena);
    *s = (struct ga_setup){0};
}

/* A list of strings as a NULL-terminated vector with `room` more places. NULL: no memory, or bad. */
static char **read_list(struct ga_reader *r, struct arena *a, size_t room, size_t *ret_n)
{
    uint32_t n = ga_read_u32(r);

    /* Each entry takes 4 bytes at least: a count that cannot be true allocates nothing. */
    if (r->bad || n > AGENT_MAX_ARGS || n > r->left / 4) {
        r->bad = true;
        return NULL;
    }
    char **v = calloc(n + 1 + room, sizeof(*v));

    for (uint32_t i = 0; v && i < n && !r->bad; i++)
        v[i] = read_str(r, a, AGENT_MAX_ARG);
    *ret_n = n;
    return v;
}

int ga_exec_decode(const uint8_t *data, size_t len, struct ga_exec_req *ret, struct ga_error *err)
{
    struct ga_reader r = {.p = data, .left = len};
    struct ga_exec_req q = {.arena = malloc(len + 1)};
    struct arena a = {.p = q.arena};
    size_t n_argv = 0;

    if (!q.arena)
        return ga_error_set(err, ENOMEM, "no memory for a request of %zu bytes", len);
    q.flags = ga_read_u32(&r);
    q.timeout_ms = ga_read_u64(&r);
    q.rows = ga_read_u16(&r);
    q.cols = ga_read_u16(&r);
    q.argv = read_list(&r, &a, 0, &n_argv);
    q.env = r.bad ? NULL : read_list(&r, &a, GA_ENV_ROOM, &q.n_env);
    if (!r.bad && (!q.argv || !q.env)) {
        ga_exec_req_done(&q);
        return ga_error_set(err, ENOMEM, "no memory for a request of %zu bytes", len);
    }
    q.cwd = read_str(&r, &a, AGENT_MAX_PATH);
    q.user = read_str(&r, &a, AGENT_MAX_USER);
    uint32_t n = ga_read_u32(&r);
    for (uint32_t i = 0; i < n && n <= AGENT_MAX_RLIMITS; i++, q.n_rlimits++) {
        q.rlimits[i].resource = ga_read_u32(&r);
        q.rlimits[i].soft = ga_read_u64(&r);
        q.rlimits[i].hard = ga_read_u64(&r);
    }
    if (r.bad || r.left || n > AGENT_MAX_RLIMITS || n_argv == 0 || (q.flags & ~AGENT_EXEC_FLAGS) ||
        (q.flags & (AGENT_EXEC_DETACHED | AGENT_EXEC_WORKLOAD)) == AGENT_EXEC_DETACHED ||
        q.timeout_ms > AGENT_MAX_TIMEOUT_MS) {
        ga_exec_req_done(&q);
        return ga_error_set(err, EPROTO, "malformed EXEC frame of %zu bytes", len);
    }
    *ret = q;
    return 0;
}

void ga_exec_req_done(struct ga_exec_req *q)
{
    free(q->argv);
    free(q->env);
    free(q->arena);
    *q = (struct ga_exec_req){0};
}
