/* SPDX-License-Identifier: Apache-2.0 */
/* What credentials come from: a file, a helper's answer, a token server's. The first byte chooses. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "oci/auth.h"
#include "oci/auth_config.h"
#include "oci/auth_helper.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct credentials *c)
{
    assert(!c->username == !c->password);
    assert(!c->username || !c->identity_token);
    assert(!c->username || (c->username[0] && !strpbrk(c->username, "\r\n") && !strpbrk(c->password, "\r\n")));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct sm_error err = SM_ERROR_INIT;
    struct credentials c;
    struct auth_found f;
    struct token t;
    int r;

    if (!len)
        return 0;
    switch (data[0] & 3) {
    case 0:
    case 1:
        if (auth_config_parse(&f, data + 1, len - 1, data[0] & 1 ? "docker.io" : "reg:5000", "a/b", &err) >= 0) {
            assert(!f.helper == !f.server);
            check(&f.stored);
            auth_found_done(&f);
        }
        break;
    case 2:
        r = auth_helper_parse(&c, data + 1, len - 1, &err);
        if (r >= 0) {
            assert((r == 1) == (c.username || c.identity_token));
            check(&c);
            credentials_done(&c);
        }
        break;
    default:
        if (token_parse(&t, data + 1, len - 1, 1, &err) >= 0) {
            assert(t.value[0] && t.expires_ns > 1);
            token_done(&t);
        }
        break;
    }
    return 0;
}
