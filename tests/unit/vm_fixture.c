/* SPDX-License-Identifier: Apache-2.0 */
/* Machines on the fake worker: see vm_fixture.h. */
#include "vm_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "oci_fixture.h"

#define MIB (1024 * 1024)

struct sm_image *vm_image;
char vm_dir[4096], vm_store[4200];
struct sm_error vm_err;

static char *dir;
static char kernel[4200], initramfs[4200];

static void blob(const void *data, size_t len, char name[80])
{
    struct digest digest = digest_of_buf(data, len);
    char path[128];

    digest_str(&digest, name);
    snprintf(path, sizeof(path), "layout/blobs/sha256/%s", name + strlen("sha256:"));
    write_file(dir, path, data, len);
}

/* An image of one file. */
static void make_layout(void)
{
    struct buf tar = buf_init(MIB);
    char layer[80], config[80], manifest[80], text[2048];
    int n;

    tar_add(&tar, "file", '0', NULL, "x", 1);
    tar_end(&tar);
    blob(tar.data, tar.len, layer);
    n = snprintf(text, sizeof(text),
                 "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"echo\",\"the image's\"],"
                 "\"Env\":[\"FROM_IMAGE=1\"],\"StopSignal\":\"SIGINT\",\"ExposedPorts\":{\"80/"
                 "tcp\":{}}},\"rootfs\":{\"type\":\"layers\","
                 "\"diff_ids\":[\"%s\"]}}",
                 layer);
    blob(text, (size_t)n, config);
    int config_len = n;
    n = snprintf(text, sizeof(text),
                 "{\"schemaVersion\":2,\"config\":{\"mediaType\":\"application/vnd.oci.image.config.v1+json\","
                 "\"digest\":\"%s\",\"size\":%d},\"layers\":[{\"mediaType\":"
                 "\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"%s\",\"size\":%zu}]}",
                 config, config_len, layer, tar.len);
    blob(text, (size_t)n, manifest);
    n = snprintf(text, sizeof(text),
                 "{\"schemaVersion\":2,\"manifests\":[{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
                 "\"digest\":\"%s\",\"size\":%d}]}",
                 manifest, n);
    write_file(dir, "layout/index.json", text, (size_t)n);
    write_file(dir, "layout/oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}", 30);
    buf_done(&tar);
}

int vm_fixture_up(void **state)
{
    struct sm_image_options options = SM_IMAGE_OPTIONS_INIT;
    char ref[4200];

    (void)state;
    dir = temp_dir();
    snprintf(vm_dir, sizeof(vm_dir), "%s", dir);
    make_layout();
    snprintf(ref, sizeof(ref), "oci:%s/layout", dir);
    snprintf(vm_store, sizeof(vm_store), "%s/store", dir);
    snprintf(kernel, sizeof(kernel), "%s/kernel", dir);
    snprintf(initramfs, sizeof(initramfs), "%s/initramfs", dir);
    write_file(dir, "initramfs", "x", 1);
    options.store = vm_store;
    options.platform = "linux/amd64";
    if (sm_image_open(&vm_image, ref, &options, &vm_err) < 0)
        fail_msg("%s", vm_err.text);
    return 0;
}

int vm_fixture_down(void **state)
{
    (void)state;
    sm_image_free(vm_image);
    temp_dir_remove(dir);
    return 0;
}

struct sm_vm_config vm_config(const char *mode)
{
    struct sm_vm_config config = SM_VM_CONFIG_INIT;

    write_file(dir, "kernel", mode, strlen(mode));
    config.kernel = kernel;
    config.initramfs = initramfs;
    config.worker = FAKE_WORKER;
    config.hostname = "box";
    config.start_timeout_ms = 30000;
    return config;
}

int vm_try(struct sm_vm **ret, const struct sm_vm_config *config)
{
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        print_message("needs a /dev/kvm to open, though it is not used\n");
        skip();
    }
    vm_err = (struct sm_error)SM_ERROR_INIT;
    return sm_vm_start(ret, vm_image, config, &vm_err);
}

struct sm_vm *vm_start(const struct sm_vm_config *config)
{
    struct sm_vm *vm;

    if (vm_try(&vm, config) < 0)
        fail_msg("%s", vm_err.text);
    return vm;
}

struct sm_exec *vm_exec(struct sm_vm *vm, const struct sm_exec_config *config)
{
    struct sm_exec *x;

    if (sm_exec_start(&x, vm, config, &vm_err) < 0)
        fail_msg("%s", vm_err.text);
    return x;
}

struct sm_exec_result vm_finish(struct sm_exec *x)
{
    struct sm_exec_result result = {.size = sizeof(result)};

    if (sm_exec_wait(x, &result, &vm_err) < 0)
        fail_msg("%s", vm_err.text);
    result.message = result.message[0] ? "some" : "";
    sm_exec_free(x);
    return result;
}

struct sm_exec_result vm_run(struct sm_vm *vm, struct sm_exec_config config, char *out, size_t size)
{
    struct sm_exec_result result;
    int pv[2];
    ssize_t n;

    assert_int_equal(pipe2(pv, O_CLOEXEC), 0);
    config.out = pv[1];
    result = vm_finish(vm_exec(vm, &config));
    close(pv[1]);
    n = read(pv[0], out, size - 1);
    assert_true(n >= 0);
    out[n] = '\0';
    close(pv[0]);
    return result;
}
