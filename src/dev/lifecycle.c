/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The lifecycle device: see lifecycle.h, guest/lifecycle_regs.h for the registers.
 *
 * Theory of operation
 *
 * A page of registers that vCPU threads read and write. State is the argument of the next event and the text window,
 * under one mutex; an event is taken under it (argument and text copied) and told after it is released, so that a
 * callback may do as it likes. A register takes accesses of exactly its own width; the text window takes any that lies
 * wholly inside.
 *
 * Not done yet: the host's side (restored, park), which FEATURES says; its registers read 0.
 */
#include "dev/lifecycle.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "lifecycle_regs.h"

struct lifecycle {
    const struct lifecycle_ops *ops;
    void *ctx;
    pthread_mutex_t lock; /* guards everything below */
    uint64_t event_arg;
    uint8_t text[SM_LC_TEXT_SIZE];
};

int lifecycle_new(struct lifecycle **ret, const struct lifecycle_ops *ops, void *ctx, struct sm_error *err)
{
    struct lifecycle *lc = calloc(1, sizeof(*lc));

    if (!lc)
        return sm_error_set(err, ENOMEM, "no memory for the lifecycle device");
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
    free(lc);
}

static bool in_text(uint64_t off, unsigned len)
{
    return off >= SM_LC_TEXT && len <= 8 && range_within(off - SM_LC_TEXT, len, SM_LC_TEXT_SIZE);
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
    if (len != 4)
        return 0;
    switch (off) {
    case SM_LC_MAGIC:
        return SM_LC_MAGIC_VALUE;
    case SM_LC_VERSION:
        return SM_LC_VERSION_VALUE;
    case SM_LC_FEATURES:
        return SM_LC_F_EVENTS;
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
    }
}
