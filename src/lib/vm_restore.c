/* SPDX-License-Identifier: Apache-2.0 */
/* A machine from a snapshot that was named: what it is of is found by what the snapshot says of itself. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "lib/filesum.h"
#include "lib/find.h"
#include "lib/snapshot_object.h"
#include "lib/vm.h"

static int open_ref(struct sm_image **ret, const struct sm_snapshot *snapshot, const char *ref, struct sm_error *err)
{
    const struct snapshot_meta *m = &snapshot->s->meta;
    struct sm_image_options options = SM_IMAGE_OPTIONS_INIT;
    int r;

    options.store = oci_store_path(snapshot->store);
    options.platform = m->platform[0] ? m->platform : NULL;
    options.pull = SM_PULL_NEVER;
    r = sm_image_open(ret, ref, &options, err);
    if (r < 0 || strcmp(oci_image_digest((*ret)->oci), m->image_digest) == 0)
        return r;
    sm_image_free(STEAL_PTR(*ret));
    return sm_error_set(err, ENOENT, "'%s' is another image now", ref);
}

/* By its digest; by its name where that says where it is (a directory, an archive). */
static int open_image(struct sm_image **ret, const struct sm_snapshot *snapshot, struct sm_error *err)
{
    const struct snapshot_meta *m = &snapshot->s->meta;
    struct sm_error why = SM_ERROR_INIT;

    if (m->kind == SNAPSHOT_BASE || !m->image_digest[0])
        return sm_error_set(err, EINVAL,
                            "the snapshot %.12s is a base: it has no image, and machines of images are baked from it",
                            m->key);
    if (open_ref(ret, snapshot, m->image_digest, &why) == 0 ||
        (m->image_name[0] && open_ref(ret, snapshot, m->image_name, &why) == 0))
        return 0;
    if (why.code != ENOENT) {
        if (err)
            *err = why;
        return sm_error_wrap(err, "the image that snapshot %.12s was made of", m->key);
    }
    return sm_error_set(err, ENOENT,
                        "the image that snapshot %.12s was made of is not in the store: pull or load '%s' (%s) first",
                        m->key, m->image_name[0] ? m->image_name : m->image_digest, m->image_digest);
}

/* A kernel that was asked for by name must be the snapshot's. */
static int check_kernel(const struct sm_snapshot *snapshot, const char *kernel, struct sm_error *err)
{
    struct snapshot_want want = {0};
    char path[PATH_MAX], sum[SNAPSHOT_KEY_SIZE];
    CLEANUP_FD int fd = -1;
    int r;

    if (!kernel)
        return 0;
    fd = find_open(FIND_KERNEL, kernel, path, err);
    r = fd < 0 ? fd : file_digest_cached(snapshot->store, fd, "the guest kernel", sum, err);
    want.kernel = sum;
    return r < 0 ? r : snapshot_suits(snapshot->s, &want, err);
}

static int take_over(struct sm_vm *vm, const struct snapshot_meta *m, struct sm_error *err)
{
    int r = 0;

    snprintf(vm->kernel, sizeof(vm->kernel), "%s", m->kernel);
    snprintf(vm->initramfs, sizeof(vm->initramfs), "%s", m->initramfs);
    snprintf(vm->platform, sizeof(vm->platform), "%s", m->platform);
    vm->kernel_args = strdup(m->kernel_args);
    vm->origin = SM_VM_RESTORED;
    vm->workload_waits = m->workload;
    if (!vm->kernel_args)
        r = -ENOMEM;
    if (r == 0 && m->workload) {
        r = strv_add_all(&vm->workload.argv, m->entrypoint);
        if (r == 0)
            r = strv_add_all(&vm->workload.argv, m->cmd);
        if (r == 0)
            r = strv_add_all(&vm->workload.env, m->env);
        vm->workload.cwd = strdup(m->cwd);
        vm->workload.user = strdup(m->user);
        if (!vm->workload.cwd || !vm->workload.user)
            r = -ENOMEM;
    }
    return r < 0 ? sm_error_sys(err, -r, "cannot start a machine") : 0;
}

int sm_vm_restore(struct sm_vm **ret, struct sm_snapshot *snapshot, const struct sm_vm_config *given,
                  struct sm_error *err)
{
    struct snapshot *s = snapshot->s;
    struct sm_image *image = NULL;
    struct sm_vm_config config;
    struct sm_vm *vm;
    int r = vm_config_check(&config, given, err);

    if (r == 0)
        r = check_kernel(snapshot, config.kernel, err);
    if (r == 0)
        r = open_image(&image, snapshot, err);
    if (r < 0)
        return r;
    config.memory_mib = s->meta.memory_mib;
    config.vcpus = s->meta.vcpus;
    config.boot = 0;
    r = vm_begin(&vm, image, &config, err);
    sm_image_free(image);
    if (r < 0)
        return r;
    r = vm_tell(vm, SM_VM_RESTORING, "", err);
    if (r == 0)
        r = launch_restore(vm, &config, s, NULL, err);
    if (r == 0)
        r = take_over(vm, &s->meta, err);
    return vm_begun(vm, r, ret, err);
}
