/* SPDX-License-Identifier: Apache-2.0 */
/* A full disk: see disk.h. */
#include "oci/disk.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int disk_error(struct sm_error *err, int code, const char *what, ...)
{
    char text[SM_ERROR_TEXT_MAX];
    va_list ap;

    va_start(ap, what);
    vsnprintf(text, sizeof(text), what, ap);
    va_end(ap);
    if (code != ENOSPC && code != EDQUOT)
        return sm_error_sys(err, code, "%s", text);
    return sm_error_set(err, code, "%s: %s: make room in the image store, for example with `supermachine prune`", text,
                        code == ENOSPC ? "No space left on device" : "Disk quota exceeded");
}
