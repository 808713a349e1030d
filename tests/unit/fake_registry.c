/* SPDX-License-Identifier: Apache-2.0 */
/* A registry that plays a script: see fake_registry.h. */
#include "fake_registry.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/io.h"
#include "oci/registry.h"
#include "oci_fixture.h"

struct fake_registry fake_registry;

struct registry {
    struct registry_fetch *fetches;
};

struct registry_fetch {
    struct registry_fetch *next;
    struct registry *registry;
    const char *data;
    uint64_t size, at;
    int fd;
    bool failed;
};

void fake_registry_reset(void)
{
    for (unsigned i = 0; i < fake_registry.n_objects; i++)
        free(fake_registry.objects[i].data);
    fake_registry = (struct fake_registry){.step = 100000};
}

struct digest fake_registry_add(const void *data, size_t len)
{
    unsigned i = fake_registry.n_objects++;

    assert_true(i < FAKE_OBJECTS);
    fake_registry.objects[i].data = malloc(len + 1);
    memcpy(fake_registry.objects[i].data, data, len);
    fake_registry.objects[i].data[len] = '\0';
    fake_registry.objects[i].len = len;
    fake_registry.objects[i].digest = digest_of_buf(data, len);
    return fake_registry.objects[i].digest;
}

void fake_registry_tag(const char *name, const struct digest *digest)
{
    unsigned i = 0;

    while (i < fake_registry.n_tags && strcmp(fake_registry.tags[i].name, name))
        i++;
    assert_true(i < FAKE_TAGS);
    fake_registry.tags[i].name = name;
    fake_registry.tags[i].digest = *digest;
    fake_registry.n_tags += i == fake_registry.n_tags;
}

unsigned fake_registry_requests(void)
{
    return fake_registry.heads + fake_registry.manifests + fake_registry.documents + fake_registry.fetches;
}

int registry_open(struct registry **ret, const struct registry_options *o, const char *host, const char *repository,
                  struct sm_error *err)
{
    assert_string_equal(host, "reg.example");
    assert_string_equal(repository, "app");
    *ret = calloc(1, sizeof(**ret));
    return 0;
}

void registry_free(struct registry *r)
{
    if (r)
        assert_null(r->fetches);
    free(r);
}

static int unreachable(struct sm_error *err)
{
    return sm_error_set(err, ECONNREFUSED, "the fake registry does not answer");
}

static int find_tag(const char *tag, struct digest *ret, struct sm_error *err)
{
    for (unsigned i = 0; i < fake_registry.n_tags; i++) {
        if (!strcmp(fake_registry.tags[i].name, tag)) {
            *ret = fake_registry.tags[i].digest;
            return 0;
        }
    }
    return digest_parse(ret, tag, "tag", NULL) < 0 ? sm_error_set(err, ENOENT, "no such tag") : 0;
}

static int find_object(const struct digest *digest, struct sm_error *err)
{
    for (unsigned i = 0; i < fake_registry.n_objects; i++) {
        if (digest_equal(&fake_registry.objects[i].digest, digest))
            return (int)i;
    }
    return sm_error_set(err, ENOENT, "no such object");
}

static int copy_object(const struct digest *digest, void **ret, size_t *ret_len, struct sm_error *err)
{
    int i = find_object(digest, err);

    if (i < 0)
        return i;
    *ret_len = fake_registry.objects[i].len;
    *ret = malloc(*ret_len + 1);
    memcpy(*ret, fake_registry.objects[i].data, *ret_len + 1);
    return 0;
}

int registry_resolve(struct registry *r, const char *tag_or_digest, struct digest *ret, struct sm_error *err)
{
    fake_registry.heads++;
    if (fake_registry.unreachable)
        return unreachable(err);
    if (fake_registry.no_digest)
        return sm_error_set(err, EOPNOTSUPP, "no digest");
    return find_tag(tag_or_digest, ret, err);
}

int registry_manifest(struct registry *r, const char *tag_or_digest, const struct digest *want, void **ret,
                      size_t *ret_len, struct digest *ret_digest, char ret_media[REGISTRY_MEDIA_SIZE],
                      struct sm_error *err)
{
    int res;

    fake_registry.manifests++;
    if (fake_registry.unreachable)
        return unreachable(err);
    res = find_tag(tag_or_digest, ret_digest, err);
    if (res >= 0 && want)
        assert_true(digest_equal(ret_digest, want));
    snprintf(ret_media, REGISTRY_MEDIA_SIZE, "application/json");
    return res < 0 ? res : copy_object(ret_digest, ret, ret_len, err);
}

int registry_document(struct registry *r, const struct digest *digest, uint64_t size, void **ret, struct sm_error *err)
{
    size_t len;
    int res;

    fake_registry.documents++;
    if (fake_registry.unreachable)
        return unreachable(err);
    res = copy_object(digest, ret, &len, err);
    if (res >= 0 && len != size) {
        free(*ret);
        res = sm_error_set(err, EBADMSG, "the document has another size");
    }
    return res;
}

int registry_fetch_start(struct registry_fetch **ret, struct registry *r, const struct digest *digest, uint64_t size,
                         int fd, uint64_t have, struct sm_error *err)
{
    struct registry_fetch *f = calloc(1, sizeof(*f));
    int i = find_object(digest, err);

    fake_registry.fetches++;
    if (i < 0) {
        free(f);
        return i;
    }
    assert_true(have < size);
    *f = (struct registry_fetch){
        .next = r->fetches, .registry = r, .data = fake_registry.objects[i].data, .size = size, .at = have, .fd = fd};
    r->fetches = f;
    if (++fake_registry.running > fake_registry.most_running)
        fake_registry.most_running = fake_registry.running;
    *ret = f;
    return 0;
}

int registry_fetch_state(struct registry_fetch *f, uint64_t *ret_available, bool *ret_done, struct sm_error *err)
{
    *ret_available = f->at;
    *ret_done = f->at == f->size;
    return f->failed ? sm_error_set(err, EPROTO, "the connection was cut") : 0;
}

void registry_fetch_free(struct registry_fetch *f)
{
    struct registry_fetch **at;

    if (!f)
        return;
    for (at = &f->registry->fetches; *at != f;)
        at = &(*at)->next;
    *at = f->next;
    free(f);
    fake_registry.running--;
}

static void move(struct registry_fetch *f)
{
    uint64_t len = f->size - f->at < fake_registry.step ? f->size - f->at : fake_registry.step;
    char *copy = malloc(len ? len : 1);

    if (fake_registry.cut_after && fake_registry.bytes >= fake_registry.cut_after) {
        f->failed = true;
    } else if (len) {
        memcpy(copy, f->data + f->at, len);
        if (fake_registry.wrong)
            copy[len - 1] ^= 1;
        assert_int_equal(io_pwrite_full(f->fd, copy, len, f->at), 0);
        f->at += len;
        fake_registry.bytes += len;
    }
    free(copy);
}

int registry_wait(struct registry *r, struct pollfd *fds, unsigned n, int timeout_ms, struct sm_error *err)
{
    bool moved = false;

    for (struct registry_fetch *f = r->fetches; f; f = f->next) {
        if (!f->failed && f->at < f->size) {
            move(f);
            moved = true;
        }
    }
    assert_true(moved || n || timeout_ms >= 0); /* else nothing would ever wake it up */
    return poll(fds, n, moved ? 0 : timeout_ms) < 0 ? -errno : 0;
}
