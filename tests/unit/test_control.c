/* SPDX-License-Identifier: Apache-2.0 */
/* Control frames: there and back, and every way a frame can be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/control.h"

static struct control_request config(void)
{
    struct control_request req = {.type = CONTROL_CONFIG, .id = 7};

    req.config = (struct control_config){
        .memory_mib = 512, .vcpus = 2, .flags = CONTROL_CONFIG_INITRAMFS, .guest_cid = 3, .cmdline = "a=b c"};
    return req;
}

static struct control_request disk(struct control_extent *extents, uint32_t n)
{
    struct control_request req = {.type = CONTROL_DISK, .id = 8};

    req.disk = (struct control_disk){.serial = "root", .n_extents = n, .extents = extents};
    return req;
}

/* Encode, then decode with `n_fds`; the encoded frame stays in *out when it is not NULL. */
static int there_and_back(const struct control_request *req, unsigned n_fds, struct control_request *ret,
                          struct buf *out)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);
    struct sm_error err = SM_ERROR_INIT;

    assert_int_equal(control_request_encode(req, &b, &err), 0);
    int r = control_request_decode(b.data, b.len, n_fds, ret, &err);
    if (r < 0) {
        assert_int_equal(r, -EPROTO);
        assert_true(err.text[0] != 0);
    }
    if (out)
        *out = b;
    else
        buf_done(&b);
    return r;
}

static void requests_there_and_back(void **state)
{
    struct control_extent extents[2] = {{0, 0, 4096}, {1, 8192, 512}};
    struct control_request req = config(), got;

    assert_int_equal(there_and_back(&req, 3, &got, NULL), 0);
    assert_int_equal(got.type, CONTROL_CONFIG);
    assert_int_equal(got.id, 7);
    assert_memory_equal(&got.config, &req.config, sizeof(got.config));
    control_request_done(&got);

    req = disk(extents, 2);
    assert_int_equal(there_and_back(&req, 2, &got, NULL), 0);
    assert_string_equal(got.disk.serial, "root");
    assert_int_equal(got.disk.n_extents, 2);
    assert_int_equal(got.disk.extents[1].offset, 8192);
    assert_int_equal(got.disk.extents[1].fd, 1);
    control_request_done(&got);
    control_request_done(NULL);

    static const enum control_request_type plain[] = {CONTROL_START, CONTROL_STOP, CONTROL_CONSOLE_TAIL, CONTROL_STATS};
    for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
        req = (struct control_request){.type = plain[i], .id = 1};
        assert_int_equal(there_and_back(&req, 0, &got, NULL), 0);
        assert_int_equal(got.type, plain[i]);
        assert_int_equal(there_and_back(&req, 1, &got, NULL), -EPROTO);
    }
    req = (struct control_request){.type = CONTROL_VSOCK_CONNECT, .id = 1, .port = 1024};
    assert_int_equal(there_and_back(&req, 1, &got, NULL), 0);
    assert_int_equal(got.port, 1024);
    assert_int_equal(there_and_back(&req, 0, &got, NULL), -EPROTO);
    assert_int_equal(there_and_back(&req, 2, &got, NULL), -EPROTO);
}

static void assert_not_sent(const struct control_request *req)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);

    assert_int_equal(control_request_encode(req, &b, NULL), -EINVAL);
    buf_done(&b);
}

static void restores_there_and_back(void **state)
{
    static const struct {
        uint32_t flags;
        unsigned n_fds;
    } cases[] = {{0, 2},
                 {CONTROL_RESTORE_DIFF, 4},
                 {CONTROL_RESTORE_PREFETCH, 3},
                 {CONTROL_RESTORE_DIFF | CONTROL_RESTORE_PREFETCH, 5}};
    struct control_request req = {.type = CONTROL_RESTORE, .id = 1, .restore = {0, {1, 2, 3}}}, got;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        req.restore.flags = cases[i].flags;
        assert_int_equal(there_and_back(&req, cases[i].n_fds, &got, NULL), 0);
        assert_int_equal(got.type, CONTROL_RESTORE);
        assert_memory_equal(&got.restore, &req.restore, sizeof(got.restore));
        assert_int_equal(there_and_back(&req, cases[i].n_fds - 1, &got, NULL), -EPROTO);
        assert_int_equal(there_and_back(&req, cases[i].n_fds + 1, &got, NULL), -EPROTO);
    }
    req.restore.flags = CONTROL_RESTORE_ALL_FLAGS + 1;
    assert_not_sent(&req);
    req.restore = (struct control_restore){0}; /* is nobody's identity */
    assert_not_sent(&req);

    req = (struct control_request){.type = CONTROL_REWIND, .id = 1, .generation = {9}};
    assert_int_equal(there_and_back(&req, 0, &got, NULL), 0);
    assert_memory_equal(got.generation, req.generation, CONTROL_GENERATION_SIZE);
    assert_int_equal(there_and_back(&req, 1, &got, NULL), -EPROTO);
    req.generation[0] = 0;
    assert_not_sent(&req);

    req = config(); /* with an initramfs, and nothing to load it */
    req.config.flags |= CONTROL_CONFIG_RESTORE;
    assert_not_sent(&req);
    req.config.flags = CONTROL_CONFIG_RESTORE;
    assert_int_equal(there_and_back(&req, 1, &got, NULL), 0);
    assert_int_equal(there_and_back(&req, 2, &got, NULL), -EPROTO);
    req.config.flags = CONTROL_CONFIG_RESTORE | CONTROL_CONFIG_PREPARE;
    assert_int_equal(there_and_back(&req, 1, &got, NULL), 0);
    req.config.flags = CONTROL_CONFIG_PREPARE;
    assert_not_sent(&req);
}

static void saves_there_and_back(void **state)
{
    struct control_request req = {.type = CONTROL_SAVE, .id = 1, .save_flags = CONTROL_SAVE_STOP}, got;

    assert_int_equal(there_and_back(&req, 2, &got, NULL), 0);
    assert_int_equal(got.save_flags, CONTROL_SAVE_STOP);
    assert_int_equal(there_and_back(&req, 0, &got, NULL), -EPROTO);
    assert_int_equal(there_and_back(&req, 3, &got, NULL), -EPROTO);
    req.save_flags = CONTROL_SAVE_DIFF | CONTROL_SAVE_LIVE;
    assert_int_equal(there_and_back(&req, 3, &got, NULL), 0);
    assert_int_equal(got.save_flags, req.save_flags);
    assert_int_equal(there_and_back(&req, 2, &got, NULL), -EPROTO);
    req.save_flags = CONTROL_SAVE_ALL_FLAGS + 1;
    assert_not_sent(&req);

    req = (struct control_request){.type = CONTROL_TOUCHED, .id = 1};
    assert_int_equal(there_and_back(&req, 1, &got, NULL), 0);
    assert_int_equal(there_and_back(&req, 0, &got, NULL), -EPROTO);
}

static void bakes_there_and_back(void **state)
{
    static const struct control_bake contradictions[] = {
        {0, 0, 0, 5},                                                       /* no trigger */
        {CONTROL_BAKE_STOP, 0, 0, 0},                                       /* likewise */
        {CONTROL_BAKE_PRE_EXEC | CONTROL_BAKE_REQUIRE_LISTENER, 0, 100, 0}, /* waits for none */
        {CONTROL_BAKE_LISTENER | CONTROL_BAKE_REQUIRE_LISTENER, 0, 0, 0},   /* for ever */
        {CONTROL_BAKE_PRE_EXEC | CONTROL_BAKE_POOL | CONTROL_BAKE_DIFF, 0, 0, 0},
        {CONTROL_BAKE_PRE_EXEC | CONTROL_BAKE_POOL | CONTROL_BAKE_STOP, 0, 0, 0},
        {CONTROL_BAKE_PRE_EXEC | (CONTROL_BAKE_ALL_FLAGS + 1), 0, 0, 0},
    };
    struct control_request req = {.type = CONTROL_BAKE, .id = 1}, got;

    req.bake = (struct control_bake){CONTROL_BAKE_LISTENER | CONTROL_BAKE_REQUIRE_LISTENER | CONTROL_BAKE_DIFF,
                                     1ull << 40, 7000, 50};
    assert_int_equal(there_and_back(&req, 3, &got, NULL), 0);
    assert_int_equal(got.bake.flags, req.bake.flags);
    assert_true(got.bake.heartbeat == req.bake.heartbeat);
    assert_int_equal(got.bake.after_ms, 7000);
    assert_int_equal(got.bake.quiesce_ms, 50);
    assert_int_equal(there_and_back(&req, 2, &got, NULL), -EPROTO);
    req.bake.flags = CONTROL_BAKE_PRE_EXEC;
    assert_int_equal(there_and_back(&req, 2, &got, NULL), 0);
    req.bake.flags |= CONTROL_BAKE_POOL;
    assert_int_equal(there_and_back(&req, 0, &got, NULL), 0);
    assert_int_equal(there_and_back(&req, 2, &got, NULL), -EPROTO);
    for (size_t i = 0; i < sizeof(contradictions) / sizeof(contradictions[0]); i++) {
        req.bake = contradictions[i];
        assert_not_sent(&req);
    }
}

static void what_would_be_refused_is_not_sent(void **state)
{
    struct control_extent many[2] = {{0, 0, 512}, {0, 0, 512}};
    struct control_extent odd[] = {{0, 0, 0}, {0, 0, 513}, {0, UINT64_MAX - 511, 512}, {CONTROL_MAX_FDS, 0, 512}};
    struct buf b = buf_init(CONTROL_MAX_FRAME);
    struct control_request req;

#define REFUSED(change)                                                                                                \
    do {                                                                                                               \
        req = config();                                                                                                \
        change;                                                                                                        \
        assert_int_equal(control_request_encode(&req, &b, NULL), -EINVAL);                                             \
    } while (0)
    REFUSED(req.id = 0);
    REFUSED(req.config.memory_mib = 31);
    REFUSED(req.config.memory_mib = 65537);
    REFUSED(req.config.vcpus = 0);
    REFUSED(req.config.vcpus = 17);
    REFUSED(req.config.flags = 1u << 31);
    REFUSED(req.config.guest_cid = 2);
    REFUSED(req.config.guest_cid = UINT32_MAX);
    REFUSED(strcpy(req.config.cmdline, "a\nb"));
    REFUSED(memset(req.config.cmdline, 'a', sizeof(req.config.cmdline)));
    REFUSED(req.type = (enum control_request_type)99);
    REFUSED(req = disk(many, 0));
    REFUSED((req = disk(many, 2), req.disk.writable = true));
    REFUSED((req = disk(many, 2), strcpy(req.disk.serial, "\t")));
    REFUSED((req = disk(many, CONTROL_MAX_EXTENTS + 1)));
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        REFUSED(req = disk(&odd[i], 1));
    buf_done(&b);
}

static void config_must_bring_its_descriptors(void **state)
{
    struct control_request req = config(), got;

    assert_int_equal(there_and_back(&req, 2, &got, NULL), -EPROTO);
    assert_int_equal(there_and_back(&req, 4, &got, NULL), -EPROTO);
    req.config.flags = 0;
    assert_int_equal(there_and_back(&req, 2, &got, NULL), 0);
    req.config.flags = CONTROL_CONFIG_INITRAMFS | CONTROL_CONFIG_CONSOLE;
    assert_int_equal(there_and_back(&req, 4, &got, NULL), 0);
}

static void extents_must_have_descriptors(void **state)
{
    struct control_extent e[2] = {{0, 0, 512}, {1, 0, 512}};
    struct control_request req = disk(e, 2), got;

    assert_int_equal(there_and_back(&req, 1, &got, NULL), -EPROTO);
    assert_int_equal(there_and_back(&req, 0, &got, NULL), -EPROTO);
}

static void another_version_is_named(void **state)
{
    struct control_request req = config(), got;
    struct sm_error err = SM_ERROR_INIT;
    struct buf b;

    assert_int_equal(there_and_back(&req, 3, &got, &b), 0);
    b.data[8] = 9; /* the body's first field */
    assert_int_equal(control_request_decode(b.data, b.len, 3, &got, &err), -EPROTO);
    assert_non_null(strstr(err.text, "9"));
    assert_non_null(strstr(err.text, "version"));
    buf_done(&b);
}

/* Every prefix, and every frame with a byte too many, is refused. */
static void requests_cut_anywhere(void **state)
{
    struct control_extent e[3] = {{0, 0, 512}, {0, 512, 512}, {0, 4096, 512}};
    const struct {
        struct control_request req;
        unsigned n_fds;
    } cases[] = {{config(), 3},
                 {disk(e, 3), 1},
                 {{.type = CONTROL_VSOCK_CONNECT, .id = 1, .port = 3}, 1},
                 {{.type = CONTROL_RESTORE, .id = 1, .restore = {CONTROL_RESTORE_DIFF, {1}}}, 4},
                 {{.type = CONTROL_SAVE, .id = 1}, 2},
                 {{.type = CONTROL_BAKE, .id = 1, .bake = {CONTROL_BAKE_PRE_EXEC, 0, 0, 0}}, 2},
                 {{.type = CONTROL_REWIND, .id = 1, .generation = {1}}, 0},
                 {{.type = CONTROL_TOUCHED, .id = 1}, 1},
                 {{.type = CONTROL_START, .id = 1}, 0}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct control_request got;
        struct buf b;

        assert_int_equal(there_and_back(&cases[i].req, cases[i].n_fds, &got, &b), 0);
        control_request_done(&got);
        for (size_t len = 0; len < b.len; len++) {
            uint8_t *copy = malloc(len ? len : 1); /* exact: a sanitizer sees a read past it */

            memcpy(copy, b.data, len);
            assert_int_equal(control_request_decode(copy, len, cases[i].n_fds, &got, NULL), -EPROTO);
            free(copy);
        }
        buf_u8(&b, 0);
        assert_int_equal(control_request_decode(b.data, b.len, cases[i].n_fds, &got, NULL), -EPROTO);
        buf_done(&b);
    }
}

static struct buf encoded(const struct control_report *rep)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);

    assert_int_equal(control_report_encode(rep, &b, NULL), 0);
    return b;
}

static void reports_there_and_back(void **state)
{
    struct control_stats stats = {.memory_bytes = 1,
                                  .setup_ns = 2,
                                  .uptime_ns = 3,
                                  .vcpus = 4,
                                  .n_exits = 1,
                                  .built_ns = 5,
                                  .mapped_ns = 6,
                                  .loaded_ns = 7,
                                  .first_exit_ns = 8};
    char text[] = "a sentence", bytes[] = "con\0sole", line[] = "vcpu 0";
    struct control_report reps[] = {
        {.type = CONTROL_OK, .id = 1},
        {.type = CONTROL_ERROR, .id = 1, .error = {ENOENT, text}},
        {.type = CONTROL_CONSOLE, .id = 1, .console = {bytes, sizeof(bytes)}},
        {.type = CONTROL_STATS_REPLY, .id = 1, .stats = &stats},
        {.type = CONTROL_SAVED, .id = 1, .saved = {6, 7, 8, 9, 10, 11, 12}},
        {.type = CONTROL_BAKED,
         .baked = {CONTROL_BAKE_SNAPSHOT_SAVED, CONTROL_TRIGGER_AFTER, 0, text, {6, 7, 8, 9, 10, 11, 12}}},
        {.type = CONTROL_LIFECYCLE, .lifecycle = {5, 8080}},
        {.type = CONTROL_EXITED, .exited = {CONTROL_EXIT_PANIC, text, bytes, sizeof(bytes)}},
    };

    strcpy(stats.exits[0].name, "mmio-read");
    stats.exits[0].count = 9;
    stats.profile = line;
    for (size_t i = 0; i < sizeof(reps) / sizeof(reps[0]); i++) {
        struct buf b = encoded(&reps[i]);
        struct control_report got;

        assert_int_equal(control_report_decode(b.data, b.len, &got, NULL), 0);
        assert_int_equal(got.type, reps[i].type);
        assert_int_equal(got.id, reps[i].id);
        if (got.type == CONTROL_ERROR) {
            assert_int_equal(got.error.code, ENOENT);
            assert_string_equal(got.error.text, text);
        } else if (got.type == CONTROL_CONSOLE) {
            assert_int_equal(got.console.len, sizeof(bytes));
            assert_memory_equal(got.console.data, bytes, sizeof(bytes));
        } else if (got.type == CONTROL_STATS_REPLY) {
            assert_string_equal(got.stats->exits[0].name, "mmio-read");
            assert_int_equal(got.stats->exits[0].count, 9);
            assert_int_equal(got.stats->built_ns, 5);
            assert_int_equal(got.stats->mapped_ns, 6);
            assert_int_equal(got.stats->loaded_ns, 7);
            assert_int_equal(got.stats->first_exit_ns, 8);
            assert_string_equal(got.stats->profile, line);
        } else if (got.type == CONTROL_SAVED) {
            assert_memory_equal(&got.saved, &reps[i].saved, sizeof(got.saved));
        } else if (got.type == CONTROL_BAKED) {
            assert_int_equal(got.baked.exit, CONTROL_BAKE_SNAPSHOT_SAVED);
            assert_int_equal(got.baked.trigger, CONTROL_TRIGGER_AFTER);
            assert_string_equal(got.baked.text, text);
            assert_memory_equal(&got.baked.saved, &reps[i].baked.saved, sizeof(got.baked.saved));
        } else if (got.type == CONTROL_LIFECYCLE) {
            assert_int_equal(got.lifecycle.arg, 8080);
        } else if (got.type == CONTROL_EXITED) {
            assert_int_equal(got.exited.reason, CONTROL_EXIT_PANIC);
            assert_string_equal(got.exited.text, text);
            assert_memory_equal(got.exited.console, bytes, sizeof(bytes));
        }
        control_report_done(&got);
        control_report_done(&got); /* twice is harmless */
        for (size_t len = 0; len < b.len; len++) {
            uint8_t *copy = malloc(len ? len : 1);

            memcpy(copy, b.data, len);
            assert_int_equal(control_report_decode(copy, len, &got, NULL), -EPROTO);
            free(copy);
        }
        buf_u8(&b, 0);
        assert_int_equal(control_report_decode(b.data, b.len, &got, NULL), -EPROTO);
        buf_done(&b);
    }
    control_report_done(NULL);
}

static void reports_out_of_limits(void **state)
{
    struct buf b = buf_init(CONTROL_MAX_FRAME);
    char *longer = calloc(1, CONTROL_MAX_CONSOLE + 1);
    char text[CONTROL_MAX_TEXT + 2];
    struct control_stats stats = {.n_exits = CONTROL_MAX_EXIT_KINDS + 1};
    struct control_report rep = {.type = CONTROL_CONSOLE, .id = 1, .console = {longer, CONTROL_MAX_CONSOLE + 1}};

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_ERROR, .id = 1, .error = {EIO, text}};
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_ERROR, .id = 1, .error = {0, NULL}};
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_OK, .id = 0}; /* a reply to nothing */
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_EXITED, .id = 1};
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_STATS_REPLY, .id = 1, .stats = &stats};
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_BAKED, .baked = {.exit = (enum control_bake_exit)9}};
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_BAKED, .baked = {.trigger = (enum control_trigger)6}};
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    rep = (struct control_report){.type = CONTROL_BAKED, .id = 1}; /* is no reply */
    assert_int_equal(control_report_encode(&rep, &b, NULL), -EINVAL);
    /* The largest that is allowed fits. */
    b.len = 0;
    text[CONTROL_MAX_TEXT] = '\0';
    rep = (struct control_report){.type = CONTROL_EXITED,
                                  .exited = {CONTROL_EXIT_PANIC, text, longer, CONTROL_MAX_CONSOLE}};
    assert_int_equal(control_report_encode(&rep, &b, NULL), 0);
    free(longer);
    buf_done(&b);
}

static void names_and_ids(void **state)
{
    const uint8_t frame[] = {1, 0, 0, 0, 0x78, 0x56, 0x34, 0x12};

    assert_string_equal(control_exit_name(CONTROL_EXIT_POWER_OFF), "power-off");
    assert_string_equal(control_exit_name((enum control_exit_reason)77), "");
    assert_string_equal(control_trigger_name(CONTROL_TRIGGER_PARKED), "workload-parked");
    assert_string_equal(control_trigger_name((enum control_trigger)77), "");
    assert_string_equal(control_bake_exit_name(CONTROL_BAKE_READY), "bake_ready");
    assert_string_equal(control_bake_exit_name((enum control_bake_exit)77), "");
    assert_int_equal(control_frame_id(frame, 8), 0x12345678);
    assert_int_equal(control_frame_id(frame, 7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_there_and_back),
        cmocka_unit_test(restores_there_and_back),
        cmocka_unit_test(saves_there_and_back),
        cmocka_unit_test(bakes_there_and_back),
        cmocka_unit_test(what_would_be_refused_is_not_sent),
        cmocka_unit_test(config_must_bring_its_descriptors),
        cmocka_unit_test(extents_must_have_descriptors),
        cmocka_unit_test(another_version_is_named),
        cmocka_unit_test(requests_cut_anywhere),
        cmocka_unit_test(reports_there_and_back),
        cmocka_unit_test(reports_out_of_limits),
        cmocka_unit_test(names_and_ids),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
