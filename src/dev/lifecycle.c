/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lifecycle device: see lifecycle.h, guest/lifecycle_regs.h for the registers.
 *
 * Theory of operation
 *
 * A page of registers that vCPU threads read and write. Guest to host, state is the argument of the next event and the
 * text window; an event is taken under the mutex (argument and text copied) and told after it is released, so that a
 * callback may do as it likes. A register takes accesses of exactly its own width; the text window takes any that lies
 * wholly inside.
 *
 * Host to guest, a reason is a bit in INT_STATUS. A bit that goes from 0 to 1 raises an edge, after it is set, so that
 * who is interrupted sees it. Park and unpark take each other back: only the newest wish stands; a clone is not asked
 * what its parent was. Each of the seed's registers reads once, so that no two readers, and no later dump of the
 * device, have the same entropy.
 *
 * Threads: registers from any vCPU thread, the host's calls from any; one mutex.
 */
#include "dev/lifecycle.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "dev/le.h"
#include "lifecycle_regs.h"

#define REG64        8 /* bytes */
#define INT_ALL      (SM_LC_INT_RESTORED | SM_LC_INT_PARK | SM_LC_INT_UNPARK)
#define NS_OF_SECOND 1000000000u

struct lifecycle {
    int irq_fd; /* not ours */
    const struct lifecycle_ops *ops;
    void *ctx;
    pthread_mutex_t lock; /* guards everything below */
    uint64_t event_arg;
    uint8_t text[SM_LC_TEXT_SIZE];
    uint32_t int_status;
    uint8_t generation[LIFECYCLE_GENERATION_BYTES], seed[LIFECYCLE_SEED_BYTES];
};

int lifecycle_new(struct lifecycle **ret, int irq_fd, const struct lifecycle_ops *ops, void *ctx, struct sm_error *err)
{
    struct lifecycle *lc = calloc(1, sizeof(*lc));

    if (!lc)
        return sm_error_set(err, ENOMEM, "no memory for the lifecycle device");
    lc->irq_fd = irq_fd;
    lc->ops = ops;
    lc->ctx = ctx;
    pthread_mutex_init(&lc->lock, NULL);
    *ret = lc;
    return 0;
}

void lifecycle_free(struct lifecycle *lc)
{
    if (!lc)
        return;
    pthread_mutex_destroy(&lc->lock);
    explicit_bzero(lc->seed, sizeof(lc->seed));
    free(lc);
}

static bool in_text(uint64_t off, unsigned len)
{
    return off >= SM_LC_TEXT && len <= 8 && range_within(off - SM_LC_TEXT, len, SM_LC_TEXT_SIZE);
}

static uint64_t wall_clock(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return (uint64_t)ts.tv_sec * NS_OF_SECOND + (uint64_t)ts.tv_nsec;
}

/* The registers of 64 bits. */
static uint64_t read_wide(struct lifecycle *lc, uint64_t off)
{
    uint64_t v = 0;

    if (off % REG64)
        return 0;
    if (off == SM_LC_WALL_CLOCK)
        return wall_clock();
    pthread_mutex_lock(&lc->lock);
    if (off >= SM_LC_GENERATION && off < SM_LC_GENERATION + LIFECYCLE_GENERATION_BYTES) {
        v = load_le64(lc->generation + (off - SM_LC_GENERATION));
    } else if (off >= SM_LC_SEED && off < SM_LC_SEED + LIFECYCLE_SEED_BYTES) {
        v = load_le64(lc->seed + (off - SM_LC_SEED));
        explicit_bzero(lc->seed + (off - SM_LC_SEED), REG64);
    }
    pthread_mutex_unlock(&lc->lock);
    return v;
}

uint64_t lifecycle_read(struct lifecycle *lc, uint64_t off, unsigned len)
{
    uint64_t v = 0;

    if (in_text(off, len)) {
        pthread_mutex_lock(&lc->lock);
        for (unsigned i = 0; i < len; i++)
            v |= (uint64_t)lc->text[off - SM_LC_TEXT + i] << (8 * i);
        pthread_mutex_unlock(&lc->lock);
        return v;
    }
    if (len == REG64)
        return read_wide(lc, off);
    if (len != 4)
        return 0;
    switch (off) {
    case SM_LC_MAGIC:
        return SM_LC_MAGIC_VALUE;
    case SM_LC_VERSION:
        return SM_LC_VERSION_VALUE;
    case SM_LC_FEATURES:
        return SM_LC_F_EVENTS | SM_LC_F_RESTORE | SM_LC_F_PARK;
    case SM_LC_INT_STATUS:
        pthread_mutex_lock(&lc->lock);
        v = lc->int_status;
        pthread_mutex_unlock(&lc->lock);
        return v;
    default:
        return 0;
    }
}

static void event(struct lifecycle *lc, uint32_t kind)
{
    char text[SM_LC_TEXT_SIZE];
    size_t text_len = 0;

    pthread_mutex_lock(&lc->lock);
    uint64_t arg = lc->event_arg;
    lc->event_arg = 0;
    if (kind == SM_LC_EV_PANIC) {
        text_len = arg < SM_LC_TEXT_SIZE ? (size_t)arg : SM_LC_TEXT_SIZE;
        memcpy(text, lc->text, text_len);
    }
    pthread_mutex_unlock(&lc->lock);

    if (kind < SM_LC_EV_AGENT_READY || kind > SM_LC_EV_PANIC)
        return;
    lc->ops->event(lc->ctx, kind, arg, kind == SM_LC_EV_PANIC ? text : NULL, text_len);
}

void lifecycle_write(struct lifecycle *lc, uint64_t off, unsigned len, uint64_t value)
{
    if (in_text(off, len)) {
        pthread_mutex_lock(&lc->lock);
        for (unsigned i = 0; i < len; i++)
            lc->text[off - SM_LC_TEXT + i] = (uint8_t)(value >> (8 * i));
        pthread_mutex_unlock(&lc->lock);
        return;
    }
    if (off == SM_LC_EVENT_ARG && len == 8) {
        pthread_mutex_lock(&lc->lock);
        lc->event_arg = value;
        pthread_mutex_unlock(&lc->lock);
    } else if (off == SM_LC_EVENT && len == 4) {
        event(lc, (uint32_t)value);
    } else if (off == SM_LC_POWER && len == 4) {
        uint32_t kind = (uint32_t)value;

        if (kind == SM_LC_POWER_OFF || kind == SM_LC_POWER_RESET)
            lc->ops->power(lc->ctx, kind);
    } else if (off == SM_LC_INT_ACK && len == 4) {
        pthread_mutex_lock(&lc->lock);
        lc->int_status &= ~(uint32_t)value;
        pthread_mutex_unlock(&lc->lock);
    } else if (off == SM_LC_PARK_STATE && len == 4 && lc->ops->parked) {
        lc->ops->parked(lc->ctx, (uint32_t)value);
    } else if (off == SM_LC_RENEWED && len == 4 && value == 1 && lc->ops->renewed) {
        lc->ops->renewed(lc->ctx);
    }
}

static void interrupt(const struct lifecycle *lc)
{
    uint64_t one = 1;
    ssize_t n = write(lc->irq_fd, &one, sizeof(one));

    (void)n; /* fails only when the counter is full, so an interrupt is on its way */
}

/* Give a reason, take others back. Lock held. */
static void notify(struct lifecycle *lc, uint32_t set, uint32_t clear)
{
    bool rises = !(lc->int_status & set);

    lc->int_status = (lc->int_status & ~clear) | set;
    if (rises)
        interrupt(lc);
}

void lifecycle_restored(struct lifecycle *lc, const uint8_t generation[LIFECYCLE_GENERATION_BYTES],
                        const uint8_t seed[LIFECYCLE_SEED_BYTES])
{
    pthread_mutex_lock(&lc->lock);
    memcpy(lc->generation, generation, sizeof(lc->generation));
    memcpy(lc->seed, seed, sizeof(lc->seed));
    notify(lc, SM_LC_INT_RESTORED, SM_LC_INT_PARK);
    pthread_mutex_unlock(&lc->lock);
}

void lifecycle_park(struct lifecycle *lc, bool park)
{
    pthread_mutex_lock(&lc->lock);
    notify(lc, park ? SM_LC_INT_PARK : SM_LC_INT_UNPARK, park ? SM_LC_INT_UNPARK : SM_LC_INT_PARK);
    pthread_mutex_unlock(&lc->lock);
}

void lifecycle_state(struct lifecycle *lc, struct snap_stream *s)
{
    pthread_mutex_lock(&lc->lock);
    snap_begin(s, SNAP_TAG('L', 'I', 'F', 'E'), 0, 1, "lifecycle");
    snap_u64(s, "event argument", &lc->event_arg);
    snap_u32(s, "interrupt status", &lc->int_status);
    snap_check(s, !(lc->int_status & ~INT_ALL), "interrupt status", "0x%x has unknown bits", lc->int_status);
    lc->int_status &= INT_ALL;
    snap_bytes(s, "text", lc->text, sizeof(lc->text));
    snap_end(s);
    pthread_mutex_unlock(&lc->lock);
}

void lifecycle_resume(struct lifecycle *lc)
{
    pthread_mutex_lock(&lc->lock);
    if (lc->int_status)
        interrupt(lc);
    pthread_mutex_unlock(&lc->lock);
}
