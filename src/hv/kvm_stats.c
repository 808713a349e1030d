/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM backend: what KVM itself counts of a vCPU (Linux 5.14 and newer; api.rst, KVM_GET_STATS_FD). Exits that KVM
 * handles without us are seen nowhere else: timers and idling with its interrupt controllers, hypercalls, page faults.
 */
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/io.h"
#include "hv/kvm.h"

#define MAX_DESCRIPTORS 1024u
#define MAX_NAME        256u

/* Those that are worth a line, by KVM's names. */
static const char *const wanted[] = {"exits",        "halt_exits",     "irq_exits",  "io_exits", "mmio_exits",
                                     "signal_exits", "irq_injections", "hypercalls", "pf_taken", "halt_wait_ns"};

_Static_assert(ARRAY_SIZE(wanted) <= HV_MAX_COUNTERS, "room for all");

/* Where each value is in the file; 0: KVM has none of that name. */
static void find(struct hv_vcpu *vcpu, const struct kvm_stats_header *h)
{
    size_t size = sizeof(struct kvm_stats_desc) + h->name_size;
    CLEANUP_FREE struct kvm_stats_desc *d = calloc(1, size);

    for (uint32_t i = 0; d && i < h->num_desc; i++) {
        if (io_pread_full(vcpu->stats_fd, d, size, h->desc_offset + (uint64_t)i * size) != (ssize_t)size)
            return;
        for (unsigned k = 0; k < ARRAY_SIZE(wanted); k++)
            if (strncmp(d->name, wanted[k], h->name_size) == 0)
                vcpu->stat_at[k] = h->data_offset + d->offset;
    }
}

void kvm_vcpu_count(struct hv_vcpu *vcpu)
{
    struct kvm_stats_header h;

    vcpu->stats_fd = kvm_ioctl(vcpu->fd, KVM_GET_STATS_FD, NULL);
    if (vcpu->stats_fd >= 0 && io_pread_full(vcpu->stats_fd, &h, sizeof(h), 0) == (ssize_t)sizeof(h) &&
        h.num_desc <= MAX_DESCRIPTORS && h.name_size <= MAX_NAME)
        find(vcpu, &h);
}

unsigned kvm_vcpu_counters(struct hv_vcpu *vcpu, struct hv_counter ret[HV_MAX_COUNTERS])
{
    unsigned n = 0;

    for (unsigned k = 0; vcpu->stats_fd >= 0 && k < ARRAY_SIZE(wanted); k++) {
        uint64_t value;

        if (!vcpu->stat_at[k] ||
            io_pread_full(vcpu->stats_fd, &value, sizeof(value), vcpu->stat_at[k]) != sizeof(value))
            continue;
        ret[n++] = (struct hv_counter){.name = wanted[k], .value = value};
    }
    return n;
}

void kvm_stats_done(struct hv_vcpu *vcpu)
{
    if (vcpu->stats_fd >= 0)
        close(vcpu->stats_fd);
}
