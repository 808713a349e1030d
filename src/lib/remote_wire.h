/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is said between a process that runs a named machine and another process of the same user that wants something of
 * it. One packet each way, on a SOCK_SEQPACKET socket: magic "SMrm", version 2, type 2, then the type's fields.
 */
#ifndef SM_LIB_REMOTE_WIRE_H
#define SM_LIB_REMOTE_WIRE_H

#include "base/buf.h"
#include "base/error.h"

#define REMOTE_VERSION   1
#define REMOTE_MAX_FRAME 8192 /* bytes; receive into a buffer of this size */

enum remote_type {
    REMOTE_SAVE = 1,     /* request: u32 flags, str path */
    REMOTE_SAVED = 0x81, /* reply: u64 pause_ns, u64 data_bytes, str key */
    REMOTE_ERROR = 0x82, /* reply: u32 errno, str sentence */
};

#define REMOTE_SAVE_ALL_FLAGS (SM_SAVE_STOP | SM_SAVE_DIFF | SM_SAVE_LIVE)

struct remote_request {
    uint32_t flags; /* SM_SAVE_* */
    char *path;     /* where the snapshot's directory shall be: absolute, shorter than PATH_MAX; "": in the store */
};

struct remote_saved {
    uint64_t pause_ns, data_bytes;
    char key[SM_SNAPSHOT_KEY_SIZE]; /* 64 hex digits, or "" */
};

struct remote_reply {
    enum remote_type type;     /* REMOTE_SAVED or REMOTE_ERROR */
    struct remote_saved saved; /* of SAVED */
    int code;                  /* of ERROR: a positive errno */
    char *text;                /* of ERROR */
};

/* To encode, strings are the caller's. 0, or -EINVAL when a value is out of its bounds. */
int remote_request_encode(const struct remote_request *req, struct buf *out, struct sm_error *err);
int remote_reply_encode(const struct remote_reply *rep, struct buf *out, struct sm_error *err);

/* One packet, from anybody. 0 and the frame, whose strings the done functions free; or -EPROTO and a sentence. */
int remote_request_decode(const void *data, size_t len, struct remote_request *ret, struct sm_error *err);
int remote_reply_decode(const void *data, size_t len, struct remote_reply *ret, struct sm_error *err);
void remote_request_done(struct remote_request *req);
void remote_reply_done(struct remote_reply *rep);

#endif
