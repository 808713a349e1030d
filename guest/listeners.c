/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening TCP ports: see listeners.h.
 *
 * Theory of operation
 *
 * A BPF program of the kind that is called at certain points of a TCP socket's life (BPF_PROG_TYPE_SOCK_OPS) is
 * attached to the control group. One of these points is listen(2), of IPv4 and IPv6 alike. There it puts the port into
 * a ring buffer (BPF_MAP_TYPE_RINGBUF), which makes the map's descriptor readable for epoll. The program is ten
 * instructions, written here by hand: no compiler, no library, nothing to load from a file.
 *
 * The ring is shared memory: page 0 holds the reader's position and is ours to write; page 1 holds the writer's, the
 * data pages follow it, twice in a row, so that a record never has to be read around the end. A record is 8 bytes of
 * header (length, with two flag bits, and a number that is the kernel's own business) and its data, padded to 8. A
 * record whose BUSY bit is set is being written: it rings again when it is done.
 *
 * Limits: one page of records. When it is full a port goes unnoticed; that takes 256 ports at once. A program that had
 * its socket from outside the group is not seen; nothing in a guest has one.
 */
#include "listeners.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HEADER 8u /* BPF_RINGBUF_HDR_SZ */

struct ga_listeners {
    struct ga_loop *loop;
    struct ga_source src; /* the map */
    int prog, cgroup;
    bool attached;
    size_t size; /* of the data, one page */
    uint8_t *reader, *writer;
    void (*on_port)(void *ctx, uint16_t port);
    void *ctx;
};

static int bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
    long r = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

    return r < 0 ? -errno : (int)r;
}

/* Takes what the writer has finished. */
static void on_ring(struct ga_source *src, uint32_t events)
{
    struct ga_listeners *l = src->ctx;
    unsigned long *mine = (unsigned long *)(void *)l->reader;
    unsigned long at = *mine;

    while (at < __atomic_load_n((unsigned long *)(void *)l->writer, __ATOMIC_ACQUIRE)) {
        uint8_t *rec = l->writer + l->size + at % l->size;
        uint32_t len = __atomic_load_n((uint32_t *)(void *)rec, __ATOMIC_ACQUIRE), port;

        if (len & BPF_RINGBUF_BUSY_BIT)
            break;
        if (!(len & BPF_RINGBUF_DISCARD_BIT) && len >= sizeof(port)) {
            memcpy(&port, rec + HEADER, sizeof(port));
            l->on_port(l->ctx, (uint16_t)port);
        }
        at += (HEADER + (len & ~BPF_RINGBUF_DISCARD_BIT) + 7) / 8 * 8;
        __atomic_store_n(mine, at, __ATOMIC_RELEASE);
    }
}

static int load(int map)
{
    static const char license[] = "Apache-2.0";
    const struct bpf_insn prog[] = {
        /* r2 = ctx->op, where ctx (struct bpf_sock_ops) is in r1 */
        {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = offsetof(struct bpf_sock_ops, op)},
        /* another point of a socket's life than listen(2): go to the end, 9 places on */
        {.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 2, .off = 9, .imm = BPF_SOCK_OPS_TCP_LISTEN_CB},
        /* r2 = ctx->local_port, in host byte order */
        {.code = BPF_LDX | BPF_MEM | BPF_W,
         .dst_reg = 2,
         .src_reg = 1,
         .off = offsetof(struct bpf_sock_ops, local_port)},
        /* *(u64 *)(r10 - 8) = r2: the record, on the stack */
        {.code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = 10, .src_reg = 2, .off = -8},
        /* r1 = the map; this instruction takes two places */
        {.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
        {0},
        /* r2 = r10 - 8 */
        {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 2, .src_reg = 10},
        {.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 2, .imm = -8},
        /* r3 = 8 bytes, r4 = no flags: wake the reader if it waits */
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = 8},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 4, .imm = 0},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_output},
        /* r0 = 1, return: the kernel goes on as it would have */
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attr = {
        .prog_type = BPF_PROG_TYPE_SOCK_OPS,
        .insn_cnt = sizeof(prog) / sizeof(prog[0]),
        .insns = (uintptr_t)prog,
        .license = (uintptr_t)license,
        .prog_name = "sm_listeners",
    };

    return bpf(BPF_PROG_LOAD, &attr);
}

static int open_ring(struct ga_listeners *l)
{
    union bpf_attr attr = {
        .map_type = BPF_MAP_TYPE_RINGBUF, .max_entries = (uint32_t)l->size, .map_name = "sm_listeners"};
    void *p;

    l->src.fd = bpf(BPF_MAP_CREATE, &attr);
    if (l->src.fd < 0)
        return l->src.fd;
    p = mmap(NULL, l->size, PROT_READ | PROT_WRITE, MAP_SHARED, l->src.fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    l->reader = p;
    p = mmap(NULL, 3 * l->size, PROT_READ, MAP_SHARED, l->src.fd, (off_t)l->size);
    if (p == MAP_FAILED)
        return -errno;
    l->writer = p;
    return ga_source_want(l->loop, &l->src, EPOLLIN);
}

static int attach(struct ga_listeners *l, bool on)
{
    union bpf_attr attr = {.target_fd = (uint32_t)l->cgroup,
                           .attach_bpf_fd = (uint32_t)l->prog,
                           .attach_type = BPF_CGROUP_SOCK_OPS,
                           /* programs in the guest may attach their own, above and below */
                           .attach_flags = on ? BPF_F_ALLOW_MULTI : 0};

    return bpf(on ? BPF_PROG_ATTACH : BPF_PROG_DETACH, &attr);
}

int ga_listeners_new(struct ga_loop *loop, int cgroup, void (*on_port)(void *ctx, uint16_t port), void *ctx,
                     struct ga_listeners **ret, struct ga_error *err)
{
    struct ga_listeners *l = calloc(1, sizeof(*l));
    int r;

    if (!l)
        return ga_error_set(err, ENOMEM, "no memory to hear of listening ports");
    *l = (struct ga_listeners){.loop = loop, .prog = -1, .cgroup = cgroup, .on_port = on_port, .ctx = ctx};
    l->size = (size_t)sysconf(_SC_PAGESIZE);
    ga_source_init(&l->src, -1, on_ring, l);
    r = open_ring(l);
    if (r >= 0)
        r = l->prog = load(l->src.fd);
    if (r >= 0)
        r = attach(l, true);
    if (r < 0) {
        ga_listeners_free(l);
        return ga_error_sys(err, -r, "asking the kernel to tell of listening ports");
    }
    l->attached = true;
    *ret = l;
    return 0;
}

void ga_listeners_free(struct ga_listeners *l)
{
    if (!l)
        return;
    if (l->attached)
        attach(l, false);
    if (l->reader)
        munmap(l->reader, l->size);
    if (l->writer)
        munmap(l->writer, 3 * l->size);
    ga_source_close(l->loop, &l->src);
    if (l->prog >= 0)
        close(l->prog);
    free(l);
}
