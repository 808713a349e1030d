/* SPDX-License-Identifier: Apache-2.0 */
/* What the process that reads an archive tells the one that asked it: frames on a stream. Both ends are here. */
#ifndef SM_OCI_ARCHIVE_FRAMES_H
#define SM_OCI_ARCHIVE_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define FRAME_HEAD     8u
#define FRAME_MAX      (256 * 1024u) /* bytes behind the head */
#define FRAME_BUF_SIZE (FRAME_HEAD + FRAME_MAX)

/* What an archive holds, in its order: for a file, then any number of data, then end. Other kinds of entries are left
 * out. Names are as the archive has them, and live until the function returns. */
struct archive_sink {
    int (*file)(void *ctx, const char *name, uint64_t size, struct sm_error *err);
    int (*data)(void *ctx, const void *data, size_t len, struct sm_error *err);
    int (*end)(void *ctx, struct sm_error *err);
    int (*link)(void *ctx, const char *name, const char *target, bool hard, struct sm_error *err);
    void *ctx;
};

/* The receiving end. The sender may have been taken over by what it read: everything is checked. */
struct frames {
    const struct archive_sink *sink;
    bool in_file;
    uint64_t left; /* of the file */
    uint32_t entries;
    uint64_t names, bytes; /* against the limits */
};

/* Takes the whole frames at the beginning of `data`. Returns how many bytes they were; the rest comes again, with more
 * behind it: FRAME_BUF_SIZE always holds a whole frame. */
ssize_t frames_take(struct frames *f, const void *data, size_t len, struct sm_error *err);

/* There are no more, and `rest` bytes were left. */
int frames_end(const struct frames *f, size_t rest, struct sm_error *err);

/* The sending end: 0 or -errno. Data of any length is cut into frames. */
int frames_send_file(int fd, const char *name, uint64_t size);
int frames_send_data(int fd, const void *data, size_t len);
int frames_send_end(int fd);
int frames_send_link(int fd, const char *name, const char *target, bool hard);

#endif
