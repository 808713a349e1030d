/* SPDX-License-Identifier: Apache-2.0 */
/* Progress: rates, predictions, lines, and what a terminal gets to see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/meter.h"
#include "cli/progress.h"

#define SECOND 1000000000ull
#define MB     1000000ull

static char line[256];

static const char *show(unsigned width, const struct meter *m)
{
    return meter_line(line, sizeof(line), width, "0123456789ab", "fetching", m);
}

static void rates_are_measured_and_smoothed(void **state)
{
    struct meter m = {0};

    meter_update(&m, 5 * MB, 100 * MB, SECOND); /* what was there before is no speed */
    assert_true(m.rate == 0);
    assert_true(meter_left(&m) == UINT64_MAX);
    meter_update(&m, 6 * MB, 100 * MB, SECOND + SECOND / 10); /* too early to tell */
    assert_true(m.rate == 0);
    meter_update(&m, 15 * MB, 100 * MB, 2 * SECOND);
    assert_true(m.rate > 9.99 * MB && m.rate < 10.01 * MB);
    assert_int_equal(meter_left(&m), 9); /* 8.5 s */
    meter_update(&m, 15 * MB, 100 * MB, 3 * SECOND);
    assert_true(m.rate > 6.9 * MB && m.rate < 7.1 * MB);
    /* It begins anew: no rate is negative or huge. */
    meter_update(&m, 0, 100 * MB, 4 * SECOND);
    assert_true(m.rate == 0);
    meter_update(&m, 3 * MB, 100 * MB, 5 * SECOND);
    assert_true(m.rate > 2.9 * MB && m.rate < 3.1 * MB);
}

static void no_end_is_predicted_without_reason(void **state)
{
    struct meter m = {.done = 10, .total = 0, .rate = 100};

    assert_true(meter_left(&m) == UINT64_MAX);
    m.total = 5; /* more came than was promised */
    assert_true(meter_left(&m) == UINT64_MAX);
    m.total = UINT64_MAX;
    assert_true(meter_left(&m) == UINT64_MAX);
    m = (struct meter){.done = 10, .total = 10, .rate = 100};
    assert_int_equal(meter_left(&m), 0);
}

static void lines_fit_their_width(void **state)
{
    struct meter m = {.done = 123 * MB / 10, .total = 456 * MB / 10, .rate = 5.1 * MB};

    assert_string_equal(show(79, &m), "0123456789ab  fetching    [=====>               ]  12.3MB/45.6MB  5.1MB/s  7s");
    assert_string_equal(show(60, &m), "0123456789ab  fetching    12.3MB/45.6MB  5.1MB/s  7s");
    assert_string_equal(show(30, &m), "0123456789ab  fetching  ");
    assert_string_equal(show(10, &m), "0123456789");
    m.done = m.total;
    assert_string_equal(show(79, &m), "0123456789ab  fetching    [=====================]  45.6MB/45.6MB  5.1MB/s  0s");
    m = (struct meter){.done = 5 * MB};
    assert_string_equal(show(79, &m), "0123456789ab  fetching    5MB");
    m = (struct meter){.done = 0};
    assert_string_equal(show(79, &m), "0123456789ab  fetching");
    m = (struct meter){.done = 7 * MB, .total = 5 * MB}; /* a server that lies */
    assert_string_equal(show(79, &m), "0123456789ab  fetching    7MB/5MB");
    for (unsigned width = 0; width < 200; width++) {
        m = (struct meter){.done = 999 * MB, .total = 999999 * MB, .rate = 123.4 * MB};
        assert_true(strlen(show(width, &m)) <= width);
    }
}

/* A terminal of our own in the place of stderr. */
static int terminal, saved_stderr;

static int open_terminal(void **state)
{
    struct winsize ws = {.ws_row = 6, .ws_col = 60};
    int side;

    terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (terminal < 0 || grantpt(terminal) < 0 || unlockpt(terminal) < 0)
        return -1;
    side = open(ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    saved_stderr = dup(STDERR_FILENO);
    if (side < 0 || saved_stderr < 0 || ioctl(side, TIOCSWINSZ, &ws) < 0 || dup2(side, STDERR_FILENO) < 0)
        return -1;
    close(side);
    return 0;
}

static int close_terminal(void **state)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(terminal);
    return 0;
}

/* All that was written to it. A terminal hands bytes on in its own time: one of ours, behind the others, tells the end.
 */
static const char *seen(void)
{
    static const char mark[] = "\005";
    static char text[8192];
    size_t len = 0;

    assert_int_equal(write(STDERR_FILENO, mark, 1), 1);
    while (len == 0 || text[len - 1] != mark[0]) {
        struct pollfd p = {.fd = terminal, .events = POLLIN};
        ssize_t n;

        assert_int_equal(poll(&p, 1, 10000), 1);
        n = read(terminal, text + len, sizeof(text) - 1 - len);
        assert_true(n > 0);
        len += (size_t)n;
    }
    text[len - 1] = '\0';
    return text;
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;

    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static void a_terminal_has_a_line_for_each_layer(void **state)
{
    int (*event)(void *ctx, const struct sm_image_event *e) = NULL;
    struct progress p = {0};
    char digest[80];
    void *ctx = NULL;
    const char *text;

    progress_begin(&p, false, "nginx", &event, &ctx);
    assert_non_null(event);
    for (unsigned i = 0; i < 8; i++) {
        snprintf(digest, sizeof(digest), "sha256:%064x", 0xa0 + i);
        memcpy(digest + 7, digest + 7 + 52, 12);
        p.drawn_ns = 0; /* long ago */
        assert_int_equal(
            event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_FETCHING, .layer = digest, .done = 1, .total = 10}),
            0);
        text = seen();
        /* Six rows: never more lines than leave the cursor on the screen; what is not shown is told. */
        assert_int_equal(count(text, "\n"), i < 5 ? i + 1 : 5);
        assert_int_equal(count(text, "more layers"), i < 5 ? 0 : 1);
    }
    /* Drawn a moment ago: not again. */
    assert_int_equal(event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_FETCHING, .layer = digest}), 0);
    assert_string_equal(seen(), "");
    progress_end(&p);
    assert_string_equal(seen(), "\033[5A\r\033[J");
    progress_end(&p);
    assert_string_equal(seen(), "");
    progress_begin(&p, true, "nginx", &event, &ctx);
    assert_int_equal(event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_FETCHING, .layer = digest}), 0);
    progress_finish(&p);
    assert_string_equal(seen(), "");
}

static void states_follow_the_work(void **state)
{
    int (*event)(void *ctx, const struct sm_image_event *e) = NULL;
    static const struct {
        enum sm_image_event_kind kind;
        uint64_t done;
        const char *want;
    } steps[] = {
        {SM_IMAGE_WAITING, 0, "waiting"},      {SM_IMAGE_FETCHING, 5, "fetching"},
        {SM_IMAGE_CONVERTING, 3, "fetching"}, /* while it still comes */
        {SM_IMAGE_FETCHING, 10, "converting"}, {SM_IMAGE_CONVERTING, 10, "converting"},
        {SM_IMAGE_LAYER_DONE, 10, "done"},     {SM_IMAGE_FETCHING, 1, "done"},
    };
    struct progress p = {0};
    const char *text;
    void *ctx = NULL;

    progress_begin(&p, false, "nginx", &event, &ctx);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        p.drawn_ns = 0;
        event(ctx,
              &(struct sm_image_event){
                  .kind = steps[i].kind, .layer = "sha256:abcdefabcdefabcdef", .done = steps[i].done, .total = 10});
        assert_non_null(strstr(seen(), steps[i].want));
    }
    p.drawn_ns = 0;
    event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_LAYER_DONE, .layer = "sha256:012345678901234567890"});
    event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_MERGING});
    seen();
    progress_finish(&p);
    text = seen();
    assert_int_equal(count(text, "\n"), 2);
    assert_non_null(strstr(text, "abcdefabcdef  done\033[K\r\n012345678901  already here\033[K\r\n"));
    assert_null(strstr(text, "merging"));
}

static void without_a_terminal_nothing_is_shown(void **state)
{
    int (*event)(void *ctx, const struct sm_image_event *e) = NULL;
    FILE *f = tmpfile();
    int terminal_fd = dup(STDERR_FILENO);
    struct progress p = {0};
    void *ctx = NULL;
    struct stat st;

    assert_true(f && terminal_fd >= 0);
    dup2(fileno(f), STDERR_FILENO);
    progress_begin(&p, false, "nginx", &event, &ctx);
    event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_FETCHING, .layer = "sha256:0123456789", .total = 10});
    progress_finish(&p);
    dup2(terminal_fd, STDERR_FILENO);
    close(terminal_fd);
    assert_int_equal(fstat(fileno(f), &st), 0);
    assert_int_equal(st.st_size, 0);
    fclose(f);
}

static void the_first_interrupt_asks_to_stop(void **state)
{
    int (*event)(void *ctx, const struct sm_image_event *e) = NULL;
    struct sigaction act;
    struct progress p = {0};
    void *ctx = NULL;

    progress_begin(&p, true, "nginx", &event, &ctx);
    assert_int_equal(event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_WAITING}), 0);
    raise(SIGINT);
    assert_int_not_equal(event(ctx, &(struct sm_image_event){.kind = SM_IMAGE_WAITING}), 0);
    /* The second one has its usual effect. */
    assert_int_equal(sigaction(SIGINT, NULL, &act), 0);
    assert_true(act.sa_handler == SIG_DFL);
    progress_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_are_measured_and_smoothed),
        cmocka_unit_test(no_end_is_predicted_without_reason),
        cmocka_unit_test(lines_fit_their_width),
        cmocka_unit_test_setup_teardown(a_terminal_has_a_line_for_each_layer, open_terminal, close_terminal),
        cmocka_unit_test_setup_teardown(states_follow_the_work, open_terminal, close_terminal),
        cmocka_unit_test_setup_teardown(without_a_terminal_nothing_is_shown, open_terminal, close_terminal),
        cmocka_unit_test(the_first_interrupt_asks_to_stop), /* last: it is remembered */
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
