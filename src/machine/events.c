/* SPDX-License-Identifier: Apache-2.0 */
/* Events and the end of a run: see events.h. */
#include "machine/events.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "lifecycle_regs.h"

void events_init(struct events *ev)
{
    memset(ev, 0, sizeof(*ev));
    pthread_mutex_init(&ev->lock, NULL);
}

void events_done(struct events *ev)
{
    pthread_mutex_destroy(&ev->lock);
}

static void post_listener(struct events *ev, uint64_t port)
{
    for (unsigned i = 0; i < ev->n_listeners; i++)
        if (ev->listener[i] == port)
            return;
    if (ev->n_listeners == EVENTS_MAX_LISTENERS)
        ev->lost++;
    else
        ev->listener[ev->n_listeners++] = port;
}

void events_post(struct events *ev, uint32_t kind, uint64_t arg)
{
    assert(kind < EVENTS_MAX_KINDS);
    pthread_mutex_lock(&ev->lock);
    if (kind == SM_LC_EV_LISTENER) {
        post_listener(ev, arg);
    } else {
        ev->lost += ev->pending[kind];
        ev->pending[kind] = true;
        ev->arg[kind] = arg;
    }
    pthread_mutex_unlock(&ev->lock);
}

bool events_take(struct events *ev, struct event *ret)
{
    bool found = false;

    pthread_mutex_lock(&ev->lock);
    for (uint32_t kind = 0; !found && kind < EVENTS_MAX_KINDS; kind++) {
        if (!ev->pending[kind])
            continue;
        ev->pending[kind] = false;
        *ret = (struct event){.kind = kind, .arg = ev->arg[kind]};
        found = true;
    }
    if (!found && ev->n_listeners) {
        *ret = (struct event){.kind = SM_LC_EV_LISTENER, .arg = ev->listener[0]};
        ev->n_listeners--;
        memmove(ev->listener, ev->listener + 1, ev->n_listeners * sizeof(ev->listener[0]));
        found = true;
    }
    pthread_mutex_unlock(&ev->lock);
    return found;
}

void events_put_back(struct events *ev, const struct event *event)
{
    pthread_mutex_lock(&ev->lock);
    if (event->kind == SM_LC_EV_LISTENER) {
        post_listener(ev, event->arg);
    } else if (ev->pending[event->kind]) {
        ev->lost++;
    } else {
        ev->pending[event->kind] = true;
        ev->arg[event->kind] = event->arg;
    }
    pthread_mutex_unlock(&ev->lock);
}

void events_forget(struct events *ev)
{
    pthread_mutex_lock(&ev->lock);
    memset(ev->pending, 0, sizeof(ev->pending));
    ev->n_listeners = 0;
    pthread_mutex_unlock(&ev->lock);
}

uint64_t events_lost(struct events *ev)
{
    pthread_mutex_lock(&ev->lock);
    uint64_t lost = ev->lost;
    pthread_mutex_unlock(&ev->lock);
    return lost;
}

bool events_end(struct events *ev, enum machine_end end, const char *prefix, const char *text, size_t len)
{
    bool first;

    pthread_mutex_lock(&ev->lock);
    first = ev->end == MACHINE_RUNNING;
    if (first) {
        size_t n = strlen(prefix);

        assert(n < sizeof(ev->end_text));
        memcpy(ev->end_text, prefix, n);
        for (size_t i = 0; i < len && n < sizeof(ev->end_text) - 1; i++) {
            char c = text[i];

            ev->end_text[n++] = c == '\n' || (c >= 0x20 && c < 0x7f) ? c : '?';
        }
        while (n > 0 && ev->end_text[n - 1] == '\n')
            n--;
        ev->end_text[n] = '\0';
        ev->end = end;
    }
    pthread_mutex_unlock(&ev->lock);
    return first;
}

enum machine_end events_ended(struct events *ev, char *text)
{
    pthread_mutex_lock(&ev->lock);
    enum machine_end end = ev->end;
    if (end != MACHINE_RUNNING && text)
        snprintf(text, sizeof(ev->end_text), "%s", ev->end_text);
    pthread_mutex_unlock(&ev->lock);
    return end;
}
