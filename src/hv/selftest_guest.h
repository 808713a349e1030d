/* SPDX-License-Identifier: Apache-2.0 */
/* What the self-test's guest (assembly) and its host agree on: addresses, ports, steps. */
#ifndef SM_HV_SELFTEST_GUEST_H
#define SM_HV_SELFTEST_GUEST_H

/* Guest-physical layout of 64 KiB, mapped one to one. */
#define GUEST_MEMORY  0x10000
#define GUEST_PML4    0x1000
#define GUEST_PDPT    0x2000
#define GUEST_PD      0x3000
#define GUEST_GDT     0x4000
#define GUEST_GDTR    0x4100
#define GUEST_IDTR    0x4110
#define GUEST_SCRATCH 0x4200
#define GUEST_IDT     0x5000
#define GUEST_XSAVE   0x6000
#define GUEST_CODE    0x8000
#define GUEST_STACK   0xf000

/* Selectors; SYSRET takes base + 8 (stack) and base + 16 (code), both with privilege 3. */
#define SEL_KERNEL_CODE 0x08
#define SEL_KERNEL_DATA 0x10
#define SEL_SYSRET_BASE 0x13
#define SEL_USER_DATA   0x18
#define SEL_USER_CODE   0x20

#define PORT_STEP  0xf0
#define PORT_AGAIN 0xf1 /* read: 1 to time the loop again */

#define LOOP_ROUNDS 10000 /* of two instructions */

/* A step is told before it is tried. */
#define STEP_LONG_MODE  1
#define STEP_LOOP       2
#define STEP_LOOP_END   3
#define STEP_POPCNT     4
#define STEP_CMPXCHG16B 5
#define STEP_XSAVE      6
#define STEP_SMAP       7
#define STEP_INT3       8
#define STEP_SYSCALL    9
#define STEP_DONE       10
#define STEP_WRONG      0xfe /* the step before gave a wrong result */
#define STEP_TRAP       0xff /* the step before raised an exception that it should not */

#endif
