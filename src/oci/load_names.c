/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of images from archives: see load_names.h.
 *
 * Docker's archives and containerd's annotation have whole names. In image-spec's own annotation programs write what
 * they like: podman a whole name; Docker, skopeo and umoci often a tag alone.
 */
#include "oci/load_names.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "oci/ref.h"
#include "oci/text.h"

#define STEM_MAX 128

static bool is_bare_tag(const char *s)
{
    return !strpbrk(s, ":/@");
}

/* "dir/My App.tar.gz" -> "my-app": what a repository may be called. Empty: nothing is left. */
static void stem_of(char ret[STEM_MAX + 1], const char *file)
{
    static const char *const extensions[] = {".gz", ".zst", ".tgz", ".tar", ".oci", ".docker"};
    const char *slash = strrchr(file, '/'), *base = slash ? slash + 1 : file;
    size_t len = strlen(base), n = 0;
    bool again = true;

    while (again) {
        again = false;
        for (size_t i = 0; i < ARRAY_SIZE(extensions); i++) {
            size_t ext = strlen(extensions[i]);

            if (len > ext && !strncasecmp(base + len - ext, extensions[i], ext)) {
                len -= ext;
                again = true;
            }
        }
    }
    for (size_t i = 0; i < len && n < STEM_MAX; i++) {
        if (isalnum((unsigned char)base[i]))
            ret[n++] = (char)tolower((unsigned char)base[i]);
        else if (n && ret[n - 1] != '-')
            ret[n++] = '-';
    }
    while (n && ret[n - 1] == '-')
        n--;
    ret[n] = '\0';
}

/* NULL: a name without a tag, only with a digest. That is no name to give: it says itself what it means. */
static int canonical(char **ret, const char *name, struct sm_error *err)
{
    struct oci_ref ref = OCI_REF_INIT;
    char shown[TEXT_SHOWN_SIZE];
    int r = ref_parse(&ref, name, err);

    if (r < 0)
        return r;
    ref.has_digest = false;
    *ret = NULL;
    if (ref.kind != REF_REGISTRY)
        r = sm_error_set(err, EINVAL, "\"%s\" says where an image is, and is no name for one", text_shown(shown, name));
    else if (ref.tag)
        r = ref_canonical(&ref, ret, err);
    ref_done(&ref);
    return r;
}

int load_name(char **ret, const char *written, bool maybe_tag, const char *file, struct sm_error *err)
{
    CLEANUP_FREE char *name = NULL;
    char stem[STEM_MAX + 1] = "";

    if (!maybe_tag || !is_bare_tag(written))
        return canonical(ret, written, err);
    if (file)
        stem_of(stem, file);
    if (!stem[0]) {
        *ret = NULL;
        return 0;
    }
    if (asprintf(&name, "localhost/%s:%s", stem, written) < 0) {
        name = NULL;
        return sm_error_set(err, ENOMEM, "out of memory for an image's name");
    }
    return canonical(ret, name, err);
}

/* Behind the last ':' that has no '/' after it. */
static const char *tag_of(const char *s)
{
    const char *colon = strrchr(s, ':');

    return colon && !strchr(colon, '/') ? colon + 1 : s;
}

bool load_name_matches(const char *written, const char *wanted)
{
    CLEANUP_FREE char *a = NULL;
    CLEANUP_FREE char *b = NULL;

    if (!strcmp(written, wanted))
        return true;
    if (is_bare_tag(wanted) && !strcmp(tag_of(written), wanted))
        return true;
    return canonical(&a, written, NULL) >= 0 && canonical(&b, wanted, NULL) >= 0 && !strcmp(a, b);
}
