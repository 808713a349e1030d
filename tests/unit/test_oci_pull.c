/* SPDX-License-Identifier: Apache-2.0 */
/* Pulling and opening by name, against a registry that plays a script. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/io.h"
#include "fake_registry.h"
#include "oci/names.h"
#include "oci/pull.h"
#include "oci/ref.h"
#include "oci/store.h"
#include "oci_fixture.h"

#define INDEX_TYPE    "application/vnd.oci.image.index.v1+json"
#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define CONFIG_TYPE   "application/vnd.oci.image.config.v1+json"
#define LAYER_TYPE    "application/vnd.oci.image.layer.v1.tar"
#define NAME          "reg.example/app:one"
#define SIZE          (1 << 20) /* of a layer's file */

static char *dir;
static struct oci_store *store;

/* Makers of what the registry has */

struct object {
    struct digest digest;
    size_t len;
};

static struct object add(const void *data, size_t len)
{
    return (struct object){fake_registry_add(data, len), len};
}

static struct object add_layer(char name, size_t size)
{
    char *data = malloc(size), path[] = {name, '\0'};
    struct buf tar = buf_init(64 << 20);
    struct object o;

    for (size_t i = 0; i < size; i++)
        data[i] = (char)((i + (unsigned char)name) * 2654435761u >> 11);
    tar_add(&tar, path, '0', NULL, data, size);
    tar_end(&tar);
    o = add(tar.data, tar.len);
    buf_done(&tar);
    free(data);
    return o;
}

static void describe(char *to, size_t size, const char *type, const struct object *o)
{
    char name[DIGEST_STR_SIZE];

    digest_str(&o->digest, name);
    snprintf(to, size, "{\"mediaType\": \"%s\", \"size\": %zu, \"digest\": \"%s\"}", type, o->len, name);
}

/* Layers that are no layers to somebody are those of another type than LAYER_TYPE. */
static struct object add_image_of(const char *arch, const char *layer_type, const struct object *layers, unsigned n)
{
    char text[8000], *p = text, d[500], name[DIGEST_STR_SIZE];
    struct object config;

    p += sprintf(p, "{\"os\": \"linux\", \"architecture\": \"%s\", \"rootfs\": {\"type\": \"layers\", \"diff_ids\": [",
                 arch);
    for (unsigned i = 0; i < n; i++) {
        digest_str(&layers[i].digest, name);
        p += sprintf(p, "%s\"%s\"", i ? ", " : "", name);
    }
    p += sprintf(p, "]}}");
    config = add(text, (size_t)(p - text));
    describe(d, sizeof(d), CONFIG_TYPE, &config);
    p = text + sprintf(text, "{\"schemaVersion\": 2, \"config\": %s, \"layers\": [", d);
    for (unsigned i = 0; i < n; i++) {
        describe(d, sizeof(d), layer_type, &layers[i]);
        p += sprintf(p, "%s%s", i ? ", " : "", d);
    }
    p += sprintf(p, "]}");
    return add(text, (size_t)(p - text));
}

static struct object add_image(const struct object *layers, unsigned n)
{
    return add_image_of("amd64", LAYER_TYPE, layers, n);
}

static struct object add_index(const struct object *items, const char *type, unsigned n)
{
    char text[8000], *p = text, d[500];

    p += sprintf(p, "{\"schemaVersion\": 2, \"manifests\": [");
    for (unsigned i = 0; i < n; i++) {
        describe(d, sizeof(d), type, &items[i]);
        p += sprintf(p, "%s%s", i ? ", " : "", d);
    }
    p += sprintf(p, "]}");
    return add(text, (size_t)(p - text));
}

/* Asking for it */

static int try_pull(const char *name, const struct oci_events *events, struct oci_pull_result *ret,
                    struct sm_error *err)
{
    struct oci_open_options options = {.platform = "linux/amd64", .events = events};
    struct oci_ref ref = OCI_REF_INIT;
    int r;

    *err = (struct sm_error)SM_ERROR_INIT;
    assert_int_equal(ref_parse(&ref, name, err), 0);
    r = oci_pull(store, &ref, &options, ret, err);
    ref_done(&ref);
    return r;
}

static struct oci_pull_result pull(const char *name)
{
    struct oci_pull_result result;
    struct sm_error err;

    if (try_pull(name, NULL, &result, &err) < 0)
        fail_msg("%s", err.text);
    return result;
}

static void pull_fails(const char *name, int code, const char *word)
{
    struct sm_error err;

    assert_int_equal(try_pull(name, NULL, NULL, &err), -code);
    if (!strstr(err.text, word))
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
}

static const char *open_platform = "linux/amd64";

static int try_open(const char *name, enum oci_pull_policy policy, struct sm_error *err)
{
    struct oci_open_options options = {.platform = open_platform, .policy = policy};
    const struct oci_extent *extents;
    struct oci_image *img;
    int r;

    *err = (struct sm_error)SM_ERROR_INIT;
    r = oci_image_open(&img, store, name, &options, err);
    if (r < 0)
        return r;
    assert_true(oci_image_extents(img, &extents) > 0);
    oci_image_free(img);
    return 0;
}

static void opens(const char *name, enum oci_pull_policy policy)
{
    struct sm_error err;

    if (try_open(name, policy, &err) < 0)
        fail_msg("%s", err.text);
}

static void open_fails(const char *name, enum oci_pull_policy policy, int code, const char *word)
{
    struct sm_error err;

    assert_int_equal(try_open(name, policy, &err), -code);
    if (!strstr(err.text, word))
        fail_msg("\"%s\" does not say \"%s\"", err.text, word);
}

/* Looking at the store */

static void path_of(char path[600], const char *sub, const struct digest *d)
{
    char hex[DIGEST_HEX_SIZE];

    digest_hex(d, hex);
    snprintf(path, 600, "%s/%s/%s", dir, sub, hex);
}

static int64_t size_of(const char *sub, const struct digest *d)
{
    char path[600];
    struct stat st;

    path_of(path, sub, d);
    return stat(path, &st) < 0 ? -1 : (int64_t)st.st_size;
}

static unsigned count(const char *sub)
{
    char path[600];
    unsigned n = 0;
    DIR *d;

    snprintf(path, sizeof(path), "%s/%s", dir, sub);
    d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static void nothing_is_named(void)
{
    assert_int_equal(count("names"), 0);
    assert_int_equal(count("tmp"), 0);
}

static void remove_layer(const struct digest *d)
{
    char path[600], file[700];

    path_of(path, "layers", d);
    snprintf(file, sizeof(file), "%s/data", path);
    assert_int_equal(unlink(file), 0);
    snprintf(file, sizeof(file), "%s/index", path);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(path), 0);
}

static void remove_blob(const struct digest *d)
{
    char path[600];

    path_of(path, "blobs", d);
    assert_int_equal(unlink(path), 0);
}

static void put_file(const char *sub, const struct digest *d, const void *data, size_t len)
{
    char hex[DIGEST_HEX_SIZE], name[100], path[600];

    digest_hex(d, hex);
    snprintf(name, sizeof(name), "%s/%s", sub, hex);
    path_of(path, sub, d);
    unlink(path);
    write_file(dir, name, data, len);
}

static int set_up(void **state)
{
    fake_registry_reset();
    dir = temp_dir();
    return oci_store_open(&store, dir, NULL);
}

static int tear_down(void **state)
{
    oci_store_free(store);
    temp_dir_remove(dir);
    fake_registry_reset();
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* nobody is left */
    return 0;
}

/* Tests */

static void test_names(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', 100), add_layer('c', SIZE)};
    struct object image = add_image(layers, 3), other = add_image(layers, 2), index;
    char name[200], hex[DIGEST_HEX_SIZE];
    struct oci_pull_result result;
    unsigned requests;

    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "supermachine pull " NAME);
    assert_int_equal(fake_registry_requests(), 0);
    open_fails(NAME, OCI_PULL_MISSING, ENOENT, "no such tag");
    index = add_index(&image, MANIFEST_TYPE, 1);
    fake_registry_tag("one", &index.digest);
    result = pull(NAME);
    assert_false(result.up_to_date);
    assert_true(digest_equal(&result.root, &index.digest));
    assert_true(digest_equal(&result.manifest, &image.digest));
    assert_true(result.fetched > 2 * SIZE && result.fetched < 3 * SIZE);
    assert_int_equal(fake_registry.fetches, 3);
    assert_int_equal(count("partial"), 0);
    assert_int_equal(count("blobs"), 6);

    /* offline from here on, but for one question */
    requests = fake_registry_requests();
    opens(NAME, OCI_PULL_MISSING);
    opens(NAME, OCI_PULL_NEVER);
    digest_hex(&image.digest, hex);
    hex[12] = '\0';
    opens(hex, OCI_PULL_NEVER);
    digest_hex(&image.digest, hex);
    opens(hex, OCI_PULL_NEVER);
    snprintf(name, sizeof(name), "sha256:%s", hex);
    opens(name, OCI_PULL_MISSING);
    assert_int_equal(fake_registry_requests(), requests);
    result = pull(NAME);
    assert_true(result.up_to_date);
    assert_int_equal(result.fetched, 0);
    assert_int_equal(fake_registry_requests(), requests + 1);
    opens(NAME, OCI_PULL_ALWAYS);
    assert_int_equal(fake_registry_requests(), requests + 2);
    assert_int_equal(fake_registry.heads, 4);

    /* the digest is the name: nobody has to be asked */
    requests = fake_registry_requests();
    snprintf(name, sizeof(name), "reg.example/app@sha256:%s", hex);
    assert_false(pull(name).up_to_date);
    assert_true(pull(name).up_to_date);
    assert_int_equal(fake_registry_requests(), requests);

    fake_registry.unreachable = true;
    opens(NAME, OCI_PULL_MISSING);
    open_fails(NAME, OCI_PULL_ALWAYS, ECONNREFUSED, NAME);
    pull_fails(NAME, ECONNREFUSED, "does not answer");
    fake_registry.unreachable = false;

    /* the tag moves: only its documents are new */
    fake_registry_tag("one", &other.digest);
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, 3);
    result = pull(NAME);
    assert_false(result.up_to_date);
    assert_true(digest_equal(&result.manifest, &other.digest));
    assert_int_equal(fake_registry.fetches, 3);
    assert_true(pull(NAME).up_to_date);

    fake_registry.no_digest = true;
    requests = fake_registry.manifests;
    assert_true(pull(NAME).up_to_date);
    assert_int_equal(fake_registry.manifests, requests + 1);
}

static void test_parallel(void **state)
{
    struct object layers[7], image;

    for (int i = 0; i < 7; i++)
        layers[i] = add_layer((char)('a' + i), i == 3 ? 10 : 300000);
    image = add_image(layers, 7);
    fake_registry_tag("one", &image.digest);
    fake_registry.step = 1000;
    pull(NAME);
    assert_int_equal(fake_registry.most_running, 4);
    assert_int_equal(fake_registry.fetches, 7);
    /* the same layers, and twice one of them */
    layers[2] = layers[0];
    image = add_image(layers, 3);
    fake_registry_tag("two", &image.digest);
    pull("reg.example/app:two");
    assert_int_equal(fake_registry.fetches, 7);
    opens("reg.example/app:two", OCI_PULL_NEVER);
}

/* Cut a pull at every so many bytes until it goes through: nothing comes twice. */
static void test_cut(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    unsigned cuts = 0;
    struct sm_error err;

    fake_registry_tag("one", &image.digest);
    fake_registry.step = 7777;
    for (;;) {
        fake_registry.cut_after = fake_registry.bytes + 300000;
        if (try_pull(NAME, NULL, NULL, &err) >= 0)
            break;
        assert_non_null(strstr(err.text, "connection was cut"));
        assert_non_null(strstr(err.text, "layer sha256:"));
        nothing_is_named();
        assert_true(++cuts < 50);
    }
    assert_true(cuts >= 5);
    assert_int_equal(fake_registry.bytes, layers[0].len + layers[1].len);
    assert_int_equal(fake_registry.manifests, 1);
    assert_int_equal(count("partial"), 0);
    opens(NAME, OCI_PULL_NEVER);
}

/* One name, two platforms. An id is one image, whatever is asked for. */
static void test_platforms(void **state)
{
    struct object layers[] = {add_layer('a', 20000), add_layer('b', 20000)}, both[2], index;
    char id[DIGEST_HEX_SIZE];

    both[0] = add_image_of("amd64", LAYER_TYPE, &layers[0], 1);
    both[1] = add_image_of("arm64", LAYER_TYPE, &layers[1], 1);
    index = add_index(both, MANIFEST_TYPE, 2);
    fake_registry_tag("one", &index.digest);
    open_platform = "linux/arm64";
    opens(NAME, OCI_PULL_MISSING);
    digest_hex(&both[1].digest, id);
    assert_int_equal(fake_registry.fetches, 1);
    open_platform = "linux/amd64";
    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "supermachine pull");
    open_fails(id, OCI_PULL_MISSING, ENOENT, "linux/arm64");
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, 2);
    opens(NAME, OCI_PULL_NEVER);
    open_platform = "linux/arm64";
    opens(NAME, OCI_PULL_NEVER);
    /* mended as what it is */
    remove_layer(&layers[1].digest);
    remove_blob(&layers[1].digest);
    open_platform = NULL;
    opens(id, OCI_PULL_MISSING);
    assert_true(size_of("blobs", &layers[1].digest) > 0);
    open_platform = "linux/amd64";
}

/* What an earlier pull may have left: right or wrong, of any length. */
static void test_leftovers(void **state)
{
    struct object layer = add_layer('a', SIZE), image = add_image(&layer, 1);
    char *data = fake_registry.objects[0].data, *wrong = malloc(layer.len + 100), *right = malloc(layer.len);
    const struct {
        const char *data;
        size_t len;
        uint64_t fetched;
    } cases[] = {
        {right, 0, layer.len},
        {right, 1, layer.len - 1},
        {right, layer.len - 1, 1},
        {right, layer.len, 0},
        {wrong, 500000, layer.len - 500000 + layer.len},
        {wrong, layer.len, layer.len},
        {wrong, layer.len + 100, layer.len},
    };

    memcpy(right, data, layer.len);
    memcpy(wrong, data, layer.len);
    memset(wrong + layer.len, 0, 100);
    memset(wrong + 100000, 0x55, 5000);
    fake_registry_tag("one", &image.digest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        put_file("partial", &layer.digest, cases[i].data, cases[i].len);
        fake_registry.bytes = 0;
        pull(NAME);
        assert_int_equal(fake_registry.bytes, cases[i].fetched);
        assert_int_equal(count("partial"), 0);
        assert_int_equal(size_of("blobs", &layer.digest), layer.len);
        remove_layer(&layer.digest);
        remove_blob(&layer.digest);
    }
    free(wrong);
    free(right);
}

static void test_wrong_bytes(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);

    fake_registry_tag("one", &image.digest);
    fake_registry.wrong = true;
    pull_fails(NAME, EBADMSG, "has the digest");
    nothing_is_named();
    /* of the layer that was found out nothing is left; the other one is only not known to be wrong */
    assert_true(size_of("partial", &layers[0].digest) < 0 || size_of("partial", &layers[1].digest) < 0);
    assert_int_equal(count("layers"), 0);
    fake_registry.wrong = false;
    pull(NAME);
    assert_int_equal(count("partial"), 0);
}

/* Parts of the store that go missing or bad. */
static void test_mending(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    unsigned fetches, manifests;
    char *wrong = calloc(1, layers[0].len);

    fake_registry_tag("one", &image.digest);
    pull(NAME);
    fetches = fake_registry.fetches;
    /* the converted layer: made from the blob */
    remove_layer(&layers[0].digest);
    opens(NAME, OCI_PULL_NEVER);
    assert_int_equal(fake_registry.fetches, fetches);
    /* the blob: not needed */
    remove_blob(&layers[0].digest);
    opens(NAME, OCI_PULL_NEVER);
    assert_true(pull(NAME).up_to_date);
    assert_int_equal(fake_registry.fetches, fetches);
    /* both */
    remove_layer(&layers[0].digest);
    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "not in the image store");
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, fetches + 1);
    /* a blob that is damaged, of its right size */
    remove_layer(&layers[0].digest);
    put_file("blobs", &layers[0].digest, wrong, layers[0].len);
    open_fails(NAME, OCI_PULL_NEVER, EBADMSG, "has the digest");
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.fetches, fetches + 2);
    remove_layer(&layers[0].digest);
    opens(NAME, OCI_PULL_NEVER);
    /* and of another */
    remove_layer(&layers[0].digest);
    put_file("blobs", &layers[0].digest, wrong, 100);
    assert_false(pull(NAME).up_to_date);
    assert_int_equal(fake_registry.fetches, fetches + 3);
    /* the manifest; the tag has moved on, but the image is what it was */
    remove_blob(&image.digest);
    open_fails(NAME, OCI_PULL_NEVER, ENOENT, "missing");
    manifests = fake_registry.manifests;
    fake_registry_tag("one", &layers[0].digest);
    opens(NAME, OCI_PULL_MISSING);
    assert_int_equal(fake_registry.manifests, manifests + 1);
    free(wrong);
}

struct stopper {
    enum oci_event_kind at;
    uint64_t done; /* at least */
    unsigned seen[OCI_EVENT_DONE + 1], layers_done;
    int (*act)(void);
    int to, from; /* pipes */
};

static int on_event(void *ctx, const struct oci_event *e)
{
    struct stopper *s = ctx;

    assert_true(!e->total || e->done <= e->total);
    if (e->what <= OCI_EVENT_DONE)
        s->seen[e->what]++;
    s->layers_done += e->what == OCI_EVENT_DONE && e->layer;
    return e->what == s->at && e->done >= s->done && s->act ? s->act() : 0;
}

static int say_stop(void)
{
    return 1;
}

static void test_cancel(void **state)
{
    static const struct {
        enum oci_event_kind at;
        uint64_t done;
    } cases[] = {{OCI_EVENT_RESOLVING, 0},
                 {OCI_EVENT_FETCHING, 0},
                 {OCI_EVENT_FETCHING, SIZE},
                 {OCI_EVENT_CONVERTING, 0},
                 {OCI_EVENT_MERGING, 0}};
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    struct stopper s = {.at = OCI_EVENT_DONE};
    struct oci_events events = {on_event, &s};
    struct sm_error err;

    fake_registry_tag("one", &image.digest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        s = (struct stopper){.at = cases[i].at, .done = cases[i].done, .act = say_stop};
        assert_int_equal(try_pull(NAME, &events, NULL, &err), -ECANCELED);
        assert_non_null(strstr(err.text, "stopped"));
        nothing_is_named();
    }
    s = (struct stopper){.at = OCI_EVENT_DONE};
    if (try_pull(NAME, &events, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(fake_registry.bytes, layers[0].len + layers[1].len);
    assert_int_equal(count("partial"), 0);
}

static void test_events(void **state)
{
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);
    struct stopper s = {.at = OCI_EVENT_DONE};
    struct oci_events events = {on_event, &s};
    struct sm_error err;

    fake_registry_tag("one", &image.digest);
    fake_registry.step = 3000;
    assert_int_equal(try_pull(NAME, &events, NULL, &err), 0);
    assert_true(s.seen[OCI_EVENT_RESOLVING] && s.seen[OCI_EVENT_FETCHING] >= 4 && s.seen[OCI_EVENT_MERGING] == 1);
    assert_int_equal(s.layers_done, 2);
    assert_int_equal(s.seen[OCI_EVENT_DONE], 3);
    assert_int_equal(s.seen[OCI_EVENT_WAITING], 0);
}

static int die(void)
{
    return raise(SIGKILL);
}

static void test_killed(void **state)
{
    static const struct {
        enum oci_event_kind at;
        uint64_t done;
    } cases[] = {{OCI_EVENT_FETCHING, 100}, {OCI_EVENT_FETCHING, SIZE}, {OCI_EVENT_CONVERTING, 1}, {OCI_EVENT_DONE, 1}};
    struct object layers[] = {add_layer('a', SIZE), add_layer('b', SIZE)}, image = add_image(layers, 2);

    fake_registry_tag("one", &image.digest);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        pid_t pid = fork();
        int status;

        if (!pid) {
            struct stopper s = {.at = cases[i].at, .done = cases[i].done, .act = die};
            struct sm_error err;

            fake_registry.step = 60000;
            try_pull(NAME, &(struct oci_events){on_event, &s}, NULL, &err);
            _exit(0); /* more may be there by now than this case wants to see */
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (i == 0)
            assert_true(WIFSIGNALED(status));
        if (WIFSIGNALED(status))
            assert_int_equal(count("names"), 0);
    }
    pull(NAME);
    assert_true(fake_registry.bytes < layers[0].len + layers[1].len); /* some of it came before */
    opens(NAME, OCI_PULL_NEVER);
}

static int gate_to, gate_from;

/* The other process: holds its locks until it is told to go on. */
static int say_and_wait(void)
{
    char c = 'x';

    if (gate_to < 0)
        return 0;
    if (write(gate_to, &c, 1) != 1 || read(gate_from, &c, 1) != 1)
        _exit(9);
    gate_to = -1;
    return 0;
}

static int let_go(void)
{
    char c = 'x';

    if (gate_to >= 0)
        assert_int_equal(write(gate_to, &c, 1), 1);
    gate_to = -1;
    return 0;
}

/* Another process fetches the base; this one fetches its own layer meanwhile, then waits, and uses the other's work. */
static void test_two_processes(void **state)
{
    struct object base = add_layer('a', SIZE), own[] = {base, add_layer('b', SIZE)};
    struct object first = add_image(&base, 1), second = add_image(own, 2);
    struct stopper s = {.at = OCI_EVENT_WAITING, .act = let_go};
    struct sm_error err;
    int to_child[2], to_us[2], status;
    pid_t pid;
    char c;

    fake_registry_tag("one", &first.digest);
    fake_registry_tag("two", &second.digest);
    assert_int_equal(pipe(to_child), 0);
    assert_int_equal(pipe(to_us), 0);
    pid = fork();
    if (!pid) {
        struct stopper theirs = {.at = OCI_EVENT_FETCHING, .done = 1, .act = say_and_wait};

        gate_to = to_us[1];
        gate_from = to_child[0];
        _exit(try_pull(NAME, &(struct oci_events){on_event, &theirs}, NULL, &err) < 0);
    }
    assert_int_equal(read(to_us[0], &c, 1), 1);
    gate_to = to_child[1];
    if (try_pull("reg.example/app:two", &(struct oci_events){on_event, &s}, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(s.seen[OCI_EVENT_WAITING] > 0);
    assert_int_equal(s.layers_done, 2);
    assert_int_equal(fake_registry.bytes, own[1].len);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    opens(NAME, OCI_PULL_NEVER);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_us[i]);
    }
}

/* Another process has the blob alone, for an export perhaps, and dies: this one waits, may be stopped, and takes over.
 */
static void test_busy_blob(void **state)
{
    struct object layer = add_layer('a', SIZE), image = add_image(&layer, 1);
    struct stopper s = {.at = OCI_EVENT_WAITING, .act = say_stop};
    struct oci_events events = {on_event, &s};
    int to_child[2], to_us[2], status;
    struct sm_error err;
    pid_t pid;
    char c;

    fake_registry_tag("one", &image.digest);
    assert_int_equal(pipe(to_child), 0);
    assert_int_equal(pipe(to_us), 0);
    pid = fork();
    if (!pid) {
        gate_to = to_us[1];
        gate_from = to_child[0];
        if (store_try_lock(store, STORE_BLOB, &layer.digest, NULL) < 0)
            _exit(1);
        _exit(say_and_wait());
    }
    assert_int_equal(read(to_us[0], &c, 1), 1);
    assert_int_equal(try_pull(NAME, &events, NULL, &err), -ECANCELED);
    assert_int_equal(s.seen[OCI_EVENT_WAITING], 1);
    assert_int_equal(fake_registry.fetches, 0);
    gate_to = to_child[1];
    s = (struct stopper){.at = OCI_EVENT_WAITING, .act = let_go};
    if (try_pull(NAME, &events, NULL, &err) < 0)
        fail_msg("%s", err.text);
    assert_true(s.seen[OCI_EVENT_WAITING] > 0);
    assert_int_equal(fake_registry.bytes, layer.len);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(to_us[i]);
    }
}

static void test_refused(void **state)
{
    struct object layer = add_layer('a', 1000), items[3], image;
    struct object arm = add_image_of("arm64", LAYER_TYPE, &layer, 1);

    image = add_image_of("amd64", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", &layer, 1);
    fake_registry_tag("foreign", &image.digest);
    pull_fails("reg.example/app:foreign", ENOTSUP, "foreign");
    image = add_image_of("amd64", LAYER_TYPE "+gzip+encrypted", &layer, 1);
    fake_registry_tag("encrypted", &image.digest);
    pull_fails("reg.example/app:encrypted", ENOTSUP, "encrypted");
    image = add_image_of("amd64", "application/x-strange", &layer, 1);
    fake_registry_tag("unknown", &image.digest);
    pull_fails("reg.example/app:unknown", ENOTSUP, "application/x-strange");
    fake_registry_tag("arm", &arm.digest);
    pull_fails("reg.example/app:arm", ENOENT, "linux/arm64");
    image = add_index(&arm, MANIFEST_TYPE, 1);
    fake_registry_tag("arm", &image.digest);
    pull_fails("reg.example/app:arm", ENOENT, "it is there for: linux/arm64");

    /* an index in an index in an index ...; and one that lists others again and again */
    image = add_image(&layer, 1);
    items[0] = image;
    for (int i = 0; i < 5; i++)
        items[0] = add_index(items, i ? INDEX_TYPE : MANIFEST_TYPE, 1);
    fake_registry_tag("deep", &items[0].digest);
    pull_fails("reg.example/app:deep", ELOOP, "nested");
    items[0] = add_index(items, INDEX_TYPE, 0);
    for (int i = 0; i < 3; i++) {
        struct object many[60];

        for (int k = 0; k < 30; k++)
            many[k] = items[0];
        items[0] = add_index(many, INDEX_TYPE, 30);
    }
    fake_registry_tag("wide", &items[0].digest);
    pull_fails("reg.example/app:wide", E2BIG, "indexes");

    /* descriptors that lie about sizes */
    items[0] = image;
    items[0].len++;
    items[1] = add_index(items, MANIFEST_TYPE, 1);
    fake_registry_tag("size", &items[1].digest);
    pull_fails("reg.example/app:size", EBADMSG, "its descriptor says");
    layer.len++;
    items[1] = add_image(&layer, 1);
    fake_registry_tag("size", &items[1].digest);
    fake_registry.step = 600;
    pull_fails("reg.example/app:size", EBADMSG, "has the digest");

    /* something else */
    image = add("{\"schemaVersion\": 2, \"manifests\": [], \"layers\": []}", 51);
    fake_registry_tag("both", &image.digest);
    pull_fails("reg.example/app:both", EBADMSG, "two things");
    nothing_is_named();
    assert_int_equal(count("layers"), 0);
}

static void test_blob(void **state)
{
    struct object layer = add_layer('a', SIZE), other = add_layer('b', SIZE);
    struct oci_ref ref = OCI_REF_INIT;
    struct sm_error err = SM_ERROR_INIT;
    char *wrong = calloc(1, layer.len);

    assert_int_equal(ref_parse(&ref, NAME, NULL), 0);
    assert_int_equal(oci_pull_blob(store, &ref, &layer.digest, layer.len, NULL, &err), 0);
    assert_int_equal(size_of("blobs", &layer.digest), layer.len);
    assert_int_equal(oci_pull_blob(store, &ref, &layer.digest, layer.len, NULL, &err), 0);
    assert_int_equal(fake_registry.fetches, 1);
    put_file("partial", &other.digest, wrong, other.len / 2);
    assert_int_equal(oci_pull_blob(store, &ref, &other.digest, other.len, NULL, &err), 0);
    assert_int_equal(fake_registry.fetches, 3);
    assert_int_equal(size_of("blobs", &other.digest), other.len);
    remove_blob(&layer.digest);
    fake_registry.wrong = true;
    assert_int_equal(oci_pull_blob(store, &ref, &layer.digest, layer.len, NULL, &err), -EBADMSG);
    assert_int_equal(count("partial"), 0);
    assert_int_equal(count("layers"), 0);
    free(wrong);
    ref_done(&ref);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parallel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_platforms, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_leftovers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_wrong_bytes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_mending, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_events, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_two_processes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_busy_blob, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_refused, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_blob, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
