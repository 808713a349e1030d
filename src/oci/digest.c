/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Digests: the one file that sees OpenSSL. By its old interface: the newer one reads a configuration and looks for
 * providers first, which took longer than all else that a warm start of the command line does.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "oci/digest.h"

#include <errno.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "oci/text.h"

struct hasher {
    SHA256_CTX ctx;
};

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return -1;
}

/* Is it a digest at all, of whatever algorithm? The grammar is in image-spec descriptor.md, "Digests". */
static bool is_digest(const char *s)
{
    static const char lower[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    size_t n;

    for (;; s++) {
        n = strspn(s, lower);
        s += n;
        if (!n || !*s || !strchr("+._-:", *s))
            return false;
        if (*s == ':')
            break;
    }
    n = strspn(s + 1, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789=_-");
    return n && !s[1 + n];
}

int digest_parse(struct digest *ret, const char *s, const char *what, struct sm_error *err)
{
    static const char prefix[] = "sha256:";
    struct digest d;
    char shown[TEXT_SHOWN_SIZE];

    if (!is_digest(s))
        return sm_error_set(err, EINVAL, "%s \"%s\" is not a digest: it needs \"sha256:\" and 64 lower-case hex digits",
                            what, text_shown(shown, s));
    if (strncmp(s, prefix, sizeof(prefix) - 1))
        return sm_error_set(err, ENOTSUP, "%s \"%s\" is of a kind that cannot be checked: only sha256 is supported",
                            what, text_shown(shown, s));
    s += sizeof(prefix) - 1;
    if (strlen(s) != 2 * DIGEST_BYTES)
        goto bad;
    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        int hi = hex_value(s[2 * i]), lo = hex_value(s[2 * i + 1]);

        if (hi < 0 || lo < 0)
            goto bad;
        d.bytes[i] = (uint8_t)(hi << 4 | lo);
    }
    *ret = d;
    return 0;
bad:
    return sm_error_set(err, EINVAL, "%s \"sha256:%s\" is malformed: it needs 64 lower-case hex digits", what,
                        text_shown(shown, s));
}

void digest_hex(const struct digest *d, char ret[DIGEST_HEX_SIZE])
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < DIGEST_BYTES; i++) {
        ret[2 * i] = digits[d->bytes[i] >> 4];
        ret[2 * i + 1] = digits[d->bytes[i] & 15];
    }
    ret[2 * DIGEST_BYTES] = '\0';
}

void digest_str(const struct digest *d, char ret[DIGEST_STR_SIZE])
{
    memcpy(ret, "sha256:", 7);
    digest_hex(d, ret + 7);
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
    return !memcmp(a->bytes, b->bytes, DIGEST_BYTES);
}

int hasher_new(struct hasher **ret, struct sm_error *err)
{
    struct hasher *h = calloc(1, sizeof(*h));

    if (!h)
        return sm_error_set(err, ENOMEM, "out of memory");
    SHA256_Init(&h->ctx); /* this and the others can only fail with another digest's sizes */
    *ret = h;
    return 0;
}

void hasher_free(struct hasher *h)
{
    free(h);
}

void hasher_add(struct hasher *h, const void *data, size_t len)
{
    SHA256_Update(&h->ctx, data, len);
}

void hasher_end(struct hasher *h, struct digest *ret)
{
    SHA256_Final(ret->bytes, &h->ctx);
}

int digest_of(struct digest *ret, const void *data, size_t len, struct sm_error *err)
{
    struct hasher h;

    (void)err;
    SHA256_Init(&h.ctx);
    hasher_add(&h, data, len);
    hasher_end(&h, ret);
    return 0;
}
