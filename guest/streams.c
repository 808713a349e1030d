/* SPDX-License-Identifier: Apache-2.0 */
/* What an exec's stdin, stdout and stderr are: see streams.h. */
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define DEFAULT_ROWS 24
#define DEFAULT_COLS 80

int ga_pipe(int *ret_ours, int *ret_theirs, bool we_read)
{
    int p[2];

    if (pipe2(p, O_CLOEXEC) < 0)
        return -errno;
    if (fcntl(p[we_read ? 0 : 1], F_SETFL, O_NONBLOCK) < 0) {
        int r = -errno;

        close(p[0]);
        close(p[1]);
        return r;
    }
    *ret_ours = we_read ? p[0] : p[1];
    *ret_theirs = we_read ? p[1] : p[0];
    return 0;
}

static int open_tty(struct ga_streams *s, const struct ga_exec_req *req)
{
    struct winsize ws = {.ws_row = req->rows ? req->rows : DEFAULT_ROWS,
                         .ws_col = req->cols ? req->cols : DEFAULT_COLS};
    int unlock = 0;

    s->in = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (s->in < 0)
        return -errno;
    /* TIOCGPTPEER needs no path to the terminal, so what the image mounted does not matter. */
    if (ioctl(s->in, TIOCSPTLCK, &unlock) < 0 || ioctl(s->in, TIOCSWINSZ, &ws) < 0 ||
        (s->slave = ioctl(s->in, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
        return -errno;
    /* A second descriptor, since reading and writing are watched apart. */
    s->out[0] = fcntl(s->in, F_DUPFD_CLOEXEC, 3);
    if (s->out[0] < 0)
        return -errno;
    s->stdio[0] = s->stdio[1] = s->stdio[2] = s->slave;
    return 0;
}

static int open_pipes(struct ga_streams *s, bool want_stdin)
{
    int r = 0;

    if (want_stdin) {
        r = ga_pipe(&s->in, &s->stdio[0], false);
    } else {
        s->stdio[0] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (s->stdio[0] < 0)
            r = -errno;
    }
    for (int i = 0; i < 2 && r == 0; i++)
        r = ga_pipe(&s->out[i], &s->stdio[i + 1], true);
    return r;
}

int ga_streams_open(struct ga_streams *s, const struct ga_exec_req *req)
{
    return req->flags & AGENT_EXEC_TTY ? open_tty(s, req) : open_pipes(s, req->flags & AGENT_EXEC_STDIN);
}

void ga_streams_close_stdio(struct ga_streams *s)
{
    for (int i = 0; i < 3; i++) {
        if (s->stdio[i] >= 0 && s->stdio[i] != s->slave)
            close(s->stdio[i]);
        s->stdio[i] = -1;
    }
}
