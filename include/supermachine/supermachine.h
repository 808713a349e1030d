/* SPDX-License-Identifier: Apache-2.0 */
/* libsupermachine: run OCI images as hardware-isolated microVMs. The only public header. */
#ifndef SUPERMACHINE_H
#define SUPERMACHINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of an error's sentence, its end included. A longer one is cut at a character boundary. */
#define SM_ERROR_TEXT_MAX 2048

/*
 * What went wrong, in one sentence: what failed, on what, and what to do about it.
 * The caller owns it, on its stack if it likes; initialise with SM_ERROR_INIT. Functions that take one accept NULL.
 * It is written only when a call fails. No function of this library prints.
 */
struct sm_error {
    int code;                     /* a positive errno value; 0: no error */
    char text[SM_ERROR_TEXT_MAX]; /* NUL-terminated UTF-8, no newline at the end */
};

#define SM_ERROR_INIT                                                                                                  \
    {                                                                                                                  \
        .code = 0, .text = {0}                                                                                         \
    }

#ifdef __cplusplus
}
#endif

#endif
