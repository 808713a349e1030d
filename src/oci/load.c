/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading an archive.
 *
 * Theory of operation
 *
 * What, in this order: 1. the whole archive is read by a confined process (archive.h) and its files are hashed into the
 * store's tmp (spool.h); 2. its images are listed and those that are wanted chosen (archive_images.h), for each the
 * manifest that fits the platform; 3. every file that these need is looked up; 4. names are made; 5. every image is
 * converted and merged, from the files below tmp; 6. blobs are put in place; 7. names are. Until 6 a failure leaves
 * nothing but layers that are complete and right, which are a cache; a death leaves what the next process sweeps.
 *
 * The lock against removal is held from 5 on, not while an archive may trickle in through a pipe.
 */
#include "oci/load.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "oci/archive.h"
#include "oci/archive_images.h"
#include "oci/blobs.h"
#include "oci/ensure.h"
#include "oci/gc.h"
#include "oci/load_names.h"
#include "oci/names.h"
#include "oci/platform.h"
#include "oci/spool.h"
#include "oci/text.h"

#define LIST_MAX 900 /* bytes of a list inside a sentence */

/* One image on its way. */
struct item {
    const struct archive_image *img;
    struct selected sel; /* until it is converted */
    struct digest root, manifest;
    struct digest *blobs; /* its own, to be kept: config and layers */
    size_t n_blobs;
    char platform[PLATFORM_STR_SIZE];
    char **names; /* canonical; ends with NULL, and may be empty */
};

struct loading {
    struct oci_store *store;
    const struct oci_load_options *options;
    struct platform want;
    struct spool spool;
    struct archive_images images;
    struct item *items;
    size_t n;
    bool *placed; /* which files of the spool are among the blobs now */
};

static int no_memory(struct sm_error *err)
{
    return sm_error_set(err, ENOMEM, "out of memory while loading an archive");
}

void oci_loaded_done(struct oci_loaded *l)
{
    for (size_t i = 0; l->images && i < l->n; i++)
        free(l->images[i].name);
    free(l->images);
    *l = (struct oci_loaded){.n = 0};
}

static void loading_done(struct loading *l)
{
    for (size_t i = 0; i < l->n; i++) {
        selected_done(&l->items[i].sel);
        free(l->items[i].blobs);
        for (char **name = l->items[i].names; name && *name; name++)
            free(*name);
        free(l->items[i].names);
    }
    free(l->items);
    free(l->placed);
    archive_images_done(&l->images);
    spool_done(&l->spool);
}

/* Which images */

static bool is_wanted(const struct archive_image *img, const char *wanted)
{
    for (char **name = img->names; *name; name++) {
        if (load_name_matches(*name, wanted))
            return true;
    }
    return false;
}

/* The names of what there is, ", "-separated and bounded; for a sentence. */
static void list_names(const struct loading *l, char *ret, size_t size)
{
    size_t len = 0;

    ret[0] = '\0';
    for (size_t i = 0; i < l->images.n; i++) {
        char **names = l->images.items[i].names;
        char shown[TEXT_SHOWN_SIZE];

        for (size_t k = 0; names[k] || !k; k++) {
            const char *name = names[k] ? text_shown(shown, names[k]) : "(one without a name)";

            if (len + strlen(name) + sizeof(", ...") > size) {
                snprintf(ret + len, size - len, ", ...");
                return;
            }
            len += (size_t)snprintf(ret + len, size - len, "%s%s", len ? ", " : "", name);
            if (!names[k])
                break;
        }
    }
}

static int check_choice(const struct loading *l, struct sm_error *err)
{
    const struct oci_load_options *o = l->options;
    char list[LIST_MAX], shown[TEXT_SHOWN_SIZE];
    bool several = false;

    for (size_t i = 1; i < l->n; i++)
        several |= !digest_equal(&l->items[0].manifest, &l->items[i].manifest);
    list_names(l, list, sizeof(list));
    if (!l->n)
        return sm_error_set(err, ENOENT, "the archive has no image \"%s\"; it has: %s",
                            text_shown(shown, o->select ? o->select : ""), list);
    if (several && o->one)
        return sm_error_set(err, EINVAL, "the archive holds several images: say which by %s:FILE:NAME; it has: %s",
                            l->images.kind, list);
    if (several && o->name)
        return sm_error_set(err, EINVAL,
                            "the archive holds several images, which cannot all be called \"%s\"; it has: %s",
                            text_shown(shown, o->name), list);
    return 0;
}

/* How it is called in a sentence. */
static const char *image_label(const struct archive_image *img, char shown[TEXT_SHOWN_SIZE])
{
    return text_shown(shown, img->names[0] ? img->names[0] : "without a name");
}

static int choose_one(struct loading *l, struct item *item, const struct archive_image *img, struct sm_error *err)
{
    const struct manifest_doc *m = &item->sel.manifest;
    int r;

    item->img = img;
    r = archive_image_select(&item->sel, &item->root, img, &l->spool, &l->want, err);
    if (r < 0)
        return r;
    item->manifest = item->sel.manifest_digest;
    platform_str(item->platform, &item->sel.config.platform);
    item->blobs = calloc(m->n_layers + 1, sizeof(*item->blobs));
    if (!item->blobs)
        return no_memory(err);
    item->blobs[item->n_blobs++] = m->config.digest;
    for (size_t i = 0; i < m->n_layers; i++)
        item->blobs[item->n_blobs++] = m->layers[i].digest;
    return 0;
}

static int choose(struct loading *l, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];

    l->items = calloc(l->images.n, sizeof(*l->items));
    if (!l->items)
        return no_memory(err);
    for (size_t i = 0; i < l->images.n; i++) {
        const struct archive_image *img = &l->images.items[i];
        struct item *item = &l->items[l->n];
        int r;

        if (l->options->select && !is_wanted(img, l->options->select))
            continue;
        r = choose_one(l, item, img, err);
        l->n++;
        if (r < 0)
            return sm_error_wrap(err, "image %s", image_label(img, shown));
    }
    return check_choice(l, err);
}

/* Their files */

static int find_blob(const struct loading *l, const struct digest *d, uint64_t size, const struct archive_file **ret,
                     struct sm_error *err)
{
    const struct archive_file *f = files_by_digest(&l->spool.files, d);
    char name[DIGEST_STR_SIZE];

    digest_str(d, name);
    if (!f)
        return sm_error_set(err, ENOENT, "the archive has no file with the digest %s: it is not complete", name);
    if (f->size != size)
        return sm_error_set(err, EBADMSG, "the file with the digest %s is %llu bytes long, its descriptor says %llu",
                            name, (unsigned long long)f->size, (unsigned long long)size);
    *ret = f;
    return 0;
}

static int check_layers(const struct loading *l, struct sm_error *err)
{
    char shown[TEXT_SHOWN_SIZE];

    for (size_t i = 0; i < l->n; i++) {
        const struct manifest_doc *m = &l->items[i].sel.manifest;
        const struct archive_file *f;

        for (size_t k = 0; k < m->n_layers; k++) {
            int r = find_blob(l, &m->layers[k].digest, m->layers[k].size, &f, err);

            if (r < 0)
                return sm_error_wrap(err, "image %s: layer %zu", image_label(l->items[i].img, shown), k);
        }
    }
    return 0;
}

static int open_layer(void *ctx, unsigned layer, const struct descriptor *d, struct sm_error *err)
{
    const struct loading *l = ctx;
    const struct archive_file *f;
    int r = find_blob(l, &d->digest, d->size, &f, err);

    (void)layer;
    return r < 0 ? r : spool_open(&l->spool, f, err);
}

/* Layers and merged metadata; what is opened on the way is not needed here. */
static int convert(struct loading *l, struct sm_error *err)
{
    const struct layer_source source = {.open = open_layer, .ctx = l};
    char shown[TEXT_SHOWN_SIZE];

    for (size_t i = 0; i < l->n; i++) {
        struct oci_image *img;
        int r = image_assemble(&img, l->store, &l->items[i].sel, &source, l->options->events, err);

        if (r < 0)
            return sm_error_wrap(err, "image %s", image_label(l->items[i].img, shown));
        oci_image_free(img);
    }
    return 0;
}

/* A file of the archive among the blobs. Several images may share it. */
static int place(struct loading *l, const struct digest *d, struct sm_error *err)
{
    const struct archive_file *f = files_by_digest(&l->spool.files, d);
    size_t i;
    int r;

    assert(f); /* it was looked up before */
    i = (size_t)(f - l->spool.files.files);
    if (l->placed[i])
        return 0;
    r = spool_commit(&l->spool, f, err);
    if (r >= 0)
        l->placed[i] = true;
    return r;
}

static int place_documents(struct loading *l, const struct item *item, struct sm_error *err)
{
    int r;

    if (item->img->made.len)
        return blob_put(l->store, &item->manifest, item->img->made.data, item->img->made.len, err);
    r = place(l, &item->manifest, err);
    return r < 0 ? r : place(l, &item->root, err);
}

static int place_all(struct loading *l, struct sm_error *err)
{
    int r = 0;

    l->placed = calloc(l->spool.files.n + 1, sizeof(*l->placed));
    if (!l->placed)
        return no_memory(err);
    for (size_t i = 0; r >= 0 && i < l->n; i++) {
        const struct item *item = &l->items[i];

        for (size_t k = 0; r >= 0 && k < item->n_blobs; k++)
            r = place(l, &item->blobs[k], err);
        if (r >= 0)
            r = place_documents(l, item, err);
    }
    return r;
}

/* Names */

static int make_name(char **ret, const struct loading *l, const struct archive_image *img, const char *written,
                     struct sm_error *err)
{
    const struct oci_load_options *o = l->options;
    char shown[TEXT_SHOWN_SIZE];
    int r;

    if (o->name && strchr(o->name, '@'))
        return sm_error_set(err, EINVAL, "\"%s\" has a digest, which cannot be given to an image: leave it out",
                            text_shown(shown, o->name));
    r = load_name(ret, written, !o->name && img->maybe_tags, o->file, err);
    return r < 0 && !o->name ? sm_error_wrap(err, "the archive's name for an image") : r;
}

/* Names that are the same in the end are taken once. */
static int make_item_names(const struct loading *l, struct item *item, struct sm_error *err)
{
    const char *const given[] = {l->options->name, NULL};
    const char *const *written = l->options->name ? given : (const char *const *)item->img->names;
    size_t n = 0, count = 0;

    while (written[count])
        count++;
    item->names = calloc(count + 1, sizeof(*item->names));
    if (!item->names)
        return no_memory(err);
    for (size_t i = 0; !l->options->nameless && i < count; i++) {
        CLEANUP_FREE char *name = NULL;
        bool again = false;
        int r = make_name(&name, l, item->img, written[i], err);

        if (r < 0)
            return r;
        for (size_t k = 0; name && k < n; k++)
            again |= !strcmp(item->names[k], name);
        if (name && !again)
            item->names[n++] = STEAL_PTR(name);
    }
    return 0;
}

static int make_names(struct loading *l, struct sm_error *err)
{
    int r = 0;

    for (size_t i = 0; r >= 0 && i < l->n; i++)
        r = make_item_names(l, &l->items[i], err);
    return r;
}

/* `name` NULL: none. */
static int publish_one(struct oci_loaded *to, const struct loading *l, struct item *item, char *name, char *source,
                       struct sm_error *err)
{
    const struct name_record record = {
        .name = name,
        .root = item->root,
        .manifest = item->manifest,
        .platform = item->platform,
        .source = source,
    };
    struct oci_loaded_image *image = &to->images[to->n];
    char digest[DIGEST_STR_SIZE];

    digest_str(&item->manifest, digest);
    image->root = item->root;
    image->manifest = item->manifest;
    if (name)
        image->name = strdup(name);
    else if (asprintf(&image->name, "@%s", digest) < 0)
        image->name = NULL;
    if (!image->name)
        return no_memory(err);
    to->n++;
    return names_put(l->store, &record, err);
}

static int publish(struct oci_loaded *ret, const struct loading *l, struct sm_error *err)
{
    CLEANUP_FREE char *source = NULL;
    struct oci_loaded loaded = {.n = 0};
    size_t count = 0;
    int r = 0;

    for (size_t i = 0; i < l->n; i++) {
        count++;
        for (char **name = l->items[i].names; *name; name++)
            count++;
    }
    loaded.images = calloc(count, sizeof(*loaded.images));
    if (asprintf(&source, "%s:%s", l->images.kind, l->options->file ? l->options->file : "-") < 0)
        source = NULL;
    if (!loaded.images || !source)
        r = no_memory(err);
    for (size_t i = 0; r >= 0 && i < l->n; i++) {
        struct item *item = &l->items[i];

        if (!item->names[0])
            r = publish_one(&loaded, l, item, NULL, source, err);
        for (char **name = item->names; r >= 0 && *name; name++)
            r = publish_one(&loaded, l, item, *name, source, err);
    }
    if (r < 0) {
        oci_loaded_done(&loaded);
        return r;
    }
    *ret = loaded;
    return 0;
}

/* All of it */

static int prepare(struct loading *l, int fd, struct sm_error *err)
{
    struct archive_sink sink;
    int r = platform_parse(&l->want, l->options->platform, err);

    if (r >= 0)
        r = spool_init(&l->spool, l->store, err);
    if (r < 0)
        return r;
    sink = spool_sink(&l->spool);
    r = archive_read(fd, &sink, l->options->events, err);
    if (r >= 0)
        r = files_seal(&l->spool.files, err);
    if (r >= 0)
        r = archive_images_list(&l->images, &l->spool, err);
    if (r >= 0)
        r = choose(l, err);
    if (r >= 0)
        r = check_layers(l, err);
    return r < 0 ? r : make_names(l, err);
}

static int load(struct oci_loaded *ret, struct loading *l, int fd, struct sm_error *err)
{
    CLEANUP_FD int lock = -1;
    int r = prepare(l, fd, err);

    if (r < 0)
        return r;
    lock = gc_enter(l->store, err);
    if (lock < 0)
        return lock;
    r = convert(l, err);
    if (r >= 0)
        r = place_all(l, err);
    return r < 0 ? r : publish(ret, l, err);
}

int oci_load(struct oci_loaded *ret, struct oci_store *store, int fd, const struct oci_load_options *options,
             struct sm_error *err)
{
    struct loading l = {.store = store, .options = options, .spool = SPOOL_INIT};
    char shown[TEXT_SHOWN_SIZE];
    int r = load(ret, &l, fd, err);

    loading_done(&l);
    if (r < 0 && options->file)
        return sm_error_wrap(err, "archive \"%s\"", text_shown(shown, options->file));
    return r < 0 ? sm_error_wrap(err, "the archive on standard input") : 0;
}
