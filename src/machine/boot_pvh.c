/* SPDX-License-Identifier: Apache-2.0 */
/*
 * PVH loader (Xen docs/misc/pvh.pandoc and public/arch-x86/hvm/start_info.h; ELF: System V gABI chapters 4 and 5).
 *
 * Theory of operation
 *
 * The kernel file may be anything: every field of its headers is copied out, checked against the file's size and guest
 * memory, and only then used. Segments are read straight into guest memory, no copy in between; they may lie anywhere
 * from 1 MiB up in low RAM. Nothing is relocated. The entry point comes from the note, never from e_entry, and must
 * lie within a loaded segment.
 *
 * Placement: start info, memory map and module list in one page, the command line in the next (layout_x86_64.h), the
 * initramfs at the top of low RAM, where a kernel decompresses nothing over it.
 */
#include "machine/boot_pvh.h"

#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "arch/layout_x86_64.h"
#include "base/buf.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/io.h"

#define NOTE_OWNER        "Xen"
#define NOTE_PHYS32_ENTRY 18

#define START_MAGIC   0x336ec578u
#define START_VERSION 1
#define START_SIZE    56 /* hvm_start_info of version 1 */
#define MODULE_SIZE   32
#define MEMMAP_RAM    1

#define PAGE 4096ull

struct loader {
    const struct boot_source *src;
    const struct guest_mem *mem;
    uint64_t file_size;
    uint64_t low_end; /* of low RAM */
    Elf64_Phdr segment[BOOT_MAX_SEGMENTS];
    unsigned n_segments;
    uint64_t kernel_end;
    uint64_t entry;
    bool have_entry;
};

static int bad_kernel(struct sm_error *err, const char *why)
{
    return sm_error_set(err, ENOEXEC, "the kernel file can't be booted: %s; build or install a supermachine kernel",
                        why);
}

static int read_kernel(const struct loader *l, void *dst, size_t len, uint64_t off, struct sm_error *err)
{
    ssize_t n = io_pread_full(l->src->kernel_fd, dst, len, off);

    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the kernel file");
    return (size_t)n == len ? 0 : bad_kernel(err, "it is cut short");
}

static const char *machine_name(unsigned machine)
{
    switch (machine) {
    case EM_386:
        return "32-bit x86";
    case EM_AARCH64:
        return "arm64";
    case EM_ARM:
        return "32-bit ARM";
    case EM_RISCV:
        return "RISC-V";
    default:
        return "another processor";
    }
}

/* The file header, and the segments' headers into l->segment. */
static int read_headers(struct loader *l, struct sm_error *err)
{
    Elf64_Ehdr h;
    struct stat st;
    int r;

    if (fstat(l->src->kernel_fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read the kernel file");
    if (!S_ISREG(st.st_mode))
        return bad_kernel(err, "it is not a regular file");
    l->file_size = (uint64_t)st.st_size;
    if (l->file_size < sizeof(h))
        return bad_kernel(err, "it is too short for an ELF header");
    r = read_kernel(l, &h, sizeof(h), 0, err);
    if (r < 0)
        return r;
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) != 0)
        return bad_kernel(err, "it is not an ELF file");
    if (h.e_ident[EI_DATA] != ELFDATA2LSB)
        return bad_kernel(err, "it is not little-endian");
    if (h.e_machine != EM_X86_64)
        return sm_error_set(err, ENOEXEC, "the kernel file is for %s (ELF machine %u), and this machine is x86-64",
                            machine_name(h.e_machine), h.e_machine);
    if (h.e_ident[EI_CLASS] != ELFCLASS64)
        return bad_kernel(err, "it is not a 64-bit ELF file");
    if (h.e_type != ET_EXEC && h.e_type != ET_DYN)
        return bad_kernel(err, "it is not an executable");
    if (h.e_phentsize != sizeof(Elf64_Phdr) || h.e_phnum == 0 || h.e_phnum > BOOT_MAX_SEGMENTS)
        return bad_kernel(err, "its program headers are not valid");
    if (!range_within(h.e_phoff, h.e_phnum * sizeof(Elf64_Phdr), l->file_size))
        return bad_kernel(err, "its program headers lie outside the file");
    l->n_segments = h.e_phnum;
    return read_kernel(l, l->segment, l->n_segments * sizeof(Elf64_Phdr), h.e_phoff, err);
}

static int load_segment(struct loader *l, const Elf64_Phdr *p, struct sm_error *err)
{
    uint64_t end;

    if (p->p_memsz == 0)
        return 0;
    if (p->p_filesz > p->p_memsz || !range_within(p->p_offset, p->p_filesz, l->file_size))
        return bad_kernel(err, "a segment lies outside the file");
    if (p->p_paddr < LAYOUT_HIMEM || !CHECKED_ADD(p->p_paddr, p->p_memsz, &end))
        return bad_kernel(err, "a segment has no valid address");
    uint8_t *dst = end <= l->low_end ? mem_ptr(l->mem, p->p_paddr, p->p_memsz) : NULL;
    if (!dst)
        return sm_error_set(err, ENOMEM,
                            "the kernel reaches up to %llu MiB and the machine has %llu MiB of memory; "
                            "give it more",
                            (unsigned long long)(end / MIB + 1), (unsigned long long)(mem_total(l->mem) / MIB));
    /* What lies behind the file's part is memory that nobody has touched yet, unless segments overlap. */
    if (end > l->kernel_end)
        l->kernel_end = end;
    return p->p_filesz ? read_kernel(l, dst, p->p_filesz, p->p_offset, err) : 0;
}

/* A note's name and descriptor are each padded to 4 bytes. */
static const uint8_t *note_part(struct reader *r, uint32_t len)
{
    const uint8_t *p = len <= BOOT_MAX_NOTES ? reader_bytes(r, align_up(len, 4)) : NULL;

    if (!p)
        r->bad = true;
    return p;
}

static int read_notes(struct loader *l, const Elf64_Phdr *p, struct sm_error *err)
{
    struct buf bytes = buf_init(BOOT_MAX_NOTES);
    int r = 0;

    if (p->p_filesz > BOOT_MAX_NOTES || !range_within(p->p_offset, p->p_filesz, l->file_size))
        return bad_kernel(err, "its notes lie outside the file");
    if (p->p_filesz == 0)
        return 0;
    void *dst = buf_reserve(&bytes, p->p_filesz);
    if (!dst)
        return sm_error_sys(err, ENOMEM, "cannot read the kernel's notes");
    r = read_kernel(l, dst, p->p_filesz, p->p_offset, err);
    struct reader rd = reader_init(bytes.data, bytes.len);
    while (r == 0 && rd.left >= 12) {
        uint32_t name_len = reader_u32(&rd);
        uint32_t desc_len = reader_u32(&rd);
        uint32_t type = reader_u32(&rd);
        const uint8_t *name = note_part(&rd, name_len);
        const uint8_t *desc = note_part(&rd, desc_len);

        if (rd.bad)
            break; /* padding of the last one is sometimes missing: an unreadable rest is no note */
        if (name_len != sizeof(NOTE_OWNER) || memcmp(name, NOTE_OWNER, sizeof(NOTE_OWNER)) != 0 ||
            type != NOTE_PHYS32_ENTRY || (desc_len != 4 && desc_len != 8))
            continue;
        struct reader d = reader_init(desc, desc_len);
        l->entry = desc_len == 4 ? reader_u32(&d) : reader_u64(&d);
        l->have_entry = true;
    }
    buf_done(&bytes);
    return r;
}

static int load_kernel(struct loader *l, struct sm_error *err)
{
    int r = read_headers(l, err);

    for (unsigned i = 0; r == 0 && i < l->n_segments; i++) {
        if (l->segment[i].p_type == PT_LOAD)
            r = load_segment(l, &l->segment[i], err);
        else if (l->segment[i].p_type == PT_NOTE)
            r = read_notes(l, &l->segment[i], err);
    }
    if (r < 0)
        return r;
    if (!l->have_entry)
        return bad_kernel(err, "it has no PVH entry point (CONFIG_PVH)");
    for (unsigned i = 0; i < l->n_segments; i++) {
        const Elf64_Phdr *p = &l->segment[i];

        /* A segment without memory was not loaded, and its other fields were not looked at. */
        if (p->p_type == PT_LOAD && p->p_memsz != 0 && l->entry >= p->p_paddr && l->entry - p->p_paddr < p->p_filesz)
            return 0;
    }
    return bad_kernel(err, "its PVH entry point is not in it");
}

/* At the top of low RAM; *ret_at and *ret_size stay 0 without one. */
static int load_initramfs(struct loader *l, uint64_t *ret_at, uint64_t *ret_size, struct sm_error *err)
{
    struct stat st;

    if (l->src->initramfs_fd < 0)
        return 0;
    if (fstat(l->src->initramfs_fd, &st) < 0)
        return sm_error_sys(err, errno, "cannot read the initramfs file");
    uint64_t size = (uint64_t)st.st_size;
    if (!S_ISREG(st.st_mode) || size == 0 || size > BOOT_MAX_INITRAMFS)
        return sm_error_set(err, ENOEXEC, "the initramfs file is empty, too large or no regular file");
    if (size > l->low_end || (l->low_end - size) / PAGE * PAGE < l->kernel_end)
        return sm_error_set(err, ENOMEM,
                            "kernel and initramfs need more than the machine's %llu MiB of memory; give it more",
                            (unsigned long long)(mem_total(l->mem) / MIB));
    uint64_t at = (l->low_end - size) / PAGE * PAGE;
    void *dst = mem_ptr(l->mem, at, size);
    ssize_t n = dst ? io_pread_full(l->src->initramfs_fd, dst, size, 0) : -EFAULT;
    if (n < 0)
        return sm_error_sys(err, (int)-n, "cannot read the initramfs file");
    if ((uint64_t)n != size)
        return sm_error_set(err, EIO, "the initramfs file shrank while it was read");
    *ret_at = at;
    *ret_size = size;
    return 0;
}

static void put_memory(struct buf *b, uint64_t start, uint64_t end)
{
    buf_u64(b, start);
    buf_u64(b, end - start);
    buf_u32(b, MEMMAP_RAM);
    buf_u32(b, 0);
}

/* Memory map of the guest: base memory up to the MP table, then RAM from 1 MiB, both sides of the hole. */
static uint32_t put_memmap(struct buf *b, const struct loader *l)
{
    uint32_t n = 2;

    put_memory(b, 0, LAYOUT_MPTABLE);
    put_memory(b, LAYOUT_HIMEM, l->low_end);
    for (unsigned i = 0; i < l->mem->n_regions; i++) {
        const struct mem_region *r = &l->mem->region[i];

        if (r->gpa < LAYOUT_HOLE_END)
            continue;
        put_memory(b, r->gpa, r->gpa + r->size);
        n++;
    }
    return n;
}

static int put_start_info(struct loader *l, uint64_t initramfs, uint64_t initramfs_size, struct sm_error *err)
{
    size_t cmdline_len = strlen(l->src->cmdline) + 1;
    struct buf info = buf_init(PAGE);
    struct buf map = buf_init(PAGE);
    uint64_t map_at = LAYOUT_START_INFO + START_SIZE + MODULE_SIZE;
    uint32_t n_map = put_memmap(&map, l);
    int r = 0;

    buf_u32(&info, START_MAGIC);
    buf_u32(&info, START_VERSION);
    buf_u32(&info, 0);
    buf_u32(&info, initramfs_size ? 1 : 0);
    buf_u64(&info, initramfs_size ? LAYOUT_START_INFO + START_SIZE : 0);
    buf_u64(&info, LAYOUT_CMDLINE);
    buf_u64(&info, 0); /* no RSDP: there is no ACPI */
    buf_u64(&info, map_at);
    buf_u32(&info, n_map);
    buf_u32(&info, 0);
    /* The one module. */
    buf_u64(&info, initramfs);
    buf_u64(&info, initramfs_size);
    buf_u64(&info, 0);
    buf_u64(&info, 0);
    buf_bytes(&info, map.data, map.len);

    void *info_dst = mem_ptr(l->mem, LAYOUT_START_INFO, PAGE);
    void *cmdline_dst = mem_ptr(l->mem, LAYOUT_CMDLINE, LAYOUT_CMDLINE_SIZE);
    if (cmdline_len > LAYOUT_CMDLINE_SIZE)
        r = sm_error_set(err, E2BIG, "the kernel command line has %zu bytes and %u are allowed", cmdline_len - 1,
                         LAYOUT_CMDLINE_SIZE - 1);
    else if (info.bad || map.bad || !info_dst || !cmdline_dst)
        r = sm_error_set(err, ENOMEM, "no room for the boot information");
    if (r == 0) {
        memcpy(info_dst, info.data, info.len);
        memcpy(cmdline_dst, l->src->cmdline, cmdline_len);
    }
    buf_done(&info);
    buf_done(&map);
    return r;
}

int boot_pvh_load(const struct boot_source *src, const struct guest_mem *mem, struct boot_entry *ret,
                  struct sm_error *err)
{
    struct loader l = {.src = src, .mem = mem};
    uint64_t initramfs = 0, initramfs_size = 0;

    if (mem->n_regions == 0 || mem->region[0].gpa != 0 || mem->region[0].size <= LAYOUT_HIMEM)
        return sm_error_set(err, EINVAL, "a machine needs memory from address 0 to above 1 MiB");
    l.low_end = mem->region[0].size;
    int r = load_kernel(&l, err);
    if (r == 0)
        r = load_initramfs(&l, &initramfs, &initramfs_size, err);
    if (r == 0)
        r = put_start_info(&l, initramfs, initramfs_size, err);
    if (r == 0)
        *ret = (struct boot_entry){.entry = l.entry, .info = LAYOUT_START_INFO};
    return r;
}
