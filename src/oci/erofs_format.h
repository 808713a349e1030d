/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of the EROFS on-disk format that we write, all little-endian: what Linux 6.1 reads
 * (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h). Offsets are in bytes from the start of each structure.
 */
#ifndef SM_OCI_EROFS_FORMAT_H
#define SM_OCI_EROFS_FORMAT_H

#define EROFS_BLOCK      4096u
#define EROFS_BLOCK_BITS 12
#define EROFS_SLOT       32u /* inodes begin at multiples of this; a node number counts them from the metadata's start */

/* Superblock: at byte 1024 of block 0. Its checksum covers the rest of that block. */
#define EROFS_SB_OFFSET       1024u
#define EROFS_SB_BYTES        128u
#define EROFS_SB_MAGIC        0
#define EROFS_SB_CHECKSUM     4
#define EROFS_SB_COMPAT       8
#define EROFS_SB_BLOCK_BITS   12
#define EROFS_SB_ROOT_NID     14 /* 16 bits */
#define EROFS_SB_INODES       16 /* 64 bits */
#define EROFS_SB_BLOCKS       36
#define EROFS_SB_META_BLOCK   40
#define EROFS_SB_UUID         48
#define EROFS_SB_INCOMPAT     80
#define EROFS_MAGIC           0xe0f5e1e2u
#define EROFS_COMPAT_CHECKSUM 0x1u
#define EROFS_COMPAT_MTIME    0x2u

/* Inode of 64 bytes ("extended"). */
#define EROFS_INODE_BYTES     64u
#define EROFS_I_FORMAT        0 /* 16 bits: bit 0 extended, bits 1-3 layout */
#define EROFS_I_XATTRS        2 /* 16 bits: 0, or 1 + bytes behind the attribute header / 4 */
#define EROFS_I_MODE          4 /* 16 bits */
#define EROFS_I_SIZE          8 /* 64 bits */
#define EROFS_I_BLOCK_OR_RDEV 16
#define EROFS_I_INO           20
#define EROFS_I_UID           24
#define EROFS_I_GID           28
#define EROFS_I_MTIME         32 /* 64 bits */
#define EROFS_I_MTIME_NS      40
#define EROFS_I_NLINK         44
#define EROFS_EXTENDED        1u
#define EROFS_FLAT_PLAIN      0u /* blocks one after the other from I_BLOCK */
#define EROFS_FLAT_INLINE     2u /* the same, but the last, partial block stands behind inode and attributes */

/* Extended attributes: a header, then entries {u8 name length, u8 namespace, u16 value length, name, value, pad to 4}.
 */
#define EROFS_XATTR_HEADER      12u
#define EROFS_XATTR_USER        1
#define EROFS_XATTR_ACL_ACCESS  2
#define EROFS_XATTR_ACL_DEFAULT 3
#define EROFS_XATTR_TRUSTED     4
#define EROFS_XATTR_SECURITY    6

/* Directory block: entries sorted by the bytes of their names, then the names. */
#define EROFS_DIRENT_BYTES  12u
#define EROFS_D_NID         0 /* 64 bits */
#define EROFS_D_NAME_OFFSET 8 /* 16 bits; the first one's tells how many entries there are */
#define EROFS_D_TYPE        10

#endif
