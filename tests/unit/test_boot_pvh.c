/* SPDX-License-Identifier: Apache-2.0 */
/* The PVH loader: what it puts where, and every header field broken in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "arch/layout_x86_64.h"
#include "base/buf.h"
#include "base/checked.h"
#include "machine/boot_pvh.h"
#include "pvh_kernel.h"

#define RAM (4 * MIB)

static uint8_t *ram;
static struct guest_mem mem;

static int set_up(void **state)
{
    ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mem = (struct guest_mem){.n_regions = 0};
    return ram == MAP_FAILED || mem_add(&mem, 0, RAM, ram, NULL);
}

static int tear_down(void **state)
{
    return munmap(ram, RAM);
}

static int load_bytes(const void *kernel, size_t len, const void *initramfs, size_t initramfs_len, const char *cmdline,
                      struct boot_entry *ret, struct sm_error *err)
{
    struct boot_source src = {.kernel_fd = pvh_file(kernel, len), .initramfs_fd = -1, .cmdline = cmdline};

    if (initramfs)
        src.initramfs_fd = pvh_file(initramfs, initramfs_len);
    int r = boot_pvh_load(&src, &mem, ret, err);
    close(src.kernel_fd);
    if (src.initramfs_fd >= 0)
        close(src.initramfs_fd);
    return r;
}

static int load(const struct pvh_kernel *k, struct sm_error *err)
{
    struct boot_entry entry = {0};
    int r = load_bytes(k, sizeof(*k), NULL, 0, "x", &entry, err);

    assert_true(r == 0 || entry.entry == 0); /* untouched on failure */
    return r;
}

static void everything_in_its_place(void **state)
{
    struct pvh_kernel k = pvh_kernel();
    struct boot_entry entry;
    char initramfs[5000];

    memset(initramfs, 'i', sizeof(initramfs));
    assert_int_equal(load_bytes(&k, sizeof(k), initramfs, sizeof(initramfs), "a b c", &entry, NULL), 0);
    assert_int_equal(entry.entry, PVH_KERNEL_ENTRY);
    assert_int_equal(entry.info, LAYOUT_START_INFO);
    assert_memory_equal(ram + PVH_KERNEL_LOAD, k.code, sizeof(k.code));
    assert_string_equal((char *)ram + LAYOUT_CMDLINE, "a b c");

    struct reader r = reader_init(ram + LAYOUT_START_INFO, 4096);
    assert_int_equal(reader_u32(&r), 0x336ec578);
    assert_int_equal(reader_u32(&r), 1);
    reader_u32(&r);
    assert_int_equal(reader_u32(&r), 1); /* modules */
    uint64_t modules = reader_u64(&r);
    assert_int_equal(reader_u64(&r), LAYOUT_CMDLINE);
    assert_int_equal(reader_u64(&r), 0); /* no RSDP */
    uint64_t map = reader_u64(&r);
    assert_int_equal(reader_u32(&r), 2);

    r = reader_init(ram + modules, 32);
    uint64_t at = reader_u64(&r);
    assert_int_equal(reader_u64(&r), sizeof(initramfs));
    assert_true(at % 4096 == 0 && at + sizeof(initramfs) <= RAM);
    assert_memory_equal(ram + at, initramfs, sizeof(initramfs));

    r = reader_init(ram + map, 48);
    assert_int_equal(reader_u64(&r), 0);
    assert_int_equal(reader_u64(&r), LAYOUT_MPTABLE);
    assert_int_equal(reader_u32(&r), 1);
    reader_u32(&r);
    assert_int_equal(reader_u64(&r), LAYOUT_HIMEM);
    assert_int_equal(reader_u64(&r), RAM - LAYOUT_HIMEM);
}

static void memory_above_the_hole_is_told(void **state)
{
    struct pvh_kernel k = pvh_kernel();
    struct boot_entry entry;

    assert_int_equal(mem_add(&mem, LAYOUT_HOLE_END, 4096, ram, NULL), 0);
    assert_int_equal(load_bytes(&k, sizeof(k), NULL, 0, "", &entry, NULL), 0);
    struct reader r = reader_init(ram + LAYOUT_START_INFO + 40, 16);
    uint64_t map = reader_u64(&r);
    assert_int_equal(reader_u32(&r), 3);
    r = reader_init(ram + map + 48, 24);
    assert_int_equal(reader_u64(&r), LAYOUT_HOLE_END);
    assert_int_equal(reader_u64(&r), 4096);
}

static void a_note_of_32_bits_is_as_good(void **state)
{
    struct pvh_kernel k = pvh_kernel();

    k.xen.desc_len = 4;
    assert_int_equal(load(&k, NULL), 0);
}

/* Each breaks one thing; the sentence must name it. */
#define BROKEN(change, code, word)                                                                                     \
    do {                                                                                                               \
        struct pvh_kernel k = pvh_kernel();                                                                            \
        struct sm_error err = SM_ERROR_INIT;                                                                           \
        change;                                                                                                        \
        assert_int_equal(load(&k, &err), -(code));                                                                     \
        if (!strstr(err.text, word))                                                                                   \
            fail_msg("'%s' does not say '%s'", err.text, word);                                                        \
    } while (0)

static void broken_headers(void **state)
{
    BROKEN(k.head.e_ident[0] = 'x', ENOEXEC, "not an ELF");
    BROKEN(k.head.e_ident[EI_CLASS] = ELFCLASS32, ENOEXEC, "64-bit");
    BROKEN(k.head.e_ident[EI_DATA] = ELFDATA2MSB, ENOEXEC, "little-endian");
    BROKEN(k.head.e_machine = EM_AARCH64, ENOEXEC, "arm64");
    BROKEN(k.head.e_machine = EM_386, ENOEXEC, "32-bit x86");
    BROKEN(k.head.e_machine = 0xffff, ENOEXEC, "another processor");
    BROKEN(k.head.e_type = ET_REL, ENOEXEC, "executable");
    BROKEN(k.head.e_phentsize = 32, ENOEXEC, "program headers");
    BROKEN(k.head.e_phnum = 0, ENOEXEC, "program headers");
    BROKEN(k.head.e_phnum = 0xffff, ENOEXEC, "program headers");
    BROKEN(k.head.e_phoff = UINT64_MAX, ENOEXEC, "outside");
    BROKEN(k.head.e_phoff = sizeof(k) - 8, ENOEXEC, "outside");
}

static void broken_segments(void **state)
{
    BROKEN(k.load.p_offset = UINT64_MAX, ENOEXEC, "segment");
    BROKEN(k.load.p_filesz = sizeof(k) + 1, ENOEXEC, "segment");
    BROKEN(k.load.p_filesz = k.load.p_memsz + 1, ENOEXEC, "segment");
    BROKEN(k.load.p_paddr = 0, ENOEXEC, "address");
    BROKEN(k.load.p_paddr = LAYOUT_HIMEM - 1, ENOEXEC, "address");
    BROKEN(k.load.p_paddr = UINT64_MAX, ENOEXEC, "address");
    BROKEN(k.load.p_memsz = UINT64_MAX, ENOEXEC, "address");
    BROKEN(k.load.p_paddr = RAM, ENOMEM, "give it more");
    BROKEN(k.load.p_memsz = RAM, ENOMEM, "give it more");
    BROKEN((k.load.p_memsz = 0, k.load.p_filesz = UINT64_MAX), ENOEXEC, "entry point");
    BROKEN(k.load.p_type = PT_NULL, ENOEXEC, "entry point");
}

static void broken_notes(void **state)
{
    BROKEN(k.note.p_type = PT_NULL, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.note.p_filesz = UINT64_MAX, ENOEXEC, "notes");
    BROKEN(k.note.p_filesz = BOOT_MAX_NOTES + 1, ENOEXEC, "notes");
    BROKEN(k.note.p_offset = UINT64_MAX, ENOEXEC, "notes");
    BROKEN(k.note.p_filesz = 0, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.note.p_filesz = 16, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.type = 17, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.name[0] = 'Y', ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.name_len = 3, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.name_len = UINT32_MAX, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.desc_len = UINT32_MAX, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.desc_len = 2, ENOEXEC, "CONFIG_PVH");
    BROKEN(k.xen.entry = 0, ENOEXEC, "not in it");
    BROKEN(k.xen.entry = PVH_KERNEL_LOAD + 64, ENOEXEC, "not in it"); /* in the part without code */
    BROKEN(k.xen.entry = UINT64_MAX, ENOEXEC, "not in it");
}

static void cut_anywhere(void **state)
{
    struct pvh_kernel k = pvh_kernel();
    struct boot_entry entry;

    for (size_t len = 0; len < sizeof(k); len++)
        assert_int_equal(load_bytes(&k, len, NULL, 0, "", &entry, NULL), -ENOEXEC);
}

static void initramfs_must_fit(void **state)
{
    struct pvh_kernel k = pvh_kernel();
    struct boot_entry entry;
    struct sm_error err = SM_ERROR_INIT;
    uint8_t *big = calloc(1, RAM);

    assert_int_equal(load_bytes(&k, sizeof(k), big, RAM, "", &entry, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "give it more"));
    /* One page less than what is left above the kernel is all right, one more is not. */
    uint64_t room = RAM - (PVH_KERNEL_LOAD + 0x2000);
    assert_int_equal(load_bytes(&k, sizeof(k), big, room, "", &entry, NULL), 0);
    assert_int_equal(load_bytes(&k, sizeof(k), big, room + 1, "", &entry, NULL), -ENOMEM);
    assert_int_equal(load_bytes(&k, sizeof(k), big, 0, "", &entry, NULL), -ENOEXEC);
    free(big);
}

static void command_line_must_fit(void **state)
{
    struct pvh_kernel k = pvh_kernel();
    struct boot_entry entry;
    char line[LAYOUT_CMDLINE_SIZE + 1];

    memset(line, 'a', sizeof(line));
    line[LAYOUT_CMDLINE_SIZE - 1] = '\0';
    assert_int_equal(load_bytes(&k, sizeof(k), NULL, 0, line, &entry, NULL), 0);
    line[LAYOUT_CMDLINE_SIZE - 1] = 'a';
    line[LAYOUT_CMDLINE_SIZE] = '\0';
    assert_int_equal(load_bytes(&k, sizeof(k), NULL, 0, line, &entry, NULL), -E2BIG);
}

static void not_a_file(void **state)
{
    struct boot_entry entry;
    struct sm_error err = SM_ERROR_INIT;
    int pipes[2];

    assert_int_equal(pipe(pipes), 0);
    struct boot_source src = {.kernel_fd = pipes[0], .initramfs_fd = -1, .cmdline = ""};
    assert_int_equal(boot_pvh_load(&src, &mem, &entry, &err), -ENOEXEC);
    close(pipes[0]);
    close(pipes[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_in_its_place, set_up, tear_down),
        cmocka_unit_test_setup_teardown(memory_above_the_hole_is_told, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_note_of_32_bits_is_as_good, set_up, tear_down),
        cmocka_unit_test_setup_teardown(broken_headers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(broken_segments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(broken_notes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(cut_anywhere, set_up, tear_down),
        cmocka_unit_test_setup_teardown(initramfs_must_fit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(command_line_must_fit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(not_a_file, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
