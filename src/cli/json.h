/* SPDX-License-Identifier: Apache-2.0 */
/* Writing JSON for programs that read us. */
#ifndef SM_CLI_JSON_H
#define SM_CLI_JSON_H

#include <stdio.h>

/* A string with its quotes; control characters, quotes and backslashes escaped. */
void json_string(FILE *f, const char *s);

/* JSON, which must be well-formed, with a line for each member; `depth` of them in already. No newline at its end. */
void json_pretty(FILE *f, const char *json, unsigned depth);

#endif
