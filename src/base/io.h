/* SPDX-License-Identifier: Apache-2.0 */
/* Whole reads and writes, and descriptors that travel over unix sockets: these restart after EINTR. Directories, time.
 */
#ifndef SM_BASE_IO_H
#define SM_BASE_IO_H

#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* SCM_MAX_FD of Linux: more descriptors in one message are refused by the kernel. */
#define IO_MAX_FDS 253

/* Bytes read, fewer than `len` only at end of file; or -errno. */
ssize_t io_read_full(int fd, void *buf, size_t len);
ssize_t io_pread_full(int fd, void *buf, size_t len, uint64_t off);

/* 0 when everything was written; or -errno. */
int io_write_full(int fd, const void *buf, size_t len);
int io_pwrite_full(int fd, const void *buf, size_t len, uint64_t off);

/*
 * One message with `n_fds` descriptors (0 to IO_MAX_FDS) on a unix socket; SIGPIPE is never raised.
 * 0 or -errno; on a stream socket the message must fit the socket's buffer (-EMSGSIZE when it was cut).
 */
int io_send_fds(int sock, const void *data, size_t len, const int *fds, unsigned n_fds);

/*
 * One message. Returns its length (0: the peer closed), or -errno. Descriptors received come close-on-exec; there are
 * at most `max_fds` (<= IO_MAX_FDS): when more came, or the data was cut, all are closed and -EMSGSIZE is returned.
 */
ssize_t io_recv_fds(int sock, void *data, size_t len, int *fds, unsigned max_fds, unsigned *ret_n_fds);

/* 0 or -errno. */
int io_set_nonblock(int fd);

/* Go through an open directory from its beginning, whatever `dir_fd` (which stays open) is used for meanwhile. The
 * caller's to closedir(); NULL and errno. */
DIR *io_scan_dir(int dir_fd);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t io_now_ns(void);

#endif
