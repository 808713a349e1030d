/* SPDX-License-Identifier: Apache-2.0 */
/* The error object: see error.h. */
#include "base/error.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A cut must not leave half a UTF-8 sequence at the end: some readers refuse the whole string. */
static void trim_utf8(char *text, size_t len)
{
    size_t lead = len;

    while (lead > 0 && ((unsigned char)text[lead - 1] & 0xc0) == 0x80)
        lead--;
    if (lead == 0)
        return;
    unsigned char c = (unsigned char)text[lead - 1];
    size_t want = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
    if (len - (lead - 1) < want)
        text[lead - 1] = '\0';
}

__attribute__((format(printf, 2, 0))) static void set_text(struct sm_error *err, const char *fmt, va_list ap)
{
    int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);

    if (n >= (int)sizeof(err->text))
        trim_utf8(err->text, sizeof(err->text) - 1);
}

int sm_error_set(struct sm_error *err, int code, const char *fmt, ...)
{
    assert(code > 0);
    if (err) {
        va_list ap;

        va_start(ap, fmt);
        set_text(err, fmt, ap);
        va_end(ap);
        err->code = code;
    }
    return -code;
}

int sm_error_sys(struct sm_error *err, int code, const char *fmt, ...)
{
    assert(code > 0);
    if (err) {
        va_list ap;
        size_t len;

        va_start(ap, fmt);
        set_text(err, fmt, ap);
        va_end(ap);
        len = strlen(err->text);
        snprintf(err->text + len, sizeof(err->text) - len, ": %s", strerror(code));
        err->code = code;
    }
    return -code;
}

int sm_error_wrap(struct sm_error *err, const char *fmt, ...)
{
    char inner[SM_ERROR_TEXT_MAX];
    va_list ap;
    size_t len;

    if (!err)
        return -EIO;
    if (err->code == 0)
        err->code = EIO;
    memcpy(inner, err->text, sizeof(inner));
    va_start(ap, fmt);
    set_text(err, fmt, ap);
    va_end(ap);
    len = strlen(err->text);
    if (inner[0] && snprintf(err->text + len, sizeof(err->text) - len, ": %s", inner) >= (int)(sizeof(err->text) - len))
        trim_utf8(err->text, sizeof(err->text) - 1);
    return -err->code;
}
