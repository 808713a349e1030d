/* SPDX-License-Identifier: Apache-2.0 */
/* Platform choice: see platform.h. */
#include "oci/platform.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "oci/text.h"

#if defined(__x86_64__)
#define HOST_ARCH "amd64"
#elif defined(__aarch64__)
#define HOST_ARCH "arm64"
#else
#error "no guest is supported on this architecture"
#endif

static bool set_part(char to[PLATFORM_PART_SIZE], const char *s, size_t len)
{
    if (len >= PLATFORM_PART_SIZE)
        return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] <= ' ' || s[i] > '~' || s[i] == '/')
            return false;
    }
    memcpy(to, s, len);
    to[len] = '\0';
    return true;
}

/* Other names of the same thing. */
static void normalize(struct platform *p)
{
    static const struct {
        const char *arch, *variant, *to_arch, *to_variant;
    } same[] = {
        {"x86_64", "", "amd64", ""},    {"x86-64", "", "amd64", ""},   {"amd64", "v1", "amd64", ""},
        {"aarch64", "", "arm64", ""},   {"arm64", "v8", "arm64", ""},  {"arm64", "8", "arm64", ""},
        {"aarch64", "v8", "arm64", ""}, {"armhf", "", "arm", "v7"},    {"armel", "", "arm", "v6"},
        {"i386", "", "386", ""},        {"x86_64", "v1", "amd64", ""},
    };

    for (size_t i = 0; i < ARRAY_SIZE(same); i++) {
        if (!strcmp(p->arch, same[i].arch) && !strcmp(p->variant, same[i].variant)) {
            strcpy(p->arch, same[i].to_arch);
            strcpy(p->variant, same[i].to_variant);
            return;
        }
    }
}

int platform_set(struct platform *ret, const char *os, const char *arch, const char *variant, struct sm_error *err)
{
    struct platform p;

    os = os ? os : "";
    arch = arch ? arch : "";
    variant = variant ? variant : "";
    if (!set_part(p.os, os, strlen(os)) || !set_part(p.arch, arch, strlen(arch)) ||
        !set_part(p.variant, variant, strlen(variant)))
        return sm_error_set(err, EBADMSG, "a platform's name is too long or holds odd characters");
    normalize(&p);
    *ret = p;
    return 0;
}

int platform_parse(struct platform *ret, const char *s, struct sm_error *err)
{
    struct platform p = {.os = "linux", .arch = HOST_ARCH, .variant = ""};
    char shown[TEXT_SHOWN_SIZE];
    const char *arch, *variant;

    if (!s) {
        *ret = p;
        return 0;
    }
    arch = strchr(s, '/');
    variant = arch ? strchr(arch + 1, '/') : NULL;
    if (!arch || arch == s || !arch[1] || arch + 1 == variant || (variant && !variant[1]) ||
        !set_part(p.os, s, (size_t)(arch - s)) ||
        !set_part(p.arch, arch + 1, variant ? (size_t)(variant - arch - 1) : strlen(arch + 1)) ||
        (variant && !set_part(p.variant, variant + 1, strlen(variant + 1))))
        return sm_error_set(err, EINVAL, "\"%s\" is not a platform: write os/architecture or os/architecture/variant",
                            text_shown(shown, s));
    normalize(&p);
    *ret = p;
    return 0;
}

const char *platform_str(char buf[PLATFORM_STR_SIZE], const struct platform *p)
{
    snprintf(buf, PLATFORM_STR_SIZE, "%s/%s%s%s", p->os[0] ? p->os : "unknown", p->arch[0] ? p->arch : "unknown",
             p->variant[0] ? "/" : "", p->variant);
    return buf;
}

int platform_score(const struct platform *want, const struct platform *have)
{
    if (strcmp(want->os, have->os) || strcmp(want->arch, have->arch))
        return 0;
    if (!strcmp(want->variant, have->variant))
        return 3;
    if (want->variant[0])
        return have->variant[0] ? 0 : 1; /* the plain one runs everywhere */
    return 2;
}
