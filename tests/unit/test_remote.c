/* SPDX-License-Identifier: Apache-2.0 */
/* Named machines: who has a name, who may ask, what is asked and answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "lib/remote.h"

#define DEADLINE_MS 20000

static char store[PATH_MAX];
static struct sm_error err;

/* A machine's owner, that notes what it is asked. */
struct owner {
    struct loop *loop;
    struct remote *remote;
    unsigned asked;
    uint32_t flags;
    char path[PATH_MAX];
    int refuse_with;
    bool wait_for_other, other_done; /* saving goes on until another client was answered */
    unsigned depth;
};

static int save(void *ctx, const struct remote_request *req, struct remote_saved *ret, struct sm_error *e)
{
    struct owner *o = ctx;

    assert_int_equal(o->depth++, 0);
    o->asked++;
    o->flags = req->flags;
    snprintf(o->path, sizeof(o->path), "%s", req->path);
    while (o->wait_for_other && !o->other_done)
        assert_true(loop_once(o->loop, DEADLINE_MS) > 0);
    o->depth--;
    if (o->refuse_with)
        return sm_error_set(e, o->refuse_with, "the disk of '%s' is full", req->path);
    *ret = (struct remote_saved){.pause_ns = 2, .data_bytes = 256 << 20};
    memset(ret->key, 'a', sizeof(ret->key) - 1);
    return 0;
}

static int set_up(void **state)
{
    struct owner *o = calloc(1, sizeof(*o));

    snprintf(store, sizeof(store), "/tmp/sm-remote-XXXXXX");
    assert_non_null(o);
    assert_non_null(mkdtemp(store));
    assert_int_equal(loop_new(&o->loop), 0);
    err = (struct sm_error)SM_ERROR_INIT;
    *state = o;
    return 0;
}

static int tear_down(void **state)
{
    struct owner *o = *state;
    char path[PATH_MAX + 8];

    remote_free(o->remote);
    loop_free(o->loop);
    free(o);
    snprintf(path, sizeof(path), "%s/vms", store);
    rmdir(path);
    return rmdir(store); /* nothing stays behind */
}

/* Of one that became an image store. */
static int tear_down_store(void **state)
{
    struct owner *o = *state;
    char command[PATH_MAX + 16];

    remote_free(o->remote);
    loop_free(o->loop);
    free(o);
    snprintf(command, sizeof(command), "rm -rf '%s'", store);
    return system(command);
}

static void serve(struct owner *o, const char *name)
{
    if (remote_new(&o->remote, store, name, &err) < 0 || remote_serve(o->remote, o->loop, save, o, &err) < 0)
        fail_msg("%s", err.text);
}

static char *socket_path(const char *name)
{
    static char path[PATH_MAX + 80];

    snprintf(path, sizeof(path), "%s/vms/%s", store, name);
    return path;
}

/* Somebody who asks, on a thread of their own. */
struct client {
    pthread_t thread;
    const char *name;
    struct remote_request req;
    const char *public_dest; /* not NULL: asked by sm_remote_save() */
    struct sm_save_result result;
    struct remote_saved saved;
    struct sm_error err;
    int r, done_fd[2];
    struct loop_source src;
};

static void *ask(void *arg)
{
    struct client *c = arg;

    if (c->public_dest) {
        struct sm_store *s = NULL;

        c->result.size = sizeof(c->result);
        c->r = sm_store_open(&s, store, &c->err);
        if (c->r == 0)
            c->r = sm_remote_save(s, c->name, c->public_dest, SM_SAVE_LIVE, &c->result, &c->err);
        sm_store_free(s);
    } else {
        c->r = remote_ask(store, c->name, &c->req, &c->saved, &c->err);
    }
    assert_int_equal(write(c->done_fd[1], "x", 1), 1);
    return NULL;
}

static void on_done(struct loop_source *src, uint32_t events)
{
    struct owner *o = src->ctx;

    (void)events;
    o->other_done = true;
    loop_remove(o->loop, src);
}

static void client_start(struct client *c)
{
    assert_int_equal(pipe2(c->done_fd, O_CLOEXEC), 0);
    assert_int_equal(pthread_create(&c->thread, NULL, ask, c), 0);
}

/* Watch for its end; then wait for it. */
static void client_watch(struct owner *o, struct client *c)
{
    assert_int_equal(loop_add(o->loop, &c->src, c->done_fd[0], EPOLLIN, on_done, o), 0);
}

static void client_join(struct owner *o, struct client *c)
{
    while (c->src.fd >= 0)
        assert_true(loop_once(o->loop, DEADLINE_MS) > 0);
    pthread_join(c->thread, NULL);
    close(c->done_fd[0]);
    close(c->done_fd[1]);
}

static void client_finish(struct owner *o, struct client *c)
{
    client_watch(o, c);
    client_join(o, c);
}

static void a_request_is_done_and_answered(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .req = {.flags = SM_SAVE_DIFF, .path = "/some/where"}};

    serve(o, "web");
    client_start(&c);
    client_finish(o, &c);
    assert_int_equal(c.r, 0);
    assert_int_equal(o->asked, 1);
    assert_int_equal(o->flags, SM_SAVE_DIFF);
    assert_string_equal(o->path, "/some/where");
    assert_true(c.saved.pause_ns == 2 && c.saved.data_bytes == 256 << 20);
    assert_int_equal(strspn(c.saved.key, "a"), 64);
}

static void a_refusal_arrives_with_its_sentence(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .req = {.path = "/full"}};

    o->refuse_with = ENOSPC;
    serve(o, "web");
    client_start(&c);
    client_finish(o, &c);
    assert_int_equal(c.r, -ENOSPC);
    assert_string_equal(c.err.text, "the disk of '/full' is full");
}

/* Whoever asks before the machine is ready waits for it. */
static void an_early_request_waits(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .req = {.path = "/x"}};

    assert_int_equal(remote_new(&o->remote, store, "web", &err), 0);
    client_start(&c);
    assert_int_equal(loop_once(o->loop, 50), 0);
    assert_int_equal(remote_serve(o->remote, o->loop, save, o, &err), 0);
    client_finish(o, &c);
    assert_int_equal(c.r, 0);
}

/* The snapshot waits in the loop that it came through; another request is refused meanwhile. */
static void one_at_a_time(void **state)
{
    struct owner *o = *state;
    struct client c[2] = {{.name = "web", .req = {.path = "/a"}}, {.name = "web", .req = {.path = "/b"}}};
    int refused;

    o->wait_for_other = true;
    serve(o, "web");
    client_start(&c[0]);
    client_start(&c[1]);
    client_watch(o, &c[0]);
    client_watch(o, &c[1]);
    client_join(o, &c[0]);
    client_join(o, &c[1]);
    refused = c[0].r < 0 ? 0 : 1;
    assert_int_equal(c[refused].r, -EBUSY);
    assert_non_null(strstr(c[refused].err.text, "try again"));
    assert_int_equal(c[!refused].r, 0);
    assert_int_equal(o->asked, 1);
}

static void a_name_is_had_once(void **state)
{
    struct owner *o = *state;
    struct remote *other = NULL;
    char pid[32];

    snprintf(pid, sizeof(pid), "process %d:", (int)getpid());
    serve(o, "web");
    assert_int_equal(remote_new(&other, store, "web", &err), -EEXIST);
    assert_null(other);
    assert_non_null(strstr(err.text, "'web'"));
    assert_non_null(strstr(err.text, pid));
    assert_int_equal(access(socket_path("web"), F_OK), 0);
    assert_int_equal(remote_new(&other, store, "web2", &err), 0);
    remote_free(other);
    assert_int_equal(access(socket_path("web2"), F_OK), -1);
}

static void a_dead_owners_name_is_free(void **state)
{
    struct owner *o = *state;
    struct stat st;
    pid_t pid = fork();
    int status;

    if (pid == 0) {
        struct remote *r;

        _exit(remote_new(&r, store, "web", NULL) < 0 || remote_new(&r, store, "db", NULL) < 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(lstat(socket_path("web"), &st), 0);
    assert_int_equal(lstat(socket_path("db"), &st), 0);
    serve(o, "web");
    assert_int_equal(lstat(socket_path("db"), &st), -1); /* whoever takes a name makes room */
    assert_int_equal(lstat(socket_path("web"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* What is no socket stays. */
static void other_files_are_left_alone(void **state)
{
    struct owner *o = *state;
    int fd;

    serve(o, "web");
    fd = open(socket_path("db"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(remote_new(&(struct remote *){NULL}, store, "db", &err), -EEXIST);
    assert_int_equal(unlink(socket_path("db")), 0);
}

static void names_that_are_none_are_refused(void **state)
{
    static const char *const names[] = {"", ".", "..", "../web", "a/b", ".web", "-web", "a b", "w\n", NULL};
    char name[80];
    struct remote_request req = {.path = "/x"};
    struct remote_saved saved;
    struct remote *r;

    (void)state;
    for (const char *const *n = names; *n; n++) {
        assert_int_equal(remote_new(&r, store, *n, &err), -EINVAL);
        assert_int_equal(remote_ask(store, *n, &req, &saved, &err), -EINVAL);
    }
    memset(name, 'a', 64);
    name[64] = '\0';
    assert_int_equal(remote_new(&r, store, name, &err), -EINVAL);
    name[63] = '\0';
    assert_int_equal(remote_new(&r, store, name, &err), 0);
    remote_free(r);
}

static void nobody_there_is_told(void **state)
{
    struct remote_request req = {.path = "/x"};
    struct remote_saved saved;
    struct owner *o = *state;

    assert_int_equal(remote_ask(store, "web", &req, &saved, &err), -ENOENT);
    assert_non_null(strstr(err.text, "no machine named 'web' runs"));
    serve(o, "db");
    assert_int_equal(remote_ask(store, "web", &req, &saved, &err), -ENOENT);
    req.path = "relative";
    assert_int_equal(remote_ask(store, "db", &req, &saved, &err), -EINVAL);
}

/* The owner goes while somebody waits for it. */
static void an_owner_that_goes_is_told(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .req = {.path = "/x"}};

    serve(o, "web");
    client_start(&c);
    while (loop_once(o->loop, DEADLINE_MS) == 0) /* the connection; the request may come with it */
        ;
    remote_free(o->remote);
    o->remote = NULL;
    client_finish(o, &c);
    assert_true(c.r == -EIO || (c.r == 0 && o->asked) || c.r == -ENOENT);
}

/* A store whose path is longer than a socket's may be. */
static void long_paths_will_do(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .req = {.path = "/x"}};
    char below[NAME_MAX], short_store[PATH_MAX], path[PATH_MAX + 8];

    memset(below, 'd', 200);
    below[200] = '\0';
    snprintf(short_store, sizeof(short_store), "%s", store);
    snprintf(store + strlen(store), sizeof(store) - strlen(store), "/%s", below);
    assert_int_equal(mkdir(store, 0700), 0);
    serve(o, "web");
    client_start(&c);
    client_finish(o, &c);
    assert_int_equal(c.r, 0);
    remote_free(o->remote);
    o->remote = NULL;
    snprintf(path, sizeof(path), "%s/vms", store);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(store), 0);
    memcpy(store, short_store, sizeof(store));
}

/* A connection as any program could make it. */
static int raw_connect(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "%.100s", socket_path(name));
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static void run_all(struct owner *o)
{
    while (loop_once(o->loop, 0) > 0)
        ;
}

static void garbage_is_refused(void **state)
{
    struct owner *o = *state;
    uint8_t packet[REMOTE_MAX_FRAME + 1] = "GET / HTTP/1.1\r\n";
    struct remote_reply rep;
    ssize_t n;
    int fd;

    serve(o, "web");
    fd = raw_connect("web");
    assert_int_equal(send(fd, packet, 16, 0), 16);
    run_all(o);
    n = recv(fd, packet, sizeof(packet), 0);
    assert_true(n > 0);
    assert_int_equal(remote_reply_decode(packet, (size_t)n, &rep, &err), 0);
    assert_int_equal(rep.type, REMOTE_ERROR);
    assert_int_equal(rep.code, EPROTO);
    remote_reply_done(&rep);
    assert_int_equal(recv(fd, packet, sizeof(packet), 0), 0);
    close(fd);
    fd = raw_connect("web"); /* one byte too many, and a descriptor */
    assert_int_equal(io_send_fds(fd, packet, sizeof(packet), &fd, 1), 0);
    run_all(o);
    assert_int_equal(recv(fd, packet, sizeof(packet), 0), 0);
    close(fd);
    assert_int_equal(o->asked, 0);
}

/* Connections that say nothing take the place of none that does. */
static void silent_peers_are_dropped(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .req = {.path = "/x"}};
    int fds[12];
    char byte;

    serve(o, "web");
    for (size_t i = 0; i < 12; i++) {
        fds[i] = raw_connect("web");
        run_all(o);
    }
    client_start(&c);
    client_finish(o, &c);
    assert_int_equal(c.r, 0);
    assert_int_equal(recv(fds[0], &byte, 1, MSG_DONTWAIT), 0);
    assert_int_equal(recv(fds[11], &byte, 1, MSG_DONTWAIT), -1);
    for (size_t i = 0; i < 12; i++)
        close(fds[i]);
}

/* The public call: figures come through, a path gets absolute, what is wrong is said without asking. */
static void saved_by_the_public_call(void **state)
{
    struct owner *o = *state;
    struct client c = {.name = "web", .public_dest = "web-1"};
    char here[PATH_MAX], want[PATH_MAX + 8];

    assert_non_null(getcwd(here, sizeof(here)));
    snprintf(want, sizeof(want), "%s/web-1", here);
    serve(o, "web");
    client_start(&c);
    client_finish(o, &c);
    assert_int_equal(c.r, 0);
    assert_string_equal(o->path, want);
    assert_int_equal(o->flags, SM_SAVE_LIVE);
    assert_true(c.result.pause_ns == 2 && c.result.data_bytes == 256 << 20);
    assert_int_equal(strspn(c.result.key, "a"), 64);
}

/* ---- Frames ---- */

static struct buf encode_request(uint32_t flags, char *path)
{
    struct buf b = buf_init(REMOTE_MAX_FRAME);

    assert_int_equal(remote_request_encode(&(struct remote_request){flags, path}, &b, &err), 0);
    return b;
}

static void frames_travel(void **state)
{
    char path[PATH_MAX];
    struct remote_request req;
    struct remote_reply rep;
    struct buf b;

    (void)state;
    memset(path, 'x', sizeof(path));
    path[0] = '/';
    path[PATH_MAX - 1] = '\0';
    b = encode_request(REMOTE_SAVE_ALL_FLAGS, path);
    assert_int_equal(remote_request_decode(b.data, b.len, &req, &err), 0);
    assert_int_equal(req.flags, REMOTE_SAVE_ALL_FLAGS);
    assert_string_equal(req.path, path);
    remote_request_done(&req);
    buf_done(&b);
    b = buf_init(REMOTE_MAX_FRAME);
    rep = (struct remote_reply){.type = REMOTE_ERROR, .code = EIO, .text = (char[]){"why"}};
    assert_int_equal(remote_reply_encode(&rep, &b, &err), 0);
    assert_int_equal(remote_reply_decode(b.data, b.len, &rep, &err), 0);
    assert_int_equal(rep.code, EIO);
    assert_string_equal(rep.text, "why");
    remote_reply_done(&rep);
    buf_done(&b);
    b = encode_request(0, "");
    assert_int_equal(remote_request_decode(b.data, b.len, &req, &err), 0);
    assert_string_equal(req.path, "");
    remote_request_done(&req);
    buf_done(&b);
    /* Of a key all or nothing. */
    rep = (struct remote_reply){.type = REMOTE_SAVED, .saved.key = "abc"};
    assert_int_equal(remote_reply_encode(&rep, &b, &err), -EINVAL);
}

/* Cut anywhere, longer, changed where it counts: refused, each with a sentence. */
static void bad_frames_are_refused(void **state)
{
    struct buf b = encode_request(0, "/a");
    struct remote_request req = {0};
    struct remote_reply rep = {0};
    uint8_t bytes[64];

    (void)state;
    for (size_t n = 0; n < b.len; n++) {
        uint8_t *cut = malloc(n ? n : 1); /* of its own: reading over the end is found */

        assert_non_null(cut);
        memcpy(cut, b.data, n);
        assert_int_equal(remote_request_decode(cut, n, &req, &err), -EPROTO);
        assert_int_equal(remote_reply_decode(cut, n, &rep, &err), -EPROTO);
        free(cut);
    }
    memcpy(bytes, b.data, b.len);
    assert_int_equal(remote_request_decode(bytes, b.len + 1, &req, &err), -EPROTO);
    for (size_t at = 0; at < b.len - 1; at++) { /* the last byte is a letter of the path */
        memcpy(bytes, b.data, b.len);
        bytes[at] ^= 0x80;
        err.text[0] = '\0';
        assert_int_equal(remote_request_decode(bytes, b.len, &req, &err), -EPROTO);
        assert_true(err.text[0]);
    }
    assert_null(req.path);
    buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_request_is_done_and_answered, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_refusal_arrives_with_its_sentence, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_early_request_waits, set_up, tear_down),
        cmocka_unit_test_setup_teardown(one_at_a_time, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_name_is_had_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_dead_owners_name_is_free, set_up, tear_down),
        cmocka_unit_test_setup_teardown(other_files_are_left_alone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(names_that_are_none_are_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_there_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_owner_that_goes_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(long_paths_will_do, set_up, tear_down),
        cmocka_unit_test_setup_teardown(garbage_is_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(silent_peers_are_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(saved_by_the_public_call, set_up, tear_down_store),
        cmocka_unit_test(frames_travel),
        cmocka_unit_test(bad_frames_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
