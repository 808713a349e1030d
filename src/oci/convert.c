/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pump that converts layers.
 *
 * Theory of operation
 *
 * What: each layer has two confined processes, and this thread between them:
 *
 *   blob --(hash: blob digest)--> [decompress] --(hash: diff id)--> [tar -> data, index]
 *
 * An uncompressed layer has no first process. Hashing is done here because a process that was taken over by what it
 * parses must not be able to file its output under another layer's name: the diff id that was computed here is of the
 * bytes that the second process was given. Several layers run at once; one poll loop serves them all.
 *
 * Invariants, per layer: `to_first`, `to_second` hold what was hashed and not yet sent. A stream is read only when what
 * was read before has been sent on, so memory is two buffers a layer and a slow stage slows the ones before it.
 *
 * A blob may still be on its way: the hooks then say how much of its file may be read, and wait for more together with
 * this side's descriptors. The file is hashed from its first byte on, also what an earlier, interrupted fetch left in
 * it: nothing on disk is trusted. When the file begins anew, so does the layer: new processes, empty outputs.
 *
 * Errors: a stage that fails closes its input. The blob is then still hashed to its end, because "digest mismatch" is
 * the better sentence for what a decompressor can only call corrupt. Sockets instead of pipes: a closed one must give
 * EPIPE here, not a signal to whatever program links this.
 *
 * Limits: decompressed bytes and their ratio to the compressed; time is the processes' own limit.
 */
#include "oci/convert.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/events.h"
#include "oci/layer.h"
#include "oci/limits.h"
#include "oci/sandbox.h"
#include "oci/unpack.h"

#define CHUNK       (256 * 1024u)
#define SOCKET_SIZE (1024 * 1024)
#define LEAST       (64 * 1024u) /* of a growing blob: to read every packet by itself would cost more than it gains */

/* One direction of bytes: hashed when they are read, then sent on. */
struct stage {
    struct hasher *hash;
    uint8_t *buf;
    size_t len, sent;
    uint64_t total;
    bool at_end; /* the source has no more */
};

struct run {
    const struct convert_job *job;
    const struct convert_hooks *hooks;
    unsigned number;
    struct convert_files files;
    char name[DIGEST_STR_SIZE];
    bool started, done;
    bool spoiled; /* the blob was wrong and begins anew */
    unsigned generation;
    struct sandbox unzip, untar;
    int to_unzip, from_unzip, to_untar; /* our ends; -1: closed, or not there */
    struct stage blob, tar;
    struct digest got_blob, got_tar;
};

/* In the children */

struct fd_source {
    int fd;
    uint8_t *buf;
};

static ssize_t fd_next(void *ctx, const void **ret)
{
    struct fd_source *s = ctx;
    ssize_t n;

    do {
        n = read(s->fd, s->buf, CHUNK);
    } while (n < 0 && errno == EINTR);
    *ret = s->buf;
    return n < 0 ? -errno : n;
}

static int fd_write(void *ctx, const void *data, size_t len, struct sm_error *err)
{
    int r = io_write_full(*(int *)ctx, data, len);

    return r < 0 ? sm_error_sys(err, -r, "cannot pass the layer on") : 0;
}

struct child {
    int in, out, data_fd, index_fd;
};

static int child_unzip(void *ctx, struct sm_error *err)
{
    struct child *c = ctx;
    struct fd_source source = {c->in, malloc(CHUNK)};

    if (!source.buf)
        return sm_error_set(err, ENOMEM, "out of memory while decompressing a layer");
    return unpack_decompress(&(struct unpack_source){fd_next, &source}, &(struct unpack_sink){fd_write, &c->out}, err);
}

static int child_untar(void *ctx, struct sm_error *err)
{
    struct child *c = ctx;
    struct fd_source source = {c->in, malloc(CHUNK)};

    if (!source.buf)
        return sm_error_set(err, ENOMEM, "out of memory while converting a layer");
    return layer_convert(&(struct unpack_source){fd_next, &source}, c->data_fd, c->index_fd, err);
}

/* Starting and stopping */

static const struct sandbox_limits limits = {
    .memory = OCI_CHILD_MAX_MEMORY,
    .seconds = OCI_CHILD_MAX_SECONDS,
    .file_size = OCI_LAYER_MAX_DATA + OCI_BLOCK,
};

static int make_sockets(int fd[2], struct sm_error *err)
{
    int size = SOCKET_SIZE;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0)
        return sm_error_sys(err, errno, "cannot make a socket pair");
    for (int i = 0; i < 2; i++) /* as large as the system allows */
        setsockopt(fd[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    return 0;
}

static int start_unzip(struct run *run, struct sm_error *err)
{
    CLEANUP_FD int in0 = -1;
    CLEANUP_FD int out1 = -1;
    int in[2], out[2], r = make_sockets(in, err);

    if (r < 0)
        return r;
    run->to_unzip = in[1];
    in0 = in[0];
    r = make_sockets(out, err);
    if (r < 0)
        return r;
    run->from_unzip = out[0];
    out1 = out[1];
    r = sandbox_start(&run->unzip, &limits, (int[]){in0, out1}, 2, child_unzip, &(struct child){.in = in0, .out = out1},
                      err);
    if (r >= 0 && (io_set_nonblock(run->to_unzip) < 0 || io_set_nonblock(run->from_unzip) < 0))
        r = sm_error_set(err, EIO, "cannot set up a socket");
    return r;
}

static int start_untar(struct run *run, struct sm_error *err)
{
    int data_fd = run->files.data_fd, index_fd = run->files.index_fd;
    CLEANUP_FD int in0 = -1;
    int in[2], r = make_sockets(in, err);

    if (r < 0)
        return r;
    run->to_untar = in[1];
    in0 = in[0];
    r = sandbox_start(&run->untar, &limits, (int[]){in0, data_fd, index_fd}, 3, child_untar,
                      &(struct child){.in = in0, .data_fd = data_fd, .index_fd = index_fd}, err);
    if (r >= 0 && io_set_nonblock(run->to_untar) < 0)
        r = sm_error_set(err, EIO, "cannot set up a socket");
    return r;
}

static int stage_init(struct stage *s, struct sm_error *err)
{
    s->buf = malloc(CHUNK);
    return s->buf ? hasher_new(&s->hash, err) : sm_error_set(err, ENOMEM, "out of memory while converting a layer");
}

static int run_stages(struct run *run, struct sm_error *err)
{
    int r = stage_init(&run->blob, err);

    if (r >= 0)
        r = stage_init(&run->tar, err);
    if (r >= 0 && run->job->compressed)
        r = start_unzip(run, err);
    return r < 0 ? r : start_untar(run, err);
}

static int run_start(struct run *run, struct sm_error *err)
{
    int r = run->hooks->begin(run->hooks->ctx, run->number, &run->files, err);

    run->started = true;
    return r < 0 ? r : run_stages(run, err);
}

static void run_free(struct run *run)
{
    struct stage *stages[] = {&run->blob, &run->tar};

    sandbox_kill(&run->unzip);
    sandbox_kill(&run->untar);
    close_fd(&run->to_unzip);
    close_fd(&run->from_unzip);
    close_fd(&run->to_untar);
    for (size_t i = 0; i < ARRAY_SIZE(stages); i++) {
        hasher_free(stages[i]->hash);
        free(stages[i]->buf);
        *stages[i] = (struct stage){.total = stages[i]->total};
    }
}

static int run_restart(struct run *run, unsigned generation, struct sm_error *err)
{
    int fds[] = {run->files.data_fd, run->files.index_fd};

    run_free(run);
    run->blob.total = run->tar.total = 0;
    run->generation = generation;
    run->spoiled = false;
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (ftruncate(fds[i], 0) < 0 || lseek(fds[i], 0, SEEK_SET) < 0)
            return sm_error_sys(err, errno, "cannot empty a file of the layer");
    }
    return run_stages(run, err);
}

/* Pumping */

static bool stage_is_sent(const struct stage *s)
{
    return s->sent == s->len;
}

static void stage_take(struct stage *s, size_t n)
{
    hasher_add(s->hash, s->buf, n);
    s->total += n;
    s->len = n;
    s->sent = 0;
}

/* Send what there is. A receiver that has gone away says why itself; what was for it is dropped. */
static void stage_send(struct stage *s, int *fd)
{
    ssize_t n = *fd < 0 ? -1 : send(*fd, s->buf + s->sent, s->len - s->sent, MSG_NOSIGNAL);

    if (n >= 0) {
        s->sent += (size_t)n;
    } else if (*fd < 0 || (errno != EAGAIN && errno != EINTR)) {
        close_fd(fd);
        s->sent = s->len;
    }
}

static int check_digest(struct run *run, struct sm_error *err)
{
    char got[DIGEST_STR_SIZE];

    hasher_end(run->blob.hash, &run->got_blob);
    if (run->blob.total != run->job->blob_size)
        return sm_error_set(err, EBADMSG,
                            "the blob is %llu bytes long, the manifest says %llu: it is truncated or damaged",
                            (unsigned long long)run->blob.total, (unsigned long long)run->job->blob_size);
    digest_str(&run->got_blob, got);
    if (!digest_equal(&run->got_blob, &run->job->blob))
        return sm_error_set(err, EBADMSG, "the blob has the digest %s: it is damaged or was tampered with", got);
    return 0;
}

/* All of the blob has been read. */
static int end_blob(struct run *run, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    int r = check_digest(run, &why);

    run->blob.at_end = true;
    if (r >= 0)
        return 0;
    if (run->hooks->mismatch && run->hooks->mismatch(run->hooks->ctx, run->number)) {
        run->spoiled = true;
        return 0;
    }
    return sm_error_set(err, -r, "%s", why.text);
}

/* Returns 1 when there was something to take, or the end. */
static int read_blob(struct run *run, struct sm_error *err)
{
    struct convert_growth g = {.available = UINT64_MAX, .done = true};
    struct stage *s = &run->blob;
    size_t want = CHUNK;
    bool end;
    ssize_t n;
    int r = run->hooks->growth ? run->hooks->growth(run->hooks->ctx, run->number, &g, err) : 0;

    if (r < 0)
        return r;
    if (g.generation != run->generation || run->spoiled) {
        r = run_restart(run, g.generation, err);
        return r < 0 ? r : 1;
    }
    if (g.available < s->total)
        return sm_error_set(err, EIO, "the blob became shorter while it was read");
    if (g.available - s->total < want)
        want = (size_t)(g.available - s->total);
    if (want < LEAST && !g.done)
        return 0;
    n = io_pread_full(run->files.blob_fd, s->buf, want, s->total);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the blob");
    if (run->hooks->growth && (size_t)n < want)
        return sm_error_set(err, EIO, "the blob became shorter while it was read");
    end = (size_t)n < CHUNK && g.done;
    if (s->total + (uint64_t)n > run->job->blob_size) { /* longer than it should be: no need to read on */
        n = 0;
        end = true;
    }
    stage_take(s, (size_t)n);
    r = end ? end_blob(run, err) : 0;
    return r < 0 ? r : 1;
}

static int check_bomb(const struct run *run, struct sm_error *err)
{
    uint64_t tar = run->tar.total, blob = run->blob.total;

    if (tar > OCI_LAYER_MAX_TAR)
        return sm_error_set(err, EFBIG, "the layer decompresses to more than %llu GiB, which is the limit",
                            OCI_LAYER_MAX_TAR / GIB);
    if (tar > OCI_LAYER_RATIO_FLOOR && tar / OCI_LAYER_MAX_RATIO > blob)
        return sm_error_set(err, EFBIG,
                            "the layer decompresses to more than %d times its size (%llu bytes so far): it looks like "
                            "a decompression bomb",
                            OCI_LAYER_MAX_RATIO, (unsigned long long)tar);
    return 0;
}

/* Returns 1 when there was something to take, or the end. */
static int read_tar(struct run *run, struct sm_error *err)
{
    struct stage *s = &run->tar;
    ssize_t n;
    int r;

    if (run->to_untar < 0) { /* it gave up: the rest would be decompressed for nobody */
        s->at_end = true;
        close_fd(&run->from_unzip);
        return 1;
    }
    if (run->job->compressed) {
        n = recv(run->from_unzip, s->buf, CHUNK, 0);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR ? 0
                                                     : sm_error_sys(err, errno, "cannot read the decompressed layer");
        s->at_end = !n;
    } else { /* what was read as the blob is the tar */
        if (stage_is_sent(&run->blob) && !run->blob.at_end)
            return 0;
        n = (ssize_t)(run->blob.len - run->blob.sent);
        memcpy(s->buf, run->blob.buf, (size_t)n);
        run->blob.sent = run->blob.len;
        s->at_end = run->blob.at_end;
    }
    stage_take(s, (size_t)n);
    r = check_bomb(run, err);
    return r < 0 ? r : 1;
}

static int finish(struct run *run, struct sm_error *err)
{
    char want[DIGEST_STR_SIZE], got[DIGEST_STR_SIZE];
    bool untar_gave_up = run->to_untar < 0;
    int r = 0;

    /* Whichever ended first knows why; the other one only saw its stream break. */
    close_fd(&run->to_untar);
    if (untar_gave_up)
        r = sandbox_end(&run->untar, "reading the tar", err);
    if (r >= 0 && run->job->compressed)
        r = sandbox_end(&run->unzip, "decompressing", err);
    if (r >= 0 && !untar_gave_up)
        r = sandbox_end(&run->untar, "reading the tar", err);
    if (r < 0)
        return r;
    hasher_end(run->tar.hash, &run->got_tar);
    digest_str(&run->job->diff_id, want);
    digest_str(&run->got_tar, got);
    if (untar_gave_up || !digest_equal(&run->got_tar, &run->job->diff_id))
        return sm_error_set(err, EBADMSG, "its content has the digest %s, the image's config says %s", got, want);
    run_free(run);
    run->done = true;
    return run->hooks->complete(run->hooks->ctx, run->number, err);
}

/* One step of each stage that can move without waiting. Returns whether one did. */
static int advance(struct run *run, struct sm_error *err)
{
    struct stage *blob = &run->blob, *tar = &run->tar;
    int r, moved = 0;
    size_t before;

    if (run->spoiled || (stage_is_sent(blob) && !blob->at_end)) {
        r = read_blob(run, err);
        if (r < 0)
            return r;
        if (run->spoiled)
            return 1;
        moved = r;
    }
    if (!run->job->compressed && tar->at_end && !stage_is_sent(blob)) { /* the reader gave up: only hash the rest */
        blob->sent = blob->len;
        moved = 1;
    }
    if (run->job->compressed && !stage_is_sent(blob)) {
        before = blob->sent;
        stage_send(blob, &run->to_unzip);
        moved |= blob->sent != before;
    }
    if (stage_is_sent(blob) && blob->at_end)
        close_fd(&run->to_unzip);
    if (stage_is_sent(tar) && !tar->at_end) {
        r = read_tar(run, err);
        if (r < 0)
            return r;
        moved |= r;
    }
    if (!stage_is_sent(tar)) {
        before = tar->sent;
        stage_send(tar, &run->to_untar);
        moved |= tar->sent != before;
    }
    if (blob->at_end && tar->at_end && stage_is_sent(blob) && stage_is_sent(tar)) {
        r = finish(run, err);
        return r < 0 ? r : 1;
    }
    return moved;
}

static unsigned add_polls(const struct run *run, struct pollfd *p)
{
    unsigned n = 0;

    if (run->to_unzip >= 0 && !stage_is_sent(&run->blob))
        p[n++] = (struct pollfd){.fd = run->to_unzip, .events = POLLOUT};
    if (run->to_untar >= 0 && !stage_is_sent(&run->tar))
        p[n++] = (struct pollfd){.fd = run->to_untar, .events = POLLOUT};
    if (run->from_unzip >= 0 && stage_is_sent(&run->tar) && !run->tar.at_end)
        p[n++] = (struct pollfd){.fd = run->from_unzip, .events = POLLIN};
    return n;
}

/* Returns whether anything moved. Layers are started in order, a few at a time. */
static int step_all(struct run *runs, unsigned n, unsigned *ret_left, struct sm_error *err)
{
    unsigned active = 0, left = 0;
    int r = 0, moved = 0;

    for (unsigned i = 0; i < n; i++) {
        struct run *run = &runs[i];

        if (!run->done && (run->started || active < OCI_PARALLEL_LAYERS)) {
            r = run->started ? 0 : run_start(run, err);
            if (r >= 0)
                r = advance(run, err);
            if (r < 0)
                return sm_error_wrap(err, "layer %s", run->name);
            moved |= r;
            active += !run->done;
        }
        left += !run->done;
    }
    *ret_left = left;
    return moved;
}

/* Tell how far each layer is that is being worked at. */
static int report(const struct run *runs, unsigned n, const struct oci_events *events, struct sm_error *err)
{
    int r = 0;

    for (unsigned i = 0; r >= 0 && i < n; i++) {
        if (runs[i].started && !runs[i].done)
            r = event_tell(events, OCI_EVENT_CONVERTING, &runs[i].job->blob, runs[i].blob.total, runs[i].job->blob_size,
                           err);
    }
    return r;
}

static int wait_all(const struct run *runs, unsigned n, const struct convert_hooks *hooks, int timeout_ms,
                    struct sm_error *err)
{
    struct pollfd polls[3 * OCI_PARALLEL_LAYERS];
    unsigned n_polls = 0;

    for (unsigned i = 0; i < n; i++) {
        if (runs[i].started && !runs[i].done)
            n_polls += add_polls(&runs[i], polls + n_polls);
    }
    if (hooks->wait)
        return hooks->wait(hooks->ctx, polls, n_polls, timeout_ms, err);
    assert(n_polls);
    if (poll(polls, n_polls, timeout_ms) < 0 && errno != EINTR)
        return sm_error_sys(err, errno, "cannot wait for the converting processes");
    return 0;
}

int convert_layers(const struct convert_job *jobs, unsigned n, const struct convert_hooks *hooks,
                   const struct oci_events *events, struct sm_error *err)
{
    struct run *runs = calloc(n ? n : 1, sizeof(*runs));
    uint64_t told_ns = 0;
    unsigned left = n;
    int r = 0;

    if (!runs)
        return sm_error_set(err, ENOMEM, "out of memory while converting layers");
    for (unsigned i = 0; i < n; i++) {
        runs[i] = (struct run){.job = &jobs[i],
                               .hooks = hooks,
                               .number = i,
                               .to_unzip = -1,
                               .from_unzip = -1,
                               .to_untar = -1,
                               .unzip = SANDBOX_INIT,
                               .untar = SANDBOX_INIT};
        digest_str(&jobs[i].blob, runs[i].name);
    }
    while (left) {
        r = step_all(runs, n, &left, err);
        if (r >= 0 && event_due(events, &told_ns) && report(runs, n, events, err) < 0)
            r = -ECANCELED;
        /* A hook's transfers move only while it waits, also when there is enough to do here. */
        if (left && (!r || (r > 0 && hooks->wait)))
            r = wait_all(runs, n, hooks, r ? 0 : event_timeout(events), err);
        if (r < 0)
            break;
    }
    for (unsigned i = 0; i < n; i++)
        run_free(&runs[i]);
    free(runs);
    return r < 0 ? r : 0;
}
