/* SPDX-License-Identifier: Apache-2.0 */
/* The box between vCPUs and loop; the kernel command line; exit profiles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lifecycle_regs.h"
#include "machine/cmdline.h"
#include "machine/events.h"
#include "machine/profile.h"

static void the_latest_of_a_kind(void **state)
{
    struct events ev;
    struct event got;

    events_init(&ev);
    assert_false(events_take(&ev, &got));
    events_post(&ev, SM_LC_EV_HEARTBEAT, 1);
    events_post(&ev, SM_LC_EV_AGENT_READY, 0);
    events_post(&ev, SM_LC_EV_HEARTBEAT, 2);
    assert_int_equal(events_lost(&ev), 1);
    assert_true(events_take(&ev, &got));
    assert_int_equal(got.kind, SM_LC_EV_AGENT_READY);
    assert_true(events_take(&ev, &got));
    assert_int_equal(got.kind, SM_LC_EV_HEARTBEAT);
    assert_int_equal(got.arg, 2);
    assert_false(events_take(&ev, &got));
    events_done(&ev);
}

static void listeners_are_a_bounded_set(void **state)
{
    struct events ev;
    struct event got;

    events_init(&ev);
    for (uint64_t port = 1; port <= EVENTS_MAX_LISTENERS + 5; port++) {
        events_post(&ev, SM_LC_EV_LISTENER, port);
        events_post(&ev, SM_LC_EV_LISTENER,
                    port == EVENTS_MAX_LISTENERS + 1 ? 1
                    : port <= EVENTS_MAX_LISTENERS   ? port
                                                     : 1);
    }
    assert_int_equal(events_lost(&ev), 5);
    for (uint64_t port = 1; port <= EVENTS_MAX_LISTENERS; port++) {
        assert_true(events_take(&ev, &got));
        assert_int_equal(got.arg, port);
    }
    assert_false(events_take(&ev, &got));
    events_done(&ev);
}

static void what_was_put_back_comes_again(void **state)
{
    struct events ev;
    struct event got, again;

    events_init(&ev);
    events_post(&ev, SM_LC_EV_HEARTBEAT, 1);
    assert_true(events_take(&ev, &got));
    events_put_back(&ev, &got);
    assert_true(events_take(&ev, &again));
    assert_int_equal(again.arg, 1);
    /* A newer one wins. */
    events_post(&ev, SM_LC_EV_HEARTBEAT, 2);
    events_put_back(&ev, &got);
    assert_true(events_take(&ev, &again));
    assert_int_equal(again.arg, 2);
    assert_int_equal(events_lost(&ev), 1);
    got = (struct event){SM_LC_EV_LISTENER, 80};
    events_put_back(&ev, &got);
    assert_true(events_take(&ev, &again));
    assert_int_equal(again.arg, 80);
    events_done(&ev);
}

static void the_first_end_counts(void **state)
{
    struct events ev;
    char text[EVENTS_MAX_TEXT];
    char longer[EVENTS_MAX_TEXT * 2];

    events_init(&ev);
    assert_int_equal(events_ended(&ev, text), MACHINE_RUNNING);
    assert_true(events_end(&ev, MACHINE_PANIC, "panicked: ", "a\x1b[31m\tb\nc\xff\0d\n\n", 15));
    assert_false(events_end(&ev, MACHINE_RESET, "", "later", 5));
    assert_int_equal(events_ended(&ev, text), MACHINE_PANIC);
    assert_string_equal(text, "panicked: a?[31m?b\nc??d");
    events_done(&ev);

    events_init(&ev);
    memset(longer, 'x', sizeof(longer));
    assert_true(events_end(&ev, MACHINE_PANIC, "", longer, sizeof(longer)));
    events_ended(&ev, text);
    assert_int_equal(strlen(text), EVENTS_MAX_TEXT - 1);
    events_done(&ev);
}

static void command_line(void **state)
{
    struct cmdline c = {.extra = "foo=1", .n_virtio = 3};
    struct buf out = buf_init(4096);

    cmdline_build(&c, &out);
    const char *line = (const char *)out.data;
    assert_false(out.bad);
    assert_int_equal(strlen(line) + 1, out.len);
    assert_non_null(strstr(line, " quiet foo=1 supermachine.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 "
                                 "virtio_mmio.device=4K@0xd0002000:7 virtio_mmio.device=4K@0xd0003000:8"));
    assert_non_null(strstr(line, "panic=-1"));
    assert_non_null(strstr(line, "reboot=t"));
    buf_done(&out);

    c = (struct cmdline){.verbose = true, .extra = ""};
    cmdline_build(&c, &out);
    assert_null(strstr((char *)out.data, "quiet"));
    assert_null(strstr((char *)out.data, "  "));
    assert_null(strstr((char *)out.data, "virtio"));
    buf_done(&out);

    out = buf_init(100);
    cmdline_build(&c, &out);
    assert_true(out.bad);
    buf_done(&out);
}

/* Two devices and some ports. */
static const char *name(void *ctx, enum hv_exit_kind kind, uint64_t addr, uint64_t *ret_base)
{
    static const struct {
        uint64_t base, end;
        const char *name;
    } devices[] = {{0x3f8, 0x400, "serial"}, {0xd0001000, 0xd0002000, "blk"}, {0xd0002000, 0xd0003000, "vsock"}};

    for (unsigned i = 0; i < 3; i++) {
        if (addr < devices[i].base || addr >= devices[i].end)
            continue;
        *ret_base = devices[i].base;
        return devices[i].name;
    }
    return NULL;
}

static void profile_counts_by_place(void **state)
{
    struct profile *p = calloc(1, sizeof(*p));
    struct buf out = buf_init(16 * 1024);

    for (unsigned i = 0; i < 3; i++)
        profile_add(p, HV_EXIT_PIO_WRITE, 0x3f8, 2000);
    for (uint64_t reg = 0x60; reg < 0x70; reg += 4)
        profile_add(p, HV_EXIT_MMIO_READ, 0xd0001000 + reg, 1000);
    profile_add(p, HV_EXIT_MMIO_WRITE, 0xd0001060, 3000);
    profile_add(p, HV_EXIT_MMIO_WRITE, 0xd0002060, 3000);
    profile_add(p, HV_EXIT_PIO_READ, 0x80, 0);
    profile_add(p, HV_EXIT_KICKED, 0, 4000);
    profile_add(p, HV_EXIT_KICKED, 0, 4000);
    p->run_ns = 5000000;
    profile_print(p, 2, name, NULL, &out);
    buf_u8(&out, 0);
    assert_string_equal((char *)out.data, "vcpu 2: run: 12 entries, 5000 us\n"
                                          "vcpu 2: mmio-read blk: 4 exits, 4 us\n"
                                          "vcpu 2: pio-write serial: 3 exits, 6 us\n"
                                          "vcpu 2: kicked: 2 exits, 8 us\n"
                                          "vcpu 2: mmio-write blk: 1 exits, 3 us\n"
                                          "vcpu 2: mmio-write vsock: 1 exits, 3 us\n"
                                          "vcpu 2: pio-read nobody: 1 exits, 0 us\n");
    buf_done(&out);
    out = buf_init(16 * 1024);
    profile_print_places(p, 2, name, NULL, &out);
    buf_u8(&out, 0);
    assert_string_equal((char *)out.data, "vcpu 2: pio-write serial+0x0: 3 exits, 6 us\n"
                                          "vcpu 2: mmio-read blk+0x60: 1 exits, 1 us\n"
                                          "vcpu 2: mmio-read blk+0x64: 1 exits, 1 us\n"
                                          "vcpu 2: mmio-read blk+0x68: 1 exits, 1 us\n"
                                          "vcpu 2: mmio-read blk+0x6c: 1 exits, 1 us\n"
                                          "vcpu 2: mmio-write blk+0x60: 1 exits, 3 us\n"
                                          "vcpu 2: mmio-write vsock+0x60: 1 exits, 3 us\n"
                                          "vcpu 2: pio-read nobody+0x80: 1 exits, 0 us\n");
    buf_done(&out);
    /* A guest that touches everything fills the table, not memory. */
    for (uint64_t at = 0; at < 1000; at++)
        profile_add(p, HV_EXIT_MMIO_WRITE, at, 0);
    assert_int_equal(p->n, PROFILE_PLACES);
    out = buf_init(16 * 1024);
    profile_print(p, 0, name, NULL, &out);
    buf_u8(&out, 0);
    assert_non_null(strstr((char *)out.data, "elsewhere: 881 exits"));
    buf_done(&out);
    /* A small buffer gets whole lines only. */
    out = buf_init(60);
    profile_print(p, 0, name, NULL, &out);
    assert_false(out.bad);
    assert_int_equal(out.data[out.len - 1], '\n');
    buf_done(&out);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_latest_of_a_kind),
        cmocka_unit_test(listeners_are_a_bounded_set),
        cmocka_unit_test(what_was_put_back_comes_again),
        cmocka_unit_test(the_first_end_counts),
        cmocka_unit_test(command_line),
        cmocka_unit_test(profile_counts_by_place),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
