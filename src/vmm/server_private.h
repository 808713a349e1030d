/* SPDX-License-Identifier: Apache-2.0 */
/* Inside the control server: what its files (server.c, serve_*.c) share. Everything is the main thread's. */
#ifndef SM_VMM_SERVER_PRIVATE_H
#define SM_VMM_SERVER_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/loop.h"
#include "dev/blk.h"
#include "dev/virtio.h"
#include "machine/machine.h"
#include "proto/control.h"
#include "vmm/sandbox.h"
#include "vmm/sigbus.h"

/* See server.c for what leads from one to another. */
enum server_state { SERVER_NEW, SERVER_CONFIGURED, SERVER_RUNNING, SERVER_SAVED, SERVER_FAILED };

struct server {
    struct loop *loop;
    int sock;
    struct loop_source sock_src;
    int owner; /* pidfd, -1 when there is none to watch */
    struct loop_source owner_src;
    bool owner_gone;
    enum server_state state;
    struct control_config config;
    struct machine_ops ops;
    int kvm_fd, kernel_fd, initramfs_fd, console_fd;
    struct virtio_dev *disk[CONTROL_MAX_DISKS]; /* until the machine takes them */
    unsigned n_disks;
    struct machine *machine;
    struct virtio_dev *vsock;         /* the machine's */
    struct virtio_dev *prepared_disk; /* likewise, while it is empty; NULL: none */
    struct serve_bake *bake;          /* what is armed; NULL: nothing */
    struct sandbox_filters *filters;
    uint32_t sandbox;            /* steps taken */
    uint64_t start_ns, built_ns; /* CLOCK_MONOTONIC */
    uint8_t *frame;              /* CONTROL_MAX_FRAME bytes to receive into */
    struct buf last_frame;       /* of a worker that cannot say any other */
    struct sigbus_words last_words;
};

/* A frame's descriptors: what a handler takes is set to -1, the rest is closed. */
struct fds {
    int fd[CONTROL_MAX_FDS];
    unsigned n;
};

/* --- server.c: for the others --- */

/* Waits a bounded time for room in the socket; an owner that reads nothing is given up. */
void server_reply(struct server *s, const struct control_report *rep);

/* OK, or ERROR with `err` when r < 0. */
void server_reply_result(struct server *s, uint32_t id, int r, struct sm_error *err);

int server_wrong_time(struct sm_error *err, const char *request);

/* An empty machine with its devices. */
int server_build_machine(struct server *s, struct sm_error *err);

/* From here on the process can do what a running machine needs, and no more. Twice is once. */
int server_shut_in(struct server *s, struct sm_error *err);

/* What is in the machine has been put there: shut the process in, and run. */
int server_go(struct server *s, struct sm_error *err);

/* --- serve_snapshot.c --- */

int serve_restore(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err);
int serve_touched(struct server *s, struct fds *fds, struct sm_error *err);
/* Replies by itself. */
void serve_save(struct server *s, const struct control_request *req, struct fds *fds);

struct control_saved server_saved(const struct machine_saved *saved);

/* --- serve_bake.c --- */

int serve_bake(struct server *s, const struct control_request *req, struct fds *fds, struct sm_error *err);
/* At the server's end. */
void serve_bake_done(struct server *s);

/* --- serve_prepare.c --- */

/* At CONFIG with CONTROL_CONFIG_PREPARE. */
int serve_prepare(struct server *s, struct sm_error *err);
/* The DISK of a prepared machine. Takes the descriptors over, also on failure. */
int serve_attach(struct server *s, const struct blk_config *config, struct sm_error *err);
int serve_rewind(struct server *s, const struct control_request *req, struct sm_error *err);

#endif
