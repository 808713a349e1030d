/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM backend, x86-64: a vCPU's timer stopped for a while, and whether a vCPU idles.
 *
 * The timer is the local APIC's (Intel SDM vol. 3, 11.5.4). In TSC-deadline mode, which is what our guests are shown,
 * the deadline is taken away and later given back: an old one fires at once then. A deadline that the guest has set
 * itself meanwhile is newer, and stays. In the other modes the vector is masked; a one-shot timer that ran out behind
 * the mask is made to run out once more, so that nothing is lost either way.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/error.h"
#include "hv/kvm.h"

#define MSR_TSC_DEADLINE 0x6e0u

/* Offsets and bits of local APIC registers. */
#define APIC_LVTT         0x320u
#define APIC_TMICT        0x380u
#define APIC_TMCCT        0x390u
#define LVTT_MASKED       (1u << 16)
#define LVTT_MODE         (3u << 17)
#define LVTT_ONE_SHOT     (0u << 17)
#define LVTT_TSC_DEADLINE (2u << 17)

static uint32_t apic_read(const struct kvm_lapic_state *apic, unsigned reg)
{
    uint32_t v;

    memcpy(&v, apic->regs + reg, sizeof(v));
    return v;
}

static void apic_write(struct kvm_lapic_state *apic, unsigned reg, uint32_t v)
{
    memcpy(apic->regs + reg, &v, sizeof(v));
}

union one_msr {
    struct kvm_msrs head;
    uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

/* KVM_GET_MSRS or KVM_SET_MSRS of the deadline: 0 or -errno. */
static int deadline(struct hv_vcpu *vcpu, unsigned long request, uint64_t *value)
{
    union one_msr one = {.room = {0}};

    one.head.nmsrs = 1;
    one.head.entries[0].index = MSR_TSC_DEADLINE;
    one.head.entries[0].data = *value;
    int r = kvm_ioctl(vcpu->fd, request, &one);
    if (r < 0)
        return r;
    *value = one.head.entries[0].data;
    return r == 1 ? 0 : -EIO;
}

static int mask_deadline(struct hv_vcpu *vcpu)
{
    uint64_t none = 0, armed = 0;
    int r = deadline(vcpu, KVM_GET_MSRS, &armed);

    if (r == 0 && armed)
        r = deadline(vcpu, KVM_SET_MSRS, &none);
    if (r == 0)
        vcpu->timer.deadline = armed;
    return r;
}

static int unmask_deadline(struct hv_vcpu *vcpu)
{
    uint64_t now = 0;
    int r = vcpu->timer.deadline ? deadline(vcpu, KVM_GET_MSRS, &now) : 0;

    if (r == 0 && vcpu->timer.deadline && !now)
        r = deadline(vcpu, KVM_SET_MSRS, &vcpu->timer.deadline);
    return r;
}

static int mask_vector(struct hv_vcpu *vcpu, struct kvm_lapic_state *apic)
{
    uint32_t lvtt = apic_read(apic, APIC_LVTT);

    if (lvtt & LVTT_MASKED)
        return 0;
    vcpu->timer.vector = true;
    vcpu->timer.counts =
        (lvtt & LVTT_MODE) == LVTT_ONE_SHOT && apic_read(apic, APIC_TMICT) && apic_read(apic, APIC_TMCCT);
    apic_write(apic, APIC_LVTT, lvtt | LVTT_MASKED);
    return kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, apic);
}

static int unmask_vector(struct hv_vcpu *vcpu)
{
    struct kvm_lapic_state apic;
    int r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &apic);
    uint32_t lvtt;

    if (r < 0)
        return r;
    lvtt = apic_read(&apic, APIC_LVTT);
    apic_write(&apic, APIC_LVTT, lvtt & ~LVTT_MASKED);
    if (vcpu->timer.counts && (lvtt & LVTT_MODE) == LVTT_ONE_SHOT && !apic_read(&apic, APIC_TMCCT))
        apic_write(&apic, APIC_TMCCT, 1);
    return kvm_ioctl(vcpu->fd, KVM_SET_LAPIC, &apic);
}

static int mask(struct hv_vcpu *vcpu)
{
    struct kvm_lapic_state apic;
    int r = kvm_ioctl(vcpu->fd, KVM_GET_LAPIC, &apic);

    memset(&vcpu->timer, 0, sizeof(vcpu->timer));
    if (r < 0)
        return r;
    return (apic_read(&apic, APIC_LVTT) & LVTT_MODE) == LVTT_TSC_DEADLINE ? mask_deadline(vcpu)
                                                                          : mask_vector(vcpu, &apic);
}

int kvm_arch_vcpu_mask_timer(struct hv_vcpu *vcpu, bool masked, struct sm_error *err)
{
    int r;

    if (masked)
        r = mask(vcpu);
    else
        r = vcpu->timer.vector ? unmask_vector(vcpu) : unmask_deadline(vcpu);
    if (r < 0)
        return sm_error_sys(err, -r, "vCPU %u: KVM cannot %s the guest's timer", vcpu->index,
                            masked ? "mask" : "unmask");
    if (!masked)
        memset(&vcpu->timer, 0, sizeof(vcpu->timer));
    return 0;
}

int kvm_arch_vcpu_idle(struct hv_vcpu *vcpu, struct sm_error *err)
{
    struct kvm_mp_state mp;
    int r = kvm_ioctl(vcpu->fd, KVM_GET_MP_STATE, &mp);

    if (r < 0)
        return sm_error_sys(err, -r, "vCPU %u: KVM does not tell whether it runs", vcpu->index);
    return mp.mp_state != KVM_MP_STATE_RUNNABLE && mp.mp_state != KVM_MP_STATE_SIPI_RECEIVED;
}
