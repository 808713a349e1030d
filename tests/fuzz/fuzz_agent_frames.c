/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's doors: frames of a connection, the two large requests, the image's passwd and group.
 * The first byte says which. Nothing is ever started, since fork() here only pretends, and no file is ever written: the
 * image's root (root.h) is pretended too.
 */
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "request.h"
#include "root.h"
#include "server.h"
#include "users.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Above the largest pid that Linux gives out: signals to it go nowhere. */
#define NOBODY 4194305

/* Instead of libc's: the "child" has execve'd at once, since the parent has the only other end of its report pipe. */
pid_t fork(void)
{
    return NOBODY;
}

/* Instead of guest/root.c's. A file that can be written to and is nowhere. */
int ga_root_open(int root, const char *path, int flags, mode_t mode)
{
    if (path[0] != '/')
        abort();
    return path[1] == '-' ? -ENOENT : memfd_create("put", MFD_CLOEXEC);
}

int ga_root_make_parents(int root, const char *path)
{
    return 0;
}

ssize_t ga_root_read(int root, const char *path, char *ret, size_t size)
{
    *ret = '\0';
    return 0;
}

int ga_root_replace(int root, const char *path, const char *text, mode_t mode)
{
    return strlen(text) < GA_HOSTS_SIZE ? 0 : -ENOSPC;
}

static int no_setup(void *ctx, const struct ga_setup *setup, int *ret_cgroup, int *ret_root, struct ga_error *err)
{
    if (setup->flags & AGENT_SETUP_READ_ONLY)
        return ga_error_set(err, ENODEV, "no '%s'", setup->root_device);
    *ret_root = open("/", O_PATH | O_CLOEXEC);
    return 0;
}

static int no_power(void *ctx, uint32_t how, struct ga_error *err)
{
    return ga_error_set(err, ENOSYS, "no switch");
}

static void no_event(void *ctx, uint32_t kind, uint64_t arg)
{
}

static int connect_to(struct ga_server *s)
{
    int sv[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv) < 0 || ga_server_adopt(s, sv[1]) < 0)
        abort();
    return sv[0];
}

/*
 * To a server that needs a SETUP or does not, in two parts: one after the other, or each on a connection of its own,
 * the second of which may be given what the first has started.
 */
static void serve(const uint8_t *data, size_t size, bool ready, bool apart, size_t first)
{
    static const struct ga_server_ops ops = {.setup = no_setup, .power = no_power, .event = no_event};
    struct ga_server *s;

    if (first > size)
        first = size;
    if (ga_server_new(&ops, NULL, ready, &s) < 0)
        abort();
    int a = connect_to(s), b = apart ? connect_to(s) : a;
    if (write(a, data, first) != (ssize_t)first)
        abort();
    if (apart)
        shutdown(a, SHUT_WR);
    if (write(b, data + first, size - first) < 0)
        abort();
    shutdown(b, SHUT_WR);
    if (ga_server_run(s, true) < 0)
        abort();
    ga_server_free(s);
    close(a);
    if (apart)
        close(b);
}

static void look_up(const uint8_t *data, size_t size)
{
    static struct ga_user user;
    struct ga_error err = {0};
    char spec[64];
    size_t n = size > 1 ? data[0] % sizeof(spec) : 0, half;

    if (size < n + 1)
        return;
    memcpy(spec, data + 1, n);
    spec[n] = '\0';
    data += n + 1;
    size -= n + 1;
    half = size / 2;
    if (ga_user_lookup(spec, (const char *)data, half, (const char *)data + half, size - half, &user, &err) == 0) {
        if (user.n_groups > GA_MAX_GROUPS || strlen(user.home) > AGENT_MAX_PATH || (int32_t)user.uid < 0)
            abort();
    } else if (!err.text[0]) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ga_error err = {0};
    struct ga_exec_req req;
    struct ga_setup setup;

    if (size < 2)
        return 0;
    switch (data[0] % 5) {
    case 0:
        if (ga_exec_decode(data + 1, size - 1, &req, &err) == 0) {
            size_t n = 0;

            while (req.env[n])
                n++;
            if (n != req.n_env || !req.argv[0])
                abort();
            ga_exec_req_done(&req);
        }
        break;
    case 1:
        if (ga_setup_decode(data + 1, size - 1, &setup, &err) == 0)
            ga_setup_done(&setup);
        break;
    case 2:
        look_up(data + 1, size - 1);
        break;
    default:
        serve(data + 2, size - 2, data[0] & 1, data[0] & 0x80, data[1]);
        break;
    }
    return 0;
}
