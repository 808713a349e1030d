/* SPDX-License-Identifier: Apache-2.0 */
/* 8250 UART, output only: boot messages and panics, kept in a bounded ring as evidence for errors. */
#ifndef SM_DEV_SERIAL_H
#define SM_DEV_SERIAL_H

#include <stddef.h>
#include <stdint.h>

#include <supermachine/supermachine.h>

#include "snap/stream.h"

#define SERIAL_RING_SIZE (64 * 1024)
#define SERIAL_PORTS     8

struct serial;

/*
 * `irq_fd`: eventfd for the transmitter-empty interrupt, the caller's. `tee`, when not NULL, sees every byte as it
 * comes (verbose boots); it runs on a vCPU thread.
 */
int serial_new(struct serial **ret, int irq_fd, void (*tee)(void *ctx, uint8_t byte), void *ctx, struct sm_error *err);
void serial_free(struct serial *s);

/* Register access from any vCPU thread; `reg` 0..7, byte wide. */
uint8_t serial_read(struct serial *s, unsigned reg);
void serial_write(struct serial *s, unsigned reg, uint8_t value);

/* The last min(max, kept) bytes, oldest first; returns how many. Any thread. */
size_t serial_tail(struct serial *s, char *buf, size_t max);

/*
 * Save or load the registers. What was printed is no part of it: the tail of a restored machine is its own. vCPUs
 * stopped.
 */
void serial_state(struct serial *s, struct snap_stream *stream);

/* After loading or saving: raise the interrupt again if it is pending. */
void serial_resume(struct serial *s);

#endif
