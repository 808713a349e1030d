/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The `index` of a converted layer: its entries in the order of the tar. Little-endian:
 *
 *   header, 80 bytes: "SMLAYER\0", u32 version, u32 entries, u64 body bytes, u64 data bytes, SHA-256 of the body,
 *                     16 bytes of zero
 *   body: one record an entry: u32 bytes that follow, u8 type, u8 0, u16 mode, u32 uid, u32 gid, u64 mtime,
 *         u32 mtime ns, u32 major, u32 minor, u64 size, u64 data offset, u32 n + path, u32 n + link, u16 attributes,
 *         each u32 n + name, u32 n + value; u32 n + the content of a small file
 *
 * It is read back as hostile input: the store is only files.
 */
#ifndef SM_OCI_INDEX_H
#define SM_OCI_INDEX_H

#include <stdint.h>

#include "base/error.h"
#include "oci/entry.h"

#define INDEX_VERSION      1
#define INDEX_HEADER_BYTES 80

struct index_writer;

/* `fd`: empty, seekable, stays the caller's. */
int index_writer_new(struct index_writer **ret, int fd, struct sm_error *err);
void index_writer_free(struct index_writer *w);
int index_write(struct index_writer *w, const struct oci_entry *e, struct sm_error *err);
/* The header, once; `data_size`: of the data file beside it. */
int index_finish(struct index_writer *w, uint64_t data_size, struct sm_error *err);

struct index_reader;

/* Checks the header. `fd` stays the caller's. */
int index_reader_new(struct index_reader **ret, int fd, struct sm_error *err);
void index_reader_free(struct index_reader *r);
uint64_t index_data_size(const struct index_reader *r);
/*
 * 1: *ret is the next entry, valid until the next call. 0: that was the last and the checksum is right: nothing that
 * was read before may be relied on without it. -errno: damaged.
 */
int index_read(struct index_reader *r, struct oci_entry *ret, struct sm_error *err);

#endif
