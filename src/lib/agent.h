/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Host client of the agent protocol (guest/proto.h, docs/guest-protocol.md): one struct agent per connection.
 *
 * It lives on a loop and never blocks. A caller makes one from a connected stream descriptor, sends requests at once
 * (nothing needs to be awaited first) and is called back:
 *
 *     agent_new(loop, fd, &ops, ctx, &a, err);
 *     agent_setup(a, &setup, err);    -> ops.on_done when the guest is set up
 *     agent_exec(a, &spec, err);      -> on_started, on_output..., on_exit    or    on_start_error
 *
 * Requests share a connection, and execs may follow one another on it; those that run at the same time have one each.
 * on_exit and on_start_error end an exec: one of them is called, once, and nothing more for that exec. on_error is
 * final: nothing is called after it. Then, or at any time before, the caller calls agent_free(), which closes the
 * connection (the guest then kills an exec that still runs). agent_free() may be called from inside any callback.
 *
 * The guest is hostile: whatever it sends, memory stays bounded (AGENT_WINDOW of stdin, one frame, what was asked) and
 * a frame that breaks the protocol ends the connection with on_error.
 */
#ifndef SM_LIB_AGENT_H
#define SM_LIB_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/loop.h"
#include "proto.h"

struct agent;

struct agent_setup {
    const char *hostname;    /* NULL: "supermachine" */
    const char *root_device; /* "/dev/vda" */
    const char *root_fstype; /* "erofs" */
    uint64_t overlay_bytes;  /* size of the writable tmpfs layer; 0: half of the guest's memory */
    bool read_only;          /* the root cannot be written to */
    bool heartbeat;          /* heartbeat events, until the machine is renewed */
    bool listeners;          /* listener events for the TCP ports that execs listen on */
    const char *resolv_conf; /* text of /etc/resolv.conf where the image has none; NULL: do not make one */
    const char *hosts;       /* more lines for an /etc/hosts that the agent makes; NULL: none */
};

struct agent_rlimit {
    uint32_t resource; /* RLIMIT_* */
    uint64_t soft, hard;
};

/* What to start. The agent adds PATH, HOME, HOSTNAME and (with tty) TERM when `env` has none. */
struct agent_exec {
    const char *const *argv; /* NULL-terminated, at least one */
    const char *const *env;  /* NULL-terminated "NAME=value"; NULL: none */
    const char *cwd;         /* NULL: "/" */
    const char *user;        /* "user", "uid", "user:group"...; NULL: root */
    bool tty;
    bool open_stdin; /* false: stdin is /dev/null */
    bool workload;
    bool detached;   /* with workload: losing the connection does not end it, agent_attach() finds it again */
    bool late_start; /* on_started may come as late as the first output or the end: saves a message */
    bool create_cwd;
    bool no_new_privs;
    uint16_t rows, cols; /* of the terminal; 0: 24 x 80 */
    uint64_t timeout_ms; /* 0: none. The guest kills everything the exec started; see agent_exit.timed_out */
    const struct agent_rlimit *rlimits;
    size_t n_rlimits;
};

struct agent_exit {
    int status; /* 0..255; when killed by a signal: 128 + signal, as shells say */
    int signal; /* fatal signal, 0: none */
    bool timed_out, core_dumped;
    uint64_t duration_ns;
    uint64_t peak_rss_kib;
};

/* Any may be NULL. `ctx` is what agent_new() was given. */
struct agent_ops {
    /* A control request (setup, sync, ping, power, pre_exec, renew, put) was done; in the order they were sent. */
    void (*on_done)(struct agent *a, void *ctx);

    void (*on_started)(struct agent *a, void *ctx, uint32_t pid);

    /*
     * Output, 1 to AGENT_DATA_MAX bytes, valid during the call. The callee must say agent_output_done() for these
     * bytes, now or later; at most AGENT_WINDOW bytes of each stream are given before that. When this is NULL, output
     * is dropped.
     */
    void (*on_output)(struct agent *a, void *ctx, enum agent_stream stream, const void *data, size_t len);

    /* agent_stdin() took less than it was offered; now there is room again. */
    void (*on_stdin_room)(struct agent *a, void *ctx);

    /* The exec has ended. All output has been given before; agent_output_done() for it is of no use any more. */
    void (*on_exit)(struct agent *a, void *ctx, const struct agent_exit *end);

    /* The exec has ended. Nothing was started; `exit_code` (125, 126, 127) is what a command line shall exit with. */
    void (*on_start_error)(struct agent *a, void *ctx, int exit_code, const struct sm_error *err);

    /* Final. The guest refused a request, broke the protocol, or the connection was lost. */
    void (*on_error)(struct agent *a, void *ctx, const struct sm_error *err);
};

/*
 * Takes `fd` (a connected stream socket; made non-blocking) in any case. `ops` must outlive the agent.
 * 0 or -errno with a sentence.
 */
int agent_new(struct loop *loop, int fd, const struct agent_ops *ops, void *ctx, struct agent **ret_agent,
              struct sm_error *err);

/* Takes NULL. Closes the connection; no callback runs any more. */
void agent_free(struct agent *a);

/* Nothing is under way, and the connection can be used for more. */
bool agent_idle(const struct agent *a);

/* Requests: everything is copied. -EINVAL, -E2BIG: a value is over its limit in proto.h; -EPIPE: the agent has ended.
 */
int agent_setup(struct agent *a, const struct agent_setup *setup, struct sm_error *err);
int agent_sync(struct agent *a, struct sm_error *err);
int agent_ping(struct agent *a, struct sm_error *err);
int agent_power(struct agent *a, uint32_t how, struct sm_error *err);                 /* AGENT_POWER_* */
int agent_exec(struct agent *a, const struct agent_exec *spec, struct sm_error *err); /* one at a time */

/* Everything is set up: after its OK the guest rings SM_LC_EV_PRE_EXEC and waits. */
int agent_pre_exec(struct agent *a, struct sm_error *err);

/*
 * The machine is a restored one: `generation` is what RESTORE was given. `hostname` NULL: it stays. `signo` (0: none)
 * goes to the main process of every exec that runs. The same generation twice renews and signals once.
 */
int agent_renew(struct agent *a, const uint8_t generation[AGENT_GENERATION_SIZE], const char *hostname, int signo,
                struct sm_error *err);

/*
 * A file in the image's root, after setup; directories that lead there are made. `data` stays the caller's and must
 * live until on_done or a final callback; no other request is taken until then (-EBUSY).
 */
int agent_put(struct agent *a, const char *path, uint32_t mode, uint32_t uid, uint32_t gid, const void *data,
              size_t len, struct sm_error *err);

/*
 * Instead of agent_exec(): this connection becomes the detached workload's, with the same callbacks. on_error with
 * ENOENT: there is none, with EBUSY: another connection has it.
 */
int agent_attach(struct agent *a, struct sm_error *err);

/*
 * Offer stdin. Returns how many bytes were taken, at most `len`; when fewer, on_stdin_room follows. After the end, and
 * without open_stdin, all bytes are taken and dropped.
 */
size_t agent_stdin(struct agent *a, const void *data, size_t len);
void agent_stdin_eof(struct agent *a);

/* `len` more bytes of `stream` (stdout or stderr) have been disposed of. */
void agent_output_done(struct agent *a, enum agent_stream stream, size_t len);

void agent_resize(struct agent *a, uint16_t rows, uint16_t cols);
void agent_signal(struct agent *a, int signo, uint32_t target); /* AGENT_TARGET_* */

#endif
