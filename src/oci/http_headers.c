/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Heads of HTTP answers, line by line.
 *
 * Theory of operation
 *
 * What: libcurl hands over each header line as it came. A line is split at its colon, its value freed of white space
 * around it, and given to the one reader that knows the name. Everything else is skipped.
 *
 * Invariants: what a struct http_head holds is of one answer. Strings in it have no control bytes, so they can go into
 * a request or a sentence. A header that is there twice with a meaning that differs is refused where it matters
 * (Content-Range, Location, digest); libcurl itself refuses unlike Content-Lengths.
 *
 * Limits: HTTP_LINE_MAX, HTTP_HEAD_MAX, HTTP_CHALLENGES_MAX.
 */
#include "oci/http_headers.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/checked.h"
#include "oci/text.h"

void http_head_done(struct http_head *h)
{
    free(h->location);
    free(h->digest);
    for (unsigned i = 0; i < h->n_challenges; i++)
        free(h->challenges[i]);
    *h = (struct http_head){0};
}

/* Digits only, at least one; moves *s behind them. */
static bool read_u64(const char **s, uint64_t *ret)
{
    uint64_t v = 0;
    const char *p = *s;

    if (!isdigit((unsigned char)*p))
        return false;
    for (; isdigit((unsigned char)*p); p++)
        if (!CHECKED_MUL(v, 10, &v) || !CHECKED_ADD(v, (uint64_t)(*p - '0'), &v))
            return false;
    *s = p;
    *ret = v;
    return true;
}

static bool read_2(const char *s, int *ret)
{
    if (!isdigit((unsigned char)s[0]) || !isdigit((unsigned char)s[1]))
        return false;
    *ret = (s[0] - '0') * 10 + s[1] - '0';
    return true;
}

bool http_date_parse(const char *s, int64_t *ret_unix)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    static const char form[] = "aaa, 00 aaa 0000 00:00:00 GMT";
    struct tm tm = {0};
    int century, year, month = 0;

    if (strlen(s) != sizeof(form) - 1)
        return false;
    for (size_t i = 0; i < sizeof(form) - 1; i++)
        if (form[i] == 'a' ? !isalpha((unsigned char)s[i]) : form[i] != '0' && form[i] != s[i])
            return false;
    while (month < 12 && strncmp(months + (size_t)month * 3, s + 8, 3))
        month++;
    if (month == 12 || !read_2(s + 5, &tm.tm_mday) || !read_2(s + 12, &century) || !read_2(s + 14, &year) ||
        !read_2(s + 17, &tm.tm_hour) || !read_2(s + 20, &tm.tm_min) || !read_2(s + 23, &tm.tm_sec))
        return false;
    if (tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 || tm.tm_sec > 60)
        return false;
    tm.tm_mon = month;
    tm.tm_year = century * 100 + year - 1900;
    *ret_unix = timegm(&tm);
    return true;
}

/* "HTTP/1.1 200 OK", "HTTP/2 200" */
static int read_status(struct http_head *h, const char *s, struct sm_error *err)
{
    const char *space = strchr(s, ' ');
    int status = 0;

    if (!space)
        goto bad;
    for (int i = 1; i <= 3; i++) {
        if (!isdigit((unsigned char)space[i]))
            goto bad;
        status = status * 10 + (space[i] - '0');
    }
    if ((space[4] && space[4] != ' ') || status < 100 || status > 599)
        goto bad;
    h->status = status;
    return 0;
bad:
    return sm_error_set(err, EBADMSG, "the server's answer begins with a line that is not HTTP");
}

/* "bytes 0-9/10", "bytes 0-9/" and a star; with 416 "bytes " star "/10", which says nothing that is needed here. */
static int read_range(struct http_head *h, const char *s, struct sm_error *err)
{
    uint64_t first, last, total = UINT64_MAX;
    char shown[TEXT_SHOWN_SIZE];
    const char *p = s;

    if (strncasecmp(p, "bytes ", 6))
        goto bad;
    p += 6;
    if (*p == '*')
        return 0;
    if (!read_u64(&p, &first) || *p++ != '-' || !read_u64(&p, &last) || *p++ != '/')
        goto bad;
    if (!strcmp(p, "*"))
        p++;
    else if (!read_u64(&p, &total))
        goto bad;
    if (*p || last < first || last >= total || h->has_range)
        goto bad;
    h->has_range = true;
    h->range_first = first;
    h->range_last = last;
    h->range_total = total;
    return 0;
bad:
    return sm_error_set(err, EBADMSG, "the server's Content-Range \"%s\" makes no sense", text_shown(shown, s));
}

/* A wish that cannot be read is none: the own backoff is there anyhow. */
static void read_retry(struct http_head *h, const char *s, int64_t now)
{
    const char *p = s;
    uint64_t v;
    int64_t at;

    if (read_u64(&p, &v)) {
        if (*p)
            return;
    } else if (http_date_parse(s, &at)) {
        v = at > now ? (uint64_t)at - (uint64_t)now : 0;
    } else {
        return;
    }
    h->has_retry = true;
    h->retry_after_s = v < HTTP_RETRY_MAX_S ? (uint32_t)v : HTTP_RETRY_MAX_S;
}

static void read_type(struct http_head *h, const char *s)
{
    size_t n = strcspn(s, "; \t");

    h->type[0] = '\0';
    if (n >= sizeof(h->type))
        return;
    for (size_t i = 0; i < n; i++)
        h->type[i] = (char)tolower((unsigned char)s[i]);
    h->type[n] = '\0';
}

static int keep_string(char **to, const char *name, const char *s, size_t max, struct sm_error *err)
{
    char *copy;

    if (strlen(s) > max)
        return sm_error_set(err, EBADMSG, "the server's header %s is too long: %zu bytes, limit %zu", name, strlen(s),
                            max);
    if (*to && strcmp(*to, s))
        return sm_error_set(err, EBADMSG, "the server sent two unlike headers %s", name);
    copy = strdup(s);
    if (!copy)
        return sm_error_set(err, ENOMEM, "out of memory");
    free(*to);
    *to = copy;
    return 0;
}

static int read_header(struct http_head *h, const char *name, const char *value, int64_t now, struct sm_error *err)
{
    if (!strcasecmp(name, "content-length")) {
        h->has_length = read_u64(&value, &h->length) && !*value;
        return 0;
    }
    if (!strcasecmp(name, "content-type"))
        read_type(h, value);
    else if (!strcasecmp(name, "content-range"))
        return read_range(h, value, err);
    else if (!strcasecmp(name, "retry-after"))
        read_retry(h, value, now);
    else if (!strcasecmp(name, "location"))
        return keep_string(&h->location, "Location", value, HTTP_LINE_MAX, err);
    else if (!strcasecmp(name, "docker-content-digest"))
        return keep_string(&h->digest, "Docker-Content-Digest", value, HTTP_DIGEST_MAX, err);
    else if (!strcasecmp(name, "www-authenticate")) {
        if (h->n_challenges == HTTP_CHALLENGES_MAX)
            return sm_error_set(err, EBADMSG, "the server sent more than %d headers WWW-Authenticate",
                                HTTP_CHALLENGES_MAX);
        h->challenges[h->n_challenges] = strdup(value);
        if (!h->challenges[h->n_challenges])
            return sm_error_set(err, ENOMEM, "out of memory");
        h->n_challenges++;
    }
    return 0;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

int http_head_line(struct http_head *h, const void *line, size_t len, int64_t now, struct sm_error *err)
{
    char *s, *colon, *value;
    int r = 0;

    if (len > HTTP_LINE_MAX)
        return sm_error_set(err, EFBIG, "the server sent a header of %zu bytes, limit %u", len, HTTP_LINE_MAX);
    s = malloc(len + 1);
    if (!s)
        return sm_error_set(err, ENOMEM, "out of memory");
    memcpy(s, line, len);
    while (len > 0 && is_blank(s[len - 1]))
        len--;
    s[len] = '\0';
    for (size_t i = 0; i < len; i++) {
        if (((unsigned char)s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f) {
            r = sm_error_set(err, EBADMSG, "the server sent a header with a control byte in it");
            goto out;
        }
    }
    if (len >= 5 && !strncasecmp(s, "HTTP/", 5)) {
        http_head_done(h);
        h->bytes = len;
        r = read_status(h, s, err);
        goto out;
    }
    h->bytes += len;
    if (h->bytes > HTTP_HEAD_MAX) {
        r = sm_error_set(err, EFBIG, "the server sent more than %u bytes of headers", HTTP_HEAD_MAX);
        goto out;
    }
    colon = strchr(s, ':');
    if (!colon || colon == s || is_blank(s[0]))
        goto out;
    *colon = '\0';
    for (value = colon + 1; is_blank(*value); value++)
        ;
    r = read_header(h, s, value, now, err);
out:
    free(s);
    return r;
}
