/* SPDX-License-Identifier: Apache-2.0 */
/* Strings from images, made fit for a sentence: bounded, and without bytes that steer a terminal. */
#ifndef SM_OCI_TEXT_H
#define SM_OCI_TEXT_H

#define TEXT_SHOWN_SIZE 256

/* `s` with control bytes replaced by '?', its middle by "..." when long. Returns `buf`. */
const char *text_shown(char buf[TEXT_SHOWN_SIZE], const char *s);

#endif
