/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control protocol between the library and its worker (`supermachine-vmm`).
 *
 * Theory of operation
 *
 * One SOCK_SEQPACKET unix socket, descriptor 3 of the worker (CONTROL_FD). One packet is one frame; both ends were
 * built together, and CONFIG carries the version so that a mismatch is a sentence and not a puzzle. All integers are
 * little-endian; strings are u32 length + bytes, without NUL.
 *
 *     frame   = u16 type, u16 zero, u32 id, body
 *     request = library -> worker, id > 0 chosen by the library
 *     report  = worker -> library: a reply carries its request's id, an event has id 0
 *
 * Every request is answered by exactly one reply, in the order of the requests: ERROR {errno, sentence}, or what the
 * request says below (OK where it says nothing). A failed request changes nothing, except a failed START, after which
 * the worker can only be stopped. A frame that cannot be decoded is answered by ERROR too and ends the worker.
 *
 *     CONFIG         first, once; see struct control_config. Descriptors in this order: /dev/kvm, kernel, then
 *                    initramfs and console where their flag is set. With CONTROL_CONFIG_SELF_TEST the worker first
 *                    proves by a tiny guest that this KVM can run Linux (1 to 50 ms; ERROR with ENOTSUP and a sentence
 *                    when it can't). An owner that has seen it pass since the host booted leaves the flag out.
 *     DISK           before START, at most CONTROL_MAX_DISKS; the first is /dev/vda. Its descriptors are what the
 *                    extents' `fd` counts (0 = the first); an extent may share a descriptor with others.
 *     START          once: build the machine, shut the sandbox, run. After OK the guest runs.
 *     RESTORE        instead of START, where CONFIG had CONTROL_CONFIG_RESTORE: build the machine from a snapshot.
 *                    Descriptors: its `state`, its `memory`, both to be read only. CONFIG and DISKs must be as they
 * were when it was saved. Guest connections of that time are reset. SAVE           after START or RESTORE; descriptors:
 * empty files for `state` and `memory`, to be read and written. The machine stands still while they are written; then
 * it runs on, or, with CONTROL_SAVE_STOP, stays so until it is stopped. Reply SAVED. On ERROR it runs on, and the files
 * are worth nothing. VSOCK_CONNECT  after START; one descriptor, a connected unix stream socket, is joined to a port of
 * the guest. OK means taken over, not accepted: a refusal by the guest closes it. ENOTCONN: the guest's driver is not
 * up yet (it is when LIFECYCLE agent-ready has come). CONSOLE_TAIL   reply CONSOLE: what the serial console said last,
 * at most CONTROL_MAX_CONSOLE bytes. STATS          reply STATS. STOP           OK, then the event EXITED (stopped).
 * Closing the socket does the same without an answer.
 *
 * Events:
 *     LIFECYCLE      the guest rang the lifecycle device: kind and arg as in lifecycle_regs.h (SM_LC_EV_*; panics do
 *                    not come this way but as EXITED). A guest that rings faster than the owner reads loses
 *                    all but the latest of a kind (for listeners: all but CONTROL_MAX_LISTENERS ports).
 *     EXITED         the machine has stopped, why, and the console's tail. It is the last frame: the worker then closes
 *                    the socket and exits with status 0.
 * A worker that dies without EXITED (killed, crashed, seccomp) is seen as end of file; its wait status says how.
 *
 * Descriptors are taken over by the receiver in every case. Decoding never trusts: each `*_decode` is the one door for
 * its direction, checks every length, count and enum, and owns what it allocates until `*_done`.
 */
#ifndef SM_PROTO_CONTROL_H
#define SM_PROTO_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "base/buf.h"

#define CONTROL_VERSION 1
#define CONTROL_FD      3 /* the worker's end */

#define CONTROL_MAX_FRAME     (96 * 1024) /* bytes; receive into a buffer of this size */
#define CONTROL_MAX_FDS       250         /* descriptors in one frame, below SCM_MAX_FD */
#define CONTROL_MAX_CMDLINE   1024        /* bytes that the library may add to the kernel command line */
#define CONTROL_MAX_TEXT      2047        /* bytes of a sentence: fits struct sm_error */
#define CONTROL_MAX_CONSOLE   (64 * 1024) /* bytes of console tail */
#define CONTROL_MAX_PROFILE   (16 * 1024) /* bytes of exit profile text */
#define CONTROL_MAX_DISKS     8
#define CONTROL_MAX_EXTENTS   1024 /* of one disk */
#define CONTROL_MAX_LISTENERS 64
#define CONTROL_SERIAL_MAX    20 /* bytes of a disk's serial, virtio 1.2 §5.2.6.1 */

#define CONTROL_MIN_MEMORY_MIB 32
#define CONTROL_MAX_MEMORY_MIB (64 * 1024)
#define CONTROL_MAX_VCPUS      16
#define CONTROL_MIN_CID        3 /* 0 to 2 are reserved: vsock(7) */

enum control_request_type {
    CONTROL_CONFIG = 1,
    CONTROL_DISK = 2,
    CONTROL_START = 3,
    CONTROL_STOP = 4,
    CONTROL_VSOCK_CONNECT = 5,
    CONTROL_CONSOLE_TAIL = 6,
    CONTROL_STATS = 7,
    CONTROL_RESTORE = 8,
    CONTROL_SAVE = 9,
};

enum control_report_type {
    CONTROL_OK = 0x81,
    CONTROL_ERROR = 0x82,
    CONTROL_CONSOLE = 0x83,
    CONTROL_STATS_REPLY = 0x84,
    CONTROL_SAVED = 0x85,
    CONTROL_LIFECYCLE = 0xc1,
    CONTROL_EXITED = 0xc2,
};

/* struct control_config.flags */
#define CONTROL_CONFIG_SELF_TEST (1u << 0) /* prove first that KVM can run Linux */
#define CONTROL_CONFIG_INITRAMFS (1u << 1) /* an initramfs descriptor is there */
#define CONTROL_CONFIG_CONSOLE   (1u << 2) /* a descriptor that gets a copy of console output: see below */
#define CONTROL_CONFIG_VERBOSE   (1u << 3) /* the kernel says everything it does (no `quiet`) */
#define CONTROL_CONFIG_PROFILE   (1u << 4) /* count and time exits: STATS then has a profile */
#define CONTROL_CONFIG_TRACE     (1u << 5) /* log accesses that nobody answers, to the worker's stderr */
#define CONTROL_CONFIG_RESTORE   (1u << 6) /* RESTORE will follow: there is no kernel descriptor, and no initramfs */
#define CONTROL_CONFIG_ALL_FLAGS 0x7fu

#define CONTROL_SAVE_STOP      (1u << 0) /* do not run on */
#define CONTROL_SAVE_ALL_FLAGS 1u

#define CONTROL_GENERATION_SIZE 16 /* SM_LC_GENERATION */

/*
 * The console descriptor is made non-blocking by the worker (mind that this acts on the open file description: give it
 * a pipe or socket of its own, not a terminal). Bytes that it can't take at once are dropped there, never in the tail.
 */
struct control_config {
    uint32_t memory_mib; /* CONTROL_MIN_MEMORY_MIB to CONTROL_MAX_MEMORY_MIB */
    uint32_t vcpus;      /* 1 to CONTROL_MAX_VCPUS */
    uint32_t flags;
    uint64_t guest_cid; /* >= CONTROL_MIN_CID, < 2^32 - 1 */
    /* Appended to the worker's own kernel command line, before the device descriptions. Printable ASCII. */
    char cmdline[CONTROL_MAX_CMDLINE + 1];
};

struct control_extent {
    uint32_t fd;     /* which of the frame's descriptors */
    uint64_t offset; /* bytes */
    uint64_t length; /* bytes, > 0, a multiple of 512 */
};

struct control_disk {
    bool writable; /* then exactly one extent */
    char serial[CONTROL_SERIAL_MAX + 1];
    uint32_t n_extents;
    struct control_extent *extents; /* to encode: the caller's; decoded: freed by control_request_done() */
};

struct control_request {
    enum control_request_type type;
    uint32_t id; /* > 0 */
    union {
        struct control_config config;
        struct control_disk disk;
        uint32_t port;                               /* VSOCK_CONNECT */
        uint32_t save_flags;                         /* SAVE: CONTROL_SAVE_* */
        uint8_t generation[CONTROL_GENERATION_SIZE]; /* RESTORE: the clone's identity, never all zero */
    };
};

enum control_exit_reason {
    CONTROL_EXIT_STOPPED = 1,      /* the owner asked */
    CONTROL_EXIT_POWER_OFF = 2,    /* the guest powered itself off */
    CONTROL_EXIT_RESET = 3,        /* the guest asked for a reset */
    CONTROL_EXIT_PANIC = 4,        /* the guest's kernel panicked; `text` holds what it said */
    CONTROL_EXIT_TRIPLE_FAULT = 5, /* the guest's processor shut down */
    CONTROL_EXIT_VCPU_ERROR = 6,   /* KVM could not run a vCPU any further; `text` says which and why */
};

/* Steps of the sandbox that took effect; all that the host allows are tried (src/vmm/sandbox.c has the reasons). */
#define CONTROL_SANDBOX_FDS       (1u << 0) /* stray descriptors closed */
#define CONTROL_SANDBOX_RLIMITS   (1u << 1)
#define CONTROL_SANDBOX_NODUMP    (1u << 2)
#define CONTROL_SANDBOX_OWNER     (1u << 3) /* the owner's death is watched: the worker ends with it */
#define CONTROL_SANDBOX_USERNS    (1u << 4)
#define CONTROL_SANDBOX_MOUNTNS   (1u << 5) /* and an empty root */
#define CONTROL_SANDBOX_NETNS     (1u << 6)
#define CONTROL_SANDBOX_IPCNS     (1u << 7)
#define CONTROL_SANDBOX_UTSNS     (1u << 8)
#define CONTROL_SANDBOX_LANDLOCK  (1u << 9)
#define CONTROL_SANDBOX_CAPS      (1u << 10) /* none left, none to be had */
#define CONTROL_SANDBOX_NONEWPRIV (1u << 11)
#define CONTROL_SANDBOX_SECCOMP   (1u << 12)

/* Exits are counted by kind; a newer worker may know more kinds than its owner. */
#define CONTROL_MAX_EXIT_KINDS 32
#define CONTROL_EXIT_NAME_MAX  15

struct control_exit_count {
    char name[CONTROL_EXIT_NAME_MAX + 1]; /* "mmio-write", "pio-read", ... */
    uint64_t count;
};

struct control_stats {
    uint64_t memory_bytes; /* guest RAM */
    uint64_t setup_ns;     /* from START's arrival to the first vCPU's first entry */
    uint64_t uptime_ns;    /* since then */
    uint64_t events_lost;  /* LIFECYCLE events that were not delivered */
    uint32_t vcpus;
    uint32_t sandbox; /* CONTROL_SANDBOX_* */
    uint32_t n_exits;
    struct control_exit_count exits[CONTROL_MAX_EXIT_KINDS];
    char *profile; /* text, one line per place, or ""; decoded: freed by control_report_done() */
};

struct control_saved {
    uint64_t pause_ns;               /* in which no vCPU ran */
    uint64_t data_pages, zero_pages; /* of 4 KiB: written; looked at and left out */
};

struct control_report {
    enum control_report_type type;
    uint32_t id; /* of the request; 0 for events */
    union {
        struct {
            int code; /* positive errno */
            char *text;
        } error;
        struct {
            char *data; /* any bytes, NUL-terminated behind the last */
            uint32_t len;
        } console;
        struct control_stats *stats; /* never NULL in a decoded STATS_REPLY */
        struct control_saved saved;
        struct {
            uint32_t kind; /* SM_LC_EV_* */
            uint64_t arg;
        } lifecycle;
        struct {
            enum control_exit_reason reason;
            char *text;    /* one sentence; for a panic what the kernel said, may have newlines */
            char *console; /* any bytes, NUL-terminated behind the last */
            uint32_t console_len;
        } exited;
    };
};

/*
 * Encode: append one frame to `out` (buf_init(CONTROL_MAX_FRAME)). 0, or -EINVAL / -EMSGSIZE when the content is
 * against the limits above: the other side would refuse it.
 */
int control_request_encode(const struct control_request *req, struct buf *out, struct sm_error *err);
int control_report_encode(const struct control_report *rep, struct buf *out, struct sm_error *err);

/*
 * Decode one frame that came with `n_fds` descriptors (which stay the caller's). 0, or -EPROTO and a sentence with *ret
 * untouched. Everything in *ret is within its limits and consistent with `n_fds`.
 */
int control_request_decode(const void *frame, size_t len, unsigned n_fds, struct control_request *ret,
                           struct sm_error *err);
int control_report_decode(const void *frame, size_t len, struct control_report *ret, struct sm_error *err);

/* The id of a frame whose decoding failed, for the ERROR reply; 0 when there is none. */
uint32_t control_frame_id(const void *frame, size_t len);

/* Free what decoding allocated; NULL and all-zero structs are fine. */
void control_request_done(struct control_request *req);
void control_report_done(struct control_report *rep);

/* "power-off", "panic", ...; "" for a number that is none. */
const char *control_exit_name(enum control_exit_reason reason);

#endif
