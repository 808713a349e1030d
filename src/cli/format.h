/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes and times as people read them, in the way Docker writes them. */
#ifndef SM_CLI_FORMAT_H
#define SM_CLI_FORMAT_H

#include <stdint.h>

#define FORMAT_SIZE 48 /* bytes of every buffer here */

/* "0B", "4.26MB", "187MB": powers of 1000, three digits. Returns `buf`, as all of these do. */
const char *format_size(char buf[FORMAT_SIZE], uint64_t bytes);

/* "12 seconds ago", "3 weeks ago"; "unknown" for `then` 0, "never" is the caller's. Both in seconds since 1970. */
const char *format_ago(char buf[FORMAT_SIZE], int64_t then, int64_t now);

/* "7s", "1m05s", "2h10m", "3d04h". */
const char *format_left(char buf[FORMAT_SIZE], uint64_t seconds);

/* RFC 3339, in UTC: "2024-02-29T12:30:00Z". */
const char *format_time(char buf[FORMAT_SIZE], int64_t t);

/* A digest's first twelve hex digits, as an image's id is shown. */
const char *format_id(char buf[FORMAT_SIZE], const char *digest);

#endif
