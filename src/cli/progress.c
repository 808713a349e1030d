/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Progress on a terminal: see progress.h.
 *
 * Theory of operation
 *
 * What: events of the library become the state of each layer; at most ten times a second all lines are drawn over what
 * is there: the cursor goes up by as many lines as were drawn, each line is written and wiped to its end, and what is
 * below it is wiped when there are fewer lines now. Everything goes out in one write.
 *
 * Invariants: between two draws the cursor is at the beginning of the line below the last one, and no mode of the
 * terminal is changed: whatever kills us leaves a screen that a shell goes on from. No line is as wide as the screen
 * (it would wrap), and there are fewer lines than rows (the cursor can't go up beyond the top).
 *
 * Layers that are done leave the screen when there is no room for all; then those that came last do, with a line that
 * says how many are not shown.
 *
 * Threads: none; the library calls on ours.
 */
#include "cli/progress.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/format.h"
#include "cli/interrupt.h"
#include "cli/meter.h"
#include "cli/tty.h"

#define REDRAW_NS     100000000ull
#define DEFAULT_ROWS  24
#define DEFAULT_COLS  80
#define LINE_SIZE     512
#define LAYER_ID_SIZE FORMAT_SIZE

struct progress_layer {
    char digest[80];
    enum sm_image_event_kind kind;
    struct meter fetched, converted;
    bool was_there;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- What is known ---- */

/* The layer's entry, made when it is new; NULL without memory: it is not shown then. */
static struct progress_layer *layer_of(struct progress *p, const char *digest)
{
    struct progress_layer *layers;

    if (!digest) {
        if (!p->whole)
            p->whole = calloc(1, sizeof(*p->whole));
        return p->whole;
    }
    for (unsigned i = 0; i < p->n_layers; i++)
        if (strcmp(p->layers[i].digest, digest) == 0)
            return &p->layers[i];
    layers = reallocarray(p->layers, p->n_layers + 1, sizeof(*layers));
    if (!layers)
        return NULL;
    p->layers = layers;
    layers[p->n_layers] = (struct progress_layer){.kind = SM_IMAGE_WAITING};
    snprintf(layers[p->n_layers].digest, sizeof(layers->digest), "%s", digest);
    return &p->layers[p->n_layers++];
}

static void note(struct progress *p, const struct sm_image_event *e, uint64_t now)
{
    struct progress_layer *l = layer_of(p, e->layer);

    /* What the name means is known by now. */
    if (e->layer && p->whole && p->whole->kind == SM_IMAGE_RESOLVING) {
        free(p->whole);
        p->whole = NULL;
    }
    if (!l || l->kind == SM_IMAGE_LAYER_DONE)
        return;
    if (e->kind == SM_IMAGE_FETCHING || !e->layer)
        meter_update(&l->fetched, e->done, e->total, now);
    else if (e->kind == SM_IMAGE_CONVERTING)
        meter_update(&l->converted, e->done, e->total, now);
    if (e->kind == SM_IMAGE_LAYER_DONE)
        l->was_there = e->done == 0;
    l->kind = e->kind;
}

/* ---- What is shown ---- */

static const char *state_of(const struct progress_layer *l, const struct meter **ret)
{
    static const char *const words[] = {
        [SM_IMAGE_RESOLVING] = "looking up", [SM_IMAGE_WAITING] = "waiting",
        [SM_IMAGE_FETCHING] = "fetching",    [SM_IMAGE_CONVERTING] = "converting",
        [SM_IMAGE_LAYER_DONE] = "done",      [SM_IMAGE_MERGING] = "merging",
        [SM_IMAGE_LOADING] = "loading",      [SM_IMAGE_SAVING] = "saving",
        [SM_IMAGE_CHECKING] = "checking",    [SM_IMAGE_DONE] = "done",
    };
    static const struct meter nothing;
    enum sm_image_event_kind kind = l->kind;

    *ret = &nothing;
    if (l->was_there)
        return "already here";

    /* A layer is converted while it comes: what takes longer is what is shown. */
    if (kind == SM_IMAGE_CONVERTING && l->fetched.done < l->fetched.total)
        kind = SM_IMAGE_FETCHING;
    else if (kind == SM_IMAGE_FETCHING && l->fetched.done >= l->fetched.total && l->converted.total)
        kind = SM_IMAGE_CONVERTING;
    *ret = kind == SM_IMAGE_CONVERTING && l->digest[0] ? &l->converted : &l->fetched;
    if (kind == SM_IMAGE_LAYER_DONE || kind == SM_IMAGE_DONE || kind == SM_IMAGE_WAITING || kind == SM_IMAGE_RESOLVING)
        *ret = &nothing;
    return (unsigned)kind < sizeof(words) / sizeof(words[0]) && words[kind] ? words[kind] : "working";
}

static void put_line(FILE *f, unsigned width, const char *label, const struct progress_layer *l)
{
    const struct meter *m;
    const char *state = state_of(l, &m);
    char line[LINE_SIZE];

    if (width >= LINE_SIZE)
        width = LINE_SIZE - 1;
    fprintf(f, "%s\033[K\n", meter_line(line, sizeof(line), width, label, state, m));
}

/* Returns the lines drawn. */
static unsigned put_lines(FILE *f, const struct progress *p, unsigned rows, unsigned width)
{
    unsigned room = rows - 1 - (p->whole != NULL), lines = 0, left_out = 0;
    bool only_active = p->n_layers > room;
    char id[LAYER_ID_SIZE];

    if (only_active)
        room--; /* for the line that says so */
    for (unsigned i = 0; i < p->n_layers; i++) {
        const struct progress_layer *l = &p->layers[i];

        if (lines == room || (only_active && l->kind == SM_IMAGE_LAYER_DONE)) {
            left_out++;
            continue;
        }
        put_line(f, width, format_id(id, l->digest), l);
        lines++;
    }
    if (left_out) {
        fprintf(f, "%.*s\033[K\n", (int)width, "... more layers are not shown here");
        lines++;
    }
    if (p->whole) {
        put_line(f, width, p->label ? p->label : "", p->whole);
        lines++;
    }
    return lines;
}

static void draw(struct progress *p)
{
    uint16_t rows = DEFAULT_ROWS, cols = DEFAULT_COLS;
    unsigned lines;
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return;
    tty_size(STDERR_FILENO, &rows, &cols);
    if (p->shown)
        fprintf(f, "\033[%uA\r", p->shown);
    lines = rows < 4 || cols < 20 ? 0 : put_lines(f, p, rows, cols - 1u);
    if (lines < p->shown)
        fputs("\033[J", f);
    p->shown = lines;
    if (fclose(f) == 0)
        fwrite(text, 1, len, stderr);
    fflush(stderr);
    free(text);
}

static int on_event(void *ctx, const struct sm_image_event *e)
{
    struct progress *p = ctx;
    uint64_t now = now_ns();

    if (!p->visible)
        return interrupted();
    note(p, e, now);
    if (p->drawn_ns == 0 || now - p->drawn_ns >= REDRAW_NS) {
        p->drawn_ns = now;
        draw(p);
    }
    return interrupted();
}

void progress_begin(struct progress *p, bool quiet, const char *label,
                    int (**event)(void *ctx, const struct sm_image_event *event), void **event_ctx)
{
    *p = (struct progress){.begun = true, .visible = !quiet && isatty(STDERR_FILENO) == 1, .label = label};
    *event = on_event;
    *event_ctx = p;
    interrupt_begin();
}

void progress_finish(struct progress *p)
{
    free(p->whole);
    p->whole = NULL;
    if (p->visible && p->n_layers) {
        draw(p);
        p->shown = 0;
    }
    progress_end(p);
}

void progress_end(struct progress *p)
{
    if (!p->begun)
        return;
    if (p->shown)
        fprintf(stderr, "\033[%uA\r\033[J", p->shown);
    fflush(stderr);
    interrupt_end();
    free(p->layers);
    free(p->whole);
    *p = (struct progress){.begun = false};
}

int progress_failed(struct progress *p, const struct sm_error *err)
{
    progress_end(p);
    if (err->code == ECANCELED && interrupted()) {
        complain("interrupted; what is done so far is kept for the next time");
        interrupt_die();
    }
    return complain("%s", err->text);
}
