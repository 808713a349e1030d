/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Users and groups of the image: "user[:group]" by name or number, looked up in its /etc/passwd and /etc/group.
 *
 * The files belong to the image, so they are hostile: whole lines are taken or skipped, numbers are strict, sizes have
 * limits. The rules are those that users of Docker know: a number is always an id, and needs no entry; without a group,
 * the user's own group from passwd and the groups that list the user apply; with one, that group only.
 */
#ifndef GUEST_USERS_H
#define GUEST_USERS_H

#include <stddef.h>
#include <sys/types.h>

#include "wire.h"

#define GA_USER_FILE_MAX (1u << 20) /* bytes of passwd or group */
#define GA_MAX_GROUPS    1024u      /* supplementary groups of one user */

struct ga_user {
    uid_t uid;
    gid_t gid;
    gid_t groups[GA_MAX_GROUPS];
    size_t n_groups;
    char home[AGENT_MAX_PATH + 1]; /* "/" when passwd tells none */
};

/* Look `spec` up in the texts of the two files ("" where there is no file). 0, or -errno with a sentence. */
int ga_user_lookup(const char *spec, const char *passwd, size_t passwd_len, const char *group, size_t group_len,
                   struct ga_user *ret, struct ga_error *err);

/* The same in the files of the root that the caller sees. */
int ga_user_from_files(const char *spec, const char *passwd_path, const char *group_path, struct ga_user *ret,
                       struct ga_error *err);

#endif
