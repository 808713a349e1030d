/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State files of the past stay readable: samples in tests/unit/data, each written when its version of the format was
 * new, are loaded into devices and vCPUs of today. `test_snap_sample write FILE` writes one of the present version; a
 * sample that is there is never written again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fake_kvm.h"
#include "hv/hv.h"
#include "lifecycle_regs.h"
#include "snap/file.h"
#include "snap_machine.h"

#define VCPUS  2
#define KVM_FD 1000

struct world {
    struct snap_machine devices;
    struct hv_vm *vm;
    struct hv_vcpu *vcpu[VCPUS];
};

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof(*w));

    snap_machine_open(&w->devices);
    assert_int_equal(hv_kvm.vm_new(&w->vm, KVM_FD, NULL), 0);
    for (unsigned i = 0; i < VCPUS; i++) {
        const struct hv_boot boot = {.index = i, .vcpus = VCPUS};

        assert_int_equal(hv_kvm.vcpu_new(&w->vcpu[i], w->vm, i, NULL), 0);
        assert_int_equal(hv_kvm.vcpu_setup(w->vcpu[i], &boot, NULL), 0);
    }
    return w;
}

static void world_free(struct world *w)
{
    for (unsigned i = 0; i < VCPUS; i++)
        hv_kvm.vcpu_free(w->vcpu[i]);
    hv_kvm.vm_free(w->vm);
    snap_machine_close(&w->devices);
    free(w);
}

static int write_sample(const char *path)
{
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    struct sm_error err = SM_ERROR_INIT;
    struct snap_stream s;
    void *state = NULL;

    if (fd < 0 || fake_kvm_setup(&state) != 0) {
        perror(path);
        return 1;
    }
    struct world *w = world_new();
    snap_machine_run(&w->devices);
    snap_machine_pause(&w->devices);
    fake_kvm_fill(&kvm.m);
    snap_stream_init(&s);
    for (unsigned i = 0; i < VCPUS; i++)
        hv_kvm.vcpu_state(w->vcpu[i], &s);
    hv_kvm.vm_state(w->vm, &s);
    snap_machine_state(&w->devices, &s);
    int r = snap_file_write(&s, fd, &err);
    if (r < 0)
        fprintf(stderr, "%s\n", err.text);
    snap_stream_clear(&s);
    world_free(w);
    close(fd);
    return r < 0;
}

static void version_1(void **state)
{
    int fd = open(SAMPLES "/state-v1-x86_64", O_RDONLY | O_CLOEXEC);
    struct sm_error err = SM_ERROR_INIT;
    struct machine_state *was = calloc(1, sizeof(*was));
    struct snap_stream s;

    assert_true(fd >= 0);
    struct world *w = world_new();
    assert_int_equal(snap_file_read(&s, fd, &err), 0);
    memset(&kvm.m.regs, 0, sizeof(kvm.m.regs));
    snap_machine_state(&w->devices, &s);
    hv_kvm.vm_state(w->vm, &s);
    for (unsigned i = 0; i < VCPUS; i++)
        hv_kvm.vcpu_state(w->vcpu[i], &s);
    assert_int_equal(snap_done(&s, &err), 0);
    snap_machine_resume(&w->devices);

    fake_kvm_fill(was);
    assert_memory_equal(&kvm.m.regs, &was->regs, sizeof(was->regs));
    assert_memory_equal(kvm.m.xsave, was->xsave, sizeof(was->xsave));
    assert_memory_equal(&kvm.m.events, &was->events, sizeof(was->events));
    assert_int_equal(serial_read(w->devices.serial, 7), 0x5a);
    assert_int_equal(lifecycle_read(w->devices.lifecycle, SM_LC_INT_STATUS, 4), SM_LC_INT_PARK);
    assert_int_equal(lifecycle_read(w->devices.lifecycle, SM_LC_TEXT, 4), 0x64636261);
    for (unsigned i = 0; i < SNAP_SLOTS; i++) {
        fake_settle(&w->devices.f[i]);
        assert_int_equal(fake_read(&w->devices.f[i], FAKE_STATUS), 15);
        assert_null(virtio_mmio_broken(w->devices.f[i].t));
        fake_write(&w->devices.f[i], FAKE_QUEUE_SEL, 0);
        assert_int_equal(fake_read(&w->devices.f[i], FAKE_QUEUE_READY), 1);
    }
    snap_stream_clear(&s);
    world_free(w);
    free(was);
    close(fd);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(version_1, fake_kvm_setup, fake_kvm_teardown),
    };

    if (argc == 3 && strcmp(argv[1], "write") == 0)
        return write_sample(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
