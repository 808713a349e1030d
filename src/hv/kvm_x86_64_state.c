/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM backend, x86-64: the state of a vCPU and of the VM around it, saved and loaded.
 *
 * Theory of operation
 *
 * Each of the two is collected from KVM into one structure, passed through the stream field by field, and applied to
 * KVM; saving does the first two steps, loading the last two. So the order of the fields is one thing, and the order of
 * the ioctls, which KVM's own dependencies dictate, is another:
 *
 *   collect: MP state (asking for it takes a pending INIT or SIPI), registers, the LAPIC, MSRs, and events at last.
 *   apply: CPUID (what follows is checked against it), TSC frequency, special registers (APIC base, CR4), registers,
 *   XCRs, XSAVE, debug registers, the LAPIC (its timer's mode), TSC offset, MSRs with the TSC deadline at the end (it
 *   arms a timer by all of these), MP state, events.
 *
 * Time. A guest's TSC is the host's plus an offset. The VM's state holds kvmclock and the host's TSC of one moment,
 * each vCPU's its offset. Loading puts kvmclock back to where it was and takes the host's TSC of that moment; offsets
 * change by the difference. So both clocks of all vCPUs go on from one and the same moment, none of them backwards, and
 * the time in between did not happen: timers of a clone made a day later do not all fire. The wall clock is the
 * lifecycle device's business. Where KVM knows no offsets (before Linux 5.16), the TSC is among the MSRs.
 *
 * What a file says is hostile. Counts are bounded; CPUID must ask for no feature that this host's KVM does not offer;
 * MSRs must be on KVM's own list; everything else KVM itself checks when it is set, and its refusal becomes a sentence.
 * Whatever it accepts only harms the guest.
 *
 * Threads: vm_state on the owner's with no vCPU running, vcpu_state on the vCPU's own.
 * Not done: nested virtualisation, SMM (neither is shown to guests), PIT and HPET (there are none), Xen and Hyper-V.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <x86intrin.h>

#include "arch/x86_cpuid.h"
#include "base/checked.h"
#include "base/error.h"
#include "hv/kvm.h"

#define XSAVE_MIN_BYTES  4096u
#define XSAVE_MAX_BYTES  (16 * 1024u) /* AMX, the largest there is, needs 11 KiB; we hide it */
#define MSR_BATCH        128u         /* in one ioctl; KVM takes 256 */
#define MSR_TSC          0x10u
#define MSR_TSC_DEADLINE 0x6e0u
#define MP_STATE_MAX     KVM_MP_STATE_SIPI_RECEIVED
/* Calibrations of one processor differ by less from boot to boot; KVM's own tolerance. */
#define TSC_TOLERANCE_PPM 250u

struct msr {
    uint32_t index;
    uint64_t value;
};

struct vcpu_state {
    struct x86_cpuid_entry cpuid[X86_CPUID_MAX];
    uint32_t n_cpuid;
    uint32_t tsc_khz;
    bool has_offset;
    uint64_t tsc_offset;
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs2 sregs;
    struct kvm_xcrs xcrs;
    uint32_t xsave_len;
    uint8_t xsave[XSAVE_MAX_BYTES];
    struct kvm_debugregs debug;
    struct kvm_lapic_state lapic;
    struct msr msr[KVM_MAX_MSRS];
    uint32_t n_msrs;
    struct kvm_vcpu_events events;
};

const unsigned long kvm_arch_state_requests[] = {
    KVM_GET_MP_STATE,    KVM_SET_MP_STATE,    KVM_GET_REGS,        KVM_SET_REGS,
    KVM_GET_SREGS2,      KVM_SET_SREGS2,      KVM_GET_XCRS,        KVM_SET_XCRS,
    KVM_GET_XSAVE,       KVM_GET_XSAVE2,      KVM_SET_XSAVE,       KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,   KVM_GET_LAPIC,       KVM_SET_LAPIC,       KVM_GET_MSRS,
    KVM_SET_MSRS,        KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,     KVM_SET_CPUID2,      KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR,
    KVM_SET_DEVICE_ATTR, KVM_GET_IRQCHIP,     KVM_SET_IRQCHIP,     KVM_GET_CLOCK,
    KVM_SET_CLOCK,       KVM_CHECK_EXTENSION, KVM_IRQ_LINE,        0,
};

/* One ioctl of a vCPU; a failure goes to the stream, and none is made after it. >= 0, or negative. */
static int call(struct hv_vcpu *vcpu, struct snap_stream *s, unsigned long request, void *arg, const char *what)
{
    int r = snap_ok(s) ? kvm_ioctl(vcpu->fd, request, arg) : -1;

    if (r >= 0 || !snap_ok(s))
        return r;
    if (s->loading)
        snap_fail(s, -r, "vCPU %u: KVM refuses the snapshot's %s: %s", vcpu->index, what, strerror(-r));
    else
        snap_fail(s, -r, "vCPU %u: KVM does not tell the %s: %s", vcpu->index, what, strerror(-r));
    return -1;
}

/* --- the time stamp counter --- */

static struct kvm_device_attr offset_attr(uint64_t *value)
{
    return (struct kvm_device_attr){.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)value};
}

static bool has_offset(struct hv_vcpu *vcpu)
{
    struct kvm_device_attr attr = offset_attr(NULL);

    return kvm_ioctl(vcpu->fd, KVM_HAS_DEVICE_ATTR, &attr) >= 0;
}

static void apply_tsc_khz(struct hv_vcpu *vcpu, struct snap_stream *s, uint32_t khz)
{
    int own = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL);
    uint64_t apart = khz > (uint32_t)own ? khz - (uint32_t)own : (uint32_t)own - khz;

    if (own <= 0 || khz == 0 || apart * 1000000 <= (uint64_t)own * TSC_TOLERANCE_PPM)
        return;
    if (kvm_ioctl(vcpu->vm->fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_TSC_CONTROL) <= 0)
        snap_fail(s, ENOTSUP,
                  "vCPU %u: the snapshot's clock runs at %u kHz and this host's at %d kHz, and its processor cannot "
                  "scale; make the snapshot anew here",
                  vcpu->index, khz, own);
    else
        call(vcpu, s, KVM_SET_TSC_KHZ, (void *)(uintptr_t)khz, "clock frequency");
}

/* --- MSRs --- */

union msr_batch {
    struct kvm_msrs head;
    uint8_t room[sizeof(struct kvm_msrs) + MSR_BATCH * sizeof(struct kvm_msr_entry)];
};

/* The value of one; false when there is none. */
static bool get_msr(struct hv_vcpu *vcpu, uint32_t index, uint64_t *ret)
{
    union msr_batch one = {.room = {0}};

    one.head.nmsrs = 1;
    one.head.entries[0].index = index;
    if (kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &one) != 1)
        return false;
    *ret = one.head.entries[0].data;
    return true;
}

/* KVM stops at the first that this vCPU does not have: it is left out, and the rest asked for again. */
static void collect_msrs(struct hv_vcpu *vcpu, struct snap_stream *s, struct vcpu_state *st)
{
    const struct hv_vm *vm = vcpu->vm;
    uint32_t at = 0;

    st->n_msrs = 0;
    while (at < vm->n_msrs && snap_ok(s)) {
        union msr_batch batch = {.room = {0}};
        uint32_t n = vm->n_msrs - at < MSR_BATCH ? vm->n_msrs - at : MSR_BATCH;

        batch.head.nmsrs = n;
        for (uint32_t i = 0; i < n; i++)
            batch.head.entries[i].index = vm->msrs[at + i];
        int got = call(vcpu, s, KVM_GET_MSRS, &batch, "MSRs");
        for (int i = 0; i < got; i++)
            st->msr[st->n_msrs++] =
                (struct msr){.index = batch.head.entries[i].index, .value = batch.head.entries[i].data};
        at += got < (int)n ? (uint32_t)got + 1 : n;
    }
}

/* KVM has refused to set it. No harm is done if it has that value already, as some have that can't be written. */
static void msr_refused(struct hv_vcpu *vcpu, struct snap_stream *s, const struct kvm_msr_entry *e)
{
    uint64_t now;

    if (!get_msr(vcpu, e->index, &now) || now != e->data)
        snap_fail(s, EINVAL, "vCPU %u: this host's KVM refuses MSR 0x%x with value 0x%llx, which the snapshot has",
                  vcpu->index, e->index, (unsigned long long)e->data);
}

static void set_batch(struct hv_vcpu *vcpu, struct snap_stream *s, union msr_batch *batch)
{
    uint32_t n = batch->head.nmsrs, at = 0;

    while (at < n && snap_ok(s)) {
        union msr_batch rest = {.room = {0}};

        rest.head.nmsrs = n - at;
        memcpy(rest.head.entries, &batch->head.entries[at], (n - at) * sizeof(rest.head.entries[0]));
        int done = call(vcpu, s, KVM_SET_MSRS, &rest, "MSRs");
        if (done < 0)
            return;
        at += (uint32_t)done;
        if (at < n)
            msr_refused(vcpu, s, &batch->head.entries[at++]);
    }
    batch->head.nmsrs = 0;
}

static void add_msr(union msr_batch *batch, const struct msr *msr)
{
    batch->head.entries[batch->head.nmsrs++] = (struct kvm_msr_entry){.index = msr->index, .data = msr->value};
}

static void apply_msrs(struct hv_vcpu *vcpu, struct snap_stream *s, const struct vcpu_state *st, bool with_tsc)
{
    union msr_batch batch = {.room = {0}};
    const struct msr *deadline = NULL;

    for (uint32_t i = 0; i < st->n_msrs && snap_ok(s); i++) {
        const struct msr *msr = &st->msr[i];

        if (msr->index == MSR_TSC_DEADLINE)
            deadline = msr;
        else if (msr->index != MSR_TSC || with_tsc)
            add_msr(&batch, msr);
        if (batch.head.nmsrs == MSR_BATCH)
            set_batch(vcpu, s, &batch);
    }
    set_batch(vcpu, s, &batch);
    if (deadline) {
        add_msr(&batch, deadline);
        set_batch(vcpu, s, &batch);
    }
}

/* --- one vCPU: from KVM, to KVM --- */

static uint32_t xsave_size(const struct hv_vm *vm)
{
    int n = kvm_ioctl(vm->fd, KVM_CHECK_EXTENSION, (void *)(uintptr_t)KVM_CAP_XSAVE2);

    return n > (int)XSAVE_MIN_BYTES ? (uint32_t)n : XSAVE_MIN_BYTES;
}

static void collect(struct hv_vcpu *vcpu, struct snap_stream *s, struct vcpu_state *st)
{
    uint32_t xsave = xsave_size(vcpu->vm);

    if (xsave > XSAVE_MAX_BYTES)
        snap_fail(s, ENOTSUP, "vCPU %u: its extended registers take %u bytes, more than can be saved", vcpu->index,
                  xsave);
    if (!snap_ok(s))
        return;
    call(vcpu, s, KVM_GET_MP_STATE, &st->mp, "run state");
    call(vcpu, s, KVM_GET_REGS, &st->regs, "registers");
    call(vcpu, s, KVM_GET_SREGS2, &st->sregs, "special registers");
    call(vcpu, s, KVM_GET_XCRS, &st->xcrs, "XCRs");
    st->xsave_len = xsave;
    call(vcpu, s, xsave > XSAVE_MIN_BYTES ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, st->xsave, "extended registers");
    call(vcpu, s, KVM_GET_DEBUGREGS, &st->debug, "debug registers");
    call(vcpu, s, KVM_GET_LAPIC, &st->lapic, "local APIC");
    int khz = kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL);
    st->tsc_khz = khz > 0 ? (uint32_t)khz : 0; /* unknown */
    st->has_offset = has_offset(vcpu);
    if (st->has_offset) {
        struct kvm_device_attr attr = offset_attr(&st->tsc_offset);

        call(vcpu, s, KVM_GET_DEVICE_ATTR, &attr, "TSC offset");
    }
    collect_msrs(vcpu, s, st);
    call(vcpu, s, KVM_GET_VCPU_EVENTS, &st->events, "pending events");
    for (; st->n_cpuid < vcpu->n_cpuid; st->n_cpuid++)
        st->cpuid[st->n_cpuid] = vcpu->cpuid[st->n_cpuid];
}

static bool same_cpuid(const struct x86_cpuid_entry *a, const struct x86_cpuid_entry *b, unsigned n)
{
    unsigned i = 0;

    while (i < n && a[i].leaf == b[i].leaf && a[i].subleaf == b[i].subleaf && a[i].indexed == b[i].indexed &&
           a[i].eax == b[i].eax && a[i].ebx == b[i].ebx && a[i].ecx == b[i].ecx && a[i].edx == b[i].edx)
        i++;
    return i == n;
}

static void apply_cpuid(struct hv_vcpu *vcpu, struct snap_stream *s, struct vcpu_state *st)
{
    struct sm_error err = SM_ERROR_INIT;
    struct x86_cpuid_entry *own;
    struct x86_cpuid_misfit misfit;

    /* KVM lets a vCPU that has run keep its table, and no other one be set. */
    if (vcpu->n_cpuid > 0 && vcpu->n_cpuid == st->n_cpuid && same_cpuid(vcpu->cpuid, st->cpuid, st->n_cpuid))
        return;
    own = calloc(X86_CPUID_MAX, sizeof(*own));
    if (!own) {
        snap_fail(s, ENOMEM, "vCPU %u: no memory for CPUID", vcpu->index);
        return;
    }
    unsigned n = kvm_x86_own_cpuid(vcpu->vm, own, vcpu->index, 1);
    if (x86_cpuid_misfits(st->cpuid, st->n_cpuid, own, n, &misfit))
        snap_fail(s, ENOTSUP,
                  "vCPU %u: the snapshot was made on another kind of processor: it needs %s (CPUID leaf 0x%x.%u, %s, "
                  "0x%x), which this host does not offer; make the snapshot anew here",
                  vcpu->index, misfit.what, misfit.leaf, misfit.subleaf, misfit.reg, misfit.bits);
    else if (kvm_x86_set_cpuid(vcpu, st->cpuid, st->n_cpuid, &err) < 0)
        snap_fail(s, err.code, "%s", err.text);
    free(own);
}

/* KVM checks the area's header. What this host's area has more of is zero here; what it has less of must be. */
static void apply_xsave(struct hv_vcpu *vcpu, struct snap_stream *s, struct vcpu_state *st)
{
    uint32_t own = xsave_size(vcpu->vm);

    for (uint32_t i = own; i < st->xsave_len; i++) {
        if (st->xsave[i]) {
            snap_fail(s, ENOTSUP, "vCPU %u: the snapshot has extended registers that this host's processor lacks",
                      vcpu->index);
            return;
        }
    }
    call(vcpu, s, KVM_SET_XSAVE, st->xsave, "extended registers");
}

static void apply(struct hv_vcpu *vcpu, struct snap_stream *s, struct vcpu_state *st)
{
    bool offset = st->has_offset && has_offset(vcpu);

    apply_cpuid(vcpu, s, st);
    apply_tsc_khz(vcpu, s, st->tsc_khz);
    if (!snap_ok(s))
        return;
    call(vcpu, s, KVM_SET_SREGS2, &st->sregs, "special registers");
    call(vcpu, s, KVM_SET_REGS, &st->regs, "registers");
    if (st->xcrs.nr_xcrs)
        call(vcpu, s, KVM_SET_XCRS, &st->xcrs, "XCRs");
    apply_xsave(vcpu, s, st);
    call(vcpu, s, KVM_SET_DEBUGREGS, &st->debug, "debug registers");
    call(vcpu, s, KVM_SET_LAPIC, &st->lapic, "local APIC");
    if (offset) {
        uint64_t value = st->tsc_offset + vcpu->vm->tsc_delta;
        struct kvm_device_attr attr = offset_attr(&value);

        call(vcpu, s, KVM_SET_DEVICE_ATTR, &attr, "TSC offset");
    }
    apply_msrs(vcpu, s, st, !offset);
    call(vcpu, s, KVM_SET_MP_STATE, &st->mp, "run state");
    call(vcpu, s, KVM_SET_VCPU_EVENTS, &st->events, "pending events");
}

/* --- one vCPU: through the stream --- */

static void cpuid_stream(struct snap_stream *s, struct vcpu_state *st)
{
    snap_count(s, "CPUID entries", &st->n_cpuid, X86_CPUID_MAX);
    for (uint32_t i = 0; i < st->n_cpuid; i++) {
        struct x86_cpuid_entry *e = &st->cpuid[i];

        snap_u32(s, "CPUID leaf", &e->leaf);
        snap_u32(s, "CPUID subleaf", &e->subleaf);
        snap_bool(s, "CPUID indexed", &e->indexed);
        snap_u32(s, "CPUID EAX", &e->eax);
        snap_u32(s, "CPUID EBX", &e->ebx);
        snap_u32(s, "CPUID ECX", &e->ecx);
        snap_u32(s, "CPUID EDX", &e->edx);
    }
}

static void regs_stream(struct snap_stream *s, struct kvm_regs *r)
{
    __u64 *const all[] = {&r->rax, &r->rbx, &r->rcx, &r->rdx, &r->rsi, &r->rdi, &r->rsp, &r->rbp, &r->r8,
                          &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15, &r->rip, &r->rflags};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        uint64_t v = *all[i];

        snap_u64(s, "registers", &v);
        *all[i] = v;
    }
}

static void segment_stream(struct snap_stream *s, struct kvm_segment *g)
{
    __u8 *const bytes[] = {&g->type, &g->present, &g->dpl, &g->db, &g->s, &g->l, &g->g, &g->avl, &g->unusable};
    uint64_t base = g->base;

    snap_u64(s, "segment base", &base);
    g->base = base;
    snap_u32(s, "segment limit", &g->limit);
    snap_u16(s, "segment selector", &g->selector);
    for (size_t i = 0; i < ARRAY_SIZE(bytes); i++)
        snap_u8(s, "segment attributes", bytes[i]);
}

static void table_stream(struct snap_stream *s, struct kvm_dtable *t)
{
    uint64_t base = t->base;

    snap_u64(s, "descriptor table base", &base);
    t->base = base;
    snap_u16(s, "descriptor table limit", &t->limit);
}

static void sregs_stream(struct snap_stream *s, struct kvm_sregs2 *r)
{
    struct kvm_segment *const segments[] = {&r->cs, &r->ds, &r->es, &r->fs, &r->gs, &r->ss, &r->tr, &r->ldt};
    __u64 *const words[] = {&r->cr0,       &r->cr2,   &r->cr3,       &r->cr4,       &r->cr8,       &r->efer,
                            &r->apic_base, &r->flags, &r->pdptrs[0], &r->pdptrs[1], &r->pdptrs[2], &r->pdptrs[3]};

    for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
        segment_stream(s, segments[i]);
    table_stream(s, &r->gdt);
    table_stream(s, &r->idt);
    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        uint64_t v = *words[i];

        snap_u64(s, "control registers", &v);
        *words[i] = v;
    }
}

static void extended_stream(struct snap_stream *s, struct vcpu_state *st)
{
    uint32_t n = st->xcrs.nr_xcrs;

    snap_count(s, "XCRs", &n, KVM_MAX_XCRS);
    st->xcrs.nr_xcrs = n;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t v = st->xcrs.xcrs[i].value;

        snap_u32(s, "XCR", &st->xcrs.xcrs[i].xcr);
        snap_u64(s, "XCR value", &v);
        st->xcrs.xcrs[i].value = v;
    }
    snap_count(s, "XSAVE bytes", &st->xsave_len, XSAVE_MAX_BYTES);
    snap_check(s, st->xsave_len >= XSAVE_MIN_BYTES, "XSAVE bytes", "%u is less than the %u that every processor has",
               st->xsave_len, XSAVE_MIN_BYTES);
    snap_bytes(s, "XSAVE", st->xsave, st->xsave_len);
}

static void debug_stream(struct snap_stream *s, struct kvm_debugregs *d)
{
    __u64 *const all[] = {&d->db[0], &d->db[1], &d->db[2], &d->db[3], &d->dr6, &d->dr7, &d->flags};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        uint64_t v = *all[i];

        snap_u64(s, "debug registers", &v);
        *all[i] = v;
    }
}

static bool on_list(const struct hv_vm *vm, uint32_t index)
{
    for (uint32_t i = 0; i < vm->n_msrs; i++)
        if (vm->msrs[i] == index)
            return true;
    return false;
}

static void msrs_stream(struct snap_stream *s, struct vcpu_state *st, const struct hv_vm *vm)
{
    snap_count(s, "MSRs", &st->n_msrs, KVM_MAX_MSRS);
    for (uint32_t i = 0; i < st->n_msrs; i++) {
        snap_u32(s, "MSR index", &st->msr[i].index);
        snap_u64(s, "MSR value", &st->msr[i].value);
        /* A kernel that keeps fewer of them can do without those that are zero. */
        if (!s->loading || !snap_ok(s) || on_list(vm, st->msr[i].index))
            continue;
        snap_check(s, st->msr[i].value == 0, "MSR index",
                   "this host's KVM has no MSR 0x%x; make the snapshot anew here", st->msr[i].index);
        i--;
        st->n_msrs--;
    }
}

static void events_stream(struct snap_stream *s, struct kvm_vcpu_events *e)
{
    __u8 *const bytes[] = {
        &e->exception.injected,
        &e->exception.nr,
        &e->exception.has_error_code,
        &e->exception.pending,
        &e->interrupt.injected,
        &e->interrupt.nr,
        &e->interrupt.soft,
        &e->interrupt.shadow,
        &e->nmi.injected,
        &e->nmi.pending,
        &e->nmi.masked,
        &e->smi.smm,
        &e->smi.pending,
        &e->smi.smm_inside_nmi,
        &e->smi.latched_init,
        &e->triple_fault.pending,
        &e->exception_has_payload,
    };
    uint64_t payload = e->exception_payload;

    snap_u32(s, "event flags", &e->flags);
    snap_u32(s, "exception error code", &e->exception.error_code);
    snap_u32(s, "SIPI vector", &e->sipi_vector);
    snap_u64(s, "exception payload", &payload);
    e->exception_payload = payload;
    for (size_t i = 0; i < ARRAY_SIZE(bytes); i++)
        snap_u8(s, "pending events", bytes[i]);
}

static void vcpu_stream(struct hv_vcpu *vcpu, struct snap_stream *s, struct vcpu_state *st)
{
    snap_begin(s, SNAP_TAG('V', 'C', 'P', 'U'), vcpu->index, 1, "vcpu");
    cpuid_stream(s, st);
    snap_u32(s, "TSC kHz", &st->tsc_khz);
    snap_bool(s, "TSC offset known", &st->has_offset);
    snap_u64(s, "TSC offset", &st->tsc_offset);
    snap_u32(s, "run state", &st->mp.mp_state);
    snap_check(s, st->mp.mp_state <= MP_STATE_MAX, "run state", "%u is none", st->mp.mp_state);
    regs_stream(s, &st->regs);
    sregs_stream(s, &st->sregs);
    extended_stream(s, st);
    debug_stream(s, &st->debug);
    snap_bytes(s, "local APIC", st->lapic.regs, sizeof(st->lapic.regs));
    msrs_stream(s, st, vcpu->vm);
    events_stream(s, &st->events);
    snap_end(s);
}

void kvm_arch_vcpu_state(struct hv_vcpu *vcpu, struct snap_stream *s)
{
    struct vcpu_state *st = calloc(1, sizeof(*st));

    if (!st) {
        snap_fail(s, ENOMEM, "vCPU %u: no memory for its state", vcpu->index);
        return;
    }
    if (!s->loading)
        collect(vcpu, s, st);
    vcpu_stream(vcpu, s, st);
    if (s->loading && snap_ok(s))
        apply(vcpu, s, st);
    free(st);
}

/* --- the VM --- */

struct vm_state {
    struct kvm_irqchip pic[2], ioapic;
    uint64_t clock, realtime, host_tsc;
};

static void vm_call(struct hv_vm *vm, struct snap_stream *s, unsigned long request, void *arg, const char *what)
{
    int r = snap_ok(s) ? kvm_ioctl(vm->fd, request, arg) : 0;

    if (r < 0)
        snap_fail(s, -r, s->loading ? "KVM refuses the snapshot's %s: %s" : "KVM does not tell the %s: %s", what,
                  strerror(-r));
}

/* KVM's clock, and the host's TSC at the same moment; by our own reading where KVM's clock is not made of it. */
static void get_clock(struct hv_vm *vm, struct snap_stream *s, struct kvm_clock_data *clock, uint64_t *ret_tsc)
{
    memset(clock, 0, sizeof(*clock));
    vm_call(vm, s, KVM_GET_CLOCK, clock, "clock");
    *ret_tsc = clock->flags & KVM_CLOCK_HOST_TSC ? clock->host_tsc : __rdtsc();
}

static void collect_vm(struct hv_vm *vm, struct snap_stream *s, struct vm_state *st)
{
    struct kvm_clock_data clock;

    for (unsigned i = 0; i < 2; i++) {
        st->pic[i].chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER;
        vm_call(vm, s, KVM_GET_IRQCHIP, &st->pic[i], "PIC");
    }
    st->ioapic.chip_id = KVM_IRQCHIP_IOAPIC;
    vm_call(vm, s, KVM_GET_IRQCHIP, &st->ioapic, "I/O APIC");
    get_clock(vm, s, &clock, &st->host_tsc);
    st->clock = clock.clock;
    st->realtime = clock.flags & KVM_CLOCK_REALTIME ? clock.realtime : 0;
}

static void apply_vm(struct hv_vm *vm, struct snap_stream *s, struct vm_state *st)
{
    struct kvm_clock_data clock = {.clock = st->clock};
    uint64_t now;

    for (unsigned i = 0; i < 2; i++)
        vm_call(vm, s, KVM_SET_IRQCHIP, &st->pic[i], "PIC");
    vm_call(vm, s, KVM_SET_IRQCHIP, &st->ioapic, "I/O APIC");
    vm_call(vm, s, KVM_SET_CLOCK, &clock, "clock");
    get_clock(vm, s, &clock, &now);
    /* What the clock ran since it was set is in both. */
    vm->tsc_delta = st->host_tsc - now;
}

static void pic_stream(struct snap_stream *s, struct kvm_pic_state *p)
{
    __u8 *const all[] = {&p->last_irr,
                         &p->irr,
                         &p->imr,
                         &p->isr,
                         &p->priority_add,
                         &p->irq_base,
                         &p->read_reg_select,
                         &p->poll,
                         &p->special_mask,
                         &p->init_state,
                         &p->auto_eoi,
                         &p->rotate_on_auto_eoi,
                         &p->special_fully_nested_mode,
                         &p->init4,
                         &p->elcr,
                         &p->elcr_mask};

    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        snap_u8(s, "PIC", all[i]);
}

static void ioapic_stream(struct snap_stream *s, struct kvm_ioapic_state *p)
{
    uint64_t v = p->base_address;

    snap_u64(s, "I/O APIC base", &v);
    p->base_address = v;
    snap_u32(s, "I/O APIC selector", &p->ioregsel);
    snap_u32(s, "I/O APIC id", &p->id);
    snap_u32(s, "I/O APIC requests", &p->irr);
    for (unsigned i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
        v = p->redirtbl[i].bits;
        snap_u64(s, "I/O APIC redirection", &v);
        p->redirtbl[i].bits = v;
    }
}

void kvm_arch_vm_state(struct hv_vm *vm, struct snap_stream *s)
{
    struct vm_state st;

    memset(&st, 0, sizeof(st));
    /* When loading, too: what KVM keeps in its structures beside our fields stays as it is. */
    collect_vm(vm, s, &st);
    snap_begin(s, SNAP_TAG('K', 'V', 'M', ' '), 0, 1, "kvm");
    pic_stream(s, &st.pic[0].chip.pic);
    pic_stream(s, &st.pic[1].chip.pic);
    ioapic_stream(s, &st.ioapic.chip.ioapic);
    snap_u64(s, "clock", &st.clock);
    snap_u64(s, "wall clock", &st.realtime);
    snap_u64(s, "host TSC", &st.host_tsc);
    snap_end(s);
    if (s->loading && snap_ok(s))
        apply_vm(vm, s, &st);
}
