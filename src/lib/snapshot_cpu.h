/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's processor, as far as what runs on it depends on it: a guest that was saved has looked at it once and does
 * not look again. One line of text.
 */
#ifndef SM_LIB_SNAPSHOT_CPU_H
#define SM_LIB_SNAPSHOT_CPU_H

#include "base/error.h"

#define SNAPSHOT_CPU_SIZE 192

const char *snapshot_cpu(char buf[SNAPSHOT_CPU_SIZE]);

/* Does a host of `have` offer everything that was there on one of `need`? -ENOTSUP and a sentence that says what not.
 */
int snapshot_cpu_suits(const char *need, const char *have, struct sm_error *err);

#endif
