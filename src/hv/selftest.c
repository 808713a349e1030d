/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hypervisor self-test.
 *
 * Theory of operation
 *
 * Some hosts offer a /dev/kvm that has every capability and yet can't run Linux: ring 0 is interpreted, hundreds of
 * times slower than the processor, by an interpreter that lacks instructions which every kernel uses. Such a host is
 * told by behaviour: the guest in selftest_guest_x86_64.S goes to long mode, runs a loop in ring 0, then tries one
 * instruction after the other, and reports each step by a port write before it tries it. The step that was told last,
 * when the machine dies, is the one that failed.
 *
 * Speed is judged by the best of several rounds: a good host can look slow when it is busy, a bad one never fast.
 * The limit lies at 5 million instructions a second: interpreters reach 2, the slowest known good host (nested in
 * software emulation) 450.
 *
 * Only the seam is used, so the test tells about the backend too. There is no time limit: the guest's own code is
 * finite, and whoever waits for the verdict has one.
 */
#include "hv/selftest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/io.h"
#include "hv/selftest_guest.h"

#ifdef __x86_64__

#define MAX_ROUNDS 8
#define MAX_EXITS  256 /* far more than the guest makes */
#define MIN_SPEED  5000000ull

extern const uint8_t sm_selftest_guest[], sm_selftest_guest_end[];
extern const uint8_t sm_selftest_guest_trap[], sm_selftest_guest_int3[];

struct step {
    uint8_t number;
    const char *name;
    const char *what; /* "it can't ..." */
};

static const struct step steps[] = {
    {0, "long-mode", "enter 64-bit mode"},
    {STEP_LONG_MODE, "ports", "run kernel code"},
    {STEP_LOOP, "loop", "run kernel code"},
    {STEP_LOOP_END, "cpuid", "run kernel code"},
    {STEP_POPCNT, "popcnt", "run POPCNT in kernel mode"},
    {STEP_CMPXCHG16B, "cmpxchg16b", "run CMPXCHG16B in kernel mode"},
    {STEP_XSAVE, "xrstor", "run XSAVE and XRSTOR in kernel mode"},
    {STEP_SMAP, "clac", "run STAC and CLAC"},
    {STEP_INT3, "int3", "handle INT3 in kernel mode"},
    {STEP_SYSCALL, "syscall", "switch to user mode and back by SYSCALL"},
};

struct guest {
    const struct hv *hv;
    struct hv_vm *vm;
    struct hv_vcpu *vcpu;
    uint8_t *mem;
    uint8_t step;    /* told last */
    uint8_t verdict; /* STEP_DONE, STEP_WRONG, STEP_TRAP, or 0 while it runs */
    unsigned rounds;
    uint64_t loop_start, best_ns;
};

static void put64(struct guest *g, unsigned at, uint64_t v)
{
    memcpy(g->mem + at, &v, sizeof(v));
}

static void put_descriptor_table(struct guest *g, unsigned at, uint16_t limit, uint64_t base)
{
    memcpy(g->mem + at, &limit, sizeof(limit));
    memcpy(g->mem + at + 2, &base, sizeof(base));
}

/* A 64-bit interrupt gate to `code`, a place in the guest's image (Intel SDM vol. 3A 6.14.1). */
static void put_gate(struct guest *g, unsigned vector, const uint8_t *code)
{
    uint64_t to = GUEST_CODE + (uint64_t)(code - sm_selftest_guest);

    put64(g, GUEST_IDT + vector * 16,
          (to & 0xffff) | SEL_KERNEL_CODE << 16 | 0x8eull << 40 | (to >> 16 & 0xffff) << 48);
    put64(g, GUEST_IDT + vector * 16 + 8, to >> 32);
}

static void lay_out(struct guest *g)
{
    memcpy(g->mem + GUEST_CODE, sm_selftest_guest, (size_t)(sm_selftest_guest_end - sm_selftest_guest));
    /* Present, writable, user; the directory entry maps 2 MiB at once. */
    put64(g, GUEST_PML4, GUEST_PDPT | 0x7);
    put64(g, GUEST_PDPT, GUEST_PD | 0x7);
    put64(g, GUEST_PD, 0x87);
    put64(g, GUEST_GDT + SEL_KERNEL_CODE, 0x00af9b000000ffff);
    put64(g, GUEST_GDT + SEL_KERNEL_DATA, 0x00cf93000000ffff);
    put64(g, GUEST_GDT + SEL_USER_DATA, 0x00cff3000000ffff);
    put64(g, GUEST_GDT + SEL_USER_CODE, 0x00affb000000ffff);
    put_descriptor_table(g, GUEST_GDTR, SEL_USER_CODE + 7, GUEST_GDT);
    put_descriptor_table(g, GUEST_IDTR, 32 * 16 - 1, GUEST_IDT);
    for (unsigned v = 0; v < 32; v++)
        put_gate(g, v, v == 3 ? sm_selftest_guest_int3 : sm_selftest_guest_trap);
}

static int build(struct guest *g, int fd, struct sm_error *err)
{
    const struct hv_boot boot = {.vcpus = 1, .entry = GUEST_CODE};

    g->mem = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (g->mem == MAP_FAILED) {
        g->mem = NULL;
        return sm_error_sys(err, errno, "no memory for the self-test");
    }
    lay_out(g);
    int r = g->hv->vm_new(&g->vm, fd, err);
    if (r == 0)
        r = g->hv->vm_map(g->vm, 0, 0, GUEST_MEMORY, g->mem, err);
    if (r == 0)
        r = g->hv->vcpu_new(&g->vcpu, g->vm, 0, err);
    if (r == 0)
        r = g->hv->vcpu_setup(g->vcpu, &boot, err);
    return r;
}

static void told(struct guest *g, uint8_t step)
{
    uint64_t now = io_now_ns();

    if (step == STEP_DONE || step == STEP_WRONG || step == STEP_TRAP) {
        g->verdict = step;
        return;
    }
    g->step = step;
    if (step == STEP_LOOP) {
        g->loop_start = now;
    } else if (step == STEP_LOOP_END) {
        uint64_t ns = now - g->loop_start;

        g->rounds++;
        if (!g->best_ns || ns < g->best_ns)
            g->best_ns = ns ? ns : 1;
    }
}

static uint64_t speed(const struct guest *g)
{
    return g->best_ns ? 2ull * LOOP_ROUNDS * 1000000000 / g->best_ns : 0;
}

/* Until the guest is done, stands still or breaks. */
static void run(struct guest *g)
{
    struct sm_error ignored = SM_ERROR_INIT;

    for (unsigned i = 0; i < MAX_EXITS && !g->verdict; i++) {
        struct hv_exit e;

        if (g->hv->vcpu_run(g->vcpu, &e, &ignored) < 0)
            return;
        if (e.kind == HV_EXIT_PIO_WRITE && e.addr == PORT_STEP)
            told(g, e.data[0]);
        else if (e.kind == HV_EXIT_PIO_READ && e.addr == PORT_AGAIN)
            e.data[0] = speed(g) < MIN_SPEED && g->rounds < MAX_ROUNDS;
        else if (e.kind != HV_EXIT_KICKED)
            return;
    }
}

static void judge(const struct guest *g, struct selftest_result *res)
{
    const struct step *failed = &steps[0];

    res->instructions_per_second = speed(g);
    if (g->rounds && speed(g) < MIN_SPEED) {
        snprintf(res->failed, sizeof(res->failed), "speed");
        snprintf(res->sentence, sizeof(res->sentence),
                 "this host's KVM interprets kernel code at %llu million instructions a second instead of running it; "
                 "Linux guests can't run here",
                 (unsigned long long)(speed(g) / 1000000));
        return;
    }
    if (g->verdict == STEP_DONE) {
        res->usable = true;
        snprintf(res->sentence, sizeof(res->sentence), "this host's KVM runs kernel code as Linux guests need it");
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
        if (steps[i].number == g->step)
            failed = &steps[i];
    snprintf(res->failed, sizeof(res->failed), "%s", failed->name);
    snprintf(res->sentence, sizeof(res->sentence), "this host's KVM can't %s; Linux guests can't run here",
             failed->what);
}

int selftest_run(struct selftest_result *ret, const struct hv *hv, int fd, struct sm_error *err)
{
    struct guest g = {.hv = hv};
    struct selftest_result res = {0};
    uint64_t start = io_now_ns();
    int r = build(&g, fd, err);

    if (r < 0) {
        sm_error_wrap(err, "KVM self-test");
    } else {
        run(&g);
        judge(&g, &res);
    }
    hv->vcpu_free(g.vcpu);
    hv->vm_free(g.vm);
    if (g.mem)
        munmap(g.mem, GUEST_MEMORY);
    if (r < 0)
        return r;
    res.elapsed_us = (io_now_ns() - start) / 1000;
    *ret = res;
    return 0;
}

#endif
