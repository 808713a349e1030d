/* SPDX-License-Identifier: Apache-2.0 */
/* See machine_env.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "dev/rng.h"
#include "fake_hv.h"
#include "machine_env.h"
#include "pvh_kernel.h"

const uint8_t env_generation[MACHINE_GENERATION_SIZE] = {1, 2, 3};

static bool on_event(void *ctx, uint32_t kind, uint64_t arg)
{
    return true;
}

static void on_ended(void *ctx, enum machine_end end, const char *text)
{
    struct env *e = ctx;

    e->ends++;
    snprintf(e->end_text, sizeof(e->end_text), "%s", text);
    loop_stop(e->loop);
}

static int on_thread(void *ctx, struct sm_error *err)
{
    return 0;
}

static const struct machine_ops ops = {.event = on_event, .ended = on_ended, .vcpu_thread = on_thread};

struct machine_files env_files(bool diff)
{
    return (struct machine_files){.state = memfd_create("state", MFD_CLOEXEC),
                                  .memory = memfd_create("memory", MFD_CLOEXEC),
                                  .diff = diff ? memfd_create("diff", MFD_CLOEXEC) : -1,
                                  .base = -1,
                                  .prefetch = -1};
}

void env_close(struct machine_files *files)
{
    close_fd(&files->state);
    close_fd(&files->memory);
    close_fd(&files->diff);
}

int env_set_up(void **state)
{
    static struct env e;

    e = (struct env){.files = env_files(false)};
    fake_hv_reset();
    *state = &e;
    return loop_new(&e.loop);
}

int env_tear_down(void **state)
{
    struct env *e = *state;

    machine_free(e->m);
    loop_free(e->loop);
    env_close(&e->files);
    return fake.alive != 0;
}

void env_build(struct env *e, unsigned memory_mib, unsigned vcpus)
{
    const struct machine_config config = {
        .hv = &hv_fake, .loop = e->loop, .memory_mib = memory_mib, .vcpus = vcpus, .ops = &ops, .ctx = e};
    struct virtio_dev *dev;

    assert_int_equal(machine_new(&e->m, &config, NULL), 0);
    assert_int_equal(rng_new(&dev, NULL), 0);
    assert_int_equal(machine_add_virtio(e->m, dev, NULL), 0);
}

void env_start(struct env *e, unsigned vcpus)
{
    struct pvh_kernel k = pvh_kernel();
    int fd = pvh_file(&k, sizeof(k));

    env_build(e, 32, vcpus);
    assert_int_equal(machine_boot(e->m, fd, -1, "", false, NULL), 0);
    close(fd);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
}

void env_finish(struct env *e)
{
    machine_free(e->m);
    e->m = NULL;
    fake_hv_reset();
}

void env_clone(struct env *e, const struct machine_files *files)
{
    struct sm_error err = SM_ERROR_INIT;

    env_build(e, 32, 1);
    if (machine_restore(e->m, files, env_generation, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(machine_spawn(e->m, NULL), 0);
    machine_run(e->m);
}
