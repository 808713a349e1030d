/* SPDX-License-Identifier: Apache-2.0 */
/* Frames between processes about a named machine: see remote_wire.h. */
#include "lib/remote_wire.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

#define REMOTE_MAGIC     0x6d724d53u /* "SMrm" */
#define REMOTE_MAX_ERRNO 4095        /* what Linux ever returns */

static void head(struct buf *out, enum remote_type type)
{
    buf_u32(out, REMOTE_MAGIC);
    buf_u16(out, REMOTE_VERSION);
    buf_u16(out, (uint16_t)type);
}

static int check_head(struct reader *in, uint16_t *ret_type, struct sm_error *err)
{
    uint32_t magic = reader_u32(in);
    uint16_t version = reader_u16(in);

    *ret_type = reader_u16(in);
    if (in->bad || magic != REMOTE_MAGIC)
        return sm_error_set(err, EPROTO, "what came over a machine's socket is not supermachine's");
    if (version != REMOTE_VERSION)
        return sm_error_set(err, EPROTO,
                            "two versions of supermachine don't understand each other: one speaks version %u over a "
                            "machine's socket, the other version %d; use the one that the machine was started with",
                            version, REMOTE_VERSION);
    return 0;
}

static bool path_ok(const char *path)
{
    return path && (path[0] == '/' || !path[0]) && strlen(path) < PATH_MAX;
}

static bool key_ok(const char *key)
{
    return key && strspn(key, "0123456789abcdef") == strlen(key) &&
           (!key[0] || strlen(key) == SM_SNAPSHOT_KEY_SIZE - 1);
}

static bool error_ok(int code, const char *text)
{
    return code > 0 && code <= REMOTE_MAX_ERRNO && text && text[0] && strlen(text) < SM_ERROR_TEXT_MAX;
}

int remote_request_encode(const struct remote_request *req, struct buf *out, struct sm_error *err)
{
    if ((req->flags & ~REMOTE_SAVE_ALL_FLAGS) || !path_ok(req->path))
        return sm_error_set(err, EINVAL, "the path for a snapshot must be absolute and shorter than %d bytes",
                            PATH_MAX);
    head(out, REMOTE_SAVE);
    buf_u32(out, req->flags);
    buf_str(out, req->path);
    return out->bad ? sm_error_set(err, ENOMEM, "out of memory") : 0;
}

int remote_request_decode(const void *data, size_t len, struct remote_request *ret, struct sm_error *err)
{
    struct reader in = reader_init(data, len);
    struct remote_request req = {0};
    uint16_t type;
    int r = check_head(&in, &type, err);

    if (r < 0)
        return r;
    if (type != REMOTE_SAVE)
        return sm_error_set(err, EPROTO, "a machine was asked for something that it does not know (request %u)", type);
    req.flags = reader_u32(&in);
    req.path = reader_str(&in, PATH_MAX - 1);
    if (in.bad || in.left || (req.flags & ~REMOTE_SAVE_ALL_FLAGS) || !path_ok(req.path)) {
        remote_request_done(&req);
        return sm_error_set(err, EPROTO, "a request for a snapshot of a machine is malformed");
    }
    *ret = req;
    return 0;
}

void remote_request_done(struct remote_request *req)
{
    free(req->path);
    *req = (struct remote_request){0};
}

int remote_reply_encode(const struct remote_reply *rep, struct buf *out, struct sm_error *err)
{
    if (rep->type == REMOTE_ERROR ? !error_ok(rep->code, rep->text) : !key_ok(rep->saved.key))
        return sm_error_set(err, EINVAL, "an answer about a machine holds what cannot be sent");
    head(out, rep->type);
    if (rep->type == REMOTE_ERROR) {
        buf_u32(out, (uint32_t)rep->code);
        buf_str(out, rep->text);
    } else {
        buf_u64(out, rep->saved.pause_ns);
        buf_u64(out, rep->saved.data_bytes);
        buf_str(out, rep->saved.key);
    }
    return out->bad ? sm_error_set(err, ENOMEM, "out of memory") : 0;
}

int remote_reply_decode(const void *data, size_t len, struct remote_reply *ret, struct sm_error *err)
{
    struct reader in = reader_init(data, len);
    struct remote_reply rep = {0};
    uint16_t type;
    int r = check_head(&in, &type, err);

    if (r < 0)
        return r;
    rep.type = type;
    if (type == REMOTE_ERROR) {
        uint32_t code = reader_u32(&in);

        rep.code = code <= REMOTE_MAX_ERRNO ? (int)code : 0;
        rep.text = reader_str(&in, SM_ERROR_TEXT_MAX - 1);
        in.bad = in.bad || !error_ok(rep.code, rep.text);
    } else if (type == REMOTE_SAVED) {
        CLEANUP_FREE char *key = NULL;

        rep.saved.pause_ns = reader_u64(&in);
        rep.saved.data_bytes = reader_u64(&in);
        key = reader_str(&in, SM_SNAPSHOT_KEY_SIZE - 1);
        in.bad = in.bad || !key_ok(key);
        if (!in.bad)
            snprintf(rep.saved.key, sizeof(rep.saved.key), "%s", key);
    } else {
        in.bad = true;
    }
    if (in.bad || in.left) {
        remote_reply_done(&rep);
        return sm_error_set(err, EPROTO, "the answer that came over a machine's socket is malformed");
    }
    *ret = rep;
    return 0;
}

void remote_reply_done(struct remote_reply *rep)
{
    free(rep->text);
    *rep = (struct remote_reply){0};
}
