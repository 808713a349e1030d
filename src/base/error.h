/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Errors: set once where they happen, wrapped with context on the way up, printed only by a main().
 *
 * Every function here takes a NULL error for "not interested", never allocates, and returns the negative errno so that
 * a caller can write `return sm_error_set(err, EINVAL, "...")`.
 */
#ifndef SM_BASE_ERROR_H
#define SM_BASE_ERROR_H

#include <supermachine/supermachine.h>

/* Set the sentence; returns -code. `code` is a positive errno value. */
int sm_error_set(struct sm_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": " and strerror(code) behind the sentence. */
int sm_error_sys(struct sm_error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Put "context: " before the sentence that is there; returns -err->code (-EIO when err is NULL or unset). */
int sm_error_wrap(struct sm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
