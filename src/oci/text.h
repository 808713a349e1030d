/* SPDX-License-Identifier: Apache-2.0 */
/* Strings from images, made fit for a sentence: bounded, and without bytes that steer a terminal. */
#ifndef SM_OCI_TEXT_H
#define SM_OCI_TEXT_H

#include <stddef.h>

#define TEXT_SHOWN_SIZE 256

/* `s` with control bytes replaced by '?', its middle by "..." when long. Returns `buf`. */
const char *text_shown(char buf[TEXT_SHOWN_SIZE], const char *s);

/*
 * Bytes of the UTF-8 sequence at `s`, where `left` > 0 are left, when it is well-formed (Unicode §3.9, table 3-7:
 * nothing overlong, no surrogates), else 0.
 */
size_t text_utf8_length(const unsigned char *s, size_t left);

#endif
