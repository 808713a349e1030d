/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The steps of a start: see steps.h. As with progress.c the cursor is at the beginning of the line below ours between
 * two events, so that a shell goes on from there whatever ends us.
 */
#include "cli/steps.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/tty.h"

#define STEP_MAX     512
#define DEFAULT_COLS 80

/* What is going on, in half a sentence; NULL: what takes no time that anybody would see, or is no step. */
static const char *words_of(const struct sm_vm_event *e, char buf[STEP_MAX])
{
    switch (e->kind) {
    case SM_VM_WAITING:
        snprintf(buf, STEP_MAX, "waiting for %s", e->text[0] ? e->text : "another process");
        return buf;
    case SM_VM_BOOTING:
        return "booting kernel and agent (once for each size of machine)";
    case SM_VM_RESTORING:
        return e->text[0] ? "restoring the base snapshot" : NULL;
    case SM_VM_SETTING_UP:
        return "setting up the image";
    case SM_VM_TRIGGER:
        snprintf(buf, STEP_MAX, "baking: waiting for the trigger %s", e->text);
        return buf;
    case SM_VM_WARMING_UP:
        return "warming up";
    case SM_VM_SAVING:
        return "writing the snapshot";
    case SM_VM_SAVED:
    case SM_VM_NOT_STORED:
    case SM_VM_REPLACING:
        break;
    }
    return NULL;
}

/* What was said by the worker or by the host's kernel does not steer a terminal. */
static void put_line(const char *label, const char *text, size_t max)
{
    char line[STEP_MAX + 128];

    snprintf(line, sizeof(line), "%s: %s", label, text);
    if (strlen(line) > max)
        line[max] = '\0';
    for (char *p = line; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = '?';
    fprintf(stderr, "%s\n", line);
}

static void wipe(struct steps *s)
{
    if (s->shown)
        fputs("\033[1A\r\033[K", stderr);
    s->shown = false;
}

static int on_event(void *ctx, const struct sm_vm_event *e)
{
    struct steps *s = ctx;
    uint16_t rows = 0, cols = DEFAULT_COLS;
    char buf[STEP_MAX];
    const char *words = words_of(e, buf);
    bool told = e->kind == SM_VM_NOT_STORED || e->kind == SM_VM_REPLACING; /* what somebody may want to act on */

    if (s->verbose || (s->visible && told)) {
        wipe(s);
        put_line("supermachine", words ? words : e->text[0] ? e->text : "restoring", STEP_MAX);
    } else if (s->visible && words) {
        tty_size(STDERR_FILENO, &rows, &cols);
        wipe(s);
        put_line(s->label, words, cols > 20 ? cols - 1u : 20);
        s->shown = true;
    }
    fflush(stderr);
    return 0;
}

void steps_begin(struct steps *s, bool quiet, bool verbose, const char *label, struct sm_vm_config *config)
{
    *s = (struct steps){.verbose = verbose, .visible = !quiet && isatty(STDERR_FILENO) == 1, .label = label};
    if (!s->visible && !s->verbose)
        return;
    config->event = on_event;
    config->event_ctx = s;
}

void steps_end(struct steps *s)
{
    wipe(s);
    fflush(stderr);
}

void steps_started(const struct steps *s, struct sm_vm *vm)
{
    static const char *const origins[] = {
        [SM_VM_BOOTED] = "booted", [SM_VM_RESTORED] = "restored from a snapshot", [SM_VM_BAKED] = "baked"};
    struct sm_vm_stats stats = {.size = sizeof(stats)};

    if (!s->verbose || sm_vm_stats(vm, &stats, NULL) < 0)
        return;
    fprintf(stderr, "supermachine: %s; %u MiB, %u %s; ready after %.1f ms, its processors ran after %.1f ms\n",
            stats.restored < sizeof(origins) / sizeof(origins[0]) ? origins[stats.restored] : "started",
            (unsigned)(stats.memory_bytes >> 20), stats.vcpus, stats.vcpus == 1 ? "processor" : "processors",
            (double)stats.start_ns / 1e6, (double)stats.setup_ns / 1e6);
}
