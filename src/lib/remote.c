/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: how a process reaches a machine that another process runs.
 *
 * What: the owner of a named machine listens on <store>/vms/<name>, a SOCK_SEQPACKET socket of mode 0600 in a directory
 * of mode 0700. A peer sends one packet, a request, and gets one back. Only the same user is listened to, by the
 * kernel's word (SO_PEERCRED), whatever the file system says.
 *
 * Names: under a lock on the directory, bind(2) takes a name, and listens, so that a socket there that refuses is a
 * dead process's. Those are removed by whoever takes a name. The kernel tells a live one's process id.
 *
 * Paths: those of sockets are at most 107 bytes long, a store's may be longer: the directory is opened, and named as
 * /proc/self/fd/N.
 *
 * Serving happens in the machine's loop, on its owner's thread. A request takes time and waits in that very loop, which
 * a source's callback may not do; a timer's may (base/loop.c runs them when its batch is done). So a request that has
 * come arms a timer for now. One request is done at a time; others are refused meanwhile.
 *
 * Limits: REMOTE_MAX_PEERS connections; one more drops the one that has said nothing for longest. REMOTE_MAX_FRAME
 * bytes a packet. A peer that goes away does not stop what it asked for.
 */
#include "lib/remote.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/io.h"
#include "oci/text.h"

#define REMOTE_DIR       "vms"
#define REMOTE_NAME_MAX  63
#define REMOTE_MAX_PEERS 8
#define REMOTE_BACKLOG   16

struct peer {
    struct remote *remote;
    struct loop_source src;
    int fd;          /* -1: not in use */
    uint64_t serial; /* by age */
};

struct remote {
    char name[REMOTE_NAME_MAX + 1];
    int dir_fd, listen_fd;
    struct loop *loop; /* NULL: does not serve yet */
    struct loop_source src;
    struct peer peers[REMOTE_MAX_PEERS];
    uint64_t serial;
    remote_save_fn *save;
    void *ctx;
    struct loop_timer timer;
    struct peer *asking; /* whose request is done, or about to be; NULL: none */
    struct remote_request request;
};

/* ---- Names ---- */

/* What may be a file's name below REMOTE_DIR: letters, digits, '_', '-', '.'; the first no dot. */
static int check_name(const char *name, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];
    size_t n = strlen(name);
    bool ok = n > 0 && n <= REMOTE_NAME_MAX && isalnum((unsigned char)name[0]);

    for (size_t i = 0; ok && i < n; i++)
        ok = isalnum((unsigned char)name[i]) || strchr("_.-", name[i]);
    if (!ok)
        return sm_error_set(err, EINVAL, "'%s' is not the name of a machine: those hold letters, digits, '_', '.', '-'",
                            text_shown(shown, name));
    return 0;
}

static struct sockaddr_un address(int dir_fd, const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    /* 14 + 10 + 1 + REMOTE_NAME_MAX bytes at most: it fits. */
    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", dir_fd, name);
    return a;
}

static int new_socket(void)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* A connected socket; -1 and errno: ECONNREFUSED nobody listens, ENOENT, EAGAIN its queue is full. */
static int connect_to(int dir_fd, const char *name)
{
    CLEANUP_FD int fd = new_socket();
    struct sockaddr_un a = address(dir_fd, name);

    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return -1;
    return steal_fd(&fd);
}

/* The process at the other end; false: it is another user's. */
static bool is_ours(int fd, pid_t *ret_pid)
{
    struct ucred cred = {0};
    socklen_t len = sizeof(cred);

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return false;
    *ret_pid = cred.pid;
    return cred.uid == geteuid();
}

static int open_dir(const char *store, bool make, struct sm_error *err)
{
    char path[PATH_MAX], shown[TEXT_SHOWN_SIZE];
    int fd;

    if (snprintf(path, sizeof(path), "%s/" REMOTE_DIR, store) >= (int)sizeof(path))
        return sm_error_set(err, ENAMETOOLONG, "the image store's path is too long: \"%s\"", text_shown(shown, store));
    if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
        return sm_error_sys(err, errno, "cannot make the directory \"%s\" for named machines", text_shown(shown, path));
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && (make || errno != ENOENT))
        return sm_error_sys(err, errno, "cannot open the directory \"%s\" of named machines", text_shown(shown, path));
    return fd < 0 ? -ENOENT : fd;
}

/* Remove the sockets that nobody listens to any more. Lock held. */
static void sweep(int dir_fd)
{
    DIR *d = io_scan_dir(dir_fd);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        struct stat st;

        if (fstatat(dir_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISSOCK(st.st_mode))
            continue;
        CLEANUP_FD int fd = connect_to(dir_fd, e->d_name);
        if (fd < 0 && errno == ECONNREFUSED)
            unlinkat(dir_fd, e->d_name, 0);
    }
    if (d)
        closedir(d);
}

/* The name is had by somebody: -EEXIST and a sentence. */
static int is_taken(int dir_fd, const char *name, struct sm_error *err)
{
    CLEANUP_FD int fd = connect_to(dir_fd, name);
    pid_t pid = 0;

    if (fd >= 0)
        is_ours(fd, &pid);
    if (pid)
        return sm_error_set(err, EEXIST,
                            "a machine named '%s' runs already, in process %d: choose another name, or end that one",
                            name, (int)pid);
    return sm_error_set(err, EEXIST, "the name '%s' is taken by another machine: choose another one", name);
}

static int take_name(struct remote *r, struct sm_error *err)
{
    struct sockaddr_un a = address(r->dir_fd, r->name);
    int res;

    sweep(r->dir_fd);
    if (bind(r->listen_fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return errno == EADDRINUSE ? is_taken(r->dir_fd, r->name, err)
                                   : sm_error_sys(err, errno, "cannot make a socket for the machine '%s'", r->name);
    if (fchmodat(r->dir_fd, r->name, 0600, 0) < 0 || listen(r->listen_fd, REMOTE_BACKLOG) < 0) {
        res = sm_error_sys(err, errno, "cannot make a socket for the machine '%s'", r->name);
        unlinkat(r->dir_fd, r->name, 0);
        return res;
    }
    return 0;
}

int remote_new(struct remote **ret, const char *store, const char *name, struct sm_error *err)
{
    struct remote *r;
    int res = check_name(name, err);

    if (res < 0)
        return res;
    r = calloc(1, sizeof(*r));
    if (!r)
        return sm_error_set(err, ENOMEM, "out of memory");
    snprintf(r->name, sizeof(r->name), "%s", name);
    r->listen_fd = r->src.fd = -1;
    for (unsigned i = 0; i < REMOTE_MAX_PEERS; i++)
        r->peers[i] = (struct peer){.remote = r, .fd = -1, .src.fd = -1};
    res = r->dir_fd = open_dir(store, true, err);
    if (res < 0)
        goto fail;
    r->listen_fd = new_socket();
    if (r->listen_fd < 0) {
        res = sm_error_sys(err, errno, "cannot make a socket for the machine '%s'", name);
        goto fail;
    }
    /* Held for a moment by whoever takes a name; by nobody who waits for anything. */
    while (flock(r->dir_fd, LOCK_EX) < 0)
        if (errno != EINTR) {
            res = sm_error_sys(err, errno, "cannot lock the directory of named machines");
            goto fail;
        }
    res = take_name(r, err);
    flock(r->dir_fd, LOCK_UN);
    if (res < 0)
        goto fail;
    *ret = r;
    return 0;
fail:
    close_fd(&r->listen_fd); /* the name was never ours */
    remote_free(r);
    return res;
}

/* ---- Serving ---- */

static void drop(struct peer *p)
{
    loop_remove(p->remote->loop, &p->src);
    close_fd(&p->fd);
}

/* A peer that does not take its one small packet has gone. */
static void answer(struct peer *p, const struct remote_reply *rep)
{
    struct buf out = buf_init(REMOTE_MAX_FRAME);

    if (remote_reply_encode(rep, &out, NULL) == 0)
        io_send_fds(p->fd, out.data, out.len, NULL, 0);
    buf_done(&out);
    drop(p);
}

static void refuse(struct peer *p, int r, struct sm_error *err)
{
    answer(p,
           &(struct remote_reply){.type = REMOTE_ERROR, .code = -r, .text = err->text[0] ? err->text : strerror(-r)});
}

static void do_request(struct loop_timer *timer)
{
    struct remote *r = timer->ctx;
    struct remote_reply rep = {.type = REMOTE_SAVED};
    struct sm_error err = SM_ERROR_INIT;
    int res = r->save(r->ctx, &r->request, &rep.saved, &err);

    if (res < 0)
        refuse(r->asking, res, &err);
    else
        answer(r->asking, &rep);
    remote_request_done(&r->request);
    r->asking = NULL;
}

static void on_peer(struct loop_source *src, uint32_t events)
{
    struct peer *p = src->ctx;
    struct remote *r = p->remote;
    struct sm_error err = SM_ERROR_INIT;
    struct remote_request req;
    uint8_t frame[REMOTE_MAX_FRAME];
    unsigned n_fds;
    ssize_t n = io_recv_fds(p->fd, frame, sizeof(frame), NULL, 0, &n_fds);
    int res;

    (void)events;
    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        drop(p);
        return;
    }
    res = remote_request_decode(frame, (size_t)n, &req, &err);
    if (res == 0 && r->asking) {
        remote_request_done(&req);
        res = sm_error_set(&err, EBUSY, "a snapshot of the machine '%s' is being made: try again when that is done",
                           r->name);
    }
    if (res < 0) {
        refuse(p, res, &err);
        return;
    }
    loop_remove(r->loop, &p->src);
    r->request = req;
    r->asking = p;
    loop_timer_set(r->loop, &r->timer, io_now_ns(), do_request, r);
}

/* A place for one more: the free one, else that of who has said nothing for longest. */
static struct peer *place(struct remote *r)
{
    struct peer *best = NULL;

    for (unsigned i = 0; i < REMOTE_MAX_PEERS; i++) {
        struct peer *p = &r->peers[i];

        if (p->fd < 0)
            return p;
        if (p != r->asking && (!best || p->serial < best->serial))
            best = p;
    }
    drop(best);
    return best;
}

static void on_listener(struct loop_source *src, uint32_t events)
{
    struct remote *r = src->ctx;
    CLEANUP_FD int fd = accept4(r->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct peer *p;
    pid_t pid;

    (void)events;
    if (fd < 0 || !is_ours(fd, &pid))
        return;
    p = place(r);
    if (loop_add(r->loop, &p->src, fd, EPOLLIN, on_peer, p) < 0)
        return;
    p->fd = steal_fd(&fd);
    p->serial = r->serial++;
}

int remote_serve(struct remote *r, struct loop *loop, remote_save_fn *save, void *ctx, struct sm_error *err)
{
    int res = loop_add(loop, &r->src, r->listen_fd, EPOLLIN, on_listener, r);

    if (res < 0)
        return sm_error_sys(err, -res, "cannot listen for requests to the machine '%s'", r->name);
    r->loop = loop;
    r->save = save;
    r->ctx = ctx;
    return 0;
}

void remote_free(struct remote *r)
{
    if (!r)
        return;
    for (unsigned i = 0; r->loop && i < REMOTE_MAX_PEERS; i++)
        drop(&r->peers[i]);
    if (r->loop)
        loop_remove(r->loop, &r->src);
    loop_timer_cancel(&r->timer);
    remote_request_done(&r->request);
    /* While this listens nobody else takes the name, so the file is ours. */
    if (r->listen_fd >= 0)
        unlinkat(r->dir_fd, r->name, 0);
    close_fd(&r->listen_fd);
    close_fd(&r->dir_fd);
    free(r);
}

/* ---- Asking ---- */

static int nobody(const char *name, struct sm_error *err)
{
    return sm_error_set(err, ENOENT,
                        "no machine named '%s' runs with this image store: start one with 'supermachine run --name "
                        "%s ...'",
                        name, name);
}

static int receive(int fd, const char *name, struct remote_saved *ret, struct sm_error *err)
{
    uint8_t frame[REMOTE_MAX_FRAME];
    struct remote_reply rep;
    unsigned n_fds;
    ssize_t n = io_recv_fds(fd, frame, sizeof(frame), NULL, 0, &n_fds);
    int r;

    if (n == 0 || n == -ECONNRESET)
        return sm_error_set(err, EIO, "the machine '%s' ended before its snapshot was made", name);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the answer of the machine '%s'", name);
    r = remote_reply_decode(frame, (size_t)n, &rep, err);
    if (r < 0)
        return r;
    if (rep.type == REMOTE_ERROR)
        r = sm_error_set(err, rep.code, "%s", rep.text);
    else
        *ret = rep.saved;
    remote_reply_done(&rep);
    return r;
}

int remote_ask(const char *store, const char *name, const struct remote_request *req, struct remote_saved *ret,
               struct sm_error *err)
{
    CLEANUP_FD int dir_fd = -1, fd = -1;
    struct buf out = buf_init(REMOTE_MAX_FRAME);
    pid_t pid;
    int r = check_name(name, err);

    if (r < 0)
        return r;
    dir_fd = open_dir(store, false, err);
    if (dir_fd == -ENOENT)
        return nobody(name, err);
    if (dir_fd < 0)
        return dir_fd;
    fd = connect_to(dir_fd, name);
    if (fd < 0 && (errno == ENOENT || errno == ECONNREFUSED))
        return nobody(name, err);
    if (fd < 0)
        return sm_error_sys(err, errno, "cannot reach the machine '%s'", name);
    if (!is_ours(fd, &pid))
        return sm_error_set(err, EPERM, "the machine '%s' is another user's", name);
    /* From here on it may wait: how long a snapshot takes depends on the machine. */
    if (fcntl(fd, F_SETFL, 0) < 0)
        return sm_error_sys(err, errno, "cannot reach the machine '%s'", name);
    r = remote_request_encode(req, &out, err);
    if (r == 0) {
        r = io_send_fds(fd, out.data, out.len, NULL, 0);
        if (r < 0 && r != -EPIPE) /* EPIPE: there may be a refusal to read */
            sm_error_sys(err, -r, "cannot reach the machine '%s'", name);
        else
            r = receive(fd, name, ret, err);
    }
    buf_done(&out);
    return r;
}
