/* SPDX-License-Identifier: Apache-2.0 */
/* Opens an image as a run would: prints what it is made of as JSON, and writes the root disk to a file if asked to. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/io.h"
#include "oci/image.h"

#define CHUNK (1024 * 1024u)

static int show_event(void *ctx, const struct oci_event *e)
{
    static const char *const words[] = {
        [OCI_EVENT_RESOLVING] = "resolving",   [OCI_EVENT_WAITING] = "waiting", [OCI_EVENT_FETCHING] = "fetching",
        [OCI_EVENT_CONVERTING] = "converting", [OCI_EVENT_MERGING] = "merging", [OCI_EVENT_DONE] = "done",
        [OCI_EVENT_LOADING] = "loading",       [OCI_EVENT_SAVING] = "saving",
    };

    (void)ctx;
    fprintf(stderr, "progress %s %s %llu %llu\n", words[e->what], e->layer ? e->layer : "-",
            (unsigned long long)e->done, (unsigned long long)e->total);
    return 0;
}

static void print_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        if (*s == '"' || *s == '\\' || (unsigned char)*s < 0x20)
            printf("\\u%04x", (unsigned char)*s);
        else
            putchar(*s);
    }
    putchar('"');
}

static void print_list(const char *name, char *const *list)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; list[i]; i++) {
        printf("%s", i ? ", " : "");
        print_string(list[i]);
    }
    printf("], ");
}

/* Whole, with holes where there are only zeros. */
static int dump(const char *path, const struct oci_extent *extents, unsigned n)
{
    char *buf = malloc(CHUNK), *zeros = calloc(1, CHUNK);
    int out = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600), r = out < 0 || !buf || !zeros ? -1 : 0;
    uint64_t at = 0;

    for (unsigned i = 0; !r && i < n; i++) {
        for (uint64_t done = 0; !r && done < extents[i].length;) {
            size_t len = extents[i].length - done < CHUNK ? extents[i].length - done : CHUNK;

            if (io_pread_full(extents[i].fd, buf, len, extents[i].offset + done) != (ssize_t)len)
                r = -1;
            else if (memcmp(buf, zeros, len))
                r = io_pwrite_full(out, buf, len, at);
            done += len;
            at += len;
        }
    }
    if (!r)
        r = ftruncate(out, (off_t)at);
    if (out >= 0)
        close(out);
    free(buf);
    free(zeros);
    return r;
}

int main(int argc, char **argv)
{
    struct sm_error err = SM_ERROR_INIT;
    struct oci_events events = {show_event, NULL};
    struct oci_open_options options = {.events = getenv("SHOW_PROGRESS") ? &events : NULL};
    const struct oci_extent *extents;
    const struct oci_config *c;
    struct oci_store *store = NULL;
    struct oci_image *img = NULL;
    unsigned n;

    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: convert REF [DISK-FILE|-] [PLATFORM]\n");
        return 2;
    }
    options.platform = argc > 3 ? argv[3] : NULL;
    if (oci_store_open(&store, NULL, &err) < 0 || oci_image_open(&img, store, argv[1], &options, &err) < 0) {
        fprintf(stderr, "%s\n", err.text);
        oci_store_free(store);
        return 125;
    }
    c = oci_image_config(img);
    n = oci_image_extents(img, &extents);
    printf("{\"digest\": \"%s\", ", oci_image_digest(img));
    print_list("entrypoint", c->entrypoint);
    print_list("cmd", c->cmd);
    print_list("env", c->env);
    print_list("exposed_ports", c->exposed_ports);
    printf("\"working_dir\": ");
    print_string(c->working_dir);
    printf(", \"user\": ");
    print_string(c->user);
    printf(", \"stop_signal\": ");
    print_string(c->stop_signal);
    printf(", \"extents\": [");
    for (unsigned i = 0; i < n; i++)
        printf("%s[%llu, %llu]", i ? ", " : "", (unsigned long long)extents[i].offset,
               (unsigned long long)extents[i].length);
    printf("]}\n");
    if (argc > 2 && strcmp(argv[2], "-") && dump(argv[2], extents, n)) {
        fprintf(stderr, "cannot write %s\n", argv[2]);
        return 1;
    }
    oci_image_free(img);
    oci_store_free(store);
    return 0;
}
