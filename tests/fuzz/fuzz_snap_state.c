/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Door: the state file of a snapshot. Each input is read as it is, and once more with its layout and checksums made
 * right, so that what lies behind them is reached: every device, and a vCPU's fields. What was taken is then run.
 */
#include <assert.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/kvm.h"
#include "snap/crc32c.h"
#include "snap/file.h"
#include "snap_machine.h"

#define HEADER       64
#define ENTRY        24
#define MAX_SECTIONS 16u
#define VCPUS        2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put32(uint8_t *p, uint64_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint32_t get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Keep tags, versions, lengths as far as they fit, and contents; make the rest as a writer would. */
static void make_right(uint8_t *d, size_t len)
{
    uint32_t n = get32(d + 24) % (MAX_SECTIONS + 1);

    while (HEADER + ENTRY * n > len)
        n--;
    size_t at = HEADER + ENTRY * n;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t *e = d + HEADER + ENTRY * i;
        size_t length = get32(e + 12);

        if (length > len - at || i == n - 1)
            length = len - at;
        put32(e + 8, at);
        put32(e + 12, length);
        put32(e + 16, crc32c(0, d + at, length));
        put32(e + 20, 0);
        at += length;
    }
    memset(d, 0, HEADER);
#ifdef __x86_64__
    memcpy(d, "SMstx86\n", 8);
#else
    memcpy(d, "SMsta64\n", 8);
#endif
    put32(d + 8, SNAP_FILE_VERSION);
    put32(d + 12, SNAP_PAGE);
    put32(d + 16, len);
    put32(d + 24, n);
    put32(d + 28, crc32c(0, d + HEADER, ENTRY * n));
    put32(d + 60, crc32c(0, d, 60));
}

/* Fields only: there is no KVM behind these descriptors, so applying them fails at the first call. */
static void load_vcpus(struct snap_stream *s)
{
    uint32_t msrs[] = {0x10, 0x6e0, 0xc0000080, 0x1000, 0x1001};
    struct hv_vm vm = {.kvm_fd = -1, .fd = -1, .msrs = msrs, .n_msrs = sizeof(msrs) / sizeof(msrs[0])};

    vm.cpuid = calloc(1, sizeof(*vm.cpuid));
    for (unsigned i = 0; i < VCPUS; i++) {
        struct hv_vcpu vcpu = {.vm = &vm, .fd = -1, .index = i};
        struct snap_stream mine = *s; /* one vCPU's refusal is not the next one's */

        memset(&mine.error, 0, sizeof(mine.error));
        hv_kvm.vcpu_state(&vcpu, &mine);
        assert(!snap_ok(&mine));
    }
    free(vm.cpuid);
}

static void load(const uint8_t *data, size_t size)
{
    int fd = memfd_create("state", MFD_CLOEXEC);
    struct sm_error err = SM_ERROR_INIT;
    struct snap_machine m;
    struct snap_stream s;

    assert(fd >= 0);
    ssize_t n = write(fd, data, size);
    assert(n == (ssize_t)size);
    (void)n;
    int r = snap_file_read(&s, fd, &err);
    close(fd);
    if (r < 0) {
        assert(err.code == -r && err.text[0]);
        return;
    }
    snap_machine_open(&m);
    snap_machine_state(&m, &s);
    snap_machine_resume(&m);
    for (unsigned i = 0; i < SNAP_SLOTS; i++)
        for (unsigned k = 0; k < 8; k++)
            loop_once(m.f[i].loop, 0);
    load_vcpus(&s);
    snap_machine_close(&m);
    snap_stream_clear(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    load(data, size);
    if (size < HEADER || size > SNAP_STATE_MAX_BYTES)
        return 0;
    copy = malloc(size);
    assert(copy);
    memcpy(copy, data, size);
    make_right(copy, size);
    load(copy, size);
    free(copy);
    return 0;
}
