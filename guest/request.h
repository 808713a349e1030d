/* SPDX-License-Identifier: Apache-2.0 */
/* The two large requests, SETUP and EXEC, decoded and checked against the limits of proto.h. */
#ifndef GUEST_REQUEST_H
#define GUEST_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire.h"

struct ga_setup {
    char *hostname, *root_device, *root_fstype, *resolv_conf, *hosts;
    uint64_t overlay_bytes;
    uint32_t flags;
    char *arena; /* holds the strings */
};

struct ga_rlimit {
    uint32_t resource;
    uint64_t soft, hard;
};

struct ga_exec_req {
    uint32_t flags;
    uint64_t timeout_ms;
    uint16_t rows, cols;
    char **argv; /* NULL-terminated */
    char **env;  /* NULL-terminated, with GA_ENV_ROOM free places behind the end */
    size_t n_env;
    char *cwd, *user;
    struct ga_rlimit rlimits[AGENT_MAX_RLIMITS];
    size_t n_rlimits;
    char *arena;
};

/* Variables that the agent adds: PATH, HOME, HOSTNAME, TERM. */
#define GA_ENV_ROOM 4

/* 0, or -errno with a sentence; then nothing is left allocated. The payload is not needed afterwards. */
int ga_setup_decode(const uint8_t *data, size_t len, struct ga_setup *ret, struct ga_error *err);
void ga_setup_done(struct ga_setup *s);
int ga_exec_decode(const uint8_t *data, size_t len, struct ga_exec_req *ret, struct ga_error *err);
void ga_exec_req_done(struct ga_exec_req *q);

#endif
