/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: what a snapshot is made of, found out before anything is started.
 *
 * A plan holds all that the snapshot's key depends on, checked and with the usual values filled in, so that baking and
 * finding go by the same. Kernel and agent count by their content, and so do extra files, which are read here: what is
 * put into the guest is what the key was made of.
 *
 * A warm-up makes two snapshots: the plain one, which it starts from, and its own.
 *
 * Limits: SM_BAKE_FILES_MAX files of SM_BAKE_FILE_BYTES_MAX bytes; those of a command (runspec.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/io.h"
#include "lib/bake.h"
#include "lib/filesum.h"
#include "lib/find.h"
#include "lib/fingerprint.h"
#include "lib/options.h"

bool bake_is_storage(int code)
{
    return code == ENOSPC || code == EDQUOT || code == EROFS || code == EACCES || code == EPERM || code == EFBIG;
}

/* ---- The trigger ---- */

static bool exposes_tcp(const struct oci_config *image)
{
    for (char **port = image->exposed_ports; *port; port++) {
        const char *slash = strchr(*port, '/');

        if (!slash || strcmp(slash, "/tcp") == 0)
            return true;
    }
    return false;
}

/* Does it ask for nothing but what the image is for? */
static bool is_images_own(const struct sm_exec_config *c)
{
    return !c->args && !c->entrypoint && !c->cmd && !c->tty && c->in < 0;
}

static enum sm_trigger choose(const struct sm_exec_config *workload, const struct oci_config *image)
{
    bool has_command = image->entrypoint[0] || image->cmd[0];

    return workload && is_images_own(workload) && has_command && exposes_tcp(image) ? SM_TRIGGER_LISTENER
                                                                                    : SM_TRIGGER_PRE_EXEC;
}

static int plan_trigger(struct bake_plan *p, const struct sm_bake_config *c, const struct sm_exec_config *workload,
                        struct sm_error *err)
{
    static const char *const names[] = {[SM_TRIGGER_PRE_EXEC] = "pre-exec",
                                        [SM_TRIGGER_LISTENER] = "listener",
                                        [SM_TRIGGER_PARKED] = "parked",
                                        [SM_TRIGGER_HEARTBEAT] = "heartbeat",
                                        [SM_TRIGGER_AFTER] = "after"};

    p->trigger = c->trigger;
    if ((unsigned)c->trigger > SM_TRIGGER_AFTER)
        return sm_error_set(err, EINVAL, "there is no trigger %d", (int)c->trigger);
    if (p->trigger == SM_TRIGGER_AUTO)
        p->trigger = choose(workload, oci_image_config(p->image->oci));
    if (p->trigger == SM_TRIGGER_HEARTBEAT && !c->heartbeat)
        return sm_error_set(err, EINVAL, "the heartbeat trigger needs a count: heartbeat=1 and more");
    if (c->require_listener && p->trigger != SM_TRIGGER_LISTENER)
        return sm_error_set(err, EINVAL, "a listener can be required of the listener trigger only, not of %s",
                            names[p->trigger]);
    p->require_listener = c->require_listener;
    if (p->trigger != SM_TRIGGER_PRE_EXEC)
        p->after_ms = c->after_ms ? c->after_ms : SM_BAKE_AFTER_MS_DEFAULT;
    if (p->trigger == SM_TRIGGER_LISTENER || p->trigger == SM_TRIGGER_HEARTBEAT)
        p->quiesce_ms = c->quiesce_ms ? c->quiesce_ms : SM_BAKE_QUIESCE_MS_DEFAULT;
    p->heartbeat = p->trigger == SM_TRIGGER_HEARTBEAT ? c->heartbeat : 0;
    if (p->trigger == SM_TRIGGER_HEARTBEAT || p->trigger == SM_TRIGGER_AFTER)
        snprintf(p->trigger_text, sizeof(p->trigger_text), "%s=%u", names[p->trigger],
                 p->heartbeat ? p->heartbeat : p->after_ms);
    else
        snprintf(p->trigger_text, sizeof(p->trigger_text), "%s", names[p->trigger]);
    return 0;
}

/* ---- Commands and files ---- */

static int plan_commands(struct bake_plan *p, const struct sm_bake_config *c, const struct sm_exec_config *workload,
                         struct sm_error *err)
{
    struct sm_exec_config own = SM_EXEC_CONFIG_INIT;
    struct runspec_request want = runspec_request_of(workload ? workload : &own);
    int r = 0;

    if (p->trigger != SM_TRIGGER_PRE_EXEC)
        r = runspec_build(&p->workload, oci_image_config(p->image->oci), &want, err);
    if (r < 0)
        return sm_error_wrap(err, "what trigger %s has to start", p->trigger_text);
    r = strv_add_all(&p->warmup, c->warmup);
    if (r < 0)
        return sm_error_sys(err, -r, "cannot take the warm-up command");
    if (c->warmup && (!c->warmup[0] || !c->warmup[0][0]))
        return sm_error_set(err, EINVAL, "the warm-up command is empty");
    if (!c->tag)
        return 0;
    for (const char *t = c->tag; *t; t++)
        if (*t < 0x20 || *t > 0x7e)
            return sm_error_set(err, EINVAL, "a tag is made of printable ASCII characters");
    if (!c->tag[0] || strlen(c->tag) > SM_BAKE_TAG_MAX)
        return sm_error_set(err, EINVAL, "a tag has 1 to %d characters", SM_BAKE_TAG_MAX);
    snprintf(p->tag, sizeof(p->tag), "%s", c->tag);
    return 0;
}

static int read_file(struct plan_file *f, const char *host, struct sm_error *err)
{
    /* Non-blocking: a FIFO of that name must not hold us. */
    CLEANUP_FD int fd = open(host, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct digest digest;
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot open the extra file '%s'", host);
    if (!S_ISREG(st.st_mode))
        return sm_error_set(err, EINVAL, "the extra file '%s' is not a regular file", host);
    if (st.st_size > SM_BAKE_FILE_BYTES_MAX)
        return sm_error_set(err, EFBIG, "the extra file '%s' is larger than %d MiB: put it into the image", host,
                            SM_BAKE_FILE_BYTES_MAX >> 20);
    f->data = malloc(st.st_size ? (size_t)st.st_size : 1);
    if (!f->data)
        return sm_error_sys(err, ENOMEM, "cannot read the extra file '%s'", host);
    n = io_read_full(fd, f->data, (size_t)st.st_size);
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the extra file '%s'", host);
    f->len = (size_t)n;
    f->mode = st.st_mode & 0777;
    int r = digest_of(&digest, f->data, f->len, err);
    if (r == 0)
        digest_hex(&digest, f->sum);
    return r;
}

static int plan_files(struct bake_plan *p, const struct sm_bake_config *c, struct sm_error *err)
{
    int r = 0;

    if (c->n_files > SM_BAKE_FILES_MAX)
        return sm_error_set(err, E2BIG, "%zu extra files are too many: at most %d", c->n_files, SM_BAKE_FILES_MAX);
    if (!c->n_files)
        return 0;
    p->files = calloc(c->n_files, sizeof(*p->files));
    if (!p->files)
        return sm_error_sys(err, ENOMEM, "cannot take extra files");
    for (; r == 0 && p->n_files < c->n_files; p->n_files++) {
        const struct sm_bake_file *from = &c->files[p->n_files];
        struct plan_file *f = &p->files[p->n_files];

        if (!from->host || !from->guest || from->guest[0] != '/' || strlen(from->guest) > AGENT_MAX_PATH)
            return sm_error_set(err, EINVAL, "an extra file goes to an absolute path in the machine, not to '%.200s'",
                                from->guest ? from->guest : "");
        f->path = strdup(from->guest);
        r = f->path ? read_file(f, from->host, err) : sm_error_sys(err, ENOMEM, "cannot take extra files");
    }
    return r;
}

/* ---- Keys ---- */

static int sum(struct oci_store *store, enum find_what what, const char *given, const char *noun,
               char ret[SNAPSHOT_KEY_SIZE], struct sm_error *err)
{
    char path[PATH_MAX];
    CLEANUP_FD int fd = find_open(what, given, path, err);

    return fd < 0 ? fd : file_digest_cached(store, fd, noun, ret, err);
}

static const char *const *as_const(char **list)
{
    return (const char *const *)list;
}

static int make_keys(struct bake_plan *p, struct sm_error *err)
{
    struct fingerprint_file *files = NULL;
    struct fingerprint_input in = {.kernel = p->kernel,
                                   .initramfs = p->initramfs,
                                   .kernel_args = p->kernel_args,
                                   .memory_mib = p->memory_mib,
                                   .vcpus = p->vcpus};
    int r = fingerprint_key(&in, p->base_key, err);

    if (r < 0 || !p->image)
        return r;
    files = calloc(p->n_files ? p->n_files : 1, sizeof(*files));
    if (!files)
        return sm_error_sys(err, ENOMEM, "cannot make a snapshot's key");
    for (size_t i = 0; i < p->n_files; i++)
        files[i] =
            (struct fingerprint_file){.path = p->files[i].path, .mode = p->files[i].mode, .sum = p->files[i].sum};
    in.image_digest = oci_image_digest(p->image->oci);
    in.platform = p->platform;
    in.files = files;
    in.n_files = p->n_files;
    in.trigger = p->trigger_text;
    in.after_ms = p->after_ms;
    in.quiesce_ms = p->quiesce_ms;
    in.heartbeat_target = p->heartbeat;
    in.require_listener = p->require_listener;
    if (p->workload.argv.n) {
        in.workload = true;
        in.cmd = as_const(p->workload.argv.list);
        in.env = as_const(p->workload.env.list);
        in.cwd = p->workload.cwd;
        in.user = p->workload.user;
    }
    if (!p->warmup.n && p->tag[0])
        in.tag = p->tag;
    r = fingerprint_key(&in, p->plain_key, err);
    if (r == 0 && p->warmup.n) {
        in.warmup = as_const(p->warmup.list);
        in.tag = p->tag[0] ? p->tag : NULL;
        r = fingerprint_key(&in, p->key, err);
    } else {
        memcpy(p->key, p->plain_key, sizeof(p->key));
    }
    free(files);
    return r;
}

static int plan_image(struct bake_plan *p, const struct sm_bake_config *given, struct sm_error *err)
{
    const struct oci_config *image = oci_image_config(p->image->oci);
    struct sm_exec_config workload = SM_EXEC_CONFIG_INIT;
    struct sm_bake_config c = {0};
    const struct sm_exec_config *wanted = NULL;
    int r = OPTIONS_COPY(&c, given, err);

    if (r == 0 && c.workload) {
        r = OPTIONS_COPY(&workload, c.workload, err);
        wanted = &workload;
    }
    if (r < 0)
        return r;
    snprintf(p->platform, sizeof(p->platform), "%.20s/%.30s%s%.30s", image->os, image->architecture,
             image->variant[0] ? "/" : "", image->variant);
    p->force = c.force;
    r = plan_trigger(p, &c, wanted, err);
    if (r == 0)
        r = plan_commands(p, &c, wanted, err);
    return r < 0 ? r : plan_files(p, &c, err);
}

int bake_plan_make(struct bake_plan *ret, struct oci_store *store, struct sm_image *image,
                   const struct sm_vm_config *config, struct sm_error *err)
{
    struct bake_plan p = {
        .image = image, .kernel_args = config->kernel_args, .memory_mib = config->memory_mib, .vcpus = config->vcpus};
    int r = image ? plan_image(&p, config->bake, err) : 0;

    if (r == 0)
        r = sum(store, FIND_KERNEL, config->kernel, "the guest kernel", p.kernel, err);
    if (r == 0)
        r = sum(store, FIND_INITRAMFS, config->initramfs, "the guest agent", p.initramfs, err);
    if (r == 0)
        r = make_keys(&p, err);
    if (r < 0) {
        bake_plan_done(&p);
        return r;
    }
    *ret = p;
    return 0;
}

void bake_plan_done(struct bake_plan *p)
{
    runspec_done(&p->workload);
    strv_done(&p->warmup);
    for (size_t i = 0; i < p->n_files; i++) {
        free(p->files[i].path);
        free(p->files[i].data);
    }
    free(p->files);
    *p = (struct bake_plan){0};
}

void bake_plan_meta(const struct bake_plan *p, enum snapshot_kind kind, struct snapshot_meta *ret)
{
    *ret = (struct snapshot_meta){.kind = kind,
                                  .kernel = p->kernel,
                                  .initramfs = p->initramfs,
                                  .kernel_args = p->kernel_args,
                                  .memory_mib = p->memory_mib,
                                  .vcpus = p->vcpus};
    if (kind == SNAPSHOT_BASE)
        return;
    ret->image_digest = oci_image_digest(p->image->oci);
    ret->image_name = p->image->ref;
    ret->platform = p->platform;
    ret->trigger = p->trigger_text;
    ret->tag = p->tag;
    ret->workload = p->workload.argv.n != 0;
    ret->cmd = as_const(p->workload.argv.list);
    ret->env = as_const(p->workload.env.list);
    ret->cwd = p->workload.cwd;
    ret->user = p->workload.user;
}
