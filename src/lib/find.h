/* SPDX-License-Identifier: Apache-2.0 */
/* The files a machine is made of, and the host's KVM: found and opened, with a sentence when they are not there. */
#ifndef SM_LIB_FIND_H
#define SM_LIB_FIND_H

#include <limits.h>

#include <supermachine/supermachine.h>

enum find_what { FIND_WORKER, FIND_KERNEL, FIND_INITRAMFS };

/*
 * The path of one of them: `given` (the caller's, may be NULL), else the environment's, else beside this library: in
 * its build tree or as installed. 0, or -ENOENT and where it was looked for.
 */
int find_file(enum find_what what, const char *given, char ret_path[PATH_MAX], struct sm_error *err);

/* An open descriptor (O_RDONLY, close-on-exec) of such a file, and its path; or -errno. */
int find_open(enum find_what what, const char *given, char ret_path[PATH_MAX], struct sm_error *err);

/* /dev/kvm, open; -ENOENT, -EACCES, -ENOTSUP... with what to do about it. */
int find_kvm(struct sm_error *err);

#endif
