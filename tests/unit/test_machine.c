/* SPDX-License-Identifier: Apache-2.0 */
/* A machine on a scripted hypervisor: order of building, exits, every way to end, failures at every step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/io.h"
#include "dev/rng.h"
#include "dev/vsock.h"
#include "fake_hv.h"
#include "lifecycle_regs.h"
#include "machine/machine.h"
#include "pvh_kernel.h"

struct seen {
    struct loop *loop;
    unsigned n_events, ends, threads, traces;
    struct event event[16];
    bool refuse; /* events */
    enum machine_end end;
    char text[EVENTS_MAX_TEXT], trace[200], console[64];
    unsigned n_console;
    int thread_result;
};

static struct seen seen;
static struct machine *m;

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    if (seen.refuse)
        return false;
    seen.event[seen.n_events++] = (struct event){kind, arg};
    return true;
}

static void on_ended(void *ctx, enum machine_end end, const char *text)
{
    seen.ends++;
    seen.end = end;
    strcpy(seen.text, text);
    loop_stop(seen.loop);
}

static int on_thread(void *ctx, struct sm_error *err)
{
    __atomic_add_fetch(&seen.threads, 1, __ATOMIC_SEQ_CST);
    return seen.thread_result < 0 ? sm_error_set(err, -seen.thread_result, "no sandbox") : 0;
}

static void on_trace(void *ctx, const char *line)
{
    seen.traces++;
    strcpy(seen.trace, line);
}

static void on_console(void *ctx, uint8_t byte)
{
    if (seen.n_console < sizeof(seen.console) - 1)
        seen.console[seen.n_console++] = (char)byte;
}

static const struct machine_ops ops = {
    .event = on_event, .ended = on_ended, .vcpu_thread = on_thread, .trace = on_trace, .console = on_console};

static int set_up(void **state)
{
    seen = (struct seen){.n_events = 0};
    m = NULL;
    fake_hv_reset();
    return loop_new(&seen.loop);
}

static int tear_down(void **state)
{
    machine_free(m);
    loop_free(seen.loop);
    return fake.alive != 0; /* nothing is left of the hypervisor's */
}

static int new_machine(unsigned memory_mib, unsigned vcpus, struct sm_error *err)
{
    struct machine_config config = {
        .hv = &hv_fake, .loop = seen.loop, .memory_mib = memory_mib, .vcpus = vcpus, .profile = true, .ops = &ops};

    return machine_new(&m, &config, err);
}

static int boot_machine(struct sm_error *err)
{
    struct pvh_kernel k = pvh_kernel();
    int fd = pvh_file(&k, sizeof(k));
    int r = machine_boot(m, fd, -1, "extra", false, err);

    close(fd);
    return r;
}

static int add_rng(struct sm_error *err)
{
    struct virtio_dev *dev;

    assert_int_equal(rng_new(&dev, NULL), 0);
    return machine_add_virtio(m, dev, err);
}

/* Run what is in the script; the machine must end by itself or is stopped. */
static void run(unsigned vcpus)
{
    assert_int_equal(new_machine(64, vcpus, NULL), 0);
    assert_int_equal(add_rng(NULL), 0);
    assert_int_equal(boot_machine(NULL), 0);
    assert_int_equal(machine_spawn(m, NULL), 0);
    assert_int_equal(seen.threads, vcpus);
    machine_run(m);
    assert_int_equal(loop_run(seen.loop), 0);
    assert_int_equal(seen.ends, 1);
}

static void power(uint64_t what)
{
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_POWER, 4, what);
}

static void order_of_building(void **state)
{
    power(SM_LC_POWER_OFF);
    run(2);
    int map = fake_hv_first("vm_map"), chip = fake_hv_first("vm_irqchip"), cpu = fake_hv_first("vcpu_new");
    int setup = fake_hv_first("vcpu_setup"), irq = fake_hv_first("vm_irqfd"), bell = fake_hv_first("vm_ioeventfd");

    assert_true(fake_hv_first("vm_new") < map && map < chip && chip < cpu && cpu < setup && setup < irq && irq < bell);
    assert_int_equal(fake_hv_calls("vcpu_new"), 2);
    assert_int_equal(fake_hv_calls("vm_irqfd"), 3); /* serial, lifecycle, rng */
    assert_int_equal(fake.call[irq].a, LAYOUT_SERIAL_IRQ);
    assert_int_equal(fake.call[irq + 2].a, LAYOUT_VIRTIO_IRQ);
    assert_int_equal(fake.call[bell].a, LAYOUT_VIRTIO + 0x50);
    assert_int_equal(fake.call[setup].a, PVH_KERNEL_ENTRY);
    assert_int_equal(fake.call[setup].b, LAYOUT_START_INFO);
}

static void memory_around_the_hole(void **state)
{
    assert_int_equal(new_machine(8192, 1, NULL), 0);
    int map = fake_hv_first("vm_map");

    assert_int_equal(fake_hv_calls("vm_map"), 2);
    assert_int_equal(fake.call[map].a, 0);
    assert_int_equal(fake.call[map].b, LAYOUT_HOLE_START);
    assert_int_equal(fake.call[map + 1].a, LAYOUT_HOLE_END);
    assert_int_equal(fake.call[map + 1].b, 8 * GIB - LAYOUT_HOLE_START);
}

static void too_much_memory_is_a_sentence(void **state)
{
    struct sm_error err = SM_ERROR_INIT;

    fake.limit = 1ull << 32;
    assert_int_equal(new_machine(8192, 1, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "ask for less"));
    assert_int_equal(new_machine(31, 1, &err), -EINVAL);
    assert_int_equal(new_machine(64 * 1024 + 1, 1, &err), -EINVAL);
    assert_int_equal(new_machine(64, 0, &err), -EINVAL);
    assert_int_equal(new_machine(64, 17, &err), -EINVAL);
}

static void power_off(void **state)
{
    power(SM_LC_POWER_OFF);
    run(1);
    assert_int_equal(seen.end, MACHINE_POWER_OFF);
}

static void resets(void **state)
{
    static const struct {
        enum hv_exit_kind kind;
        uint64_t addr, value;
    } ways[] = {{HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_POWER, SM_LC_POWER_RESET},
                {HV_EXIT_PIO_WRITE, 0x64, 0xfe},
                {HV_EXIT_PIO_WRITE, 0xcf9, 0x06},
                {HV_EXIT_RESET, 0, 0}};

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        fake_hv_exit(0, HV_EXIT_PIO_WRITE, 0x64, 1, 0xaa); /* no reset */
        fake_hv_exit(0, HV_EXIT_PIO_WRITE, 0xcf9, 1, 0x02);
        fake_hv_exit(0, ways[i].kind, ways[i].addr, ways[i].kind == HV_EXIT_MMIO_WRITE ? 4 : 1, ways[i].value);
        run(1);
        assert_int_equal(seen.end, MACHINE_RESET);
        assert_int_equal(fake.at[0], 3);
        machine_free(m);
        m = NULL;
        loop_free(seen.loop);
        set_up(NULL);
    }
}

static void triple_fault_and_other_ends(void **state)
{
    static const struct {
        enum hv_exit_kind kind;
        enum machine_end end;
        const char *text;
    } ways[] = {{HV_EXIT_SHUTDOWN, MACHINE_TRIPLE_FAULT, "triple fault"},
                {HV_EXIT_POWER_OFF, MACHINE_POWER_OFF, "powered"},
                {HV_EXIT_HALT, MACHINE_VCPU_ERROR, "halted"},
                {HV_EXIT_OTHER, MACHINE_VCPU_ERROR, "the hypervisor is lost"}};

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        fake_hv_exit(1, ways[i].kind, 0, 0, 0); /* by the second vCPU, with the first one idle */
        run(2);
        assert_int_equal(seen.end, ways[i].end);
        assert_non_null(strstr(seen.text, ways[i].text));
        machine_free(m);
        m = NULL;
        loop_free(seen.loop);
        set_up(NULL);
    }
    fake.run_error = -EFAULT;
    run(1);
    assert_int_equal(seen.end, MACHINE_VCPU_ERROR);
    assert_string_equal(seen.text, "running failed");
}

static void panic_wins_over_the_reset_behind_it(void **state)
{
    const char text[] = "Kernel panic - not syncing: no init";

    for (size_t i = 0; i < sizeof(text); i++)
        fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_TEXT + i, 1, (uint8_t)text[i]);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT_ARG, 8, strlen(text));
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, SM_LC_EV_PANIC);
    power(SM_LC_POWER_RESET);
    run(1);
    assert_int_equal(seen.end, MACHINE_PANIC);
    assert_string_equal(seen.text, "the guest's kernel panicked: Kernel panic - not syncing: no init");
}

static void events_come_before_the_end(void **state)
{
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT_ARG, 8, 0);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, SM_LC_EV_AGENT_READY);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT_ARG, 8, 8080);
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, SM_LC_EV_LISTENER);
    power(SM_LC_POWER_OFF);
    run(1);
    assert_int_equal(seen.n_events, 2);
    assert_int_equal(seen.event[0].kind, SM_LC_EV_AGENT_READY);
    assert_int_equal(seen.event[1].arg, 8080);
}

static void events_wait_for_a_slow_owner(void **state)
{
    fake_hv_exit(0, HV_EXIT_MMIO_WRITE, LAYOUT_LIFECYCLE + SM_LC_EVENT, 4, SM_LC_EV_AGENT_READY);
    seen.refuse = true;
    power(SM_LC_POWER_OFF);
    run(1);
    assert_int_equal(seen.n_events, 0);
    seen.refuse = false;
    machine_deliver(m);
    assert_int_equal(seen.n_events, 1);
    assert_int_equal(seen.event[0].kind, SM_LC_EV_AGENT_READY);
}

static void stop_from_the_owner(void **state)
{
    assert_int_equal(new_machine(64, 16, NULL), 0);
    assert_int_equal(boot_machine(NULL), 0);
    assert_int_equal(machine_spawn(m, NULL), 0);
    machine_run(m);
    machine_stop(m);
    machine_stop(m);
    assert_int_equal(loop_run(seen.loop), 0);
    assert_int_equal(seen.ends, 1);
    assert_int_equal(seen.end, MACHINE_STOPPED);
}

static void free_stops_what_runs(void **state)
{
    assert_int_equal(new_machine(64, 4, NULL), 0);
    assert_int_equal(boot_machine(NULL), 0);
    assert_int_equal(machine_spawn(m, NULL), 0);
    machine_run(m);
    machine_free(m);
    m = NULL;
    assert_int_equal(seen.ends, 0);
}

static void nobody_home(void **state)
{
    struct fake_exit *mmio = fake_hv_exit(0, HV_EXIT_MMIO_READ, 0xd0f00000, 4, 0);
    struct fake_exit *port = fake_hv_exit(0, HV_EXIT_PIO_READ, 0x71, 1, 0);
    struct fake_exit *wide = fake_hv_exit(0, HV_EXIT_PIO_READ, LAYOUT_SERIAL_PORT, 2, 0);
    fake_hv_exit(0, HV_EXIT_PIO_WRITE, 0x80, 1, 1);
    power(SM_LC_POWER_OFF);
    run(1);
    assert_int_equal(mmio->data[0] & mmio->data[3], 0xff);
    assert_int_equal(port->data[0], 0xff);
    assert_int_equal(wide->data[0] & wide->data[1], 0xff);
    assert_int_equal(seen.traces, 3);
    assert_string_equal(seen.trace, "vcpu 0: unhandled port write of 1 bytes at 0x80");
}

static void console_by_string_io(void **state)
{
    struct fake_exit *e = fake_hv_exit(0, HV_EXIT_PIO_WRITE, LAYOUT_SERIAL_PORT, 1, 0);
    char tail[16] = {0};

    memcpy(e->data, "hello", 5);
    e->count = 5; /* rep outsb */
    power(SM_LC_POWER_OFF);
    run(1);
    assert_string_equal(seen.console, "hello");
    assert_int_equal(machine_console_tail(m, tail, sizeof(tail)), 5);
    assert_string_equal(tail, "hello");
}

static void registers_and_counts(void **state)
{
    struct fake_exit *magic = fake_hv_exit(0, HV_EXIT_MMIO_READ, LAYOUT_VIRTIO, 4, 0);
    struct fake_exit *id = fake_hv_exit(0, HV_EXIT_MMIO_READ, LAYOUT_VIRTIO + 8, 4, 0);
    struct fake_exit *lc = fake_hv_exit(0, HV_EXIT_MMIO_READ, LAYOUT_LIFECYCLE, 4, 0);
    struct machine_stats stats;
    struct buf profile = buf_init(4096);

    power(SM_LC_POWER_OFF);
    run(1);
    assert_memory_equal(magic->data, "virt", 4);
    assert_int_equal(id->data[0], VIRTIO_ID_RNG);
    assert_memory_equal(lc->data, "SMLC", 4);
    machine_stats(m, &stats);
    assert_int_equal(stats.memory_bytes, 64 * MIB);
    assert_int_equal(stats.exits[HV_EXIT_MMIO_READ], 3);
    assert_int_equal(stats.exits[HV_EXIT_MMIO_WRITE], 1);
    assert_true(stats.first_entry_ns > 0);
    machine_profile(m, &profile);
    buf_u8(&profile, 0);
    assert_non_null(strstr((char *)profile.data, "vcpu 0: mmio-read rng: 2 exits"));
    assert_non_null(strstr((char *)profile.data, "vcpu 0: mmio-read lifecycle+0x0: 1 exits"));
    assert_non_null(strstr((char *)profile.data, "vcpu 0: in fake: exits 40, hypercalls 7\n"));
    assert_int_equal(fake_hv_calls("vcpu_count"), 1);
    buf_done(&profile);
}

static void all_slots_and_one_more(void **state)
{
    assert_int_equal(new_machine(64, 1, NULL), 0);
    for (unsigned i = 0; i < LAYOUT_VIRTIO_SLOTS; i++)
        assert_int_equal(add_rng(NULL), 0);
    assert_int_equal(add_rng(NULL), -ENOSPC);
    assert_int_equal(boot_machine(NULL), 0);
}

static void a_thread_that_can_not_be_shut_in_stops_all(void **state)
{
    struct sm_error err = SM_ERROR_INIT;

    seen.thread_result = -EPERM;
    assert_int_equal(new_machine(64, 3, NULL), 0);
    assert_int_equal(boot_machine(NULL), 0);
    assert_int_equal(machine_spawn(m, &err), -EPERM);
    assert_string_equal(err.text, "no sandbox");
    assert_int_equal(fake.at[0], 0);
}

static void failures_leave_nothing(void **state)
{
    static const char *const calls[] = {"vm_new",     "vm_map",   "vm_irqchip",  "vcpu_new",
                                        "vcpu_setup", "vm_irqfd", "vm_ioeventfd"};

    for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
        struct sm_error err = SM_ERROR_INIT;

        fake_hv_reset();
        fake.fail = calls[i];
        int r = new_machine(64, 2, &err);
        if (r == 0)
            r = add_rng(&err);
        if (r == 0)
            r = boot_machine(&err);
        assert_int_equal(r, -EIO);
        assert_non_null(strstr(err.text, calls[i]));
        machine_free(m);
        m = NULL;
        assert_int_equal(fake.alive, 0);
    }
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(order_of_building),
        TEST(memory_around_the_hole),
        TEST(too_much_memory_is_a_sentence),
        TEST(power_off),
        TEST(resets),
        TEST(triple_fault_and_other_ends),
        TEST(panic_wins_over_the_reset_behind_it),
        TEST(events_come_before_the_end),
        TEST(events_wait_for_a_slow_owner),
        TEST(stop_from_the_owner),
        TEST(free_stops_what_runs),
        TEST(nobody_home),
        TEST(console_by_string_io),
        TEST(registers_and_counts),
        TEST(all_slots_and_one_more),
        TEST(a_thread_that_can_not_be_shut_in_stops_all),
        TEST(failures_leave_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
