/* SPDX-License-Identifier: Apache-2.0 */
/* References: see ref.h. */
#include "oci/ref.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "oci/limits.h"
#include "oci/text.h"

int ref_parse(struct oci_ref *ret, const char *s, struct sm_error *err)
{
    static const char scheme[] = "oci:";
    struct oci_ref ref = {NULL, NULL};
    char shown[TEXT_SHOWN_SIZE];
    const char *dir, *colon;

    if (strncmp(s, scheme, sizeof(scheme) - 1))
        return sm_error_set(err, EINVAL,
                            "\"%s\" is not an image reference that is understood: write oci:DIRECTORY or "
                            "oci:DIRECTORY:TAG",
                            text_shown(shown, s));
    dir = s + sizeof(scheme) - 1;
    if (strlen(dir) > OCI_REF_MAX)
        return sm_error_set(err, ENAMETOOLONG, "the image reference is longer than %d bytes", OCI_REF_MAX);
    colon = strchr(dir, ':');
    if (!dir[0] || colon == dir)
        return sm_error_set(err, EINVAL, "\"%s\" names no directory: write oci:DIRECTORY or oci:DIRECTORY:TAG",
                            text_shown(shown, s));
    if (colon && !colon[1])
        return sm_error_set(err, EINVAL, "\"%s\" has an empty tag: leave the last colon out", text_shown(shown, s));
    ref.dir = strndup(dir, colon ? (size_t)(colon - dir) : strlen(dir));
    ref.tag = colon ? strdup(colon + 1) : NULL;
    if (!ref.dir || (colon && !ref.tag)) {
        ref_done(&ref);
        return sm_error_set(err, ENOMEM, "out of memory");
    }
    *ret = ref;
    return 0;
}

void ref_done(struct oci_ref *ref)
{
    free(ref->dir);
    free(ref->tag);
    *ref = (struct oci_ref){NULL, NULL};
}
