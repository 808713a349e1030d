/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 8250 UART, output only: see serial.h.
 *
 * Theory of operation
 *
 * The transmitter is always empty: a byte written to THR is in the ring at once, and LSR always says so. What is left
 * of a 16550A is what an operating system's probe looks at: a scratch register, modem lines that follow MCR in loopback
 * mode, FIFO bits in IIR once FCR enabled them, IER of four bits.
 *
 * The one interrupt is "transmitter holding register empty". It becomes pending when IER.THRI goes from 0 to 1 and
 * after each byte written, and it is taken back by reading IIR (or by clearing THRI), as on the real chip; a driver's
 * start-up test counts on the first. The line is `pending && THRI`, and as in a PC it goes through a gate that MCR.OUT2
 * opens (and loopback closes): that start-up test is made behind a closed gate, or another processor's handler would
 * read IIR in the middle of it, and the driver would for ever poll a port that it takes for a broken one. The eventfd
 * is written when the gated line rises, because the interrupt is an edge: a driver loops until IIR shows nothing
 * pending, so that the line has fallen and can rise.
 *
 * Threads: registers from any vCPU thread, the tail from any; one mutex. The tee runs after it is released.
 * Limits: SERIAL_RING_SIZE bytes kept, the newest. Not done: input, baud rates, modem status interrupts.
 */
#include "dev/serial.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

enum { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

#define IER_MASK     0x0f
#define IER_THRI     0x02
#define IIR_NO_INT   0x01
#define IIR_THRI     0x02
#define IIR_FIFO     0xc0
#define FCR_ENABLE   0x01
#define LCR_DLAB     0x80
#define MCR_MASK     0x1f
#define MCR_DTR      0x01
#define MCR_RTS      0x02
#define MCR_OUT1     0x04
#define MCR_OUT2     0x08
#define MCR_LOOP     0x10
#define LSR_TX_EMPTY 0x60 /* THRE and TEMT */
#define MSR_CTS      0x10
#define MSR_DSR      0x20
#define MSR_RI       0x40
#define MSR_DCD      0x80
#define DIVISOR_9600 12

struct serial {
    int irq_fd;
    void (*tee)(void *ctx, uint8_t byte);
    void *ctx;
    pthread_mutex_t lock; /* guards everything below */
    uint8_t ier, lcr, mcr, scr;
    uint16_t divisor;
    bool fifo, thr_pending;
    uint64_t written; /* bytes ever */
    char ring[SERIAL_RING_SIZE];
};

int serial_new(struct serial **ret, int irq_fd, void (*tee)(void *ctx, uint8_t byte), void *ctx, struct sm_error *err)
{
    struct serial *s = calloc(1, sizeof(*s));

    if (!s)
        return sm_error_set(err, ENOMEM, "no memory for the serial port");
    s->irq_fd = irq_fd;
    s->tee = tee;
    s->ctx = ctx;
    s->divisor = DIVISOR_9600;
    pthread_mutex_init(&s->lock, NULL);
    *ret = s;
    return 0;
}

void serial_free(struct serial *s)
{
    if (!s)
        return;
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static bool line(const struct serial *s)
{
    return s->thr_pending && (s->ier & IER_THRI);
}

static bool interrupts(const struct serial *s)
{
    return line(s) && (s->mcr & MCR_OUT2) && !(s->mcr & MCR_LOOP);
}

static uint8_t modem_status(const struct serial *s)
{
    uint8_t v = 0;

    if (!(s->mcr & MCR_LOOP))
        return MSR_DCD | MSR_DSR | MSR_CTS;
    v |= s->mcr & MCR_RTS ? MSR_CTS : 0;
    v |= s->mcr & MCR_DTR ? MSR_DSR : 0;
    v |= s->mcr & MCR_OUT1 ? MSR_RI : 0;
    v |= s->mcr & MCR_OUT2 ? MSR_DCD : 0;
    return v;
}

static uint8_t read_iir(struct serial *s)
{
    uint8_t fifo = s->fifo ? IIR_FIFO : 0;

    if (!line(s))
        return fifo | IIR_NO_INT;
    s->thr_pending = false; /* reading it as the source takes it back */
    return fifo | IIR_THRI;
}

static uint8_t read_locked(struct serial *s, unsigned reg)
{
    bool dlab = s->lcr & LCR_DLAB;

    switch (reg) {
    case REG_DATA:
        return dlab ? (uint8_t)s->divisor : 0;
    case REG_IER:
        return dlab ? (uint8_t)(s->divisor >> 8) : s->ier;
    case REG_IIR_FCR:
        return read_iir(s);
    case REG_LCR:
        return s->lcr;
    case REG_MCR:
        return s->mcr;
    case REG_LSR:
        return LSR_TX_EMPTY;
    case REG_MSR:
        return modem_status(s);
    case REG_SCR:
        return s->scr;
    default:
        return 0xff;
    }
}

uint8_t serial_read(struct serial *s, unsigned reg)
{
    uint8_t v;

    pthread_mutex_lock(&s->lock);
    v = read_locked(s, reg);
    pthread_mutex_unlock(&s->lock);
    return v;
}

static void write_ier(struct serial *s, uint8_t value)
{
    value &= IER_MASK;
    if (!(value & IER_THRI))
        s->thr_pending = false;
    else if (!(s->ier & IER_THRI))
        s->thr_pending = true;
    s->ier = value;
}

/* True when `value` went out. */
static bool write_locked(struct serial *s, unsigned reg, uint8_t value)
{
    bool dlab = s->lcr & LCR_DLAB;

    switch (reg) {
    case REG_DATA:
        if (dlab) {
            s->divisor = (uint16_t)((s->divisor & 0xff00) | value);
            return false;
        }
        s->thr_pending = true;
        if (s->mcr & MCR_LOOP)
            return false;
        s->ring[s->written++ % SERIAL_RING_SIZE] = (char)value;
        return true;
    case REG_IER:
        if (dlab)
            s->divisor = (uint16_t)((s->divisor & 0x00ff) | value << 8);
        else
            write_ier(s, value);
        return false;
    case REG_IIR_FCR:
        s->fifo = value & FCR_ENABLE;
        return false;
    case REG_LCR:
        s->lcr = value;
        return false;
    case REG_MCR:
        s->mcr = value & MCR_MASK;
        return false;
    case REG_SCR:
        s->scr = value;
        return false;
    default:
        return false;
    }
}

static void interrupt(const struct serial *s)
{
    uint64_t one = 1;
    ssize_t n = write(s->irq_fd, &one, sizeof(one));

    (void)n; /* fails only when the counter is full, so an interrupt is on its way */
}

void serial_write(struct serial *s, unsigned reg, uint8_t value)
{
    pthread_mutex_lock(&s->lock);
    bool before = interrupts(s);
    bool out = write_locked(s, reg, value);
    bool rise = !before && interrupts(s);
    pthread_mutex_unlock(&s->lock);

    if (rise)
        interrupt(s);
    if (out && s->tee)
        s->tee(s->ctx, value);
}

size_t serial_tail(struct serial *s, char *buf, size_t max)
{
    pthread_mutex_lock(&s->lock);
    size_t n = s->written < SERIAL_RING_SIZE ? (size_t)s->written : SERIAL_RING_SIZE;
    if (n > max)
        n = max;
    size_t from = (size_t)((s->written - n) % SERIAL_RING_SIZE);
    size_t first = n < SERIAL_RING_SIZE - from ? n : SERIAL_RING_SIZE - from;
    memcpy(buf, s->ring + from, first);
    memcpy(buf + first, s->ring, n - first);
    pthread_mutex_unlock(&s->lock);
    return n;
}

void serial_state(struct serial *s, struct snap_stream *stream)
{
    pthread_mutex_lock(&s->lock);
    snap_begin(stream, SNAP_TAG('U', 'A', 'R', 'T'), 0, 1, "serial");
    snap_u8(stream, "IER", &s->ier);
    snap_check(stream, !(s->ier & ~IER_MASK), "IER", "0x%x has unknown bits", s->ier);
    s->ier &= IER_MASK;
    snap_u8(stream, "LCR", &s->lcr);
    snap_u8(stream, "MCR", &s->mcr);
    snap_check(stream, !(s->mcr & ~MCR_MASK), "MCR", "0x%x has unknown bits", s->mcr);
    s->mcr &= MCR_MASK;
    snap_u8(stream, "SCR", &s->scr);
    snap_u16(stream, "divisor", &s->divisor);
    snap_bool(stream, "FIFO", &s->fifo);
    snap_bool(stream, "transmitter empty pending", &s->thr_pending);
    snap_end(stream);
    pthread_mutex_unlock(&s->lock);
}

void serial_resume(struct serial *s)
{
    pthread_mutex_lock(&s->lock);
    if (interrupts(s))
        interrupt(s);
    pthread_mutex_unlock(&s->lock);
}
