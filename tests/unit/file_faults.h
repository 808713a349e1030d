/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File operations that fail on demand. A test links with file_faults (meson.build), which puts these in the place of
 * pwrite(2), ftruncate(2) and fsync(2).
 */
#ifndef SM_TESTS_FILE_FAULTS_H
#define SM_TESTS_FILE_FAULTS_H

#include <stddef.h>

struct file_faults {
    int fail_at;      /* the operation that fails, counted from 0; -1: none */
    int error;        /* with this errno */
    size_t short_max; /* a pwrite takes at most so many bytes; 0: all */
    int count;        /* operations so far */
};

extern struct file_faults file_faults;

#endif
