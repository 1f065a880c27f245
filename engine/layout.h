/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * On-disk format of a dmremap spare, version 1. man/dmremap-format.5 is the normative text; this header is its code.
 * Plain C, included by engine/codec and by kmod/ only. Every integer is little-endian on disk and naturally aligned;
 * no structure is packed: the asserts below hold every size and offset.
 */
#ifndef DMREMAP_LAYOUT_H
#define DMREMAP_LAYOUT_H

#ifdef __KERNEL__
#include <linux/build_bug.h>
#include <linux/stddef.h>
#include <linux/types.h>
typedef __u8 dmr_u8;
typedef __le32 dmr_le32;
typedef __le64 dmr_le64;
#define DMR_ASSERT(condition) static_assert(condition, #condition)
#else
#include <stddef.h>
#include <stdint.h>
typedef uint8_t dmr_u8;
typedef uint32_t dmr_le32; /* little-endian in memory: use the codec */
typedef uint64_t dmr_le64;
#ifdef __cplusplus
#define DMR_ASSERT(condition) static_assert(condition, #condition)
#else
#define DMR_ASSERT(condition) _Static_assert(condition, #condition)
#endif
#endif

#define DMR_SECTOR_BYTES 512
#define DMR_UNIT_BYTES 4096
#define DMR_UNIT_SECTORS 8
#define DMR_MIN_SPARE_UNITS 4096u        /* 16 MiB */
#define DMR_MAX_UNITS 0xFFFFFFFFu        /* slots of one spare */
#define DMR_MAX_SPARES 16
#define DMR_REPLICAS 5                   /* table replicas on the spare itself; the sixth is on another spare */
#define DMR_ALL_REPLICAS 6
#define DMR_FIXED_SUPERS 5               /* superblock copies at fixed places */
#define DMR_SUPER_COPIES 10              /* and one at the head of each replica: copy 5 + r */
#define DMR_SIXTH_SUPER 10               /* copy number at the head of a sixth replica */
#define DMR_CHUNKS 1024                  /* pieces of a table, each with its own good bits */
#define DMR_SLOTS_PER_BLOCK 254

/* units of the fixed superblock copies: sectors 0, 1024, 2048, 4096, 8192 */
#define DMR_FIXED_SUPER_UNITS { 0, 128, 256, 512, 1024 }
#define DMR_AFTER_FIXED_SUPERS 1025u

/* "magic with version": three letters and the version of the block's format */
#define DMR_MAGIC_SUPER 0x01534D44u /* bytes 44 4D 53 01: "DMS" 1 */
#define DMR_MAGIC_TABLE 0x01544D44u /* bytes 44 4D 54 01: "DMT" 1 */
#define DMR_MAGIC_MASK 0x00FFFFFFu  /* the letters alone */

/* kinds of a slot */
#define DMR_KIND_FREE 0
#define DMR_KIND_REMAP 1
#define DMR_KIND_EXPLICIT 2
#define DMR_KIND_RETIRED 3
#define DMR_KIND_METADATA 4

/* sequences in a slot have 48 bits; the counter never reaches this value */
#define DMR_SEQUENCE_LIMIT (1ull << 48)
#define DMR_MAIN_UNIT_LIMIT (1ull << 48)

/* superblock flags */
#define DMR_FLAG_CLEAN 1u         /* closed with every replica flushed and equal */
#define DMR_FLAG_SAMPLES_VALID 2u /* samples[] and fs_uuid describe main as it was at the close */

/* feature bits; unknown incompat: refuse; unknown ro_compat: refuse to open for writing */
#define DMR_INCOMPAT_MIRRORED 1u /* reserved: one main unit on two spares under one sequence */
#define DMR_INCOMPAT_RESTORING 2u /* dmremap-restore has not come to its end: nobody opens it */
#define DMR_INCOMPAT_IMAGE 4u     /* a metadata image: the data of the units is not there, nobody serves it */
#define DMR_KNOWN_COMPAT 0u
#define DMR_KNOWN_RO_COMPAT 0u
#define DMR_KNOWN_INCOMPAT 0u

#define DMR_NAME_BYTES 64
#define DMR_SAMPLES 16

/*
 * A slot, 16 bytes: slot i of block b describes spare unit DMR_SLOTS_PER_BLOCK * b + i.
 * where: bits 0-47 main unit, 48-55 lost (one bit a sector), 56-63 "main may answer" (one bit a sector)
 * stamp: bits 0-47 sequence, 48-55 kind, 56-63 reserved, zero
 */
struct dmr_slot {
	dmr_le64 where;
	dmr_le64 stamp;
};
DMR_ASSERT(sizeof(struct dmr_slot) == 16);

/* What starts every block. The CRC32 (zlib) covers everything behind the crc field to the end of the 4096 bytes. */
struct dmr_table_block {
	dmr_le32 crc;
	dmr_le32 magic;
	dmr_le64 sequence;
	dmr_le64 owner_low; /* first 8 bytes of the owner's UUID, read as a little-endian number */
	dmr_le32 number;    /* of the block in the table */
	dmr_le32 unit;      /* where this copy lies, in units of the spare that holds it */
	struct dmr_slot slots[DMR_SLOTS_PER_BLOCK];
};
DMR_ASSERT(sizeof(struct dmr_table_block) == DMR_UNIT_BYTES);
DMR_ASSERT(offsetof(struct dmr_table_block, sequence) == 8);
DMR_ASSERT(offsetof(struct dmr_table_block, owner_low) == 16);
DMR_ASSERT(offsetof(struct dmr_table_block, number) == 24);
DMR_ASSERT(offsetof(struct dmr_table_block, unit) == 28);
DMR_ASSERT(offsetof(struct dmr_table_block, slots) == 32);

/* Two sessions for one spare of the set: the one it surely holds, and the one that it is being given. */
struct dmr_session_pair {
	dmr_le64 held;
	dmr_le64 given;
};
DMR_ASSERT(sizeof(struct dmr_session_pair) == 16);

struct dmr_superblock {
	dmr_le32 crc;
	dmr_le32 magic;
	dmr_le64 sequence;
	dmr_u8 spare_uuid[16];
	dmr_le32 copy; /* 0-4 fixed, 5-9 head of replica 0-4, 10 head of the sixth */
	dmr_le32 unit; /* where this copy lies, in units of the spare that holds it */
	dmr_u8 set_uuid[16];
	char set_name[DMR_NAME_BYTES]; /* UTF-8, NUL-padded, at most 63 bytes */
	dmr_le32 feature_compat;
	dmr_le32 feature_ro_compat;
	dmr_le32 feature_incompat;
	dmr_le32 spare_index; /* of this spare in spare_uuids[] */
	dmr_le32 spare_count;
	dmr_le32 flags;
	dmr_le64 main_sectors;
	dmr_le64 spare_units; /* of this spare (whole units) */
	dmr_le32 table_blocks;
	dmr_le32 chunk_blocks; /* blocks in a chunk */
	dmr_le32 replica_start[DMR_REPLICAS]; /* unit of the superblock copy at the head; block b is at start + 1 + b */
	dmr_le32 super_good; /* bit c: copy c is good */
	dmr_le64 sequence_next; /* the reserved range: this session uses sequences from here ... */
	dmr_le64 sequence_end;  /* ... to below here; the next session starts at or above it */
	dmr_le64 session; /* random, of the writable open that wrote this */
	struct dmr_session_pair sessions[DMR_MAX_SPARES];
	dmr_u8 spare_uuids[DMR_MAX_SPARES][16]; /* all zero: no spare */
	dmr_le32 sixth_host;  /* index of the spare that holds this spare's sixth replica, or 0xFFFFFFFF */
	dmr_le32 sixth_start; /* unit there */
	dmr_le32 hosted_start[DMR_MAX_SPARES]; /* guests on this spare: unit of the guest's sixth replica, 0: none */
	dmr_le32 hosted_protected; /* bit i: the copy of guest i stands, full */
	dmr_le32 reserved0;
	/* main's identity; strings NUL-padded, empty where not known */
	dmr_le32 main_block_device; /* 1 block device, 0 file */
	dmr_le32 main_block_size;
	char main_serial[64];
	char main_wwn[64];
	char main_partuuid[40];
	char main_fs_uuid[40];
	char main_fs_type[16];
	dmr_le32 sample_mask; /* bit i: samples[i] could be taken */
	dmr_le32 reserved1;
	dmr_le32 samples[DMR_SAMPLES]; /* CRC32 of main's unit floor(i * units / DMR_SAMPLES) */
	/* counters over the life of the set */
	dmr_le64 lifetime_allocations;
	dmr_le64 auto_remaps;
	dmr_le64 manual_remaps;
	dmr_le64 read_errors;
	dmr_le64 write_errors;
	dmr_le64 saves_tried;
	dmr_le64 saves_done;
	dmr_le32 hosted_blocks[DMR_MAX_SPARES]; /* blocks of the guest's table: its replica takes one unit more */
	dmr_u8 absent_map[DMR_MAX_SPARES]; /* of an absent spare: 1 + index of the spare whose sixth replica is its map */
	dmr_u8 reserved2[32];
	dmr_u8 good[DMR_ALL_REPLICAS][DMR_CHUNKS / 8]; /* bit c: chunk c of the replica is initialised and good */
	dmr_u8 reserved3[2048];
};
DMR_ASSERT(sizeof(struct dmr_superblock) == DMR_UNIT_BYTES);
DMR_ASSERT(offsetof(struct dmr_superblock, spare_uuid) == 16);
DMR_ASSERT(offsetof(struct dmr_superblock, copy) == 32);
DMR_ASSERT(offsetof(struct dmr_superblock, set_uuid) == 40);
DMR_ASSERT(offsetof(struct dmr_superblock, set_name) == 56);
DMR_ASSERT(offsetof(struct dmr_superblock, feature_compat) == 120);
DMR_ASSERT(offsetof(struct dmr_superblock, spare_count) == 136);
DMR_ASSERT(offsetof(struct dmr_superblock, main_sectors) == 144);
DMR_ASSERT(offsetof(struct dmr_superblock, table_blocks) == 160);
DMR_ASSERT(offsetof(struct dmr_superblock, replica_start) == 168);
DMR_ASSERT(offsetof(struct dmr_superblock, super_good) == 188);
DMR_ASSERT(offsetof(struct dmr_superblock, sequence_next) == 192);
DMR_ASSERT(offsetof(struct dmr_superblock, session) == 208);
DMR_ASSERT(offsetof(struct dmr_superblock, sessions) == 216);
DMR_ASSERT(offsetof(struct dmr_superblock, spare_uuids) == 472);
DMR_ASSERT(offsetof(struct dmr_superblock, sixth_host) == 728);
DMR_ASSERT(offsetof(struct dmr_superblock, hosted_start) == 736);
DMR_ASSERT(offsetof(struct dmr_superblock, hosted_protected) == 800);
DMR_ASSERT(offsetof(struct dmr_superblock, main_block_device) == 808);
DMR_ASSERT(offsetof(struct dmr_superblock, main_serial) == 816);
DMR_ASSERT(offsetof(struct dmr_superblock, main_wwn) == 880);
DMR_ASSERT(offsetof(struct dmr_superblock, main_partuuid) == 944);
DMR_ASSERT(offsetof(struct dmr_superblock, main_fs_uuid) == 984);
DMR_ASSERT(offsetof(struct dmr_superblock, main_fs_type) == 1024);
DMR_ASSERT(offsetof(struct dmr_superblock, sample_mask) == 1040);
DMR_ASSERT(offsetof(struct dmr_superblock, samples) == 1048);
DMR_ASSERT(offsetof(struct dmr_superblock, lifetime_allocations) == 1112);
DMR_ASSERT(offsetof(struct dmr_superblock, hosted_blocks) == 1168);
DMR_ASSERT(offsetof(struct dmr_superblock, absent_map) == 1232);
DMR_ASSERT(offsetof(struct dmr_superblock, reserved2) == 1248);
DMR_ASSERT(offsetof(struct dmr_superblock, good) == 1280);
DMR_ASSERT(offsetof(struct dmr_superblock, reserved3) == 2048);

#endif
