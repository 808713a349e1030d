/* SPDX-License-Identifier: Apache-2.0 */
/* Named machines, reached from other processes of the same user: a socket in the store for each. */
#ifndef SM_LIB_REMOTE_H
#define SM_LIB_REMOTE_H

#include "base/loop.h"
#include "lib/remote_wire.h"

struct remote;

/*
 * Does what was asked. Called from a timer of the loop, outside of all other callbacks: it may wait in that loop. 0, or
 * -errno and a sentence.
 */
typedef int remote_save_fn(void *ctx, const struct remote_request *req, struct remote_saved *ret, struct sm_error *err);

/*
 * Take the name: whoever asks from now on waits until remote_serve(). `store` is the store's directory. -EEXIST and a
 * sentence when a live process has it; a dead one's is taken over.
 */
int remote_new(struct remote **ret, const char *store, const char *name, struct sm_error *err);

/* Answer, in this loop. `loop`, `save` and `ctx` must outlive the object. */
int remote_serve(struct remote *r, struct loop *loop, remote_save_fn *save, void *ctx, struct sm_error *err);

/* Gives the name up. Not from within `save`. */
void remote_free(struct remote *r);

/* The other side: ask, and wait for the answer. What the machine's owner refused comes with its sentence. */
int remote_ask(const char *store, const char *name, const struct remote_request *req, struct remote_saved *ret,
               struct sm_error *err);

#endif
