/* SPDX-License-Identifier: Apache-2.0 */
/* WWW-Authenticate headers, one a line. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "oci/auth.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *headers[AUTH_HEADERS_MAX + 1];
    struct sm_error err = SM_ERROR_INIT;
    struct challenge ch;
    char *s = malloc(len + 1), *rest = s, *line;
    size_t n = 0;

    if (!s)
        return 0;
    memcpy(s, data, len);
    s[len] = '\0';
    while (n <= AUTH_HEADERS_MAX && (line = strsep(&rest, "\n")))
        headers[n++] = line;
    if (challenge_parse(&ch, headers, n, &err) >= 0) {
        assert(ch.scheme != CHALLENGE_BEARER || (ch.realm && ch.realm[0]));
        assert(ch.scheme != CHALLENGE_NONE || (!ch.realm && !ch.service && !ch.scope && !ch.error));
        challenge_done(&ch);
    }
    free(s);
    return 0;
}
