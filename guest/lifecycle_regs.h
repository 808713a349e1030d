/* SPDX-License-Identifier: (GPL-2.0-only OR Apache-2.0) */
/*
 * Registers of the lifecycle device, version 1: one 4 KiB MMIO page and one edge-triggered interrupt.
 * Shared by the guest driver (guest/kernel/) and the worker's device model (src/dev/lifecycle.c).
 * docs/lifecycle-device.md explains the protocol; this file is the only place that holds the numbers.
 *
 * Little-endian. A register is accessed with exactly its own width (32 bits unless it says otherwise);
 * any other access reads 0 and is ignored when written.
 */
#ifndef SM_LIFECYCLE_REGS_H
#define SM_LIFECYCLE_REGS_H

#define SM_LC_PAGE_SIZE 0x1000

/* Identification. */
#define SM_LC_MAGIC    0x000 /* R: SM_LC_MAGIC_VALUE */
#define SM_LC_VERSION  0x004 /* R: SM_LC_VERSION_VALUE */
#define SM_LC_FEATURES 0x008 /* R: bits SM_LC_F_* */

#define SM_LC_MAGIC_VALUE   0x434c4d53 /* "SMLC" */
#define SM_LC_VERSION_VALUE 1

#define SM_LC_F_EVENTS  (1u << 0) /* guest -> host events and power control */
#define SM_LC_F_RESTORE (1u << 1) /* generation id, wall clock and seed are valid after a restore */
#define SM_LC_F_PARK    (1u << 2) /* the host may ask for parking */

/* Interrupt: status bits say why; writing a bit to ACK clears it. */
#define SM_LC_INT_STATUS 0x00c /* R */
#define SM_LC_INT_ACK    0x010 /* W */

#define SM_LC_INT_RESTORED (1u << 0)
#define SM_LC_INT_PARK     (1u << 1)
#define SM_LC_INT_UNPARK   (1u << 2)

/* Guest -> host events: write the argument (64 bits), then ring the doorbell with the kind. */
#define SM_LC_EVENT_ARG 0x020 /* W, 64 bits */
#define SM_LC_EVENT     0x028 /* W: enum below; taken with the current argument, which then becomes 0 */
#define SM_LC_POWER     0x02c /* W: SM_LC_POWER_* */

#define SM_LC_EV_AGENT_READY     1 /* arg: 0 */
#define SM_LC_EV_HEARTBEAT       2 /* arg: counter, grows */
#define SM_LC_EV_PRE_EXEC        3 /* arg: 0 */
#define SM_LC_EV_WORKLOAD_PARKED 4 /* arg: exit status as wait(2) gives it */
#define SM_LC_EV_LISTENER        5 /* arg: TCP port, host byte order */
#define SM_LC_EV_PANIC           6 /* arg: bytes of text in the window, at most SM_LC_TEXT_SIZE */

#define SM_LC_POWER_OFF   1
#define SM_LC_POWER_RESET 2

/* Host -> guest: what a restored machine must know (SM_LC_F_RESTORE). */
#define SM_LC_GENERATION 0x040 /* R, 16 bytes read as two 64-bit registers: a new id for every restore */
#define SM_LC_WALL_CLOCK 0x050 /* R, 64 bits: CLOCK_REALTIME of the host in ns, sampled by the read itself */
#define SM_LC_SEED       0x060 /* R, 32 bytes as four 64-bit registers: fresh entropy, each reads once, then 0 */
#define SM_LC_RENEWED    0x084 /* W: 1 when random numbers and clock are the clone's own: other vCPUs may run */

/* Host -> guest: parking of secondary vCPUs (SM_LC_F_PARK). */
#define SM_LC_PARK_STATE 0x080 /* W: number of secondary vCPUs now parked */

/* Panic text window, plain bytes: any width and alignment inside it. */
#define SM_LC_TEXT      0x800
#define SM_LC_TEXT_SIZE 0x400

#endif
