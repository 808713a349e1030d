/* SPDX-License-Identifier: Apache-2.0 */
/* Versioned structs of the public interface: a caller's is shorter or longer than ours. */
#ifndef SM_LIB_OPTIONS_H
#define SM_LIB_OPTIONS_H

#include <errno.h>
#include <string.h>

#include "base/error.h"

/*
 * Copy a caller's configuration into ours, zeroed before: what an older caller does not know is 0, the usual. A newer
 * caller's extra fields must be 0: what we don't know can't be obeyed. A NULL `given` changes nothing.
 */
static inline int options_copy(void *ours, size_t ours_size, const void *given, struct sm_error *err)
{
    size_t size;

    if (!given)
        return 0;
    memcpy(&size, given, sizeof(size));
    if (size < sizeof(size) || size > 4096)
        return sm_error_set(err, EINVAL, "a configuration struct has no size: begin it with its INIT");
    for (size_t i = ours_size; i < size; i++)
        if (((const unsigned char *)given)[i])
            return sm_error_set(err, ENOTSUP, "a configuration struct asks for what this version does not know");
    memcpy(ours, given, size < ours_size ? size : ours_size);
    return 0;
}

#define OPTIONS_COPY(ours, given, err) options_copy(ours, sizeof(*(ours)), given, err)

/* The other way: results, of which an older caller knows only the beginning. Its size stays as it set it. */
static inline void options_give(void *theirs, const void *ours, size_t ours_size)
{
    size_t size;

    memcpy(&size, theirs, sizeof(size));
    if (size > ours_size)
        size = ours_size;
    if (size > sizeof(size))
        memcpy((char *)theirs + sizeof(size), (const char *)ours + sizeof(size), size - sizeof(size));
}

#endif
