/* SPDX-License-Identifier: Apache-2.0 */
/* Images of the store, printed; and the store, opened. */
#ifndef SM_CLI_RECORD_H
#define SM_CLI_RECORD_H

#include <stdint.h>
#include <stdio.h>

#include <supermachine/supermachine.h>

/* 0, or EXIT_OURS after the sentence was printed. */
int store_open(struct sm_store **ret);

/* One JSON object. */
void record_json(FILE *f, const struct sm_image_record *r);

/* Objects of a list, in an array. */
void records_json(FILE *f, const struct sm_image_record *list);

/* "key":"2024-...Z", or null for 0. */
void time_json(FILE *f, const char *key, int64_t t);

/* What to call it in a sentence: its name, or else its id. */
const char *record_title(const struct sm_image_record *r);

/* "Untagged: NAME" for each that had a name, and "Deleted: ID" for each image that is no more, as Docker does. */
int removed_print(struct sm_store *store, const struct sm_image_record *removed);

#endif
