/* SPDX-License-Identifier: Apache-2.0 */
/* 8250 UART: what a driver's probe looks for, interrupt-driven output, the ring. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "dev/serial.h"

enum { THR, IER, IIR, LCR, MCR, LSR, MSR, SCR };

struct env {
    struct serial *s;
    int irq_fd;
    char teed[64];
    unsigned n_teed;
};

static void tee(void *ctx, uint8_t byte)
{
    struct env *e = ctx;

    if (e->n_teed < sizeof(e->teed))
        e->teed[e->n_teed++] = (char)byte;
}

static int setup(void **state)
{
    struct env *e = calloc(1, sizeof(*e));

    e->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    *state = e;
    return serial_new(&e->s, e->irq_fd, tee, e, NULL);
}

static int teardown(void **state)
{
    struct env *e = *state;

    serial_free(e->s);
    serial_free(NULL);
    close(e->irq_fd);
    free(e);
    return 0;
}

static unsigned irqs(struct env *e)
{
    uint64_t n;

    return read(e->irq_fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

static void probes_as_a_16550a(void **state)
{
    struct env *e = *state;
    struct serial *s = e->s;

    serial_write(s, IER, 0xff);
    assert_int_equal(serial_read(s, IER), 0x0f);
    serial_write(s, IER, 0);
    assert_int_equal(serial_read(s, IER), 0);
    serial_write(s, MCR, 0x1a); /* loopback, OUT2 and RTS */
    assert_int_equal(serial_read(s, MSR) & 0xf0, 0x90);
    serial_write(s, MCR, 0x15);
    assert_int_equal(serial_read(s, MSR) & 0xf0, 0x60);
    serial_write(s, THR, 'L'); /* goes round, not out */
    serial_write(s, MCR, 0x0b);
    assert_int_equal(serial_read(s, MCR), 0x0b);
    assert_int_equal(serial_read(s, MSR), 0xb0);
    assert_int_equal(serial_read(s, IIR) & 0xc0, 0);
    serial_write(s, IIR, 1);
    assert_int_equal(serial_read(s, IIR) >> 6, 3);
    serial_write(s, IIR, 0x21); /* no 64-byte FIFO */
    assert_int_equal(serial_read(s, IIR) & 0x20, 0);
    serial_write(s, LCR, 0x80);
    serial_write(s, THR, 0x34);
    serial_write(s, IER, 0x12);
    assert_int_equal(serial_read(s, THR), 0x34);
    assert_int_equal(serial_read(s, IER), 0x12);
    serial_write(s, LCR, 0x13);
    assert_int_equal(serial_read(s, LCR), 0x13);
    assert_int_equal(serial_read(s, THR), 0);
    assert_int_equal(serial_read(s, IER), 0);
    serial_write(s, SCR, 0x5a);
    assert_int_equal(serial_read(s, SCR), 0x5a);
    serial_write(s, LSR, 0);
    assert_int_equal(serial_read(s, LSR), 0x60);
    assert_int_equal(e->n_teed, 0);
}

static void start_up_test_sees_the_interrupt_twice(void **state)
{
    struct env *e = *state;

    for (unsigned i = 0; i < 2; i++) {
        serial_write(e->s, IER, 2);
        assert_int_equal(irqs(e), 0); /* the gate is closed: no handler of another processor's takes it away */
        assert_int_equal(serial_read(e->s, IIR), 2);
        serial_write(e->s, IER, 0);
    }
    assert_int_equal(serial_read(e->s, IIR), 1);
    serial_write(e->s, IER, 2);
    assert_int_equal(serial_read(e->s, LSR), 0x60);
    assert_int_equal(serial_read(e->s, IIR), 2);
    assert_int_equal(serial_read(e->s, IIR), 1);
}

static void the_gate(void **state)
{
    struct env *e = *state;

    serial_write(e->s, IER, 2);
    serial_write(e->s, MCR, 0x03);
    assert_int_equal(irqs(e), 0);
    serial_write(e->s, MCR, 0x0b); /* OUT2: what waited behind it comes through */
    assert_int_equal(irqs(e), 1);
    serial_write(e->s, MCR, 0x1b); /* loopback closes it again */
    serial_write(e->s, THR, 'x');
    assert_int_equal(irqs(e), 0);
    serial_resume(e->s);
    assert_int_equal(irqs(e), 0);
    serial_write(e->s, MCR, 0x0b);
    assert_int_equal(irqs(e), 1);
}

/* A driver as drivers are: fills at most a FIFO for each interrupt, loops until nothing is pending. */
static void interrupt_driven_output_never_stalls(void **state)
{
    struct env *e = *state;
    unsigned sent = 0;
    char out[1000];

    serial_write(e->s, MCR, 0x0b);
    serial_write(e->s, IER, 2);
    while (sent < sizeof(out)) {
        assert_true(irqs(e) > 0); /* else it would wait for ever */
        while (!(serial_read(e->s, IIR) & 1)) {
            for (unsigned i = 0; i < 16 && sent < sizeof(out); i++)
                serial_write(e->s, THR, (uint8_t)sent++);
            if (sent % 160 == 0)
                break; /* a handler that gives up early is called again only by an edge: here by asking anew */
        }
        if (sent < sizeof(out)) {
            serial_write(e->s, IER, 0);
            serial_write(e->s, IER, 2);
        }
    }
    assert_int_equal(serial_tail(e->s, out, sizeof(out)), 1000);
    for (unsigned i = 0; i < sizeof(out); i++)
        assert_int_equal((uint8_t)out[i], (uint8_t)i);
    while (!(serial_read(e->s, IIR) & 1))
        ;
    irqs(e);
    serial_write(e->s, THR, 'x'); /* the line had fallen: each burst makes one edge */
    serial_write(e->s, THR, 'y');
    assert_int_equal(irqs(e), 1);
}

static void polled_output_raises_nothing(void **state)
{
    struct env *e = *state;

    serial_write(e->s, THR, 'h');
    serial_write(e->s, THR, 'i');
    assert_int_equal(irqs(e), 0);
    assert_int_equal(e->n_teed, 2);
    assert_memory_equal(e->teed, "hi", 2);
}

static void ring_keeps_the_newest(void **state)
{
    struct env *e = *state;
    static char big[SERIAL_RING_SIZE + 10];

    assert_int_equal(serial_tail(e->s, big, sizeof(big)), 0);
    serial_write(e->s, THR, 'a');
    serial_write(e->s, THR, 'b');
    assert_int_equal(serial_tail(e->s, big, sizeof(big)), 2);
    assert_memory_equal(big, "ab", 2);
    assert_int_equal(serial_tail(e->s, big, 1), 1);
    assert_int_equal(big[0], 'b');
    for (unsigned i = 0; i < SERIAL_RING_SIZE + 5; i++)
        serial_write(e->s, THR, (uint8_t)(i % 251));
    assert_int_equal(serial_tail(e->s, big, sizeof(big)), SERIAL_RING_SIZE);
    for (unsigned i = 0; i < SERIAL_RING_SIZE; i++)
        assert_int_equal((uint8_t)big[i], (i + 5) % 251);
    assert_int_equal(serial_tail(e->s, big, 7), 7);
    assert_int_equal((uint8_t)big[6], (SERIAL_RING_SIZE + 4) % 251);
}

static void state_comes_back(void **state)
{
    struct env *e = *state;
    struct serial *other;
    struct snap_stream s;

    serial_write(e->s, LCR, 0x80);
    serial_write(e->s, THR, 0x34);
    serial_write(e->s, IER, 0x12);
    serial_write(e->s, LCR, 0x13);
    serial_write(e->s, IIR, 1);
    serial_write(e->s, MCR, 0x0b);
    serial_write(e->s, SCR, 0x77);
    serial_write(e->s, IER, 2);
    serial_write(e->s, THR, 'x');
    snap_stream_init(&s);
    serial_state(e->s, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    s.loading = true;
    assert_int_equal(serial_new(&other, e->irq_fd, NULL, NULL, NULL), 0);
    serial_state(other, &s);
    assert_int_equal(snap_done(&s, NULL), 0);
    irqs(e);
    serial_resume(other);
    assert_int_equal(irqs(e), 1);
    static const unsigned regs[] = {IER, IIR, LCR, MCR, LSR, MSR, SCR};
    for (unsigned i = 0; i < sizeof(regs) / sizeof(regs[0]); i++)
        assert_int_equal(serial_read(other, regs[i]), serial_read(e->s, regs[i]));
    serial_write(other, LCR, 0x80);
    assert_int_equal(serial_read(other, THR), 0x34);
    assert_int_equal(serial_read(other, IER), 0x12);
    serial_resume(other); /* IIR was read: nothing is pending */
    assert_int_equal(irqs(e), 0);
    char tail[8];
    assert_int_equal(serial_tail(other, tail, sizeof(tail)), 0);

    static const struct {
        unsigned at;
        uint8_t value;
        const char *field;
    } bad[] = {{0, 0x10, "IER"}, {2, 0x20, "MCR"}, {6, 2, "FIFO"}, {7, 9, "pending"}};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct sm_error err = SM_ERROR_INIT;
        uint8_t was = s.data.data[bad[i].at];

        memset(&s.error, 0, sizeof(s.error));
        s.data.data[bad[i].at] = bad[i].value;
        serial_state(other, &s);
        assert_true(snap_done(&s, &err) < 0);
        assert_non_null(strstr(err.text, bad[i].field));
        s.data.data[bad[i].at] = was;
    }
    serial_free(other);
    snap_stream_clear(&s);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(probes_as_a_16550a),
        T(start_up_test_sees_the_interrupt_twice),
        T(the_gate),
        T(interrupt_driven_output_never_stalls),
        T(polled_output_raises_nothing),
        T(ring_keeps_the_newest),
        T(state_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
