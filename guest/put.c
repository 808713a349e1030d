/* SPDX-License-Identifier: Apache-2.0 */
/* PUT: see put.h. Owner and mode are set when all bytes are there, so that nobody executes half a program. */
#include "put.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "root.h"

void ga_put_done(struct ga_put *p)
{
    if (p->active)
        close(p->fd);
    p->active = false;
}

static int finish(struct ga_put *p, struct ga_error *err)
{
    int r = 1;

    if (p->left)
        return 0;
    if (fchown(p->fd, p->uid, p->gid) < 0 || fchmod(p->fd, p->mode) < 0)
        r = ga_error_sys(err, errno, "setting owner and mode of a file in the guest");
    ga_put_done(p);
    return r;
}

int ga_put_begin(struct ga_put *p, int root, const uint8_t *data, size_t len, struct ga_error *err)
{
    struct ga_reader r = {.p = data, .left = len};
    char path[AGENT_MAX_PATH + 1];
    size_t path_len = 0;
    const char *s = ga_read_str(&r, AGENT_MAX_PATH, &path_len);
    struct stat st;
    int e;

    *p = (struct ga_put){.fd = -1, .mode = ga_read_u32(&r), .uid = ga_read_u32(&r), .gid = ga_read_u32(&r)};
    p->left = ga_read_u64(&r);
    if (r.bad || r.left || path_len < 2 || *s != '/' || (p->mode & ~07777u) || p->left > AGENT_MAX_PUT)
        return ga_error_set(err, EPROTO, "malformed PUT frame of %zu bytes", len);
    memcpy(path, s, path_len);
    path[path_len] = '\0';

    e = ga_root_make_parents(root, path);
    if (e < 0)
        return ga_error_sys(err, -e, "making the directories that lead to '%.256s' in the guest", path);
    p->fd = ga_root_open(root, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (p->fd < 0)
        return ga_error_sys(err, -p->fd, "opening '%.256s' in the guest", path);
    p->active = true;
    if (fstat(p->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        ga_put_done(p);
        return ga_error_set(err, EINVAL, "'%.256s' in the guest is not a file that could be written", path);
    }
    return finish(p, err);
}

int ga_put_data(struct ga_put *p, const uint8_t *data, size_t len, struct ga_error *err)
{
    ssize_t n = 0;

    if (!p->active || len == 0 || len > p->left) {
        ga_put_done(p);
        return ga_error_set(err, EPROTO, "%zu bytes of a file that were not announced", len);
    }
    for (size_t at = 0; at < len; at += (size_t)n) {
        do
            n = write(p->fd, data + at, len - at);
        while (n < 0 && errno == EINTR);
        if (n <= 0) {
            int code = n < 0 ? errno : ENOSPC;

            ga_put_done(p);
            return ga_error_sys(err, code, "writing a file in the guest");
        }
    }
    p->left -= len;
    return finish(p, err);
}
