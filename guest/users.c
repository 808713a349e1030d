/* SPDX-License-Identifier: Apache-2.0 */
/* Look-up of users and groups in the image's files: see users.h. */
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The most fields that are looked at: passwd has 7, group 4. */
#define FIELDS 7

/* (uid_t)-1 means "leave as it is" to the kernel, so it is no id; Docker's limit is 2^31 - 1. */
#define ID_MAX 0x7fffffffu

struct text {
    const char *p;
    size_t len;
};

static bool text_is(struct text t, const char *s, size_t len)
{
    return t.len == len && memcmp(t.p, s, len) == 0;
}

/* Decimal digits only. */
static bool parse_id(struct text t, uint32_t *ret)
{
    uint64_t v = 0;

    if (t.len == 0 || t.len > 10)
        return false;
    for (size_t i = 0; i < t.len; i++) {
        if (t.p[i] < '0' || t.p[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(t.p[i] - '0');
    }
    if (v > ID_MAX)
        return false;
    *ret = (uint32_t)v;
    return true;
}

/* Take the part up to `sep` off the front of `t`; false when nothing is left. */
static bool next_part(struct text *t, char sep, struct text *ret)
{
    if (!t->p)
        return false;
    const char *end = t->len ? memchr(t->p, sep, t->len) : NULL;

    *ret = (struct text){.p = t->p, .len = end ? (size_t)(end - t->p) : t->len};
    if (end)
        *t = (struct text){.p = end + 1, .len = t->len - ret->len - 1};
    else
        *t = (struct text){0};
    return true;
}

static size_t split(struct text line, struct text fields[FIELDS])
{
    size_t n = 0;

    while (n < FIELDS && next_part(&line, ':', &fields[n]))
        n++;
    return n;
}

/* Find the entry by name (when `id` is NULL) or by id. False: there is none. */
static bool find_user(struct text passwd, struct text name, const uint32_t *id, struct ga_user *ret,
                      struct text *ret_name)
{
    struct text line, f[FIELDS];

    while (next_part(&passwd, '\n', &line)) {
        uint32_t uid, gid;

        if (split(line, f) < 4 || f[0].len == 0 || !parse_id(f[2], &uid) || !parse_id(f[3], &gid))
            continue;
        if (id ? uid != *id : !text_is(f[0], name.p, name.len))
            continue;
        ret->uid = uid;
        ret->gid = gid;
        *ret_name = f[0];
        if (split(line, f) >= 6 && f[5].len > 0 && f[5].len <= AGENT_MAX_PATH && !memchr(f[5].p, '\0', f[5].len)) {
            memcpy(ret->home, f[5].p, f[5].len);
            ret->home[f[5].len] = '\0';
        }
        return true;
    }
    return false;
}

static bool find_group(struct text group, struct text name, gid_t *ret)
{
    struct text line, f[FIELDS];
    uint32_t gid;

    while (next_part(&group, '\n', &line))
        if (split(line, f) >= 3 && text_is(f[0], name.p, name.len) && parse_id(f[2], &gid)) {
            *ret = gid;
            return true;
        }
    return false;
}

/* The groups that list `name` as a member. */
static int member_groups(struct text group, struct text name, struct ga_user *ret, struct ga_error *err)
{
    struct text line, member, f[FIELDS];
    uint32_t gid;

    while (next_part(&group, '\n', &line)) {
        if (split(line, f) < 4 || !parse_id(f[2], &gid))
            continue;
        while (next_part(&f[3], ',', &member)) {
            if (!text_is(member, name.p, name.len))
                continue;
            if (ret->n_groups == GA_MAX_GROUPS)
                return ga_error_set(err, E2BIG, "the image's /etc/group puts user '%.*s' into more than %u groups",
                                    (int)name.len, name.p, GA_MAX_GROUPS);
            ret->groups[ret->n_groups++] = gid;
            break;
        }
    }
    return 0;
}

int ga_user_lookup(const char *spec, const char *passwd, size_t passwd_len, const char *group, size_t group_len,
                   struct ga_user *ret, struct ga_error *err)
{
    struct text rest = {.p = spec, .len = strlen(spec)}, user, grp = {0}, name = {0};
    struct text passwd_text = {.p = passwd, .len = passwd_len}, group_text = {.p = group, .len = group_len};
    uint32_t id = 0, gid;

    memset(ret, 0, sizeof(*ret));
    strcpy(ret->home, "/");
    next_part(&rest, ':', &user);
    bool has_group = next_part(&rest, ':', &grp) && grp.len > 0;
    if (rest.p)
        return ga_error_set(err, EINVAL, "'%s' is no user: write user, uid, user:group or uid:gid", spec);

    if (user.len == 0 || parse_id(user, &id)) {
        ret->uid = id;
        find_user(passwd_text, user, &id, ret, &name);
    } else if (!find_user(passwd_text, user, NULL, ret, &name)) {
        return ga_error_set(err, ENOENT,
                            "user '%.*s' is not in the image's /etc/passwd; use a name that is, or a number",
                            (int)user.len, user.p);
    }
    if (!has_group)
        return name.len ? member_groups(group_text, name, ret, err) : 0;
    if (parse_id(grp, &gid))
        ret->gid = gid;
    else if (!find_group(group_text, grp, &ret->gid))
        return ga_error_set(err, ENOENT,
                            "group '%.*s' is not in the image's /etc/group; use a name that is, or a number",
                            (int)grp.len, grp.p);
    return 0;
}

/* The file's text; an absent file is empty. A FIFO or device in its place must not hang the caller. */
static int read_file(const char *path, char **ret, size_t *ret_len, struct ga_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    char *text = NULL;
    size_t len = 0;
    int r;

    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) {
        *ret = NULL;
        *ret_len = 0;
        return 0;
    }
    if (fd < 0)
        return ga_error_sys(err, errno, "opening the image's %s", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > (off_t)GA_USER_FILE_MAX) {
        r = ga_error_set(err, EINVAL, "the image's %s is not a regular file of at most %u bytes", path,
                         GA_USER_FILE_MAX);
        goto out;
    }
    text = malloc((size_t)st.st_size + 1);
    if (!text) {
        r = ga_error_set(err, ENOMEM, "no memory for the image's %s", path);
        goto out;
    }
    while (len < (size_t)st.st_size) {
        ssize_t n = read(fd, text + len, (size_t)st.st_size - len);

        if (n < 0) {
            r = ga_error_sys(err, errno, "reading the image's %s", path);
            goto out;
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    *ret = text;
    *ret_len = len;
    text = NULL;
    r = 0;
out:
    free(text);
    close(fd);
    return r;
}

int ga_user_from_files(const char *spec, const char *passwd_path, const char *group_path, struct ga_user *ret,
                       struct ga_error *err)
{
    char *passwd = NULL, *group = NULL;
    size_t passwd_len = 0, group_len = 0;
    int r = read_file(passwd_path, &passwd, &passwd_len, err);

    if (r == 0)
        r = read_file(group_path, &group, &group_len, err);
    if (r == 0)
        r = ga_user_lookup(spec, passwd ? passwd : "", passwd_len, group ? group : "", group_len, ret, err);
    free(passwd);
    free(group);
    return r;
}
