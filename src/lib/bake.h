/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images' snapshots: what one is made of (bake_plan.c), the base that it begins with (base.c), and how it is made and
 * used (bake.c).
 */
#ifndef SM_LIB_BAKE_H
#define SM_LIB_BAKE_H

#include "lib/vm.h"

#define BAKE_LINE_SIZE 320 /* of sm_bake_result.line */

/* An extra file: read, so that what is put is what the key was made of. */
struct plan_file {
    char *path; /* in the guest */
    uint32_t mode;
    uint8_t *data;
    size_t len;
    char sum[SNAPSHOT_KEY_SIZE];
};

/* Everything that a snapshot depends on, and its key. */
struct bake_plan {
    struct sm_image *image;  /* not counted; NULL: only the base is wanted */
    enum sm_trigger trigger; /* never AUTO */
    char trigger_text[32];   /* as users write it */
    uint32_t after_ms, quiesce_ms, heartbeat;
    bool require_listener, force;
    struct runspec workload; /* what the trigger starts; empty: nothing */
    struct strv warmup;      /* empty: none */
    char tag[SM_BAKE_TAG_MAX + 1];
    struct plan_file *files;
    size_t n_files;
    char platform[VM_PLATFORM_SIZE];
    char kernel[SNAPSHOT_KEY_SIZE], initramfs[SNAPSHOT_KEY_SIZE]; /* sums */
    const char *kernel_args;                                      /* the caller's; NULL: none */
    uint32_t memory_mib, vcpus;
    char base_key[SNAPSHOT_KEY_SIZE];
    char plain_key[SNAPSHOT_KEY_SIZE]; /* before the warm-up; the same as `key` where there is none */
    char key[SNAPSHOT_KEY_SIZE];
};

/* `config` is a checked one; `image` NULL: for a base. -EINVAL and a sentence for what can't be. */
int bake_plan_make(struct bake_plan *ret, struct oci_store *store, struct sm_image *image,
                   const struct sm_vm_config *config, struct sm_error *err);
void bake_plan_done(struct bake_plan *p); /* takes a zeroed one */

/* What the metadata says of the plan's machines. Points into `p`. */
void bake_plan_meta(const struct bake_plan *p, enum snapshot_kind kind, struct snapshot_meta *ret);

/* A failure that says that the store takes no more, and nothing of the machine. */
bool bake_is_storage(int code);

/*
 * The base, made when there is none, or anyhow with `anew`. `vm`, which may be NULL, tells its owner. *ret_report (may
 * be NULL) is filled in when it was made.
 */
int base_get(struct snapshot **ret, struct sm_vm *vm, struct oci_store *store, const struct sm_vm_config *config,
             const struct bake_plan *plan, bool anew, struct control_saved *ret_saved, struct sm_error *err);

/*
 * Bring a machine whose worker is started to where the plan's snapshot is: restored from it, or baked. With `only_bake`
 * the machine is of no use afterwards (it may not even run), and a bake that cannot be stored has failed.
 */
int bake_run(struct sm_vm *vm, const struct sm_vm_config *config, struct bake_plan *plan, bool only_bake,
             struct sm_error *err);

/* Boot and set up a machine whose worker is started, without snapshots: of the plan, the files count. */
int bake_boot(struct sm_vm *vm, const struct sm_vm_config *config, struct bake_plan *plan, struct sm_error *err);

/* What a save tells of itself, as the worker says it of a bake. */
void bake_line(const char *what, const struct control_saved *s, uint32_t memory_mib, char ret[BAKE_LINE_SIZE]);

#endif
