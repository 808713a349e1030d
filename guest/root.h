/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of the image's root, by paths that mean what they would mean to a program in it: links are followed inside the
 * root, and never out of it. `root` is an open directory. So the root may be mounted read-only for everybody else, and
 * a unit test's root is a directory of its own.
 */
#ifndef GUEST_ROOT_H
#define GUEST_ROOT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* As open(2), O_CLOEXEC and O_NONBLOCK always: nothing in an image may block the agent. A descriptor or -errno. */
int ga_root_open(int root, const char *path, int flags, mode_t mode);

/* Make the directories that lead to `path`, 0755, as far as they are missing. 0 or -errno. */
int ga_root_make_parents(int root, const char *path);

/*
 * The whole of a regular file as a string of at most `size` bytes with its NUL. Its length, -EFBIG when it is larger,
 * -ELOOP when `path` is a symbolic link, -EINVAL when it is something else.
 */
ssize_t ga_root_read(int root, const char *path, char *ret, size_t size);

/* A new file in the place of what is there, or is not: readers see the old or the new. 0 or -errno. */
int ga_root_replace(int root, const char *path, const char *text, mode_t mode);

#endif
