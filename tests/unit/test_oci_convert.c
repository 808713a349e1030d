/* SPDX-License-Identifier: Apache-2.0 */
/* The confined processes and the pump between them. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "oci/convert.h"
#include "oci/index.h"
#include "oci/limits.h"
#include "oci/sandbox.h"
#include "oci_fixture.h"

static const struct sandbox_limits limits = {.memory = 256 << 20, .seconds = 1, .file_size = 1 << 20};

static int run_confined(int (*fn)(void *, struct sm_error *), int fd, struct sm_error *err)
{
    struct sandbox s = SANDBOX_INIT;

    *err = (struct sm_error)SM_ERROR_INIT;
    assert_int_equal(sandbox_start(&s, &limits, &fd, 1, fn, &fd, err), 0);
    return sandbox_end(&s, "the test", err);
}

static int do_write(void *ctx, struct sm_error *err)
{
    return io_write_full(*(int *)ctx, "done", 4);
}

static int do_fail(void *ctx, struct sm_error *err)
{
    return sm_error_set(err, ENOTEMPTY, "a sentence\x1b[31m");
}

static int do_open(void *ctx, struct sm_error *err)
{
    return open("/etc/passwd", O_RDONLY) < 0 ? 0 : -EEXIST;
}

static int do_socket(void *ctx, struct sm_error *err)
{
    return socket(AF_INET, SOCK_STREAM, 0);
}

static int do_fork(void *ctx, struct sm_error *err)
{
    return fork();
}

static int do_spin(void *ctx, struct sm_error *err)
{
    volatile bool more = true;

    while (more)
        continue;
    return 0;
}

static int do_crash(void *ctx, struct sm_error *err)
{
    volatile int *p = NULL;

    *p = 1;
    return 0;
}

static int do_use_inherited(void *ctx, struct sm_error *err)
{
    return write(*(int *)ctx + 1, "x", 1) < 0 && errno == EBADF ? 0 : -EEXIST;
}

static int do_fill(void *ctx, struct sm_error *err)
{
    return io_pwrite_full(*(int *)ctx, "x", 1, 2 << 20);
}

static int do_allocate(void *ctx, struct sm_error *err)
{
    for (int i = 0; i < 1024; i++) {
        char *p = malloc(1 << 20);

        if (!p)
            return -ENOMEM;
        memset(p, 1, 1 << 20);
    }
    return 0;
}

static void test_sandbox(void **state)
{
    struct sm_error err;
    char buf[8] = "";
    int fd = memory_file("", 0), next = fcntl(fd, F_DUPFD_CLOEXEC, fd + 1);

    assert_int_equal(next, fd + 1);
    assert_int_equal(run_confined(do_write, fd, &err), 0);
    assert_int_equal(io_pread_full(fd, buf, 4, 0), 4);
    assert_string_equal(buf, "done");
    assert_int_equal(run_confined(do_fail, fd, &err), -ENOTEMPTY);
    assert_string_equal(err.text, "a sentence?[31m");
    assert_int_equal(run_confined(do_open, fd, &err), 0);
    assert_int_equal(run_confined(do_socket, fd, &err), -EPROTO);
    assert_non_null(strstr(err.text, "signal 31"));
    assert_int_equal(run_confined(do_fork, fd, &err), -EPROTO);
    assert_int_equal(run_confined(do_use_inherited, fd, &err), 0);
    assert_int_equal(run_confined(do_fill, fd, &err), -EFBIG);
    assert_int_equal(run_confined(do_spin, fd, &err), -ETIME);
#ifndef SANDBOX_SANITIZED
    assert_int_equal(run_confined(do_crash, fd, &err), -EPROTO);
    assert_int_equal(run_confined(do_allocate, fd, &err), -ENOMEM);
#else
    (void)do_crash;
    (void)do_allocate;
#endif
    close(next);
    close(fd);
}

static void test_sandbox_kill(void **state)
{
    struct sandbox s = SANDBOX_INIT;
    int fd = memory_file("", 0);

    sandbox_kill(&s);
    assert_int_equal(sandbox_start(&s, &limits, &fd, 1, do_spin, NULL, NULL), 0);
    sandbox_kill(&s);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    assert_int_equal(errno, ECHILD);
    close(fd);
}

struct rig {
    struct buf blobs[10];
    struct convert_files files[10];
    unsigned begun, completed;
};

static int begin(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err)
{
    struct rig *rig = ctx;

    *ret = rig->files[job] = (struct convert_files){.blob_fd = memory_file(rig->blobs[job].data, rig->blobs[job].len),
                                                    .data_fd = memory_file("", 0),
                                                    .index_fd = memory_file("", 0)};
    assert_int_equal(lseek(ret->blob_fd, 0, SEEK_SET), 0);
    rig->begun++;
    return 0;
}

static int complete(void *ctx, unsigned job, struct sm_error *err)
{
    struct rig *rig = ctx;
    struct index_reader *r;
    struct oci_entry e;

    assert_int_equal(index_reader_new(&r, rig->files[job].index_fd, NULL), 0);
    assert_int_equal(index_read(r, &e, NULL), 1);
    assert_int_equal(e.path[0], 'a' + (int)job);
    index_reader_free(r);
    rig->completed++;
    return 0;
}

static void rig_fill(struct rig *rig, struct convert_job *jobs, unsigned n, size_t size)
{
    char name[2] = "a", *data = malloc(size);

    for (size_t i = 0; i < size; i++)
        data[i] = (char)(i * 2654435761u >> 11);
    *rig = (struct rig){.begun = 0};
    for (unsigned i = 0; i < n; i++) {
        struct buf *b = &rig->blobs[i];

        *b = buf_init(64 << 20);
        rig->files[i] = (struct convert_files){-1, -1, -1};
        name[0] = (char)('a' + i);
        tar_add(b, name, '0', NULL, data, size);
        tar_end(b);
        jobs[i] = (struct convert_job){.blob = digest_of_buf(b->data, b->len),
                                       .diff_id = digest_of_buf(b->data, b->len),
                                       .blob_size = b->len,
                                       .compressed = i % 2}; /* compressed by nothing: passed on as it is */
    }
    free(data);
}

static void rig_done(struct rig *rig)
{
    for (size_t i = 0; i < ARRAY_SIZE(rig->blobs); i++) {
        buf_done(&rig->blobs[i]);
        if (rig->files[i].blob_fd > 0) {
            close(rig->files[i].blob_fd);
            close(rig->files[i].data_fd);
            close(rig->files[i].index_fd);
        }
    }
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left */
    assert_int_equal(errno, ECHILD);
}

struct watcher {
    uint64_t last[10];
    const struct convert_job *jobs;
    unsigned events, stop_at;
};

static int on_event(void *ctx, const struct oci_event *e)
{
    struct watcher *w = ctx;
    struct digest d;

    assert_int_equal(e->what, OCI_EVENT_CONVERTING);
    assert_int_equal(digest_parse(&d, e->layer, "x", NULL), 0);
    for (unsigned i = 0; i < 10; i++) {
        if (digest_equal(&d, &w->jobs[i].blob)) {
            assert_true(e->done >= w->last[i] && e->done <= e->total);
            w->last[i] = e->done;
        }
    }
    return ++w->events == w->stop_at;
}

static void test_many(void **state)
{
    struct convert_job jobs[10];
    struct sm_error err = SM_ERROR_INIT;
    struct rig rig;
    struct watcher watcher = {.jobs = jobs};
    struct oci_events events = {on_event, &watcher};

    rig_fill(&rig, jobs, 10, 3 << 20);
    if (convert_layers(jobs, 10, &(struct convert_hooks){.begin = begin, .complete = complete, .ctx = &rig}, &events,
                       &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(rig.completed, 10);
    assert_true(watcher.events > 0);
    rig_done(&rig);

    rig_fill(&rig, jobs, 10, 3 << 20);
    watcher = (struct watcher){.jobs = jobs, .stop_at = 1};
    assert_int_equal(convert_layers(jobs, 10,
                                    &(struct convert_hooks){.begin = begin, .complete = complete, .ctx = &rig}, &events,
                                    &err),
                     -ECANCELED);
    assert_non_null(strstr(err.text, "stopped"));
    assert_int_equal(watcher.events, 1);
    rig_done(&rig);
}

static int convert_one(struct rig *rig, struct convert_job *job, struct sm_error *err)
{
    *err = (struct sm_error)SM_ERROR_INIT;
    return convert_layers(job, 1, &(struct convert_hooks){.begin = begin, .complete = complete, .ctx = rig}, NULL, err);
}

static void test_mismatch(void **state)
{
    for (int compressed = 0; compressed < 2; compressed++) {
        for (int what = 0; what < 4; what++) {
            static const char *const words[] = {"has the digest", "the image's config says", "bytes long",
                                                "has the digest"};
            struct convert_job job;
            struct sm_error err;
            struct rig rig;

            rig_fill(&rig, &job, 1, 2 << 20);
            job.compressed = compressed;
            if (what == 0)
                job.blob.bytes[5] ^= 1;
            if (what == 1)
                job.diff_id.bytes[5] ^= 1;
            if (what == 2)
                job.blob_size++;
            if (what == 3)
                memset(rig.blobs[0].data, 0xaa, 4096); /* corrupt too, but that is not the news */
            assert_int_equal(convert_one(&rig, &job, &err), -EBADMSG);
            if (!strstr(err.text, words[what]) || !strstr(err.text, "layer sha256:"))
                fail_msg("%d: %s", what, err.text);
            assert_int_equal(rig.completed, 0);
            rig_done(&rig);
        }
    }
}

static void test_refused(void **state)
{
    struct convert_job job;
    struct sm_error err;
    struct rig rig;

    for (int compressed = 0; compressed < 2; compressed++) {
        rig_fill(&rig, &job, 1, 2 << 20);
        rig.blobs[0].len = 0;
        tar_add(&rig.blobs[0], "../evil", '0', NULL, "x", 1);
        assert_non_null(buf_reserve(&rig.blobs[0], 20 << 20)); /* more than fits the sockets */
        job.compressed = compressed;
        job.blob = job.diff_id = digest_of_buf(rig.blobs[0].data, rig.blobs[0].len);
        job.blob_size = rig.blobs[0].len;
        assert_int_equal(convert_one(&rig, &job, &err), -EINVAL);
        assert_non_null(strstr(err.text, "\"..\""));
        rig_done(&rig);
    }
}

static int refuse_begin(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err)
{
    return job == 2 ? sm_error_set(err, ENOENT, "not this one") : begin(ctx, job, ret, err);
}

static void test_hook_fails(void **state)
{
    struct convert_job jobs[4];
    struct sm_error err = SM_ERROR_INIT;
    struct rig rig;

    rig_fill(&rig, jobs, 4, 3 << 20);
    assert_int_equal(convert_layers(jobs, 4,
                                    &(struct convert_hooks){.begin = refuse_begin, .complete = complete, .ctx = &rig},
                                    NULL, &err),
                     -ENOENT);
    assert_non_null(strstr(err.text, "not this one"));
    rig_done(&rig);
}

/* A blob that comes bit by bit: each wait brings `step` more bytes of what `now` says. */
struct grower {
    struct rig rig;
    const struct buf *now; /* what is being sent */
    struct buf wrong;
    uint64_t sent, step;
    unsigned generation, waits, mismatches;
    uint64_t restart_at, cut_at; /* 0: never */
    bool second_chance;
};

static int grow_begin(void *ctx, unsigned job, struct convert_files *ret, struct sm_error *err)
{
    struct grower *g = ctx;

    g->rig.files[job] = *ret = (struct convert_files){
        .blob_fd = memory_file(g->now->data, g->sent), .data_fd = memory_file("", 0), .index_fd = memory_file("", 0)};
    return 0;
}

static int grow_complete(void *ctx, unsigned job, struct sm_error *err)
{
    struct grower *g = ctx;

    return complete(&g->rig, job, err);
}

static int growth(void *ctx, unsigned job, struct convert_growth *ret, struct sm_error *err)
{
    struct grower *g = ctx;

    *ret = (struct convert_growth){g->sent, g->sent == g->now->len, g->generation};
    return 0;
}

static void grow_again(struct grower *g)
{
    assert_int_equal(ftruncate(g->rig.files[0].blob_fd, 0), 0);
    g->now = &g->rig.blobs[0];
    g->sent = 0;
    g->generation++;
}

static int grow_wait(void *ctx, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err)
{
    struct grower *g = ctx;
    uint64_t left = g->now->len - g->sent, len = left < g->step ? left : g->step;

    g->waits++;
    if (g->restart_at && g->sent >= g->restart_at) {
        g->restart_at = 0;
        grow_again(g);
        return 0;
    }
    if (g->cut_at && g->sent >= g->cut_at) {
        assert_int_equal(ftruncate(g->rig.files[0].blob_fd, 100), 0);
        g->cut_at = 0;
        g->sent += 1000000; /* though there is less */
        return 0;
    }
    if (len) {
        assert_int_equal(io_pwrite_full(g->rig.files[0].blob_fd, g->now->data + g->sent, len, g->sent), 0);
        g->sent += len;
    } else {
        assert_true(n > 0 || !timeout_ms); /* else nothing would ever wake it up */
        assert_true(poll(fds, n, timeout_ms) >= 0);
    }
    return 0;
}

static bool grow_mismatch(void *ctx, unsigned job)
{
    struct grower *g = ctx;

    assert_int_equal(g->sent, g->now->len);
    g->mismatches++;
    if (!g->second_chance)
        return false;
    g->second_chance = false;
    grow_again(g);
    return true;
}

static int grow_run(struct grower *g, struct convert_job *job, struct sm_error *err)
{
    struct convert_hooks hooks = {.begin = grow_begin,
                                  .complete = grow_complete,
                                  .ctx = g,
                                  .growth = growth,
                                  .wait = grow_wait,
                                  .mismatch = grow_mismatch};

    *err = (struct sm_error)SM_ERROR_INIT;
    return convert_layers(job, 1, &hooks, NULL, err);
}

static void grower_init(struct grower *g, struct convert_job *job, bool compressed, uint64_t step)
{
    *g = (struct grower){.step = step};
    rig_fill(&g->rig, job, 1, 3 << 20);
    job->compressed = compressed;
    g->now = &g->rig.blobs[0];
    /* what a bad half of an earlier fetch makes of it: right size, wrong bytes */
    g->wrong = buf_init(64 << 20);
    buf_bytes(&g->wrong, g->now->data, g->now->len);
    memset(g->wrong.data + 5000, 0x55, 100000);
}

static void grower_done(struct grower *g)
{
    buf_done(&g->wrong);
    rig_done(&g->rig);
}

static void test_growing(void **state)
{
    static const uint64_t steps[] = {1000, 65536, 300000, 100 << 20};
    struct convert_job job;
    struct sm_error err;
    struct grower g;

    for (size_t i = 0; i < 2 * ARRAY_SIZE(steps); i++) {
        grower_init(&g, &job, i % 2, steps[i / 2]);
        if (i == 2)
            g.sent = 2 << 20; /* from an earlier fetch */
        if (grow_run(&g, &job, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(g.rig.completed, 1);
        assert_int_equal(g.mismatches, 0);
        grower_done(&g);
    }
}

static void test_restart(void **state)
{
    struct convert_job job;
    struct sm_error err;
    struct grower g;

    for (int compressed = 0; compressed < 2; compressed++) {
        /* a server that begins anew: what came first does not matter */
        grower_init(&g, &job, compressed, 70000);
        g.now = &g.wrong;
        g.restart_at = 2 << 20;
        if (grow_run(&g, &job, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(g.rig.completed, 1);
        assert_int_equal(g.mismatches, 0);
        grower_done(&g);
        /* a wrong digest: once more from the beginning */
        grower_init(&g, &job, compressed, 70000);
        g.now = &g.wrong;
        g.second_chance = true;
        if (grow_run(&g, &job, &err) < 0)
            fail_msg("%s", err.text);
        assert_int_equal(g.rig.completed, 1);
        assert_int_equal(g.mismatches, 1);
        assert_int_equal(err.code, 0);
        grower_done(&g);
        /* wrong, and no other chance */
        grower_init(&g, &job, compressed, 70000);
        g.now = &g.wrong;
        assert_int_equal(grow_run(&g, &job, &err), -EBADMSG);
        assert_non_null(strstr(err.text, "has the digest"));
        assert_int_equal(g.rig.completed, 0);
        assert_int_equal(g.mismatches, 1);
        grower_done(&g);
        /* a file that shrinks below what was there */
        grower_init(&g, &job, compressed, 70000);
        g.cut_at = 1 << 20;
        assert_int_equal(grow_run(&g, &job, &err), -EIO);
        assert_non_null(strstr(err.text, "shorter"));
        grower_done(&g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sandbox),  cmocka_unit_test(test_sandbox_kill), cmocka_unit_test(test_many),
        cmocka_unit_test(test_mismatch), cmocka_unit_test(test_refused),      cmocka_unit_test(test_hook_fails),
        cmocka_unit_test(test_growing),  cmocka_unit_test(test_restart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
