/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a reference to an opened image.
 *
 * Theory of operation
 *
 * What: the kind of reference decides. A directory is read each time and leaves only converted layers in the store. An
 * archive is loaded each time, without a name. A registry's name, or the beginning of an image's digest, is looked for
 * in the store; the policy says when the registry is asked.
 *
 * An image whose record is there and parts of which are not (damaged, removed by hand) is fetched again by the digest
 * that the record has: the name goes on meaning the same.
 *
 * gc_enter() is held until everything is open, and that is all: what is open stays good.
 */
#include "oci/image.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/ensure.h"
#include "oci/events.h"
#include "oci/gc.h"
#include "oci/layout.h"
#include "oci/load.h"
#include "oci/names.h"
#include "oci/pull.h"
#include "oci/ref.h"
#include "oci/select.h"
#include "oci/stored.h"
#include "oci/text.h"

struct opening {
    struct oci_store *store;
    const struct oci_open_options *options; /* never NULL */
    const char *typed;
    struct platform want;
};

/* Directories */

static int select_in_layout(struct selected *ret, struct layout *l, const char *tag, const struct platform *want,
                            struct sm_error *err)
{
    struct documents docs = layout_documents(l);
    CLEANUP_FREE void *data = NULL;
    struct index_doc list;
    size_t len;
    int r = layout_read_index(l, &data, &len, err);

    if (r < 0)
        return r;
    r = index_doc_parse(&list, data, len, err);
    if (r < 0)
        return sm_error_wrap(err, "index.json");
    r = select_image(ret, &docs, &list, tag, want, err);
    index_doc_done(&list);
    return r;
}

static int open_layout(const struct opening *o, const struct oci_ref *ref, struct oci_image **ret, struct sm_error *err)
{
    CLEANUP_FD int gc_fd = gc_enter(o->store, err);
    struct layout layout = LAYOUT_INIT;
    struct layer_source source = source_of_layout(&layout);
    struct selected sel;
    int r = gc_fd < 0 ? gc_fd : layout_open(&layout, ref->path, err);

    if (r >= 0)
        r = select_in_layout(&sel, &layout, ref->tag, &o->want, err);
    if (r >= 0)
        r = image_assemble(ret, o->store, &sel, &source, o->options->events, err);
    layout_done(&layout);
    return r;
}

/* Archives */

static int load_archive(const struct opening *o, const struct oci_ref *ref, struct digest *ret, struct sm_error *err)
{
    bool from_stdin = !strcmp(ref->path, "-");
    CLEANUP_FD int own_fd = from_stdin ? -1 : open(ref->path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct oci_load_options options = {.file = from_stdin ? NULL : ref->path,
                                       .select = ref->tag,
                                       .platform = o->options->platform,
                                       .one = true,
                                       .nameless = true,
                                       .events = o->options->events};
    struct oci_loaded loaded = {.n = 0};
    char shown[TEXT_SHOWN_SIZE];
    int r;

    if (own_fd < 0 && !from_stdin)
        return sm_error_sys(err, errno, "cannot open the archive \"%s\"", text_shown(shown, ref->path));
    r = oci_load(&loaded, o->store, from_stdin ? STDIN_FILENO : own_fd, &options, err);
    if (r < 0)
        return r;
    *ret = loaded.images[0].manifest;
    oci_loaded_done(&loaded);
    return 0;
}

static int open_archive(const struct opening *o, const struct oci_ref *ref, struct oci_image **ret,
                        struct sm_error *err)
{
    CLEANUP_FD int gc_fd = gc_enter(o->store, err);
    struct digest manifest;
    int r = gc_fd < 0 ? gc_fd : load_archive(o, ref, &manifest, err);

    return r < 0 ? r : image_open_stored(ret, o->store, &manifest, &o->want, o->options->events, err);
}

/* Names and digests */

/* -ENOENT, -EBADMSG: parts of it are missing or damaged. */
static int open_record(const struct opening *o, const struct name_record *record, const struct platform *want,
                       struct oci_image **ret, struct sm_error *err)
{
    int r = image_open_stored(ret, o->store, &record->manifest, want, o->options->events, err);

    if (r >= 0)
        image_used(o->store, &record->manifest);
    return r;
}

static int pull(const struct opening *o, const struct oci_ref *ref, const struct digest *root, struct oci_image **ret,
                struct sm_error *err)
{
    struct digest manifest;
    int r = oci_pull_open(ret, o->store, ref, root, o->options, err);

    if (r >= 0 && digest_parse(&manifest, oci_image_digest(*ret), "the image's digest", NULL) >= 0)
        image_used(o->store, &manifest);
    return r;
}

/* Open what a record says. What is missing is fetched if it can be. */
static int open_or_mend(const struct opening *o, const struct name_record *record, const struct platform *want,
                        struct oci_image **ret, struct sm_error *err)
{
    struct oci_open_options options = *o->options;
    struct opening mending = {.store = o->store, .options = &options, .typed = o->typed};
    struct sm_error why = SM_ERROR_INIT;
    struct oci_ref ref = OCI_REF_INIT;
    char shown[TEXT_SHOWN_SIZE];
    int r = open_record(o, record, want, ret, &why);

    if (r >= 0)
        return r;
    if ((r != -ENOENT && r != -EBADMSG) || o->options->policy == OCI_PULL_NEVER || name_is_untagged(record) ||
        ref_parse(&ref, record->name, NULL) < 0)
        return sm_error_set(err, -r, "%s", why.text);
    options.platform = record->platform;
    r = pull(&mending, &ref, &record->root, ret, err);
    ref_done(&ref);
    if (r < 0)
        return sm_error_wrap(err, "the image store has not all of it any more (%s), and", text_shown(shown, why.text));
    return 0;
}

static bool is_for(const struct name_record *record, const struct platform *want)
{
    struct platform have;

    return platform_parse(&have, record->platform, NULL) >= 0 && platform_score(want, &have) > 0;
}

/* By a digest, or the beginning of one: 1; 0 when no image of the store has it, or when it is a name. */
static int find_by_id(const struct opening *o, struct oci_image **ret, struct sm_error *err)
{
    struct sm_error why = SM_ERROR_INIT;
    char shown[TEXT_SHOWN_SIZE];
    struct name_record *list;
    bool by_id;
    size_t n;
    int r = names_find(o->store, o->typed, &list, &n, &by_id, &why);

    if (r == -ENOENT || r == -EINVAL)
        return 0;
    if (r < 0)
        return sm_error_set(err, -r, "%s", why.text);
    if (by_id && o->options->platform && !is_for(&list[0], &o->want))
        r = sm_error_set(err, ENOENT, "image \"%s\" is for %s", text_shown(shown, o->typed), list[0].platform);
    else if (by_id)
        r = open_or_mend(o, &list[0], NULL, ret, err);
    name_records_free(list, n);
    return r < 0 ? r : by_id;
}

static bool is_whole_id(const char *s)
{
    if (!strncmp(s, "sha256:", 7))
        s += 7;
    return strspn(s, "0123456789abcdef") == DIGEST_HEX_SIZE - 1 && !s[DIGEST_HEX_SIZE - 1];
}

static int open_by_id(const struct opening *o, struct oci_image **ret, struct sm_error *err)
{
    CLEANUP_FD int gc_fd = gc_enter(o->store, err);
    char shown[TEXT_SHOWN_SIZE];
    int r = gc_fd < 0 ? gc_fd : find_by_id(o, ret, err);

    if (r)
        return r;
    return sm_error_set(err, ENOENT, "there is no image \"%s\" in the store: pull it by its name",
                        text_shown(shown, o->typed));
}

/* The record of a name, if it is for a platform that will do. */
static int find_by_name(const struct opening *o, const struct oci_ref *ref, struct name_record *ret,
                        struct sm_error *err)
{
    CLEANUP_FREE char *name = NULL;
    int r = ref_canonical(ref, &name, err);

    if (r >= 0)
        r = names_get(o->store, name, o->options->platform, ret, err);
    if (r < 0)
        return r;
    if (!is_for(ret, &o->want)) {
        name_record_done(ret);
        return -ENOENT;
    }
    return 0;
}

static int open_by_name(const struct opening *o, const struct oci_ref *ref, struct oci_image **ret,
                        struct sm_error *err)
{
    CLEANUP_FD int gc_fd = gc_enter(o->store, err);
    struct name_record record;
    char shown[TEXT_SHOWN_SIZE];
    int r;

    if (gc_fd < 0)
        return gc_fd;
    if (o->options->policy == OCI_PULL_ALWAYS)
        return pull(o, ref, NULL, ret, err);
    r = find_by_name(o, ref, &record, err);
    if (r >= 0) {
        r = open_or_mend(o, &record, &o->want, ret, err);
        name_record_done(&record);
        return r;
    }
    if (r == -ENOENT)
        r = find_by_id(o, ret, err);
    if (r)
        return r;
    if (o->options->policy != OCI_PULL_NEVER)
        return pull(o, ref, NULL, ret, err);
    text_shown(shown, o->typed);
    return sm_error_set(err, ENOENT, "there is no image \"%s\" in the store: get it with `supermachine pull %s`", shown,
                        shown);
}

/* All kinds */

static int open_kind(const struct opening *o, const struct oci_ref *ref, struct oci_image **ret, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];
    int r = 0;

    switch (ref->kind) {
    case REF_REGISTRY:
        return open_by_name(o, ref, ret, err);
    case REF_OCI_DIR:
        r = open_layout(o, ref, ret, err);
        break;
    case REF_OCI_ARCHIVE:
    case REF_DOCKER_ARCHIVE:
        r = open_archive(o, ref, ret, err);
        break;
    }
    return r < 0 ? sm_error_wrap(err, "image \"%s\"", text_shown(shown, o->typed)) : 0;
}

int oci_image_open(struct oci_image **ret, struct oci_store *store, const char *ref,
                   const struct oci_open_options *options, struct sm_error *err)
{
    static const struct oci_open_options usual = {.platform = NULL};
    struct opening o = {.store = store, .options = options ? options : &usual, .typed = ref};
    struct oci_ref parsed = OCI_REF_INIT;
    int r = platform_parse(&o.want, o.options->platform, err);

    if (r < 0)
        return r;
    if (is_whole_id(ref)) {
        r = open_by_id(&o, ret, err);
    } else {
        r = ref_parse(&parsed, ref, err);
        if (r >= 0)
            r = open_kind(&o, &parsed, ret, err);
        ref_done(&parsed);
    }
    if (r < 0)
        return r;
    event_tell(o.options->events, OCI_EVENT_DONE, NULL, 0, 0, NULL); /* too late to stop it */
    return 0;
}
