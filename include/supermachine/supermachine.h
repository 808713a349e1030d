/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libsupermachine: run OCI images as hardware-isolated microVMs. The only public header.
 *
 *     sm_image_open()  an image, fetched, verified, converted and cached
 *     sm_vm_start()    a machine with that image as its root, ready to run commands
 *     sm_exec_start()  a command in it;  sm_exec_wait()  its end
 *     sm_vm_free()     the end of the machine
 *
 * The images themselves are kept in a store: sm_store_open(), and what it has, sm_store_list() and the others.
 *
 * Rules that hold for every function, where it says nothing else:
 * - Functions return 0 (or a count) on success and a negative errno value on failure; the error then says what failed,
 *   on what, and what to do about it. The last argument may always be NULL.
 * - Pointers must not be NULL. Free functions take NULL.
 * - What an argument points at is copied: it may go away after the call. Descriptors stay the caller's.
 * - Objects made by `..._open` and `..._start` are given through the first argument, which is written on success only;
 *   the caller owns them until the matching free function.
 * - Configuration structs start with their own size, so that programs built against an older header go on working:
 *   begin with the struct's ..._INIT and set what matters. 0 and NULL mean "the usual".
 * - Strings are UTF-8. Lists of strings end with NULL.
 *
 * Threads: the library starts none, installs no signal handlers and keeps no global state. Different objects may be
 * used by different threads at once. A machine and its commands belong together: one thread at a time. So do a store
 * and the calls on it; any number of stores, in any number of processes, may be open on one directory. An image may be
 * shared by any number of machines and threads.
 *
 * Size: the one header that programs include, mostly words; its parts are in the order in which they are needed.
 *
 * A machine runs in a process of its own, sandboxed. It ends when the machine is freed or when its owner dies, however
 * that happens. To the kernel its owner is the thread that called sm_vm_start(): use one that lives as long.
 */
#ifndef SUPERMACHINE_H
#define SUPERMACHINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SM_API __attribute__((visibility("default")))

/* ---- Errors ---- */

/* Bytes of an error's sentence, its end included. A longer one is cut at a character boundary. */
#define SM_ERROR_TEXT_MAX 2048

/*
 * What went wrong, in one sentence: what failed, on what, and what to do about it.
 * The caller owns it, on its stack if it likes; initialise with SM_ERROR_INIT. Functions that take one accept NULL.
 * It is written only when a call fails. No function of this library prints.
 */
struct sm_error {
    int code;                     /* a positive errno value; 0: no error */
    char text[SM_ERROR_TEXT_MAX]; /* NUL-terminated UTF-8, no newline at the end */
};

#define SM_ERROR_INIT                                                                                                  \
    {                                                                                                                  \
        .code = 0, .text = { 0 }                                                                                       \
    }

/* The library's version, "MAJOR.MINOR.PATCH". Never NULL, never freed. */
SM_API const char *sm_version(void);

/* ---- Images ---- */

/*
 * A name of an image is what Docker's users type: "nginx", "nginx:1.27", "user/app", "host:5000/a/b:tag",
 * "name@sha256:...": an image of a registry, Docker Hub's where no host is named, ":latest" where no tag is. An image
 * that is in the store is also found by its id, or the first 4 hex digits of it and more.
 *
 * A reference is a name, or an image in a file or directory: "oci:DIR" or "oci:DIR:TAG" (an OCI layout),
 * "oci-archive:FILE", "docker-archive:FILE" or "docker-archive:FILE:NAME" (what `docker save` writes; "-": from
 * standard input).
 */

/* What is being done for an image. Some of it happens for several layers at a time. */
enum sm_image_event_kind {
    SM_IMAGE_RESOLVING = 1,  /* a registry is asked what a name means */
    SM_IMAGE_WAITING = 2,    /* for another process that makes the same thing, or holds the store */
    SM_IMAGE_FETCHING = 3,   /* `layer` comes from a registry: done of total bytes, compressed */
    SM_IMAGE_CONVERTING = 4, /* `layer` is converted: done of total bytes, compressed */
    SM_IMAGE_LAYER_DONE = 5, /* `layer` is in the store, since now, or before: `done` is 0 then */
    SM_IMAGE_MERGING = 6,    /* the layers become one file system */
    SM_IMAGE_LOADING = 7,    /* an archive is read */
    SM_IMAGE_SAVING = 8,     /* an archive is written */
    SM_IMAGE_CHECKING = 9,   /* the store is checked */
    SM_IMAGE_DONE = 10,      /* all of it */
};

/* Told as it happens. Lives for the call only. May grow at its end in later versions. */
struct sm_image_event {
    enum sm_image_event_kind kind;
    const char *layer;    /* its digest in the manifest, "sha256:..."; NULL: not about one layer */
    uint64_t done, total; /* bytes; total 0: not known */
};

/* How registries are reached. Every member may be NULL or 0: the usual. */
struct sm_registry_options {
    size_t size; /* sizeof(struct sm_registry_options) */

    /* PEM files: certificates to trust besides the system's; a certificate and its key to show to a registry. */
    const char *ca_file, *cert_file, *key_file;

    /* Where user names and passwords are, in the form of Docker's config.json; asked before the usual places. */
    const char *auth_file;

    /* Mirrors and what else is to be known of hosts: see docs/registries.md. NULL: $SUPERMACHINE_CONFIG, else
     * registries.json in $XDG_CONFIG_HOME/supermachine, else in ~/.config/supermachine. */
    const char *config_file;

    int plain_http; /* not 0: registries may be spoken to without TLS. Those on loopback may be anyhow */

    /* Milliseconds to connect, and for a document (not a layer: that may take as long as it moves); 0: 30 s, 60 s. */
    uint32_t connect_timeout_ms, document_timeout_ms;
};

#define SM_REGISTRY_OPTIONS_INIT                                                                                       \
    {                                                                                                                  \
        .size = sizeof(struct sm_registry_options)                                                                     \
    }

/* When a name of an image is looked up in its registry. */
enum sm_pull_policy {
    SM_PULL_MISSING = 0, /* when the store does not have it */
    SM_PULL_ALWAYS = 1,  /* each time; what the store has already is not fetched again */
    SM_PULL_NEVER = 2,   /* the store has it, or it is an error */
};

struct sm_image;

struct sm_image_options {
    size_t size; /* sizeof(struct sm_image_options) */

    /* The image store's directory. NULL: $SUPERMACHINE_HOME, else $XDG_DATA_HOME/supermachine, else
     * ~/.local/share/supermachine. */
    const char *store;

    /* "os/arch" or "os/arch/variant" as in the OCI image-spec ("linux/amd64"). NULL: linux on this machine's
     * architecture. */
    const char *platform;

    /*
     * Called now and then while an image is fetched, verified and converted, on the thread that opens it. It must not
     * call the library. Not 0: stop; the call fails with ECANCELED, and what was fetched stays for the next time.
     * NULL: nobody listens.
     */
    int (*event)(void *ctx, const struct sm_image_event *event);
    void *event_ctx;

    enum sm_pull_policy pull;                   /* for names */
    const struct sm_registry_options *registry; /* NULL: the usual */
};

#define SM_IMAGE_OPTIONS_INIT                                                                                          \
    {                                                                                                                  \
        .size = sizeof(struct sm_image_options)                                                                        \
    }

/*
 * Open an image by its reference: fetched when need be, every byte of it checked against its digest and, the first
 * time, converted into the store. That can take seconds; opening it again takes a moment, and no network.
 * Several processes may open the same image at once. `options` may be NULL.
 *
 * Errors: ENOENT no such image, layout or tag; EINVAL a bad reference; EBADMSG a digest or content that is not right;
 * ENOTSUP a media type, platform or feature that is not there; EACCES the registry wants a log-in; ECONNREFUSED,
 * EHOSTUNREACH, ETIMEDOUT, EPROTO the registry; EBUSY its rate limit; ENOSPC the disk is full; ECANCELED `event`
 * wanted it; and what the system says.
 */
SM_API int sm_image_open(struct sm_image **ret, const char *ref, const struct sm_image_options *options,
                         struct sm_error *err);

/* Machines started from the image go on working. */
SM_API void sm_image_free(struct sm_image *image);

/* An image's configuration (OCI image-spec, config.md). It may grow at its end in later versions. */
struct sm_image_info {
    const char *digest;                                      /* of the manifest: "sha256:..." */
    const char *os, *architecture;                           /* "linux", "amd64" */
    const char *variant;                                     /* "v8", or "" */
    const char *const *entrypoint, *const *cmd, *const *env; /* never NULL; may be empty lists */
    const char *working_dir, *user, *stop_signal;            /* never NULL; may be "" */
    const char *const *exposed_ports;                        /* "80/tcp"; never NULL */
};

/* Lives as long as the image. */
SM_API const struct sm_image_info *sm_image_info(const struct sm_image *image);

/* ---- The image store ---- */

struct sm_store;

/*
 * Open the image store: `dir`, or with NULL where sm_image_options says; made when it is missing. What a process that
 * was killed left unfinished goes, or goes on later.
 */
SM_API int sm_store_open(struct sm_store **ret, const char *dir, struct sm_error *err);
SM_API void sm_store_free(struct sm_store *store);

/* Its directory. Lives as long as the store. */
SM_API const char *sm_store_path(const struct sm_store *store);

/*
 * An image as the store knows it: one name for one platform. Members are never NULL where nothing else is said.
 * Records come as a list that is the caller's; they may grow at their end in later versions.
 */
struct sm_image_record {
    struct sm_image_record *next; /* NULL: the last */
    const char *name;             /* as its user types it, "nginx:1.27"; NULL: it has none any more */
    const char *repository, *tag; /* of the name, "nginx", "1.27"; NULL: none */
    const char *id;               /* digest of its manifest, "sha256:..." */
    const char *digest;           /* what the name means in its registry: of an index, or the same as `id` */
    const char *platform;         /* "linux/amd64" */
    const char *source;           /* where it came from, for people; may be "" */
    int64_t created; /* when it was built, by its own word; this and below in seconds since 1970; 0: unknown */
    int64_t added;   /* when it came into the store */
    int64_t used;    /* when it was opened last; 0: never */
    uint64_t size;   /* bytes, as a registry keeps it: compressed layers, manifest, configuration */
};

/* All images, by name; those without one last. *ret is NULL when there are none. */
SM_API int sm_store_list(struct sm_image_record **ret, struct sm_store *store, struct sm_error *err);

/* The whole list. */
SM_API void sm_image_records_free(struct sm_image_record *list);

struct sm_pull_options {
    size_t size;                                                 /* sizeof(struct sm_pull_options) */
    const char *platform;                                        /* as in sm_image_options, and so are these: */
    int (*event)(void *ctx, const struct sm_image_event *event); /* stopping it leaves what was fetched */
    void *event_ctx;
    const struct sm_registry_options *registry;
};

#define SM_PULL_OPTIONS_INIT                                                                                           \
    {                                                                                                                  \
        .size = sizeof(struct sm_pull_options)                                                                         \
    }

struct sm_pull_result {
    size_t size;            /* set before the call to sizeof(struct sm_pull_result) */
    uint64_t fetched_bytes; /* of layers and documents, in this call */
    int up_to_date;         /* not 0: the store had it already; one question was asked */
};

/*
 * Fetch an image by its name, and convert it. *ret is its record (a list of one): sm_image_records_free(). What was
 * fetched before, by this call or one that was cut, is not fetched again. Replaces what the name meant: the image that
 * had it stays, without a name. `ret`, `options` and `result` may be NULL.
 *
 * Errors: as sm_image_open().
 */
SM_API int sm_store_pull(struct sm_image_record **ret, struct sm_store *store, const char *name,
                         const struct sm_pull_options *options, struct sm_pull_result *result, struct sm_error *err);

struct sm_load_options {
    size_t size;          /* sizeof(struct sm_load_options) */
    const char *file;     /* what the archive is called in sentences, and what an image is named after whose archive
                             tells a tag alone; NULL: it came through a pipe */
    const char *name;     /* the image's name, instead of the archive's; only where there is one image in it */
    const char *platform; /* as in sm_image_options, and so are these: */
    int (*event)(void *ctx, const struct sm_image_event *event);
    void *event_ctx;
};

#define SM_LOAD_OPTIONS_INIT                                                                                           \
    {                                                                                                                  \
        .size = sizeof(struct sm_load_options)                                                                         \
    }

/*
 * Take the images of an archive into the store: what `docker save` or sm_store_save() wrote, or another OCI archive;
 * compressed or not. `fd` is read from where it is; a pipe will do. *ret lists what was loaded:
 * sm_image_records_free(). `options` and `ret` may be NULL.
 *
 * Errors: EBADMSG no such archive, or one with a digest or content that is not right; ENOTSUP; ENOSPC; ECANCELED.
 * Nothing of it has a name then.
 */
SM_API int sm_store_load(struct sm_image_record **ret, struct sm_store *store, int fd,
                         const struct sm_load_options *options, struct sm_error *err);

struct sm_save_options {
    size_t size;          /* sizeof(struct sm_save_options) */
    const char *platform; /* as in sm_image_options, and so are these: */
    int (*event)(void *ctx, const struct sm_image_event *event);
    void *event_ctx;
    const struct sm_registry_options *registry; /* for what has been pruned from the store */
};

#define SM_SAVE_OPTIONS_INIT                                                                                           \
    {                                                                                                                  \
        .size = sizeof(struct sm_save_options)                                                                         \
    }

/*
 * Write images as one OCI archive (a tar) to `fd`, which may be a pipe: manifests byte for byte as they came, so that
 * digests stay. The same images give the same bytes. `names` ends with NULL. `options` may be NULL.
 *
 * Errors: ENOENT no such image; what writing says; ECANCELED.
 */
SM_API int sm_store_save(struct sm_store *store, const char *const *names, int fd,
                         const struct sm_save_options *options, struct sm_error *err);

/*
 * Give the image `source` (a name, an id) a further name. What had that name before stays, without one.
 * Errors: ENOENT no such image; EINVAL a name that can't be given (a digest in it).
 */
SM_API int sm_store_tag(struct sm_store *store, const char *source, const char *name, struct sm_error *err);

/* What was taken away. */
struct sm_removal {
    size_t size;          /* set before the call to sizeof(struct sm_removal) */
    uint64_t freed_bytes; /* of disk */
    uint32_t names;       /* records */
    uint32_t objects;     /* files of layers, blobs, images */
};

struct sm_remove_options {
    size_t size; /* sizeof(struct sm_remove_options) */
    int force;   /* not 0: an image that is named by its id goes with all its names; a missing one is no error */
};

#define SM_REMOVE_OPTIONS_INIT                                                                                         \
    {                                                                                                                  \
        .size = sizeof(struct sm_remove_options)                                                                       \
    }

/*
 * Remove a name, or by its id an image; what no other image needs goes with it, and its snapshots do. *ret lists the
 * records that went. It does not disturb machines that run. `ret`, `options` and `removal` may be NULL.
 *
 * Errors: ENOENT no such image; EEXIST an id of an image that has several names; EBUSY another process works on the
 * store (the sentence says which).
 */
SM_API int sm_store_remove(struct sm_image_record **ret, struct sm_store *store, const char *name,
                           const struct sm_remove_options *options, struct sm_removal *removal, struct sm_error *err);

struct sm_prune_options {
    size_t size;         /* sizeof(struct sm_prune_options) */
    int all;             /* not 0: images with a name, too, and snapshots that can be made again */
    int dry_run;         /* not 0: only find out what would go */
    uint32_t older_than; /* only what was not used for so many seconds; 0: whenever it was used */
    uint64_t max_size;   /* go on only while the store takes more bytes than this, what was used least recently first;
                            0: take all that may go */
};

#define SM_PRUNE_OPTIONS_INIT                                                                                          \
    {                                                                                                                  \
        .size = sizeof(struct sm_prune_options)                                                                        \
    }

/*
 * Make room: images without a name (or all, see above), and everything that no image needs: layers of images that were
 * opened from a layout, halves of cut pulls, snapshots of images that are gone. With older_than or max_size also
 * snapshots that can be made again, before any image. *ret lists the records that went. `ret`, `options` and `removal`
 * may be NULL. Errors: EBUSY as in sm_store_remove().
 */
SM_API int sm_store_prune(struct sm_image_record **ret, struct sm_store *store, const struct sm_prune_options *options,
                          struct sm_removal *removal, struct sm_error *err);

/* What an image takes on disk. Comes as a list, by name; may grow at its end in later versions. */
struct sm_image_usage {
    struct sm_image_usage *next;
    const char *name, *id;               /* as in sm_image_record */
    int64_t used;                        /* as in sm_image_record */
    uint64_t unique_bytes, shared_bytes; /* this image's alone, with its snapshots; other images' too. Of disk */
};

struct sm_store_usage {
    size_t size;                                  /* set before the call to sizeof(struct sm_store_usage) */
    uint32_t images, layers, file_systems, blobs; /* how many: images; converted layers; what they were merged to; */
    uint32_t partials;                            /* documents and compressed layers; halves of cut pulls */
    uint64_t layer_bytes, file_system_bytes, blob_bytes, partial_bytes; /* of disk */
    uint64_t total_bytes, reclaimable_bytes; /* all of it; what sm_store_prune() would free by default */
    uint32_t snapshots;                      /* how many */
    uint64_t snapshot_bytes;
};

/* *ret: one entry an image; free it with sm_image_usages_free(). `ret` and `total` may be NULL. */
SM_API int sm_store_usage(struct sm_image_usage **ret, struct sm_store *store, struct sm_store_usage *total,
                          struct sm_error *err);
SM_API void sm_image_usages_free(struct sm_image_usage *list);

/*
 * All about an image, as one JSON object with the members of `docker image inspect`: Id, RepoTags, RepoDigests,
 * Created, Architecture, Os, Size, Config, RootFS and more. `platform` chooses where the name has several; NULL: this
 * machine's. *ret is the caller's: sm_string_free(). Errors: ENOENT no such image.
 */
SM_API int sm_store_inspect(char **ret, struct sm_store *store, const char *name, const char *platform,
                            struct sm_error *err);
SM_API void sm_string_free(char *s);

/* A step of how an image was made, by its own word. Comes as a list, the newest first. */
struct sm_history_entry {
    struct sm_history_entry *next;
    const char *created_by, *comment; /* never NULL; may be "" */
    const char *layer;                /* its digest in the manifest; NULL: it made none */
    int64_t created;                  /* seconds since 1970; 0: unknown */
    uint64_t size;                    /* bytes of the layer, compressed */
};

/* `platform` as in sm_store_inspect(). */
SM_API int sm_store_history(struct sm_history_entry **ret, struct sm_store *store, const char *name,
                            const char *platform, struct sm_error *err);
SM_API void sm_history_free(struct sm_history_entry *list);

/* Something in the store that is not right. Lives for the call only; may grow at its end. */
struct sm_store_problem {
    const char *object; /* "blob sha256:...", "layer sha256:...", "image nginx:latest" */
    const char *text;   /* one sentence */
    int removed;        /* not 0: it was taken away */
};

struct sm_fsck_options {
    size_t size;                                                        /* sizeof(struct sm_fsck_options) */
    int repair;                                                         /* not 0: see below */
    void (*problem)(void *ctx, const struct sm_store_problem *problem); /* each that is found. NULL: only count */
    void *problem_ctx;
    int (*event)(void *ctx, const struct sm_image_event *event); /* as in sm_image_options, and so is this: */
    void *event_ctx;
    const struct sm_registry_options *registry;
};

#define SM_FSCK_OPTIONS_INIT                                                                                           \
    {                                                                                                                  \
        .size = sizeof(struct sm_fsck_options)                                                                         \
    }

struct sm_fsck_result {
    size_t size;         /* set before the call to sizeof(struct sm_fsck_result) */
    uint32_t checked;    /* objects looked at */
    uint32_t problems;   /* that were found */
    uint32_t unrepaired; /* of them, those that are still there */
    uint32_t unproven; /* objects of which only the structure could be checked: what they were made from is not here */
};

/*
 * Check every byte of the store against its digest. With `repair` what is damaged is removed, and images from
 * registries that lack something are fetched again. 0 also when there were problems: `result` tells, which may be NULL
 * as `options` may.
 */
SM_API int sm_store_fsck(struct sm_store *store, const struct sm_fsck_options *options, struct sm_fsck_result *result,
                         struct sm_error *err);

/* ---- Machines ---- */

struct sm_vm;
struct sm_bake_config;
struct sm_prepared;
struct sm_vm_event;

#define SM_VM_MEMORY_MIB_DEFAULT       256
#define SM_VM_MEMORY_MIB_MIN           32
#define SM_VM_MEMORY_MIB_MAX           65536
#define SM_VM_VCPUS_MAX                16
#define SM_VM_START_TIMEOUT_MS_DEFAULT 60000

struct sm_vm_config {
    size_t size; /* sizeof(struct sm_vm_config) */

    const char *name;     /* used in errors; at most 63 bytes. NULL: none */
    const char *hostname; /* at most 63 bytes of letters, digits, '-' and '.'. NULL: twelve random hex digits */

    uint32_t memory_mib; /* SM_VM_MEMORY_MIB_MIN to _MAX; 0: SM_VM_MEMORY_MIB_DEFAULT. Taken as it is touched */
    uint32_t vcpus;      /* 1 to SM_VM_VCPUS_MAX; 0: 1 */

    /* Files to use instead of the ones that belong to this library. NULL: $SUPERMACHINE_KERNEL,
     * $SUPERMACHINE_INITRAMFS, $SUPERMACHINE_VMM; else beside the library, in the build tree or as installed. */
    const char *kernel, *initramfs, *worker;

    const char *kernel_args; /* added to the kernel's command line; printable ASCII, at most 1024 bytes */

    /* How long sm_vm_start() waits for the guest to answer, in milliseconds; 0: SM_VM_START_TIMEOUT_MS_DEFAULT. */
    uint32_t start_timeout_ms;

    /*
     * What the guest's serial console says, as it says it, on the thread that runs the machine (in sm_vm_start,
     * sm_vm_dispatch, sm_exec_wait, sm_vm_free). With a callback the kernel is not quiet. A console that talks faster
     * than its owner listens loses bytes. It must not call the library. NULL: only the tail is kept.
     */
    void (*console)(void *ctx, const char *data, size_t len);
    void *console_ctx;

    /*
     * Where the machine comes from: see "Baking and restoring". `boot`, not 0: it boots, and snapshots are neither used
     * nor made; so it is too with `console`, whose owner wants to see that. `no_base`, not 0: a bake boots, too, and is
     * stored whole.
     */
    int boot, no_base;
    const struct sm_bake_config *bake; /* NULL: the usual */
    struct sm_prepared *prepared;      /* workers to take one of, while there are any; NULL: none */

    /* What the start is at, on the thread that starts. Not 0: stop, with ECANCELED. It must not call the library. */
    int (*event)(void *ctx, const struct sm_vm_event *event);
    void *event_ctx;

    int renew_signal; /* after a restore the main process of every command gets this signal, by Linux's numbers; 0: none
                       */

    int profile; /* not 0: what makes the guest leave its processors is counted and timed, for sm_vm_profile() */

    int share; /* not 0: other processes of this user reach the machine by its name (sm_remote_save()), which is then
                  needed, and had by one machine of a store at a time: EEXIST */
};

#define SM_VM_CONFIG_INIT                                                                                              \
    {                                                                                                                  \
        .size = sizeof(struct sm_vm_config)                                                                            \
    }

/*
 * Start a machine with `image` as its root (a writable layer over it lives in the machine's memory) and wait until it
 * takes commands: restored from the image's snapshot, which is baked first where there is none. `config` may be NULL.
 * What the machine still has to do for later starts is done by sm_vm_settle().
 *
 * Errors: EINVAL a value out of its range; ENOENT no /dev/kvm, kernel or worker; EACCES no permission for /dev/kvm;
 * ENOTSUP a KVM that can't run Linux; ENOEXEC a kernel that can't be booted; ENOMEM; ETIMEDOUT the guest did not
 * answer in time; EIO the guest or its worker ended (the sentence tells how, with the console's tail).
 */
SM_API int sm_vm_start(struct sm_vm **ret, struct sm_image *image, const struct sm_vm_config *config,
                       struct sm_error *err);

/* End the machine at once, with everything that runs in it, and release it. Its sm_exec must have been freed. */
SM_API void sm_vm_free(struct sm_vm *vm);

/*
 * Stop the machine: ask its worker to, and wait at most `timeout_ms` milliseconds before killing it. Commands that run
 * end as if killed. 0 also when it had stopped before.
 */
SM_API int sm_vm_stop(struct sm_vm *vm, uint32_t timeout_ms, struct sm_error *err);

/*
 * A descriptor that is readable (poll(2)) when sm_vm_dispatch() has something to do. Owned by the machine; only to be
 * waited on.
 */
SM_API int sm_vm_fd(const struct sm_vm *vm);

/*
 * Do what is to be done for the machine and all its commands: wait at most `timeout_ms` (-1: for ever, 0: don't wait)
 * for something to happen, and handle it. For programs with an event loop of their own, or with several commands at
 * once; sm_exec_wait() does it by itself. Returns 0; an error means that the machine has ended: it is said again by
 * every later call.
 */
SM_API int sm_vm_dispatch(struct sm_vm *vm, int timeout_ms, struct sm_error *err);

/*
 * The last of what the guest's console said: at most `size` bytes into `buf`, not terminated. Returns how many.
 * Works after the machine has ended.
 */
SM_API long sm_vm_console_tail(struct sm_vm *vm, char *buf, size_t size, struct sm_error *err);

/* How a machine came to be. */
enum sm_vm_origin {
    SM_VM_BOOTED = 0,
    SM_VM_RESTORED = 1, /* from a snapshot of its image, or one that was named */
    SM_VM_BAKED = 2,    /* its image's snapshot was taken of it; it was restored from the base, or booted (no_base) */
};

struct sm_vm_stats {
    size_t size;           /* set before the call to sizeof(struct sm_vm_stats) */
    uint64_t memory_bytes; /* guest RAM, as configured */
    uint64_t start_ns;     /* from sm_vm_start() to the guest's readiness */
    uint64_t setup_ns;     /* of that: building the machine, up to the first instruction of the guest */
    uint64_t uptime_ns;    /* since that first instruction of this machine, restored or not */
    uint64_t exits;        /* times that the guest left its processors for its worker */
    uint32_t vcpus;
    int32_t worker_pid;
    char sandbox[256]; /* what the worker is shut into, words with spaces between ("userns landlock seccomp ...") */
    uint32_t restored; /* enum sm_vm_origin */
};

/* Asks the worker. */
SM_API int sm_vm_stats(struct sm_vm *vm, struct sm_vm_stats *stats, struct sm_error *err);

/*
 * Of a machine that was started with `profile`: what made the guest leave its processors so far, how often, and how
 * long that took; text, a line for each kind and place. *ret is the caller's: sm_string_free(). Asks the worker.
 */
SM_API int sm_vm_profile(char **ret, struct sm_vm *vm, struct sm_error *err);

/* ---- Commands ---- */

struct sm_exec;

struct sm_exec_config {
    size_t size; /* sizeof(struct sm_exec_config) */

    /*
     * What to run. `args`, where given, is run as it is. Else the image's ENTRYPOINT and CMD, or what is given in
     * their place: `cmd` replaces CMD; `entrypoint` replaces ENTRYPOINT and drops the image's CMD (as Docker does); an
     * empty `entrypoint` list drops both. A program without '/' is looked up in PATH, in the image.
     */
    const char *const *args, *const *entrypoint, *const *cmd;

    /*
     * Changes to the image's environment: "NAME=VALUE" sets, "NAME" alone removes. Below both lie PATH, HOSTNAME, HOME
     * (of the user) and, with a terminal, TERM=xterm.
     */
    const char *const *env;

    const char *cwd;  /* absolute; made when missing. NULL: the image's, else "/" */
    const char *user; /* "USER", "UID", "USER:GROUP"..., names as the image knows them. NULL: the image's, else root */

    int tty;             /* not 0: with a terminal of its own; stdout and stderr are then one */
    uint16_t rows, cols; /* of the terminal; 0: 24, 80 */

    /*
     * Descriptors, used until the command has ended: `in` is read and sent to its stdin (-1: it has none), `out` and
     * `err` get what it writes (-1: dropped; they may be the same). They may be files, pipes, sockets, terminals; their
     * flags stay as they are. When a reader has gone, the command gets SIGPIPE, and what it still writes is dropped.
     */
    int in, out, err;

    /*
     * When the command has run for `timeout_ms` milliseconds (0: no limit), it gets the image's stop signal (SIGTERM
     * where it names none), and `grace_ms` later (0: 10 seconds) SIGKILL.
     */
    uint32_t timeout_ms, grace_ms;

    /*
     * Not 0: the machine's main command, of which there is one at a time; its end ends all that it has started. Clones
     * of the machine (sm_vm_save) go on with it, where other commands are gone: the first sm_exec_start() of the same
     * command there is given that one. Not with `tty` or `in`, which nobody could take over.
     */
    int workload;
};

#define SM_EXEC_CONFIG_INIT                                                                                            \
    {                                                                                                                  \
        .size = sizeof(struct sm_exec_config), .in = -1, .out = -1, .err = -1                                          \
    }

/* Limits of one command: bytes of all its arguments and environment together, and how many of them. */
#define SM_EXEC_STRINGS_MAX (1024 * 1024)
#define SM_EXEC_COUNT_MAX   16384

/*
 * Start a command. Returns once it is on its way; whether it could be started is in its result. Streams move only while
 * sm_exec_wait() or sm_vm_dispatch() runs. `config` may be NULL: the image's own command, without streams.
 *
 * Errors: EINVAL nothing to run, or a value out of range; E2BIG over the limits above; EIO the machine has ended.
 */
SM_API int sm_exec_start(struct sm_exec **ret, struct sm_vm *vm, const struct sm_exec_config *config,
                         struct sm_error *err);

/* Forget a command. One that still runs is killed. */
SM_API void sm_exec_free(struct sm_exec *exec);

enum sm_exec_status {
    SM_EXEC_RUNNING = 0,
    SM_EXEC_EXITED = 1,         /* by itself: exit_code */
    SM_EXEC_SIGNALED = 2,       /* by a signal: signal, exit_code 128 + signal */
    SM_EXEC_NOT_FOUND = 3,      /* not started, no such program: exit_code 127, message */
    SM_EXEC_NOT_EXECUTABLE = 4, /* not started, not to be executed (or no such cwd): exit_code 126, message */
    SM_EXEC_NOT_STARTED = 5,    /* not started for another reason (no such user, ...): exit_code 125, message */
};

struct sm_exec_result {
    size_t size; /* set before the call to sizeof(struct sm_exec_result) */
    enum sm_exec_status status;
    int exit_code;         /* as a shell tells it */
    int signal;            /* that ended it, by Linux's numbers; 0: none */
    int timed_out;         /* not 0: its time was over; the rest tells how it ended after that */
    int core_dumped;       /* not 0: it also left a core dump */
    uint64_t duration_ns;  /* as the guest measured it */
    uint64_t peak_rss_kib; /* the most memory that it held at a time, in KiB */
    const char *message;   /* one sentence where it was not started, else "". Lives as long as the command */
};

/*
 * Wait until the command has ended and all its output has been written. 0 and the result however it ended; an error
 * only when that can't be told any more (the machine ended: EIO, with the reason). Other commands of the machine go on
 * meanwhile. `result` may be NULL.
 */
SM_API int sm_exec_wait(struct sm_exec *exec, struct sm_exec_result *result, struct sm_error *err);

/* Its result so far, without waiting: status is SM_EXEC_RUNNING until it has ended and its output has been written. */
SM_API void sm_exec_result(const struct sm_exec *exec, struct sm_exec_result *result);

/*
 * Send a signal (by Linux's numbers, 1 to 64) to the command's process. 0 also when it has ended.
 * SM_SIGNAL_STOP: the image's stop signal (SIGTERM where it names none).
 */
#define SM_SIGNAL_STOP 0
SM_API int sm_exec_signal(struct sm_exec *exec, int signal, struct sm_error *err);

/* Tell the command's terminal its size. 0 also without a terminal. */
SM_API int sm_exec_resize(struct sm_exec *exec, uint16_t rows, uint16_t cols, struct sm_error *err);

/* Read no more from `in`: the command's stdin is at its end after what has been read. */
SM_API int sm_exec_close_stdin(struct sm_exec *exec, struct sm_error *err);

/* ---- Baking and restoring ---- */

/*
 * An image is baked once: a machine is brought to a good point and saved there. Every later start restores that
 * snapshot, in a time that depends neither on its memory's size nor on how long the way there took. Each restored
 * machine is one of its own: with other random numbers, the right time, its own host name and identity
 * (/run/supermachine/generation, and /etc/machine-id where the image leaves that to the machine).
 *
 * Which snapshot: image, kernel, agent, memory, processors, kernel arguments, trigger, extra files, warm-up and this
 * library's version make up its key, and what the workload is where it runs already. What differs is baked anew;
 * nothing is ever out of date. A snapshot that turns out to be damaged, or not fit for this host, is replaced.
 *
 * What a bake begins with is the base: a snapshot of kernel and agent alone, one for each kernel, agent, memory size,
 * number of processors and kernel arguments, made when it is first wanted. So no kernel boots for an image, and of its
 * snapshot only what differs from the base is kept.
 *
 * A bake that cannot be stored (the disk is full, the store cannot be written to) does not keep a machine from
 * starting: it goes on without (SM_VM_NOT_STORED). Several processes may start the same image at once: one bakes.
 */

struct sm_snapshot; /* "Snapshots: the store": sm_snapshot_open() */

/* When a machine that is baked is saved. */
enum sm_trigger {
    /* SM_TRIGGER_LISTENER when `workload` is given, is the image's own command, wants no terminal and no standard
     * input, and the image exposes TCP ports; else SM_TRIGGER_PRE_EXEC. */
    SM_TRIGGER_AUTO = 0,
    SM_TRIGGER_PRE_EXEC = 1,  /* everything is set up and nothing was started yet: good for any command */
    SM_TRIGGER_LISTENER = 2,  /* the workload listens on a TCP port; or it has ended, or `after_ms` are over */
    SM_TRIGGER_PARKED = 3,    /* the workload has ended; or `after_ms` are over */
    SM_TRIGGER_HEARTBEAT = 4, /* the agent has counted `heartbeat` tenths of a second; or `after_ms` are over */
    SM_TRIGGER_AFTER = 5,     /* `after_ms` after the workload was started */
};

/* A file of the host's that is put into the machine, over what the image has there. */
struct sm_bake_file {
    const char *host;  /* a regular file; its permission bits are kept, its owner becomes root */
    const char *guest; /* absolute; directories on the way are made */
};

#define SM_BAKE_AFTER_MS_DEFAULT   7000
#define SM_BAKE_QUIESCE_MS_DEFAULT 100
#define SM_BAKE_FILES_MAX          64
#define SM_BAKE_FILE_BYTES_MAX     (16 * 1024 * 1024) /* of one */
#define SM_BAKE_TAG_MAX            63

struct sm_bake_config {
    size_t size; /* sizeof(struct sm_bake_config) */

    enum sm_trigger trigger;
    uint32_t heartbeat;  /* SM_TRIGGER_HEARTBEAT: at least 1 */
    uint32_t after_ms;   /* 0: SM_BAKE_AFTER_MS_DEFAULT. Not for SM_TRIGGER_PRE_EXEC, which comes or has failed */
    uint32_t quiesce_ms; /* how long the guest may take to come to rest; 0: SM_BAKE_QUIESCE_MS_DEFAULT */

    int require_listener; /* not 0, with SM_TRIGGER_LISTENER: a workload that never listens makes the bake fail */

    /*
     * The command that the machine is for: `args`, `entrypoint`, `cmd`, `env`, `cwd` and `user`. All triggers but
     * SM_TRIGGER_PRE_EXEC start it before they save, without terminal and input; the first sm_exec_start() of the same
     * command is then given that one, with all its output from the beginning (as much as it could write while nobody
     * read). NULL: the machine is for any command; what other triggers start is the image's own.
     */
    const struct sm_exec_config *workload;

    /* Run in the machine after it was saved once, to its end, which must be good; then it is saved again. NULL: none.
     */
    const char *const *warmup;
    const char *tag; /* part of the snapshot's key, and shown: at most SM_BAKE_TAG_MAX printable ASCII bytes */

    const struct sm_bake_file *files; /* extra ones */
    size_t n_files;                   /* at most SM_BAKE_FILES_MAX */

    int force; /* not 0: bake also where there is a snapshot, and replace it */
};

#define SM_BAKE_CONFIG_INIT                                                                                            \
    {                                                                                                                  \
        .size = sizeof(struct sm_bake_config)                                                                          \
    }

enum sm_vm_event_kind {
    SM_VM_WAITING = 1,    /* another process bakes the same: `text` says which */
    SM_VM_BOOTING = 2,    /* kernel and agent, to become the base */
    SM_VM_RESTORING = 3,  /* the image's snapshot, or, to bake it, the base: `text` is "" or "base" */
    SM_VM_SETTING_UP = 4, /* the image */
    SM_VM_TRIGGER = 5,    /* waiting for it: `text` names it */
    SM_VM_WARMING_UP = 6,
    SM_VM_SAVING = 7,     /* what was saved is made durable */
    SM_VM_SAVED = 8,      /* `text`: one line of how that went, with its figures */
    SM_VM_NOT_STORED = 9, /* `text` is one sentence that says why; the machine goes on */
    SM_VM_REPLACING = 10, /* a snapshot is no good: `text` says why; it is baked anew */
};

/* Lives for the call only. May grow at its end in later versions. */
struct sm_vm_event {
    enum sm_vm_event_kind kind;
    const char *text; /* never NULL; may be "" */
};

#define SM_SNAPSHOT_KEY_SIZE 65 /* 64 hex digits and a NUL */

struct sm_bake_result {
    size_t size; /* set before the call to sizeof(struct sm_bake_result) */
    char key[SM_SNAPSHOT_KEY_SIZE];
    int baked;            /* 0: it was there already */
    uint64_t duration_ns; /* of the call */
    uint64_t pause_ns;    /* of that: while the guest stood still to be saved; 0 where it was not baked */
    char line[320];       /* how that went, with its figures; "" likewise */
};

/*
 * Have the snapshot of an image that sm_vm_start() with the same configuration will restore. As sm_vm_start(), but the
 * machine ends when it has been saved, and what cannot be stored is an error. `config` and `result` may be NULL.
 */
SM_API int sm_image_bake(struct sm_image *image, const struct sm_vm_config *config, struct sm_bake_result *result,
                         struct sm_error *err);

/* Have the base for machines of this configuration: kernel, agent, memory, processors, kernel arguments. */
SM_API int sm_base_bake(struct sm_store *store, const struct sm_vm_config *config, struct sm_bake_result *result,
                        struct sm_error *err);

/*
 * Start a machine from a snapshot. Its memory, processors, image and kernel are the snapshot's; of `config`, which may
 * be NULL, name, hostname, worker, start_timeout_ms, prepared, renew_signal and the callbacks count. A snapshot may be
 * restored any number of times at once.
 *
 * Errors, beside those of sm_vm_start(): EBADMSG it is damaged; ENOTSUP it does not fit this host or this version;
 * ENOENT the image it was made of is not in the store, and the sentence names it.
 */
SM_API int sm_vm_restore(struct sm_vm **ret, struct sm_snapshot *snapshot, const struct sm_vm_config *config,
                         struct sm_error *err);

/* sm_vm_save(): */
#define SM_SAVE_STOP (1u << 0) /* the machine stands still afterwards, and can only be freed */
#define SM_SAVE_DIFF                                                                                                   \
    (1u << 1) /* keep only what differs from the snapshot that the machine comes from, or that one's base */
#define SM_SAVE_LIVE (1u << 2) /* its memory is copied while it runs: the pause does not grow with it */

struct sm_save_result {
    size_t size;                    /* set before the call to sizeof(struct sm_save_result) */
    uint64_t pause_ns;              /* while the guest stood still */
    uint64_t data_bytes;            /* of memory that were written */
    char key[SM_SNAPSHOT_KEY_SIZE]; /* where it was saved to the store; else "" */
};

/*
 * Save a machine that runs as a snapshot: `dest` is a directory that must not be there yet, or NULL: in the store, by a
 * key of its own. It runs on. In its clones the commands that run now are gone, but for its workload (sm_exec_config):
 * that goes on there, and is also what a command with an empty configuration is given. `flags` are of SM_SAVE_*;
 * `result` may be NULL.
 */
SM_API int sm_vm_save(struct sm_vm *vm, const char *dest, uint32_t flags, struct sm_save_result *result,
                      struct sm_error *err);

/*
 * Save a machine that another process of this user runs: one that was started with `share`, by its name, from an image
 * of this store. As sm_vm_save(), which that process does while it is in a call that runs the machine (sm_vm_dispatch,
 * sm_exec_wait, ...). Waits until it is done.
 *
 * Errors: ENOENT no such machine; EBUSY another one's save is under way; EIO it ended meanwhile; and what sm_vm_save()
 * says there.
 */
SM_API int sm_remote_save(struct sm_store *store, const char *name, const char *dest, uint32_t flags,
                          struct sm_save_result *result, struct sm_error *err);

/*
 * Put a restored machine back to its snapshot, in place: faster than another restore. Commands that ran end as if they
 * were killed. It is another clone then, with a new identity. ENOTSUP for a machine that was not restored.
 */
SM_API int sm_vm_rewind(struct sm_vm *vm, struct sm_error *err);

/*
 * Do what a machine still has to do for later starts of its image, once commands have run in it: the first machine
 * restored from a snapshot writes down what it has touched, so that the others read that ahead. sm_vm_free() does it by
 * itself; a program that ends without it can call this. Nothing is lost when it fails.
 */
SM_API void sm_vm_settle(struct sm_vm *vm);

/*
 * Have `n` workers (1 to SM_PREPARED_MAX) that wait for a snapshot, with machines built. sm_vm_config.prepared takes
 * them one by one, when a snapshot is restored and memory, processors, kernel and worker are the same; fill() starts as
 * many as are missing. Like a machine, used by one thread at a time; freed by the thread that made it.
 */
#define SM_PREPARED_MAX 64
SM_API int sm_prepared_new(struct sm_prepared **ret, const struct sm_vm_config *config, unsigned n,
                           struct sm_error *err);
SM_API int sm_prepared_fill(struct sm_prepared *prepared, struct sm_error *err);
SM_API unsigned sm_prepared_ready(const struct sm_prepared *prepared); /* how many are left */
SM_API void sm_prepared_free(struct sm_prepared *prepared);

/* ---- Snapshots: the store ---- */

/*
 * Snapshots are machines that were saved: see "Baking and restoring" for how they come to be, and
 * docs/snapshot-format.md for what they are on disk. Most are in the store, each by its key; one that was saved to a
 * directory is wherever that is.
 *
 * A name of a snapshot is its key, or the first 4 hex digits of it and more; a directory, where it begins with '/' or
 * '.'; or a name or id of the image that it was made of, where there is one of it only.
 */

enum sm_snapshot_kind {
    SM_SNAPSHOT_BASE = 1, /* kernel and agent, what bakes are differences to; made anew when it is missing */
    SM_SNAPSHOT_BAKE = 2, /* of an image; made anew when it is missing */
    SM_SNAPSHOT_VM = 3,   /* of a machine that ran: nothing can make it again */
};

/* Members are never NULL where nothing else is said. Comes as a list; may grow at its end in later versions. */
struct sm_snapshot_record {
    struct sm_snapshot_record *next;
    enum sm_snapshot_kind kind;
    const char *key;
    const char *base;               /* key of what it is a difference to; NULL: it is whole */
    const char *image, *image_id;   /* as in sm_image_record; NULL: it is of no image */
    const char *platform, *trigger; /* "" where there is none, and so is this: */
    const char *tag;
    const char *version; /* of the library that made it */
    const char *problem; /* why it can't be used here, one sentence; NULL: nothing is known against it */
    uint32_t memory_mib, vcpus;
    int64_t created, used; /* when it was made, and restored last: seconds since 1970 */
    uint64_t disk_bytes;   /* its own, without its base */
    int is_workload;       /* not 0: its command runs in it already */
};

/*
 * All snapshots of the store, by image and then by age; bases last. One whose description is damaged is listed with
 * its key and the problem.
 */
SM_API int sm_snapshot_list(struct sm_snapshot_record **ret, struct sm_store *store, struct sm_error *err);
SM_API void sm_snapshot_records_free(struct sm_snapshot_record *list);

/*
 * Open a snapshot, to start machines from it (sm_vm_restore). It stays whole for as long as it is open, whatever
 * happens to its name, and may outlive `store`. Shared as images are.
 *
 * Errors: ENOENT no such snapshot; EEXIST several (listed); EBADMSG it is damaged, or its base is not there; ENOTSUP it
 * was made for another architecture, processor or version.
 */
SM_API int sm_snapshot_open(struct sm_snapshot **ret, struct sm_store *store, const char *name, struct sm_error *err);
SM_API void sm_snapshot_free(struct sm_snapshot *snapshot);

/* All about a snapshot, as one JSON object: docs/snapshot-format.md lists the members. *ret: sm_string_free(). */
SM_API int sm_snapshot_inspect(char **ret, struct sm_store *store, const char *name, struct sm_error *err);

struct sm_snapshot_options {
    size_t size; /* sizeof(struct sm_snapshot_options) */

    /* Not 0: sm_snapshot_remove() takes all that the name fits, with the snapshots that need one of them, and none is
     * no error; sm_snapshot_import() replaces what is there. */
    int force;

    const char *dest; /* sm_snapshot_import(): a directory to be made, instead of into the store */

    int (*event)(void *ctx, const struct sm_image_event *event); /* as in sm_image_options */
    void *event_ctx;
};

#define SM_SNAPSHOT_OPTIONS_INIT                                                                                       \
    {                                                                                                                  \
        .size = sizeof(struct sm_snapshot_options)                                                                     \
    }

/*
 * Remove a snapshot from the store. Machines that were started from it are not disturbed. `options` and `removal` may
 * be NULL. Errors: ENOENT; EEXIST several, or a base that others need; EINVAL a directory: remove that yourself; EBUSY
 * another process works on the store.
 */
SM_API int sm_snapshot_remove(struct sm_store *store, const char *name, const struct sm_snapshot_options *options,
                              struct sm_removal *removal, struct sm_error *err);

/*
 * Read every byte of a snapshot, and of its base: 0 when all is as it was written. EBADMSG: the sentence says what is
 * not, ENOTSUP that this version can't tell. One that was made for other hosts can be checked, too.
 */
SM_API int sm_snapshot_verify(struct sm_store *store, const char *name, const struct sm_snapshot_options *options,
                              struct sm_error *err);

/*
 * Write a snapshot as an archive (a tar) to `fd`, which may be a pipe. It needs no base any more, and has what is no
 * zeros only. The image that it is of is not in it: save that, too (sm_store_save), or have it pulled where it goes.
 */
SM_API int sm_snapshot_export(struct sm_store *store, const char *name, int fd,
                              const struct sm_snapshot_options *options, struct sm_error *err);

/*
 * Take a snapshot from such an archive into the store, or to a directory; `fd` is read from where it is, and may be a
 * pipe. All of it is checked before anything is in its place; import from where you would run images from. *ret (may
 * be NULL): its record, a list of one.
 *
 * Errors: EBADMSG no such archive, or a damaged one; ENOTSUP of another version; EEXIST it is there already; ENOSPC.
 */
SM_API int sm_snapshot_import(struct sm_snapshot_record **ret, struct sm_store *store, int fd,
                              const struct sm_snapshot_options *options, struct sm_error *err);

/* ---- This host ---- */

enum sm_check_status {
    SM_CHECK_OK = 0,
    SM_CHECK_NOTE = 1,   /* works, but something is worth knowing */
    SM_CHECK_FAILED = 2, /* machines can't be run until this is mended */
};

struct sm_check {
    const char *name; /* "kvm", "kernel", ...: stable, for programs */
    enum sm_check_status status;
    const char *text; /* one sentence, for people */
};

struct sm_doctor;

struct sm_doctor_options {
    size_t size;                                     /* sizeof(struct sm_doctor_options) */
    const char *store, *kernel, *initramfs, *worker; /* as in sm_image_options and sm_vm_config */
};

#define SM_DOCTOR_OPTIONS_INIT                                                                                         \
    {                                                                                                                  \
        .size = sizeof(struct sm_doctor_options)                                                                       \
    }

/*
 * Find out what this host can do: KVM (usable, its kind, permissions, whether it can run Linux), the files a machine
 * needs, the image store, the sandbox. Takes a moment, runs a tiny guest. `options` may be NULL. Fails only without
 * memory; what is wrong with the host is in the checks.
 */
SM_API int sm_doctor_run(struct sm_doctor **ret, const struct sm_doctor_options *options, struct sm_error *err);

/* The checks, in the order they were made; returns how many. They live as long as the report. */
SM_API unsigned sm_doctor_checks(const struct sm_doctor *doctor, const struct sm_check **ret);

/* The worst of its checks. */
SM_API enum sm_check_status sm_doctor_status(const struct sm_doctor *doctor);

SM_API void sm_doctor_free(struct sm_doctor *doctor);

#ifdef __cplusplus
}
#endif

#endif
