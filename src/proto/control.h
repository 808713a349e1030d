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
 * Every request is answered by exactly one reply, in the order of the requests (but for SAVE): ERROR {errno, sentence},
 * or what the request says below (OK where it says nothing). A failed request changes nothing, except a failed START,
 * after which the worker can only be stopped. A frame that cannot be decoded is answered by ERROR too and ends the
 * worker.
 *
 *     CONFIG         first, once; see struct control_config. Descriptors in this order: /dev/kvm, kernel, then
 *                    initramfs and console where their flag is set. With CONTROL_CONFIG_SELF_TEST the worker first
 *                    proves by a tiny guest that this KVM can run Linux (1 to 50 ms; ERROR with ENOTSUP and a sentence
 *                    when it can't). An owner that has seen it pass since the host booted leaves the flag out.
 *     DISK           before START, at most CONTROL_MAX_DISKS; the first is /dev/vda. Its descriptors are what the
 *                    extents' `fd` counts (0 = the first); an extent may share a descriptor with others.
 *     START          once: build the machine, shut the sandbox, run. After OK the guest runs.
 *     RESTORE        instead of START, where CONFIG had CONTROL_CONFIG_RESTORE: build the machine from a snapshot.
 *                    Descriptors, to be read only: `state`, `memory`; with CONTROL_RESTORE_DIFF then the base's
 *                    `memory` and `diff`; with CONTROL_RESTORE_PREFETCH then `prefetch`. CONFIG and DISKs must be as
 *                    they were when it was saved, but for a disk's content and size: a guest learns of a new size by
 *                    the device's configuration interrupt. Guest connections of that time are reset.
 *     SAVE           after START or RESTORE. Descriptors: empty files for `state` and `memory`, to be read and written;
 *                    with CONTROL_SAVE_DIFF one more for `diff`. The machine stands still while memory is written;
 *                    with CONTROL_SAVE_LIVE only while what was written meanwhile is. Then it runs on, or, with
 *                    CONTROL_SAVE_STOP, stays so until it is stopped. Reply SAVED, which may come after the replies of
 *                    later requests when it is LIVE. On ERROR the machine runs on, and the files are worth nothing.
 *                    The worker makes no file durable: that is the owner's (fsync(2)), who publishes them.
 *     BAKE           after START or RESTORE, once: as struct control_bake says. Descriptors as SAVE's; none with
 *                    CONTROL_BAKE_POOL. OK means armed; the outcome comes as the event BAKED.
 *     REWIND         after RESTORE: the machine goes back, in place, to the snapshot it was restored from, with this
 *                    new generation. After OK it runs.
 *     TOUCHED        after RESTORE; one descriptor, an empty file, to be read and written: gets the list of pages that
 *                    the machine has touched since it was restored, as `prefetch`.
 *     VSOCK_CONNECT  after START; one descriptor, a connected unix stream socket, is joined to a port of the guest.
 *                    OK means taken over, not accepted: a refusal by the guest closes it. ENOTCONN: the guest's driver
 *                    is not up yet (it is when LIFECYCLE agent-ready has come).
 *     CONSOLE_TAIL   reply CONSOLE: what the serial console said last, at most CONTROL_MAX_CONSOLE bytes.
 *     STATS          reply STATS.
 *     STOP           OK, then the event EXITED (stopped). Closing the socket does the same without an answer.
 *
 * Events:
 *     LIFECYCLE      the guest rang the lifecycle device: kind and arg as in lifecycle_regs.h (SM_LC_EV_*; panics do
 *                    not come this way but as EXITED). A guest that rings faster than the owner reads loses
 *                    all but the latest of a kind (for listeners: all but CONTROL_MAX_LISTENERS ports).
 *     BAKED          how an armed bake ended, once; see struct control_baked.
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

#define CONTROL_VERSION 2
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
    CONTROL_BAKE = 10,
    CONTROL_REWIND = 11,
    CONTROL_TOUCHED = 12,
};

enum control_report_type {
    CONTROL_OK = 0x81,
    CONTROL_ERROR = 0x82,
    CONTROL_CONSOLE = 0x83,
    CONTROL_STATS_REPLY = 0x84,
    CONTROL_SAVED = 0x85,
    CONTROL_LIFECYCLE = 0xc1,
    CONTROL_EXITED = 0xc2,
    CONTROL_BAKED = 0xc3,
};

/* struct control_config.flags */
#define CONTROL_CONFIG_SELF_TEST (1u << 0) /* prove first that KVM can run Linux */
#define CONTROL_CONFIG_INITRAMFS (1u << 1) /* an initramfs descriptor is there */
#define CONTROL_CONFIG_CONSOLE   (1u << 2) /* a descriptor that gets a copy of console output: see below */
#define CONTROL_CONFIG_VERBOSE   (1u << 3) /* the kernel says everything it does (no `quiet`) */
#define CONTROL_CONFIG_PROFILE   (1u << 4) /* count and time exits: STATS then has a profile */
#define CONTROL_CONFIG_TRACE     (1u << 5) /* log accesses that nobody answers, to the worker's stderr */
#define CONTROL_CONFIG_RESTORE   (1u << 6) /* RESTORE will follow: there is no kernel descriptor, and no initramfs */
/*
 * With CONTROL_CONFIG_RESTORE only: build the machine now, before its snapshot is known: memory, VM, vCPUs, and one
 * read-only disk that is empty. The one DISK that may come later gives that disk its extents.
 */
#define CONTROL_CONFIG_PREPARE   (1u << 7)
#define CONTROL_CONFIG_ALL_FLAGS 0xffu

/* struct control_restore.flags */
#define CONTROL_RESTORE_DIFF      (1u << 0) /* memory is a base's and a diff's */
#define CONTROL_RESTORE_PREFETCH  (1u << 1) /* a list of pages that are needed soon is there */
#define CONTROL_RESTORE_ALL_FLAGS 3u

/* SAVE */
#define CONTROL_SAVE_STOP      (1u << 0) /* do not run on */
#define CONTROL_SAVE_DIFF      (1u << 1) /* only what is not as in the snapshot it was restored from, or in its base */
#define CONTROL_SAVE_LIVE      (1u << 2) /* memory is copied while the guest runs on */
#define CONTROL_SAVE_ALL_FLAGS 7u

/* struct control_bake.flags */
#define CONTROL_BAKE_PRE_EXEC         (1u << 0) /* triggers: see machine/triggers.h */
#define CONTROL_BAKE_LISTENER         (1u << 1)
#define CONTROL_BAKE_REQUIRE_LISTENER (1u << 2) /* with LISTENER and `after_ms` */
#define CONTROL_BAKE_DIFF             (1u << 3) /* as CONTROL_SAVE_DIFF */
#define CONTROL_BAKE_STOP             (1u << 4) /* as CONTROL_SAVE_STOP */
#define CONTROL_BAKE_POOL             (1u << 5) /* nothing is saved; BAKED says bake_ready, and the machine runs on */
#define CONTROL_BAKE_ALL_FLAGS        0x3fu

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

struct control_restore {
    uint32_t flags;
    uint8_t generation[CONTROL_GENERATION_SIZE]; /* the clone's identity, never all zero */
};

/* At least one trigger must be on: one of the flags, `heartbeat` or `after_ms`. */
struct control_bake {
    uint32_t flags;
    uint64_t heartbeat;            /* the guest's counter; 0: off */
    uint32_t after_ms, quiesce_ms; /* 0: never; not at all */
};

struct control_request {
    enum control_request_type type;
    uint32_t id; /* > 0 */
    union {
        struct control_config config;
        struct control_disk disk;
        uint32_t port; /* VSOCK_CONNECT */
        struct control_restore restore;
        uint32_t save_flags; /* SAVE: CONTROL_SAVE_* */
        struct control_bake bake;
        uint8_t generation[CONTROL_GENERATION_SIZE]; /* REWIND: never all zero */
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
    /* From START's or RESTORE's arrival; 0: not reached, or nothing that was done. */
    uint64_t built_ns;      /* VM, vCPUs and devices are there */
    uint64_t mapped_ns;     /* a snapshot's memory is in its place */
    uint64_t loaded_ns;     /* and its state */
    uint64_t first_exit_ns; /* the guest has run, and come out of it */
    uint64_t events_lost;   /* LIFECYCLE events that were not delivered */
    uint32_t vcpus;
    uint32_t sandbox; /* CONTROL_SANDBOX_* */
    uint32_t n_exits;
    struct control_exit_count exits[CONTROL_MAX_EXIT_KINDS];
    char *profile; /* text, one line per place, or ""; decoded: freed by control_report_done() */
};

struct control_saved {
    uint64_t total_ns;               /* from the request, or the trigger, to the end of writing */
    uint64_t pause_ns;               /* in which no vCPU ran */
    uint64_t data_pages, zero_pages; /* of 4 KiB: written; looked at and left out */
    uint64_t live_pages;             /* copied before the pause (LIVE); data_pages counts each page once */
    uint32_t devices;                /* virtio devices */
    uint32_t listeners;              /* ports on which the guest has said to listen */
};

/* Numbers of machine/triggers.h. */
enum control_trigger {
    CONTROL_TRIGGER_HEARTBEAT,
    CONTROL_TRIGGER_PRE_EXEC,
    CONTROL_TRIGGER_LISTENER,
    CONTROL_TRIGGER_PARKED,
    CONTROL_TRIGGER_AFTER,
    CONTROL_TRIGGER_NONE, /* none has fired */
};

enum control_bake_exit {
    CONTROL_BAKE_CANCELED,
    CONTROL_BAKE_STOPPED,
    CONTROL_BAKE_SNAPSHOT_SAVED,
    CONTROL_BAKE_SYSTEM_OFF,
    CONTROL_BAKE_READY,
};

struct control_baked {
    enum control_bake_exit exit;
    enum control_trigger trigger;
    int code;   /* 0, or a positive errno: the bake has failed, and the files are worth nothing */
    char *text; /* the trigger's log line, or the failure's sentence; decoded: freed by control_report_done() */
    struct control_saved saved; /* of SNAPSHOT_SAVED */
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
        struct control_baked baked;
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

/* "pre-exec", ..., "none"; "snapshot_saved", ...; "" for a number that is none. */
const char *control_trigger_name(enum control_trigger trigger);
const char *control_bake_exit_name(enum control_bake_exit e);

#endif
