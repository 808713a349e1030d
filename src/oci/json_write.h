/* SPDX-License-Identifier: Apache-2.0 */
/* Pieces of JSON documents, written: what json.h reads back. */
#ifndef SM_OCI_JSON_WRITE_H
#define SM_OCI_JSON_WRITE_H

#include "base/buf.h"

/* Text that is JSON already: brackets, commas, numbers. Without an end of string. */
void json_write_raw(struct buf *b, const char *text);

/* `s` in quotes. What must be escaped is; each byte that is not UTF-8 becomes U+FFFD. */
void json_write_string(struct buf *b, const char *s);

#endif
