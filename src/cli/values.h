/* SPDX-License-Identifier: Apache-2.0 */
/* Values as people write them on a command line. All return 0, or -EINVAL / -ERANGE. */
#ifndef SM_CLI_VALUES_H
#define SM_CLI_VALUES_H

#include <stdint.h>

/*
 * "512m", "2g", "1048576k", "2GiB"; a number alone is MiB, "b" is bytes. Rounded up to whole MiB, at least 1.
 * Suffixes are powers of 1024, in either case, with or without "b" or "ib" behind.
 */
int value_memory(const char *text, uint32_t *ret_mib);

/* "10" (seconds), "1.5s", "500ms", "1m30s", "2h", "7d". At least 1 ms, at most 30 days. */
int value_duration(const char *text, uint32_t *ret_ms);

/* The same where a number alone is milliseconds. */
int value_ms(const char *text, uint32_t *ret_ms);

/* As value_duration for long times, in seconds: "7d", "2w", "12h". At least 1 s, at most 100 years. */
int value_age(const char *text, uint32_t *ret_s);

/* "500m", "10g", as value_memory; a number alone is bytes. At least 1. */
int value_size(const char *text, uint64_t *ret_bytes);

/* A whole number from 1 up. */
int value_count(const char *text, uint32_t *ret);

#endif
