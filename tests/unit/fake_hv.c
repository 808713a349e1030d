/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_hv.h. */
#include "fake_hv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/error.h"

struct hv_vm {
    int unused;
};

struct hv_vcpu {
    unsigned index;
};

struct fake_hv fake;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool kicked[HV_MAX_VCPUS];
static unsigned done[HV_MAX_VCPUS]; /* exits that were carried out */

void fake_hv_reset(void)
{
    memset(&fake, 0, sizeof(fake));
    memset(kicked, 0, sizeof(kicked));
    memset(done, 0, sizeof(done));
    fake.limit = 1ull << 40;
}

struct fake_exit *fake_hv_exit(unsigned vcpu, enum hv_exit_kind kind, uint64_t addr, unsigned len, uint64_t value)
{
    struct fake_exit *e = &fake.script[vcpu][fake.n[vcpu]++];

    *e = (struct fake_exit){.kind = kind, .addr = addr, .len = len, .count = 1};
    memcpy(e->data, &value, sizeof(value));
    return e;
}

int fake_hv_first(const char *name)
{
    for (unsigned i = 0; i < fake.n_calls; i++)
        if (strcmp(fake.call[i].name, name) == 0)
            return (int)i;
    return -1;
}

unsigned fake_hv_calls(const char *name)
{
    unsigned n = 0;

    for (unsigned i = 0; i < fake.n_calls; i++)
        n += strcmp(fake.call[i].name, name) == 0;
    return n;
}

void fake_hv_wait(unsigned vcpu, unsigned exits)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&lock);
    while (done[vcpu] < exits && pthread_cond_timedwait(&changed, &lock, &until) == 0)
        ;
    assert(done[vcpu] >= exits);
    pthread_mutex_unlock(&lock);
}

static int call(const char *name, uint64_t a, uint64_t b, struct sm_error *err)
{
    fake.call[fake.n_calls++] = (struct fake_call){name, a, b};
    return fake.fail && strcmp(fake.fail, name) == 0 ? sm_error_set(err, EIO, "%s failed", name) : 0;
}

static int vm_new(struct hv_vm **ret, int fd, struct sm_error *err)
{
    int r = call("vm_new", 0, 0, err);

    if (r == 0) {
        *ret = calloc(1, sizeof(**ret));
        fake.alive++;
    }
    return r;
}

static void vm_free(struct hv_vm *vm)
{
    fake.alive -= vm != NULL;
    free(vm);
}

static int vm_map(struct hv_vm *vm, unsigned slot, uint64_t gpa, uint64_t size, void *host, struct sm_error *err)
{
    return call("vm_map", gpa, size, err);
}

static int vm_irqchip(struct hv_vm *vm, struct sm_error *err)
{
    return call("vm_irqchip", 0, 0, err);
}

static int vm_irqfd(struct hv_vm *vm, unsigned irq, int fd, struct sm_error *err)
{
    return call("vm_irqfd", irq, 0, err);
}

static int vm_irq(struct hv_vm *vm, unsigned irq, struct sm_error *err)
{
    return call("vm_irq", irq, 0, err);
}

static int vm_ioeventfd(struct hv_vm *vm, uint64_t gpa, unsigned len, uint64_t match, int fd, struct sm_error *err)
{
    return call("vm_ioeventfd", gpa, match, err);
}

static uint64_t vm_address_limit(const struct hv_vm *vm)
{
    return fake.limit;
}

static int vcpu_new(struct hv_vcpu **ret, struct hv_vm *vm, unsigned index, struct sm_error *err)
{
    int r = call("vcpu_new", index, 0, err);

    if (r == 0) {
        *ret = calloc(1, sizeof(**ret));
        (*ret)->index = index;
        fake.alive++;
    }
    return r;
}

static void vcpu_free(struct hv_vcpu *vcpu)
{
    fake.alive -= vcpu != NULL;
    free(vcpu);
}

static int vcpu_setup(struct hv_vcpu *vcpu, const struct hv_boot *boot, struct sm_error *err)
{
    return call("vcpu_setup", boot->entry, boot->info, err);
}

/* A vCPU comes back: what it was given is done. */
static bool is_kicked(unsigned i)
{
    pthread_mutex_lock(&lock);
    bool ret = kicked[i];
    done[i] = fake.at[i];
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return ret;
}

static int vcpu_run(struct hv_vcpu *vcpu, struct hv_exit *ret, struct sm_error *err)
{
    unsigned i = vcpu->index;

    bool forced = is_kicked(i);

    if (fake.at[i] < fake.n[i] && !(fake.script[i][fake.at[i]].later && forced)) {
        struct fake_exit *e = &fake.script[i][fake.at[i]++];

        *ret = (struct hv_exit){.kind = e->kind, .addr = e->addr, .len = e->len, .count = e->count, .data = e->data};
        if (e->kind == HV_EXIT_OTHER)
            sm_error_set(err, EIO, "the hypervisor is lost");
        return 0;
    }
    if (fake.run_error)
        return sm_error_set(err, -fake.run_error, "running failed");
    pthread_mutex_lock(&lock);
    while (!kicked[i])
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    ret->kind = HV_EXIT_KICKED;
    return 0;
}

static void vcpu_kick(struct hv_vcpu *vcpu, pthread_t thread)
{
    pthread_mutex_lock(&lock);
    kicked[vcpu->index] = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void vcpu_unkick(struct hv_vcpu *vcpu)
{
    pthread_mutex_lock(&lock);
    kicked[vcpu->index] = false;
    pthread_mutex_unlock(&lock);
}

static void put_value(const char *name, uint32_t tag, unsigned index, uint32_t *value, struct snap_stream *s)
{
    snap_begin(s, tag, index, 1, name);
    snap_u32(s, "value", value);
    snap_end(s);
    if (call(name, index, snap_loading(s), NULL) < 0)
        snap_fail(s, EIO, "%s failed", name);
}

static void vm_state(struct hv_vm *vm, struct snap_stream *s)
{
    put_value("vm_state", SNAP_TAG('F', 'A', 'V', 'M'), 0, &fake.vm_value, s);
}

static void vcpu_state(struct hv_vcpu *vcpu, struct snap_stream *s)
{
    fake.worked_on[vcpu->index] = pthread_self();
    put_value("vcpu_state", SNAP_TAG('F', 'A', 'C', 'P'), vcpu->index, &fake.vcpu_value[vcpu->index], s);
}

static int vcpu_mask_timer(struct hv_vcpu *vcpu, bool masked, struct sm_error *err)
{
    int r = call(masked ? "vcpu_mask_timer" : "vcpu_unmask_timer", vcpu->index, 0, err);

    fake.worked_on[vcpu->index] = pthread_self();
    if (r == 0)
        fake.masked[vcpu->index] = masked;
    return r;
}

static int vcpu_idle(struct hv_vcpu *vcpu, struct sm_error *err)
{
    int r = call("vcpu_idle", vcpu->index, 0, err);

    return r < 0 ? r : fake.idle[vcpu->index];
}

static void vcpu_count(struct hv_vcpu *vcpu)
{
    call("vcpu_count", vcpu->index, 0, NULL);
}

static unsigned vcpu_counters(struct hv_vcpu *vcpu, struct hv_counter ret[HV_MAX_COUNTERS])
{
    ret[0] = (struct hv_counter){"exits", 40 + vcpu->index};
    ret[1] = (struct hv_counter){"hypercalls", 7};
    return 2;
}

static uint64_t vcpu_pc(struct hv_vcpu *vcpu)
{
    return 0;
}

const struct hv hv_fake = {
    .name = "fake",
    .vm_new = vm_new,
    .vm_free = vm_free,
    .vm_map = vm_map,
    .vm_irqchip = vm_irqchip,
    .vm_irqfd = vm_irqfd,
    .vm_irq = vm_irq,
    .vm_ioeventfd = vm_ioeventfd,
    .vm_address_limit = vm_address_limit,
    .vcpu_new = vcpu_new,
    .vcpu_free = vcpu_free,
    .vcpu_setup = vcpu_setup,
    .vcpu_run = vcpu_run,
    .vcpu_kick = vcpu_kick,
    .vcpu_unkick = vcpu_unkick,
    .vm_state = vm_state,
    .vcpu_state = vcpu_state,
    .vcpu_mask_timer = vcpu_mask_timer,
    .vcpu_idle = vcpu_idle,
    .vcpu_count = vcpu_count,
    .vcpu_counters = vcpu_counters,
    .vcpu_pc = vcpu_pc,
};
