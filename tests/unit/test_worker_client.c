/* SPDX-License-Identifier: Apache-2.0 */
/* The owner's side of the control protocol, against a worker that the test plays; and real processes that fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "lib/worker.h"
#include "lifecycle_regs.h"

struct fixture {
    struct loop *loop;
    struct worker *w;
    int peer; /* the worker's end */
    unsigned lifecycle_calls, ended_calls;
    uint32_t kind;
    uint64_t arg;
    struct control_baked baked; /* without its text */
    char line[64];
};

static void on_lifecycle(void *ctx, uint32_t kind, uint64_t arg)
{
    struct fixture *f = ctx;

    f->lifecycle_calls++;
    f->kind = kind;
    f->arg = arg;
}

static void on_console(void *ctx, const char *data, size_t len)
{
    (void)ctx;
    (void)data;
    (void)len;
}

static void on_ended(void *ctx)
{
    ((struct fixture *)ctx)->ended_calls++;
}

static void on_baked(void *ctx, const struct control_baked *baked)
{
    struct fixture *f = ctx;

    f->baked = *baked;
    f->baked.text = NULL;
    snprintf(f->line, sizeof(f->line), "%s", baked->text);
}

static const struct worker_ops ops = {on_lifecycle, on_console, on_ended, on_baked};

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    int sv[2];

    assert_non_null(f);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv), 0);
    assert_int_equal(loop_new(&f->loop), 0);
    assert_int_equal(worker_attach(&f->w, f->loop, sv[0], &ops, f, NULL), 0);
    f->peer = sv[1];
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    worker_free(f->w);
    loop_free(f->loop);
    if (f->peer >= 0)
        close(f->peer);
    free(f);
    return 0;
}

static uint32_t ask(struct fixture *f, enum control_request_type type, bool forget)
{
    struct control_request req = {.type = type, .port = 1024};
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    uint32_t id = 0;

    assert_int_equal(worker_send(f->w, &req, &fd, type == CONTROL_VSOCK_CONNECT, forget, &id, NULL), 0);
    close(fd);
    return id;
}

/* Take one request, as the worker would. */
static uint32_t take(struct fixture *f, enum control_request_type want)
{
    struct control_request req;
    static uint8_t frame[CONTROL_MAX_FRAME];
    int fds[CONTROL_MAX_FDS];
    unsigned n_fds;
    uint32_t id;
    ssize_t n = io_recv_fds(f->peer, frame, sizeof(frame), fds, CONTROL_MAX_FDS, &n_fds);

    assert_true(n > 0);
    assert_int_equal(control_request_decode(frame, (size_t)n, n_fds, &req, NULL), 0);
    assert_int_equal(req.type, want);
    id = req.id;
    control_request_done(&req);
    for (unsigned i = 0; i < n_fds; i++)
        close(fds[i]);
    return id;
}

static void reply(struct fixture *f, const struct control_report *rep)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);

    assert_int_equal(control_report_encode(rep, &b, NULL), 0);
    assert_int_equal(io_send_fds(f->peer, b.data, b.len, NULL, 0), 0);
    buf_done(&b);
}

static void hang_up(struct fixture *f)
{
    close(f->peer);
    f->peer = -1;
}

static void several_requests_are_under_way(void **state)
{
    struct fixture *f = *state;
    struct control_report rep;
    uint32_t a = ask(f, CONTROL_START, false), b = ask(f, CONTROL_CONSOLE_TAIL, false);

    assert_int_equal(take(f, CONTROL_START), a);
    assert_int_equal(take(f, CONTROL_CONSOLE_TAIL), b);
    reply(f, &(struct control_report){.type = CONTROL_OK, .id = a});
    reply(f, &(struct control_report){.type = CONTROL_LIFECYCLE, .lifecycle = {SM_LC_EV_LISTENER, 80}});
    reply(f, &(struct control_report){.type = CONTROL_CONSOLE, .id = b, .console = {(char[]){"boot"}, 4}});
    /* The later one first: the earlier one's answer must be kept. */
    assert_int_equal(worker_await(f->w, b, CONTROL_CONSOLE, &rep, NULL), 0);
    assert_string_equal(rep.console.data, "boot");
    control_report_done(&rep);
    assert_int_equal(worker_await(f->w, a, CONTROL_OK, NULL, NULL), 0);
    assert_int_equal(f->lifecycle_calls, 1);
    assert_int_equal(f->kind, SM_LC_EV_LISTENER);
    assert_int_equal(f->arg, 80);
}

static void the_end_of_a_bake_is_told(void **state)
{
    struct fixture *f = *state;
    uint32_t id = ask(f, CONTROL_STATS, false);
    struct control_stats stats = {.vcpus = 1};

    take(f, CONTROL_STATS);
    reply(f, &(struct control_report){.type = CONTROL_BAKED,
                                      .baked = {.exit = CONTROL_BAKE_SNAPSHOT_SAVED,
                                                .trigger = CONTROL_TRIGGER_LISTENER,
                                                .text = (char[]){"listener fired"},
                                                .saved = {.data_pages = 12}}});
    reply(f, &(struct control_report){.type = CONTROL_STATS_REPLY, .id = id, .stats = &stats});
    assert_int_equal(worker_await(f->w, id, CONTROL_STATS_REPLY, NULL, NULL), 0);
    assert_string_equal(f->line, "listener fired");
    assert_int_equal(f->baked.exit, CONTROL_BAKE_SNAPSHOT_SAVED);
    assert_int_equal(f->baked.trigger, CONTROL_TRIGGER_LISTENER);
    assert_int_equal(f->baked.saved.data_pages, 12);
}

/* A live save is answered when it is done, whatever was asked and answered since. */
static void answers_come_in_any_order(void **state)
{
    struct fixture *f = *state;
    struct control_request req = {.type = CONTROL_SAVE, .save_flags = CONTROL_SAVE_LIVE};
    struct control_report rep;
    uint32_t save, ping = 0;

    assert_int_equal(worker_send(f->w, &req, (int[]){f->peer, f->peer}, 2, false, &save, NULL), 0);
    assert_int_equal(take(f, CONTROL_SAVE), save);
    ping = ask(f, CONTROL_CONSOLE_TAIL, false);
    take(f, CONTROL_CONSOLE_TAIL);
    reply(f, &(struct control_report){.type = CONTROL_CONSOLE, .id = ping, .console = {(char[]){"x"}, 1}});
    assert_int_equal(worker_await(f->w, ping, CONTROL_CONSOLE, NULL, NULL), 0);
    reply(f, &(struct control_report){.type = CONTROL_SAVED, .id = save, .saved = {.live_pages = 3}});
    assert_int_equal(worker_await(f->w, save, CONTROL_SAVED, &rep, NULL), 0);
    assert_int_equal(rep.saved.live_pages, 3);
}

static void errors_keep_their_sentence(void **state)
{
    struct fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    uint32_t id = ask(f, CONTROL_START, false);

    reply(f, &(struct control_report){.type = CONTROL_ERROR, .id = id, .error = {ENOTSUP, (char[]){"no irqfd"}}});
    assert_int_equal(worker_await(f->w, id, CONTROL_OK, NULL, &err), -ENOTSUP);
    assert_string_equal(err.text, "no irqfd");
    /* Of a forgotten one the sentence stays, and its slot is free again. */
    for (int i = 0; i < 100; i++) {
        id = ask(f, CONTROL_VSOCK_CONNECT, true);
        take(f, i ? CONTROL_VSOCK_CONNECT : CONTROL_START);
        if (i == 0)
            take(f, CONTROL_VSOCK_CONNECT);
        reply(f, &(struct control_report){.type = CONTROL_ERROR, .id = id, .error = {ENOTCONN, (char[]){"no driver"}}});
        while (loop_once(f->loop, 0) > 0)
            ;
    }
    assert_string_equal(worker_last_refusal(f->w), "no driver");
}

static void wrong_kind_of_answer_is_an_error(void **state)
{
    struct fixture *f = *state;
    uint32_t id = ask(f, CONTROL_STATS, false);

    reply(f, &(struct control_report){.type = CONTROL_OK, .id = id});
    assert_int_equal(worker_await(f->w, id, CONTROL_STATS_REPLY, NULL, NULL), -EPROTO);
}

static void unasked_answer_ends_it(void **state)
{
    struct fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;

    reply(f, &(struct control_report){.type = CONTROL_OK, .id = 77});
    assert_true(loop_once(f->loop, 1000) > 0);
    assert_true(worker_ended(f->w));
    assert_int_equal(f->ended_calls, 1);
    assert_int_equal(worker_error(f->w, &err), -EPROTO);
}

static void junk_ends_it(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(io_send_fds(f->peer, "junk", 4, NULL, 0), 0);
    assert_true(loop_once(f->loop, 1000) > 0);
    assert_true(worker_ended(f->w));
    assert_int_equal(worker_error(f->w, NULL), -EPROTO);
}

static void descriptors_from_it_are_refused(void **state)
{
    struct fixture *f = *state;
    int before = dup(0), after;

    close(before);
    assert_int_equal(io_send_fds(f->peer, "junk", 4, (int[]){f->peer}, 1), 0);
    assert_true(loop_once(f->loop, 1000) > 0);
    assert_true(worker_ended(f->w));
    after = dup(0);
    assert_int_equal(before, after);
    close(after);
}

static void exited_tells_why(void **state)
{
    struct fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    uint32_t id = ask(f, CONTROL_START, false);
    size_t len;

    reply(f, &(struct control_report){.type = CONTROL_EXITED,
                                      .exited = {CONTROL_EXIT_PANIC, (char[]){"VFS: no root\n"},
                                                 (char[]){"first\nlast \x01words\n\n"}, 19}});
    hang_up(f);
    assert_int_equal(worker_await(f->w, id, CONTROL_OK, NULL, &err), -EIO);
    assert_string_equal(err.text,
                        "the guest's kernel panicked: VFS: no root; its console said last: first|last ?words");
    assert_int_equal(f->ended_calls, 1);
    assert_string_equal(worker_console(f->w, &len), "first\nlast \x01words\n\n");
    assert_int_equal(len, 19);
    /* What comes later fails with the same words. */
    assert_int_equal(worker_send(f->w, &(struct control_request){.type = CONTROL_STATS}, NULL, 0, false, &id, &err),
                     -EIO);
    assert_non_null(strstr(err.text, "VFS: no root"));
}

static void end_without_a_word_is_told(void **state)
{
    struct fixture *f = *state;
    struct sm_error err = SM_ERROR_INIT;
    uint32_t id = ask(f, CONTROL_START, false);

    hang_up(f);
    assert_int_equal(worker_await(f->w, id, CONTROL_OK, NULL, &err), -EIO);
    assert_non_null(strstr(err.text, "ended unexpectedly"));
}

static void too_many_requests_are_refused(void **state)
{
    struct fixture *f = *state;
    struct control_request req = {.type = CONTROL_STATS};
    uint32_t id;
    int r = 0;

    for (int i = 0; i < 64 && r == 0; i++) {
        r = worker_send(f->w, &req, NULL, 0, false, &id, NULL);
        if (r == 0)
            take(f, CONTROL_STATS);
    }
    assert_int_equal(r, -EBUSY);
}

static void tail_is_one_line(void **state)
{
    char buf[16];

    worker_tail_text("a\r\nb\tc\n\n", 8, buf, sizeof(buf));
    assert_string_equal(buf, "a|b?c");
    worker_tail_text("", 0, buf, sizeof(buf));
    assert_string_equal(buf, "");
    worker_tail_text(" \n\n", 3, buf, sizeof(buf));
    assert_string_equal(buf, "");
    /* Too long: whole lines from the end, if there is one. */
    worker_tail_text("a long first line\nsecond", 24, buf, sizeof(buf));
    assert_string_equal(buf, "second");
    worker_tail_text("0123456789abcdefghij", 20, buf, sizeof(buf));
    assert_string_equal(buf, "56789abcdefghij");
}

/* A program that stands in for the worker. */
static char script[] = "/tmp/sm-worker-XXXXXX";

static void write_script(const char *body)
{
    int fd;

    strcpy(script + strlen(script) - 6, "XXXXXX");
    fd = mkstemp(script);
    assert_true(fd >= 0);
    assert_int_equal(fchmod(fd, 0700), 0);
    dprintf(fd, "#!/bin/sh\n%s\n", body);
    close(fd);
}

/* How a worker that does `body` ends. */
static void expect_end(const char *body, const char *want)
{
    struct control_request req = {.type = CONTROL_STATS};
    struct sm_error err = SM_ERROR_INIT;
    struct fixture f = {0};
    uint32_t id = 0;
    int r;

    write_script(body);
    assert_int_equal(loop_new(&f.loop), 0);
    assert_int_equal(worker_spawn(&f.w, f.loop, script, &ops, &f, &err), 0);
    r = worker_send(f.w, &req, NULL, 0, false, &id, &err);
    if (r == 0)
        r = worker_await(f.w, id, CONTROL_OK, NULL, &err);
    assert_int_equal(r, -EIO);
    if (!strstr(err.text, want))
        fail_msg("'%s' does not tell '%s'", err.text, want);
    worker_free(f.w);
    loop_free(f.loop);
    unlink(script);
}

static void death_of_the_process_is_told(void **state)
{
    expect_end("exit 7", "status 7");
    expect_end("echo one >&2; echo 'no such library' >&2; exit 127", "status 127; it said: one|no such library");
    expect_end("kill -KILL $$", "SIGKILL");
    expect_end("kill -SYS $$", "seccomp");
    expect_end("kill -SEGV $$", "signal 11");
}

/* Only what is meant for it: three standard descriptors and the socket, an empty environment, a session of its own. */
static void process_inherits_nothing(void **state)
{
    int leak = dup2(0, 50);

    assert_int_equal(leak, 50);
    setenv("SECRET", "1", 1);
    expect_end("[ -z \"$SECRET\" ] && ! [ -e /proc/$$/fd/50 ] && [ -S /proc/$$/fd/3 ] && exit 42", "status 42");
    expect_end("read -r a b c d e session rest < /proc/$$/stat; [ \"$session\" = $$ ] && exit 43", "status 43");
    close(leak);
    unsetenv("SECRET");
}

static void missing_program_is_told(void **state)
{
    struct sm_error err = SM_ERROR_INIT;
    struct fixture f = {0};

    assert_int_equal(loop_new(&f.loop), 0);
    assert_int_equal(worker_spawn(&f.w, f.loop, "/nowhere/vmm", &ops, &f, &err), -ENOENT);
    assert_string_equal(err.text, "cannot start the worker '/nowhere/vmm': No such file or directory");
    loop_free(f.loop);
}

/* A worker that would live on is killed with its object. */
static void freeing_kills(void **state)
{
    struct fixture f = {0};
    int pid;

    write_script("while :; do sleep 100; done");
    assert_int_equal(loop_new(&f.loop), 0);
    assert_int_equal(worker_spawn(&f.w, f.loop, script, &ops, &f, NULL), 0);
    pid = worker_pid(f.w);
    assert_int_equal(kill(pid, 0), 0);
    worker_free(f.w);
    assert_int_equal(kill(pid, 0), -1);
    assert_int_equal(errno, ESRCH);
    loop_free(f.loop);
    unlink(script);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(several_requests_are_under_way),
        TEST(the_end_of_a_bake_is_told),
        TEST(answers_come_in_any_order),
        TEST(errors_keep_their_sentence),
        TEST(wrong_kind_of_answer_is_an_error),
        TEST(unasked_answer_ends_it),
        TEST(junk_ends_it),
        TEST(descriptors_from_it_are_refused),
        TEST(exited_tells_why),
        TEST(end_without_a_word_is_told),
        TEST(too_many_requests_are_refused),
        cmocka_unit_test(tail_is_one_line),
        cmocka_unit_test(death_of_the_process_is_told),
        cmocka_unit_test(process_inherits_nothing),
        cmocka_unit_test(missing_program_is_told),
        cmocka_unit_test(freeing_kills),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
