/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The self-test's guest: it does what an ordinary kernel does in its first moments, and says by port writes how far it
 * came. It is data here, never run by the process itself: selftest.c copies it to GUEST_CODE of a small machine, whose
 * page tables, GDT and IDT it has laid out, and enters at the start in 32-bit protected mode with paging off.
 */
#include "hv/selftest_guest.h"

/* A label's address in the guest. */
#define AT(label) (GUEST_CODE + (label) - sm_selftest_guest)

        .section .rodata
        .balign 16
        .globl  sm_selftest_guest, sm_selftest_guest_end, sm_selftest_guest_trap, sm_selftest_guest_int3
        .hidden sm_selftest_guest, sm_selftest_guest_end, sm_selftest_guest_trap, sm_selftest_guest_int3

        .code32
sm_selftest_guest:
        lgdtl   GUEST_GDTR
        movl    $GUEST_PML4, %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx       /* EFER: LME, SCE */
        rdmsr
        orl     $0x101, %eax
        wrmsr
        movl    $0x80010033, %eax       /* PG, WP, NE, ET, MP, PE */
        movl    %eax, %cr0
        ljmpl   $SEL_KERNEL_CODE, $AT(long_mode)

        .code64
long_mode:
        movl    $SEL_KERNEL_DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $GUEST_STACK, %esp
        lidt    GUEST_IDTR
        movb    $STEP_LONG_MODE, %al
        outb    %al, $PORT_STEP

        /* Speed of ring 0, as often as the host asks. */
1:      movb    $STEP_LOOP, %al
        outb    %al, $PORT_STEP
        movl    $LOOP_ROUNDS, %ecx
2:      decl    %ecx
        jnz     2b
        movb    $STEP_LOOP_END, %al
        outb    %al, $PORT_STEP
        inb     $PORT_AGAIN, %al
        testb   %al, %al
        jnz     1b

        movl    $1, %eax
        cpuid
        movl    %ecx, %esi              /* features: leaf 1 ECX */

        movb    $STEP_POPCNT, %al
        outb    %al, $PORT_STEP
        btl     $23, %esi
        jnc     3f
        movl    $0xf0f, %eax
        popcntl %eax, %eax
        cmpl    $8, %eax
        jne     wrong

3:      movb    $STEP_CMPXCHG16B, %al
        outb    %al, $PORT_STEP
        btl     $13, %esi
        jnc     4f
        xorl    %eax, %eax
        xorl    %edx, %edx
        movl    $1, %ebx
        movl    $2, %ecx
        lock cmpxchg16b GUEST_SCRATCH
        jnz     wrong
        cmpl    $2, GUEST_SCRATCH + 8
        jne     wrong

4:      movb    $STEP_XSAVE, %al
        outb    %al, $PORT_STEP
        btl     $26, %esi
        jnc     5f
        movq    %cr4, %rax
        orl     $0x40000, %eax          /* OSXSAVE */
        movq    %rax, %cr4
        movl    $3, %eax                /* x87 and SSE */
        xorl    %edx, %edx
        xorl    %ecx, %ecx
        xsetbv
        xsave   GUEST_XSAVE
        xrstor  GUEST_XSAVE

5:      movb    $STEP_SMAP, %al
        outb    %al, $PORT_STEP
        xorl    %eax, %eax
        cpuid
        cmpl    $7, %eax
        jb      6f
        movl    $7, %eax
        xorl    %ecx, %ecx
        cpuid
        btl     $20, %ebx
        jnc     6f
        stac
        clac

6:      movb    $STEP_INT3, %al
        outb    %al, $PORT_STEP
        xorl    %edi, %edi
        int3
        cmpl    $1, %edi
        jne     wrong

        /* To user mode and back. */
        movb    $STEP_SYSCALL, %al
        outb    %al, $PORT_STEP
        movl    $0xc0000081, %ecx       /* STAR */
        xorl    %eax, %eax
        movl    $(SEL_SYSRET_BASE << 16 | SEL_KERNEL_CODE), %edx
        wrmsr
        movl    $0xc0000082, %ecx       /* LSTAR */
        movl    $AT(from_user), %eax
        xorl    %edx, %edx
        wrmsr
        movl    $0xc0000084, %ecx       /* SFMASK */
        xorl    %eax, %eax
        wrmsr
        movl    $AT(user), %ecx
        movl    $2, %r11d
        sysretq
user:   movl    %cs, %ebx
        syscall
        ud2
from_user:
        movl    $GUEST_STACK, %esp
        andl    $3, %ebx
        cmpl    $3, %ebx
        jne     wrong
        movl    %cs, %eax
        cmpl    $SEL_KERNEL_CODE, %eax
        jne     wrong
        movq    %cr0, %rax              /* privileged: traps when this is still user mode */

        movb    $STEP_DONE, %al
        outb    %al, $PORT_STEP
        hlt

wrong:  movb    $STEP_WRONG, %al
        outb    %al, $PORT_STEP
        hlt

sm_selftest_guest_trap:
        movb    $STEP_TRAP, %al
        outb    %al, $PORT_STEP
        hlt

sm_selftest_guest_int3:
        incl    %edi
        iretq
sm_selftest_guest_end:

        .section .note.GNU-stack, "", @progbits
