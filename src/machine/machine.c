/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Machine: see machine.h.
 *
 * Theory of operation
 *
 * Building: RAM is mapped and given to the hypervisor before anything else, then interrupt controller and vCPUs, then
 * (machine_boot) kernel, tables and registers, and at last interrupts and doorbells: in this order KVM waits for
 * no grace period of its own. Taking apart is the same list from the end: threads, transports and devices, hypervisor,
 * memory. Both are in this file, side by side.
 *
 * Threads: everything here runs on the loop's thread but the bus handlers and lifecycle callbacks, which run on vCPU
 * threads and only post into `events`. The buses are filled before the first thread exists and stay as they are.
 *
 * Interrupt lines: one eventfd each, edge-triggered, bound by irqfd, so that raising one from any thread is a write.
 */
#include "machine/machine.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "lifecycle_regs.h"
#include "machine/cmdline.h"
#include "machine/machine_private.h"
#include "machine/mptable.h"

/* --- devices on the buses --- */

static uint64_t lifecycle_bus_read(void *ctx, uint64_t off, unsigned len)
{
    return lifecycle_read(ctx, off, len);
}

static void lifecycle_bus_write(void *ctx, uint64_t off, unsigned len, uint64_t value)
{
    lifecycle_write(ctx, off, len, value);
}

static const struct bus_ops lifecycle_bus = {"lifecycle", lifecycle_bus_read, lifecycle_bus_write};

static uint64_t virtio_bus_read(void *ctx, uint64_t off, unsigned len)
{
    return virtio_mmio_read(ctx, off, len);
}

static void virtio_bus_write(void *ctx, uint64_t off, unsigned len, uint64_t value)
{
    virtio_mmio_write(ctx, off, len, value);
}

static const struct bus_ops virtio_bus = {"virtio", virtio_bus_read, virtio_bus_write};

static uint64_t serial_bus_read(void *ctx, uint64_t off, unsigned len)
{
    return len == 1 ? serial_read(ctx, (unsigned)off) : UINT64_MAX;
}

static void serial_bus_write(void *ctx, uint64_t off, unsigned len, uint64_t value)
{
    if (len == 1)
        serial_write(ctx, (unsigned)off, (uint8_t)value);
}

static const struct bus_ops serial_bus = {"serial", serial_bus_read, serial_bus_write};

static void end(struct machine *m, enum machine_end why, const char *text)
{
    vcpu_group_end(&m->group, why, "", text, strlen(text));
}

/* Reset ports: nobody reads anything there; all ones tells a kernel that the keyboard controller is absent. */
static uint64_t reset_bus_read(void *ctx, uint64_t off, unsigned len)
{
    return UINT64_MAX;
}

static void kbc_bus_write(void *ctx, uint64_t off, unsigned len, uint64_t value)
{
    if (value == LAYOUT_KBC_RESET)
        end(ctx, MACHINE_RESET, "the guest asked for a reset");
}

static void reset_bus_write(void *ctx, uint64_t off, unsigned len, uint64_t value)
{
    if (value & LAYOUT_RESET_CPU)
        end(ctx, MACHINE_RESET, "the guest asked for a reset");
}

static const struct bus_ops kbc_bus = {"keyboard controller", reset_bus_read, kbc_bus_write};
static const struct bus_ops reset_bus = {"reset control", reset_bus_read, reset_bus_write};

static void on_lifecycle_event(void *ctx, uint32_t kind, uint64_t arg, const char *text, size_t text_len)
{
    struct machine *m = ctx;

    if (kind == SM_LC_EV_PANIC) {
        vcpu_group_end(&m->group, MACHINE_PANIC, "the guest's kernel panicked: ", text, text_len);
        return;
    }
    events_post(&m->events, kind, arg);
    bake_rung(m, kind, arg);
    vcpu_group_wake(&m->group);
}

static void on_lifecycle_power(void *ctx, uint32_t kind)
{
    if (kind == SM_LC_POWER_OFF)
        end(ctx, MACHINE_POWER_OFF, "the guest powered itself off");
    else
        end(ctx, MACHINE_RESET, "the guest asked for a reset");
}

static void on_lifecycle_renewed(void *ctx)
{
    struct machine *m = ctx;

    vcpus_release_others(&m->group);
}

static void on_lifecycle_parked(void *ctx, uint32_t n)
{
    park_said(ctx, n);
}

static const struct lifecycle_ops lifecycle_callbacks = {.event = on_lifecycle_event,
                                                         .power = on_lifecycle_power,
                                                         .parked = on_lifecycle_parked,
                                                         .renewed = on_lifecycle_renewed};

static int make_irq_fd(int *ret, struct sm_error *err)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return sm_error_sys(err, errno, "cannot make an interrupt line");
    *ret = fd;
    return 0;
}

static int add_fixed_devices(struct machine *m, struct sm_error *err)
{
    const struct machine_config *c = &m->config;
    int r = make_irq_fd(&m->serial_irq, err);

    if (r == 0)
        r = make_irq_fd(&m->lifecycle_irq, err);
    if (r == 0)
        r = serial_new(&m->serial, m->serial_irq, c->ops->console, c->ctx, err);
    if (r == 0)
        r = lifecycle_new(&m->lifecycle, m->lifecycle_irq, &lifecycle_callbacks, m, err);
    if (r == 0)
        r = bus_add(&m->group.pio, LAYOUT_SERIAL_PORT, SERIAL_PORTS, &serial_bus, m->serial, err);
    if (r == 0)
        r = bus_add(&m->group.pio, LAYOUT_KBC_PORT, 1, &kbc_bus, m, err);
    if (r == 0)
        r = bus_add(&m->group.pio, LAYOUT_RESET_PORT, 1, &reset_bus, m, err);
    if (r == 0)
        r = bus_add(&m->group.mmio, LAYOUT_LIFECYCLE, SM_LC_PAGE_SIZE, &lifecycle_bus, m->lifecycle, err);
    return r;
}

/* --- from the vCPU threads to the loop --- */

void machine_deliver(struct machine *m)
{
    struct event ev;

    while (events_take(&m->events, &ev)) {
        if (m->config.ops->event(m->config.ctx, ev.kind, ev.arg))
            continue;
        events_put_back(&m->events, &ev);
        break;
    }
}

static void on_wake(struct loop_source *src, uint32_t events)
{
    struct machine *m = src->ctx;
    char text[EVENTS_MAX_TEXT];
    uint64_t drained;

    if (read(src->fd, &drained, sizeof(drained)) < 0)
        return;
    machine_deliver(m);
    enum machine_end why = events_ended(&m->events, text);
    if (why == MACHINE_RUNNING || m->ended) {
        bake_look(m);
        return;
    }
    m->ended = true;
    vcpus_join(m->vcpu, m->n_vcpus);
    live_ended(m);
    if (why == MACHINE_VCPU_ERROR && machine_memory_cut(m))
        snprintf(text, sizeof(text), "%s", MACHINE_CUT_SENTENCE);
    bake_machine_ended(m, why, text);
    m->config.ops->ended(m->config.ctx, why, text);
}

/* --- building --- */

static int make_memory(struct machine *m, struct sm_error *err)
{
    const struct hv *hv = m->config.hv;
    int r = ram_init(&m->ram, m->config.memory_mib * MIB, &m->mem, err);

    if (r == 0)
        r = hv->vm_new(&m->vm, m->config.hv_fd, err);
    for (unsigned i = 0; r == 0 && i < m->mem.n_regions; i++) {
        const struct mem_region *reg = &m->mem.region[i];

        if (reg->gpa + reg->size > hv->vm_address_limit(m->vm))
            return sm_error_set(
                err, ENOMEM,
                "this host's processor gives guests %llu GiB of address space, too little for %u MiB of "
                "memory; ask for less",
                (unsigned long long)(hv->vm_address_limit(m->vm) / GIB), m->config.memory_mib);
        r = hv->vm_map(m->vm, i, reg->gpa, reg->size, reg->host, err);
    }
    return r;
}

static int make_vcpus(struct machine *m, struct sm_error *err)
{
    int r = 0;

    while (r == 0 && m->n_vcpus < m->config.vcpus) {
        struct vcpu *v = &m->vcpu[m->n_vcpus];

        v->group = &m->group;
        v->index = m->n_vcpus;
        r = m->config.hv->vcpu_new(&v->hv, m->vm, v->index, err);
        if (r < 0)
            break;
        m->n_vcpus++;
        if (m->config.profile && !(v->profile = calloc(1, sizeof(*v->profile))))
            r = sm_error_sys(err, ENOMEM, "no memory for the exit profile");
        if (m->config.profile)
            m->config.hv->vcpu_count(v->hv);
    }
    return r;
}

int machine_new(struct machine **ret, const struct machine_config *config, struct sm_error *err)
{
    if (config->memory_mib < MACHINE_MIN_MEMORY_MIB || config->memory_mib > MACHINE_MAX_MEMORY_MIB ||
        config->vcpus < 1 || config->vcpus > HV_MAX_VCPUS)
        return sm_error_set(err, EINVAL, "a machine has %d to %d MiB of memory and 1 to %d vCPUs",
                            MACHINE_MIN_MEMORY_MIB, MACHINE_MAX_MEMORY_MIB, HV_MAX_VCPUS);
    struct machine *m = calloc(1, sizeof(*m));
    if (!m)
        return sm_error_sys(err, ENOMEM, "no memory for a machine");
    m->config = *config;
    m->serial_irq = m->lifecycle_irq = -1;
    m->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    m->clear_refs_fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    m->wake.fd = -1;
    events_init(&m->events);
    bake_init(&m->bake, m);
    vcpu_group_init(&m->group);
    m->group.hv = config->hv;
    m->group.mem = &m->mem;
    m->group.events = &m->events;
    m->group.thread_init = config->ops->vcpu_thread;
    m->group.trace = config->ops->trace;
    m->group.trace_max = MACHINE_MAX_TRACE;
    m->group.ctx = config->ctx;
    m->group.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    int r = m->group.wake_fd < 0 ? -errno : loop_add(config->loop, &m->wake, m->group.wake_fd, EPOLLIN, on_wake, m);
    if (r < 0)
        r = sm_error_sys(err, -r, "cannot watch a machine");
    if (r == 0)
        r = make_memory(m, err);
    if (r == 0)
        r = config->hv->vm_irqchip(m->vm, err);
    if (r == 0)
        r = make_vcpus(m, err);
    if (r == 0)
        r = add_fixed_devices(m, err);
    if (r < 0) {
        machine_free(m);
        return r;
    }
    *ret = m;
    return 0;
}

int machine_add_virtio(struct machine *m, struct virtio_dev *dev, struct sm_error *err)
{
    if (m->n_slots == LAYOUT_VIRTIO_SLOTS) {
        dev->ops->free(dev);
        return sm_error_set(err, ENOSPC, "a machine has room for %u virtio devices", LAYOUT_VIRTIO_SLOTS);
    }
    struct slot *s = &m->slot[m->n_slots];
    int r = make_irq_fd(&s->irq_fd, err);
    if (r < 0) {
        dev->ops->free(dev);
        return r;
    }
    r = virtio_mmio_new(&s->transport, dev, &m->mem, m->config.loop, s->irq_fd, err);
    if (r < 0) {
        close_fd(&s->irq_fd);
        return r;
    }
    r = bus_add(&m->group.mmio, LAYOUT_VIRTIO + m->n_slots * LAYOUT_VIRTIO_STRIDE, LAYOUT_VIRTIO_STRIDE, &virtio_bus,
                s->transport, err);
    m->n_slots++; /* also when it has no range: machine_free() lets go of it */
    return r;
}

static int put_mptable(struct machine *m, struct sm_error *err)
{
    uint8_t *dst = mem_ptr(&m->mem, LAYOUT_MPTABLE, LAYOUT_MPTABLE_SIZE);
    int r = dst ? mptable_build(dst, LAYOUT_MPTABLE_SIZE, LAYOUT_MPTABLE, m->n_vcpus) : -ENOMEM;

    return r < 0 ? sm_error_sys(err, -r, "cannot write the MP table") : 0;
}

static int load_guest(struct machine *m, int kernel_fd, int initramfs_fd, const char *extra, bool verbose,
                      struct boot_entry *ret, struct sm_error *err)
{
    struct cmdline words = {.verbose = verbose, .extra = extra, .n_virtio = m->n_slots};
    struct buf line = buf_init(LAYOUT_CMDLINE_SIZE);

    cmdline_build(&words, &line);
    struct boot_source src = {.kernel_fd = kernel_fd, .initramfs_fd = initramfs_fd, .cmdline = (char *)line.data};
    int r = line.bad
                ? sm_error_set(err, E2BIG, "the kernel command line is longer than %u bytes", LAYOUT_CMDLINE_SIZE - 1)
                : boot_pvh_load(&src, &m->mem, ret, err);
    buf_done(&line);
    return r;
}

/* Interrupts, then doorbells. */
int machine_bind_lines(struct machine *m, struct sm_error *err)
{
    const struct hv *hv = m->config.hv;
    int r = 0;

    if (m->bound)
        return 0;
    m->bound = true;
    r = hv->vm_irqfd(m->vm, LAYOUT_SERIAL_IRQ, m->serial_irq, err);
    if (r == 0)
        r = hv->vm_irqfd(m->vm, LAYOUT_LIFECYCLE_IRQ, m->lifecycle_irq, err);
    for (unsigned i = 0; r == 0 && i < m->n_slots; i++)
        r = hv->vm_irqfd(m->vm, LAYOUT_VIRTIO_IRQ + i, m->slot[i].irq_fd, err);
    for (unsigned i = 0; r == 0 && i < m->n_slots; i++) {
        struct virtio_mmio *t = m->slot[i].transport;
        uint64_t bell = LAYOUT_VIRTIO + i * LAYOUT_VIRTIO_STRIDE + VIRTIO_MMIO_QUEUE_NOTIFY;

        for (unsigned q = 0; r == 0 && q < virtio_mmio_dev(t)->n_queues; q++)
            r = hv->vm_ioeventfd(m->vm, bell, 4, q, virtio_mmio_notify_fd(t, q), err);
    }
    return r;
}

int machine_boot(struct machine *m, int kernel_fd, int initramfs_fd, const char *extra, bool verbose,
                 struct sm_error *err)
{
    struct boot_entry entry;
    int r = load_guest(m, kernel_fd, initramfs_fd, extra, verbose, &entry, err);

    if (r == 0)
        r = put_mptable(m, err);
    for (unsigned i = 0; r == 0 && i < m->n_vcpus; i++) {
        const struct hv_boot boot = {.index = i, .vcpus = m->n_vcpus, .entry = entry.entry, .info = entry.info};

        r = m->config.hv->vcpu_setup(m->vcpu[i].hv, &boot, err);
    }
    return r < 0 ? r : machine_bind_lines(m, err);
}

int machine_prepare(struct machine *m, struct sm_error *err)
{
    return machine_bind_lines(m, err);
}

int machine_spawn(struct machine *m, struct sm_error *err)
{
    return vcpus_spawn(m->vcpu, m->n_vcpus, err);
}

void machine_run(struct machine *m)
{
    vcpus_go(&m->group);
}

void machine_stop(struct machine *m)
{
    end(m, MACHINE_STOPPED, "stopped by its owner");
}

/* --- taking apart --- */

void machine_free(struct machine *m)
{
    if (!m)
        return;
    vcpus_join(m->vcpu, m->n_vcpus);
    live_ended(m);
    loop_remove(m->config.loop, &m->wake);
    loop_timer_cancel(&m->patience);
    bake_done(&m->bake);
    for (unsigned i = 0; i < m->n_slots; i++) {
        virtio_mmio_free(m->slot[i].transport);
        close_fd(&m->slot[i].irq_fd);
    }
    lifecycle_free(m->lifecycle);
    serial_free(m->serial);
    close_fd(&m->lifecycle_irq);
    close_fd(&m->serial_irq);
    for (unsigned i = 0; i < m->n_vcpus; i++) {
        m->config.hv->vcpu_free(m->vcpu[i].hv);
        free(m->vcpu[i].profile);
    }
    m->config.hv->vm_free(m->vm);
    ram_done(&m->ram);
    origin_done(&m->origin);
    close_fd(&m->pagemap_fd);
    close_fd(&m->clear_refs_fd);
    close_fd(&m->group.wake_fd);
    vcpu_group_done(&m->group);
    events_done(&m->events);
    free(m);
}

/* --- evidence --- */

size_t machine_console_tail(struct machine *m, char *buf, size_t max)
{
    return serial_tail(m->serial, buf, max);
}

void machine_stats(struct machine *m, struct machine_stats *ret)
{
    *ret = (struct machine_stats){.memory_bytes = mem_total(&m->mem),
                                  .events_lost = events_lost(&m->events),
                                  .first_entry_ns = atomic_load(&m->group.first_entry_ns),
                                  .first_exit_ns = atomic_load(&m->group.first_exit_ns),
                                  .mapped_ns = m->mapped_ns,
                                  .loaded_ns = m->loaded_ns};
    for (unsigned i = 0; i < m->n_vcpus; i++)
        for (unsigned k = 0; k < HV_EXIT_KINDS; k++)
            ret->exits[k] += atomic_load_explicit(&m->vcpu[i].exits[k], memory_order_relaxed);
}

static const char *name_of_address(void *ctx, enum hv_exit_kind kind, uint64_t addr, uint64_t *ret_base)
{
    bool mmio = kind == HV_EXIT_MMIO_READ || kind == HV_EXIT_MMIO_WRITE;
    const struct machine *m = ctx;
    const struct bus_range *r = bus_find(mmio ? &m->group.mmio : &m->group.pio, addr, 1);

    if (!r)
        return NULL;
    *ret_base = r->base;
    return r->ops == &virtio_bus ? virtio_mmio_dev(r->ctx)->ops->name : r->ops->name;
}

/* "vcpu 0: in KVM: exits 1203, hypercalls 7" */
static void print_counters(const struct machine *m, unsigned i, struct buf *out)
{
    struct hv_counter counter[HV_MAX_COUNTERS];
    unsigned n = m->config.hv->vcpu_counters(m->vcpu[i].hv, counter);
    char line[80 * HV_MAX_COUNTERS];
    int len = snprintf(line, sizeof(line), "vcpu %u: in %s:", i, m->config.hv->name);

    for (unsigned k = 0; k < n; k++)
        len += snprintf(line + len, sizeof(line) - (size_t)len, "%s %s %llu", k ? "," : "", counter[k].name,
                        (unsigned long long)counter[k].value);
    if (n > 0 && (size_t)len + 1 <= out->max - out->len) {
        line[len] = '\n';
        buf_bytes(out, line, (size_t)len + 1);
    }
}

void machine_profile(struct machine *m, struct buf *out)
{
    for (unsigned i = 0; m->config.profile && i < m->n_vcpus; i++) {
        profile_print(m->vcpu[i].profile, i, name_of_address, m, out);
        print_counters(m, i, out);
    }
    for (unsigned i = 0; m->config.profile && i < m->n_vcpus; i++)
        profile_print_places(m->vcpu[i].profile, i, name_of_address, m, out);
}
