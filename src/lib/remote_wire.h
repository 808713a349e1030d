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
    REMOTE_SAVED = 0x81, /* reply: the fields of struct remote_saved, in their order */
    REMOTE_ERROR = 0x82, /* reply: u32 errno, str sentence */
};

#define REMOTE_SAVE_STOP      (1u << 0) /* the machine does not run on */
#define REMOTE_SAVE_DIFF      (1u << 1) /* against what it was restored from, or that one's base */
#define REMOTE_SAVE_ALL_FLAGS 3u

struct remote_request {
    uint32_t flags; /* REMOTE_SAVE_* */
    char *path;     /* where the snapshot's directory shall be: absolute, shorter than PATH_MAX */
};

struct remote_saved {
    uint64_t total_ns, pause_ns;
    uint64_t memory_bytes, data_bytes, zero_bytes, live_bytes;
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
