#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of decode.py, on images that are encoded here from dmremap-format(5)."""

import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import decode  # noqa: E402

ME = bytes(range(0x10, 0x20))
OTHER = bytes(range(0x80, 0x90))
SET = bytes(range(0xC0, 0xD0))
FREE, REMAP, EXPLICIT, RETIRED, METADATA = 0, 1, 2, 3, 4
MIB = 256


def starts_for(n):
    """replica_start, unit by unit as the page words it."""
    blocks = math.ceil(n / 254)
    taken = {0, 128, 256, 512, 1024} | set(range(1025, 1025 + blocks + 1))
    result = [1025]
    for r in range(1, 5):
        at = math.floor(n * r / 5)
        while any(u in taken for u in range(at, at + blocks + 1)):
            at += 1
        result.append(at)
        taken |= set(range(at, at + blocks + 1))
    return result


def seal(block):
    """The block with its CRC."""
    return struct.pack("<I", zlib.crc32(bytes(block[4:]))) + bytes(block[4:])


def slot(kind, main_unit=0, sequence=0, lost=0, may=0, reserved=0):
    return struct.pack("<QQ", main_unit | lost << 48 | may << 56, sequence | kind << 48 | reserved << 56)


class Image:
    """A spare, in a sparse file.  chunks: {chunk: replicas with the good bit}."""

    def __init__(self, test, units=16 * MIB, chunks=None, **fields):
        fd, self.path = tempfile.mkstemp(prefix="decode-")
        os.close(fd)
        test.addCleanup(os.unlink, self.path)
        self.units = units
        self.blocks = math.ceil(units / 254)
        self.chunk_blocks = math.ceil(self.blocks / 1024)
        self.starts = starts_for(units)
        self.heads = [0, 128, 256, 512, 1024] + self.starts
        self.meta = {0, 128, 256, 512, 1024}
        for start in self.starts:
            self.meta |= set(range(start, start + self.blocks + 1))
        self.slots = {}
        self.chunks = {c: range(5) for c in range(self.blocks)} if chunks is None else chunks
        self.fields = dict(sequence=90, owner=ME, set_name=b"test", spare_index=0, spare_count=1, flags=0,
                           main_sectors=8 * 5000 + 3, spare_units=units, table_blocks=self.blocks,
                           chunk_blocks=self.chunk_blocks, starts=self.starts, super_good=0x3FF,
                           sequence_next=50, sequence_end=100, uuids=[ME], features=(0, 0, 0),
                           sixth_host=0xFFFFFFFF, sixth_start=0, hosted_start=[0] * 16, hosted_blocks=[0] * 16, hosted_protected=0,
                           reserved=0)
        self.fields.update(fields)
        self.test = test

    def superblock(self, copy, unit, **fields):
        f = dict(self.fields, **fields)
        b = bytearray(4096)
        b[4:8] = f.get("magic", b"DMS\x01")
        struct.pack_into("<Q16sII16s64s", b, 8, f["sequence"], f["owner"], copy, unit, SET, f["set_name"])
        struct.pack_into("<IIIIII", b, 120, *f["features"], f["spare_index"], f["spare_count"], f["flags"])
        struct.pack_into("<QQII", b, 144, f["main_sectors"], f["spare_units"], f["table_blocks"],
                         f["chunk_blocks"])
        struct.pack_into("<5II", b, 168, *f["starts"], f["super_good"])
        struct.pack_into("<QQQ", b, 192, f["sequence_next"], f["sequence_end"], 0x1234567)
        struct.pack_into("<QQ", b, 216, 0x1234567, 0x89ABCDE)
        for i, u in enumerate(f["uuids"]):
            b[472 + 16 * i:488 + 16 * i] = u
        struct.pack_into("<II16II", b, 728, f["sixth_host"], f["sixth_start"], *f["hosted_start"],
                         f["hosted_protected"])
        struct.pack_into("<II", b, 808, 1, 512)
        b[816:822] = b"SERIAL"
        b[1024:1028] = b"ext4"
        struct.pack_into("<II16I", b, 1040, 0xFFFF, 0, *range(16))
        struct.pack_into("<7Q", b, 1112, 1, 2, 3, 4, 5, 6, 7)
        struct.pack_into("<16I", b, 1168, *f["hosted_blocks"])
        b[4000] = f["reserved"]
        for c, replicas in f.get("chunks", self.chunks).items():
            for r in replicas:
                b[1280 + 128 * r + c // 8] |= 1 << c % 8
        return seal(b)

    def table_block(self, number, unit, sequence=60, owner=ME, slots=None, magic=b"DMT\x01"):
        b = bytearray(4096)
        b[4:8] = magic
        struct.pack_into("<Q8sII", b, 8, sequence, owner[:8], number, unit)
        for i in range(254):
            u = 254 * number + i
            s = slot(METADATA) if u in self.meta or u >= self.units else slot(FREE)
            b[32 + 16 * i:48 + 16 * i] = (self.slots if slots is None else slots).get(u, s)
        return seal(b)

    def put(self, unit, data):
        with open(self.path, "r+b") as f:
            f.seek(4096 * unit)
            f.write(data)

    def flip(self, unit, byte=2000, bit=1):
        with open(self.path, "r+b") as f:
            f.seek(4096 * unit + byte)
            old = f.read(1)[0]
            f.seek(4096 * unit + byte)
            f.write(bytes([old ^ bit]))

    def put_super(self, copy, **fields):
        self.put(self.heads[copy], self.superblock(copy, self.heads[copy], **fields))

    def place(self, replica, number):
        return self.starts[replica] + 1 + number

    def put_block(self, replica, number, **fields):
        self.put(self.place(replica, number), self.table_block(number, self.place(replica, number), **fields))

    def write(self):
        os.truncate(self.path, 4096 * self.units)
        for copy in range(10):
            self.put_super(copy)
        for c, replicas in self.chunks.items():
            for number in range(c * self.chunk_blocks, min(self.blocks, (c + 1) * self.chunk_blocks)):
                for r in replicas:
                    if r < 5:
                        self.put_block(r, number)
        return self

    def decode(self, ok=True, main_sectors=None):
        spare = decode.Spare(self.path)
        try:
            result, fine = decode.decode(spare, main_sectors)
        finally:
            spare.close()
        json.dumps(result)
        self.test.assertEqual(fine, ok, result["problems"])
        return result


class Base(unittest.TestCase):
    def assertProblem(self, result, text):
        self.assertTrue(any(text in p for p in result["problems"]), (text, result["problems"]))

    def super_why(self, result, copy):
        found = result["superblocks"][copy]
        self.assertEqual(found["copy"], copy)
        return found["valid"], found["newest"], found["why"]

    def copy_of(self, result, number, replica):
        block = next(b for b in result["blocks"] if b["number"] == number)
        return next(c for c in block["copies"] if c["replica"] == replica)

    def map_of(self, result):
        return [(m["main_unit"], m["spare_unit"], m["sequence"]) for m in result["map"]]


class Geometry(Base):
    def test_examples_of_the_page(self):
        for mib, blocks, chunk, starts in (
                (16, 17, 1, [1025, 819, 1638, 2457, 3276]), (17, 18, 1, [1025, 870, 1740, 2611, 3481]),
                (20, 21, 1, [1025, 1047, 2048, 3072, 4096]), (64, 65, 1, [1025, 3276, 6553, 9830, 13107]),
                (1024, 1033, 2, [1025, 52428, 104857, 157286, 209715]),
                (20480, 20642, 21, [1025, 1048576, 2097152, 3145728, 4194304])):
            self.assertEqual(decode.geometry_for(mib * MIB), {
                "spare_units": mib * MIB, "table_blocks": blocks, "chunk_blocks": chunk,
                "replica_start": starts})

    def test_agrees_with_a_search_unit_by_unit(self):
        for units in list(range(4096, 7500, 37)) + [70000, 130049, 262145]:
            self.assertEqual(decode.geometry_for(units)["replica_start"], starts_for(units), units)

    def test_limits(self):
        self.assertIsNone(decode.geometry_for(4095))
        largest = decode.geometry_for(2**33)
        self.assertEqual(largest["spare_units"], 2**32 - 1)
        self.assertEqual(largest, decode.geometry_for(2**32 - 1))

    def test_crc_of_the_page(self):
        self.assertEqual(zlib.crc32(b"123456789"), 0xCBF43926)

    def test_refused(self):
        good = starts_for(4096)
        for text, fields in (
                ("table_blocks", {"table_blocks": 18}), ("chunk_blocks", {"chunk_blocks": 2}),
                ("overlap", {"starts": [1025, 1030] + good[2:]}),
                ("overlap", {"starts": [1025, 500] + good[2:]}),
                ("leaves the spare", {"starts": good[:4] + [4079]}),
                ("impossible spare_units", {"spare_units": 0, "table_blocks": 0, "chunk_blocks": 0}),
                ("impossible spare_units", {"spare_units": 2**40}),
                ("less than spare_units", {"spare_units": 4097})):
            with self.subTest(text, **fields):
                result = Image(self, **fields).write().decode(ok=False)
                self.assertProblem(result, text)
                self.assertEqual(result["map"], [])

    def test_replica_elsewhere_than_the_rule_is_read(self):
        image = Image(self)
        image.starts[4] += 5
        image.heads[9] += 5
        image.meta -= set(range(3276, 3281))
        image.meta |= set(range(3294, 3299))
        result = image.write().decode()
        self.assertEqual(result["problems"], ["replica_start does not follow from spare_units"])
        self.assertTrue(result["all_copies_equal"])

    def test_grown(self):
        image = Image(self).write()
        os.truncate(image.path, 4096 * 9000)
        result = image.decode()
        self.assertEqual((result["geometry"]["units"], result["problems"]), (9000, []))

    def test_shrunk(self):
        image = Image(self).write()
        os.truncate(image.path, 4096 * 4096 - 1)
        self.assertProblem(image.decode(ok=False), "less than spare_units")


class Whole(Base):
    def test_equal(self):
        image = Image(self, flags=1)
        image.slots = {5: slot(REMAP, 77, 51), 200: slot(EXPLICIT, 5000, 52, lost=0x83, may=0x81),
                       4000: slot(REMAP, 0, 53), 201: slot(RETIRED, 12345, 9, 1, 2)}
        result = image.write().decode(main_sectors=40003)
        self.assertEqual(result["problems"], [])
        self.assertTrue(result["all_copies_equal"])
        self.assertEqual(result["map"], [
            {"main_unit": 0, "spare_unit": 4000, "sequence": 53, "lost": 0, "may_answer": 0, "kind": "remap"},
            {"main_unit": 77, "spare_unit": 5, "sequence": 51, "lost": 0, "may_answer": 0, "kind": "remap"},
            {"main_unit": 5000, "spare_unit": 200, "sequence": 52, "lost": 0x83, "may_answer": 0x81,
             "kind": "explicit remap"}])
        self.assertEqual((result["losers"], result["retired"], result["guests"]), ([], [201], []))
        self.assertEqual(result["chunks"], [{"chunk": c, "good": [0, 1, 2, 3, 4]} for c in range(17)])
        self.assertEqual([b["number"] for b in result["blocks"]], list(range(17)))
        self.assertEqual(self.copy_of(result, 3, 1), {
            "replica": 1, "unit": 823, "valid": True, "sequence": 60, "newest": True, "why": ""})
        self.assertEqual(result["geometry"], {
            "units": 4096, "spare_units": 4096, "table_blocks": 17, "chunk_blocks": 1, "chunks": 17,
            "replica_start": [1025, 819, 1638, 2457, 3276]})

    def test_fields(self):
        image = Image(self, spare_index=1, spare_count=2, uuids=[OTHER, ME]).write()
        found = image.decode()["superblocks"][7]
        for name, value in {
                "copy": 7, "unit": 1638, "recorded_copy": 7, "recorded_unit": 1638, "sequence": 90,
                "magic": 0x01534D44, "spare_uuid": "10111213-1415-1617-1819-1a1b1c1d1e1f",
                "set_uuid": "c0c1c2c3-c4c5-c6c7-c8c9-cacbcccdcecf", "set_name": "test", "spare_index": 1,
                "spare_count": 2, "main_sectors": 40003, "super_good": 0x3FF, "session": 0x1234567,
                "sixth_host": 0xFFFFFFFF, "main_block_device": 1, "main_block_size": 512,
                "main_serial": "SERIAL", "main_wwn": "", "main_fs_type": "ext4", "sample_mask": 0xFFFF,
                "samples": list(range(16)), "lifetime_allocations": 1, "auto_remaps": 2, "manual_remaps": 3,
                "read_errors": 4, "write_errors": 5, "saves_tried": 6, "saves_done": 7}.items():
            self.assertEqual(found[name], value, name)
        self.assertEqual(found["sessions"][0], {"held": 0x1234567, "given": 0x89ABCDE})
        self.assertEqual(found["sessions"][15], {"held": 0, "given": 0})
        self.assertEqual(found["spare_uuids"][:3], [
            "80818283-8485-8687-8889-8a8b8c8d8e8f", "10111213-1415-1617-1819-1a1b1c1d1e1f", None])
        self.assertEqual([len(g) for g in found["good"]], [256] * 6)
        self.assertEqual(found["good"][4][:6], "ffff01")

    def test_main_of_another_size(self):
        result = Image(self).write().decode(main_sectors=40004)
        self.assertProblem(result, "main has 40004 sectors, not 40003")

    def test_clean_but_not_equal(self):
        image = Image(self, flags=1).write()
        image.flip(image.place(2, 3))
        self.assertProblem(image.decode(), "marked clean")


class Superblocks(Base):
    def one_bad(self, copy, why, **fields):
        image = Image(self).write()
        image.put_super(copy, **fields)
        result = image.decode()
        valid, newest, text = self.super_why(result, copy)
        self.assertEqual((valid, newest), (False, False))
        self.assertIn(why, text)
        self.assertFalse(result["all_copies_equal"])
        self.assertEqual(sum(s["newest"] for s in result["superblocks"]), 9)

    def test_rules_2_4_and_7(self):
        for copy in (0, 3, 8):
            for why, fields in (
                    ("wrong magic", {"magic": b"XMS\x01"}), ("wrong version: 2", {"magic": b"DMS\x02"}),
                    ("foreign", {"owner": OTHER, "uuids": [OTHER]}),
                    ("impossible sequence", {"sequence": 0}), ("impossible sequence", {"sequence": 2**48}),
                    ("spare_count", {"spare_count": 0}), ("spare_count", {"spare_count": 17}),
                    ("spare_index", {"spare_index": 1}), ("spare_index", {"spare_index": 2**32 - 1}),
                    ("spare_uuids", {"uuids": [OTHER]}), ("main_sectors", {"main_sectors": 0}),
                    ("main_sectors", {"main_sectors": 2**51 + 1}), ("sequence_next", {"sequence_next": 101}),
                    ("sequence_end", {"sequence_end": 2**48 + 1}), ("set_name", {"set_name": b""})):
                with self.subTest(why, copy=copy, **fields):
                    self.one_bad(copy, why, **fields)

    def test_limits_of_rule_7(self):
        result = Image(self, sequence=2**48 - 1, sequence_next=2**48, sequence_end=2**48,
                       main_sectors=2**51).write().decode()
        self.assertEqual(result["problems"], [])

    def test_rule_3_every_byte_counts(self):
        for byte in (0, 3, 8, 35, 1043, 4095):
            image = Image(self).write()
            image.flip(512, byte)
            self.assertEqual(self.super_why(image.decode(), 3), (False, False, "wrong crc"))

    def test_rules_5_and_6(self):
        image = Image(self).write()
        image.put(128, image.superblock(1, 256))
        image.put(256, image.superblock(3, 256))
        result = image.decode()
        self.assertIn("wrong place", self.super_why(result, 1)[2])
        self.assertIn("wrong copy number", self.super_why(result, 2)[2])

    def test_torn(self):
        image = Image(self).write()
        new = image.superblock(0, 0, sequence=91, chunks={})
        old = image.superblock(0, 0)
        image.put(0, new[:512] + old[512:])
        result = image.decode()
        self.assertEqual(self.super_why(result, 0), (False, False, "wrong crc"))
        self.assertIsNone(result["superblocks"][0]["sequence"])

    def test_newest_wins(self):
        for copy in (0, 4, 9):
            image = Image(self).write()
            image.put_super(copy, sequence=91, chunks={0: range(5)})
            result = image.decode()
            self.assertEqual([s["copy"] for s in result["superblocks"] if s["newest"]], [copy])
            self.assertEqual(len(result["chunks"]), 1)
            self.assertFalse(result["all_copies_equal"])
            self.assertTrue(all(s["valid"] for s in result["superblocks"]))

    def test_tie_of_sequences(self):
        image = Image(self, chunks={3: range(5)}).write()
        image.put_super(2, main_sectors=80000)
        image.put_super(7, main_sectors=80000)
        result = image.decode()
        self.assertEqual([s["copy"] for s in result["superblocks"] if not s["newest"]], [2, 7])
        self.assertIn("same sequence", self.super_why(result, 2)[2])
        image.put_super(0, main_sectors=80000)
        result = image.decode()
        self.assertEqual([s["copy"] for s in result["superblocks"] if s["newest"]], [0, 2, 7])

    def test_reserved_bytes_are_not_looked_at(self):
        self.assertEqual(Image(self, reserved=7).write().decode()["problems"], [])

    def test_super_good(self):
        image = Image(self, super_good=0x3FE).write()
        image.put(0, bytes(4096))
        result = image.decode()
        self.assertTrue(result["all_copies_equal"])
        image.put(128, bytes(4096))
        self.assertFalse(image.decode()["all_copies_equal"])

    def test_fixed_ones_gone(self):
        image = Image(self)
        image.slots = {30: slot(REMAP, 1, 2)}
        image.write()
        for unit in (0, 128, 256, 512, 1024):
            image.put(unit, bytes(4096))
        result = image.decode()
        self.assertEqual(self.map_of(result), [(1, 30, 2)])
        self.assertEqual([s["copy"] for s in result["superblocks"] if s["newest"]], [5, 6, 7, 8, 9])

    def test_fixed_ones_gone_of_a_grown_spare(self):
        """The head of replica 0 has the same place in a spare of any size, and says where the others are."""
        image = Image(self)
        image.slots = {30: slot(REMAP, 1, 2)}
        image.write()
        for unit in (0, 128, 256, 512, 1024):
            image.put(unit, bytes(4096))
        os.truncate(image.path, 4096 * 9000)
        result = image.decode()
        self.assertEqual(self.map_of(result), [(1, 30, 2)])
        self.assertEqual([s["copy"] for s in result["superblocks"] if s["newest"]], [5, 6, 7, 8, 9])
        image.put(1025, bytes(4096))
        self.assertProblem(image.decode(ok=False), "no superblock")

    def test_one_left(self):
        for copy in range(10):
            image = Image(self).write()
            for other in set(range(10)) - {copy}:
                image.flip(image.heads[other])
            result = image.decode()
            self.assertEqual([s["copy"] for s in result["superblocks"] if s["valid"]], [copy])

    def test_none_left(self):
        image = Image(self).write()
        for copy in range(10):
            image.flip(image.heads[copy])
        result = image.decode(ok=False)
        self.assertEqual([s["valid"] for s in result["superblocks"]], [False] * 10)

    def test_foreign_majority(self):
        """The start of another spare was copied over this one: the ten copies vote."""
        image = Image(self).write()
        for copy in range(5):
            image.put_super(copy, owner=OTHER, uuids=[OTHER], sequence=95)
        self.assertProblem(image.decode(ok=False), "refused")
        image.put_super(4)
        result = image.decode()
        self.assertProblem(result, "different spares")
        self.assertEqual([s["copy"] for s in result["superblocks"] if s["valid"]], [4, 5, 6, 7, 8, 9])
        self.assertIn("foreign", self.super_why(result, 0)[2])

    def test_foreign_of_another_size(self):
        """The heads are read where the spare with most copies has them."""
        image = Image(self).write()
        image.put_super(0, owner=OTHER, uuids=[OTHER], sequence=95, starts=[1025, 2000, 2100, 2200, 2300])
        result = image.decode()
        self.assertEqual([s["copy"] for s in result["superblocks"] if s["newest"]], list(range(1, 10)))
        self.assertEqual(result["superblocks"][9]["unit"], 3276)

    def test_features(self):
        self.assertEqual(Image(self, features=(0xFF, 0, 0)).write().decode()["problems"], [])
        result = Image(self, features=(0, 4, 0)).write().decode()
        self.assertProblem(result, "may only be read")
        for bits in (1, 2, 2**31):
            result = Image(self, features=(0, 0, bits)).write().decode(ok=False)
            self.assertProblem(result, "feature_incompat")
            self.assertEqual(result["chunks"], [])

    def test_metadata_image(self):
        image = Image(self, features=(0, 0, 4))
        image.slots = {30: slot(REMAP, 1, 50)}
        result = image.write().decode()
        self.assertTrue(result["metadata_image"])
        self.assertEqual([e["main_unit"] for e in result["map"]], [1])
        self.assertProblem(Image(self, features=(0, 0, 6)).write().decode(ok=False), "feature_incompat")
        self.assertFalse(Image(self).write().decode()["metadata_image"])

    def test_foreign_content(self):
        image = Image(self)
        os.truncate(image.path, 4096 * 4096)
        image.put(0, image.superblock(0, 0, magic=b"DMS\x02"))
        self.assertProblem(image.decode(ok=False), "superblock of version 2")
        for sector in (0, 256, 512, 768, 1024, 2048, 4096, 8192):
            other = Image(self)
            os.truncate(other.path, 4096 * 4096)
            other.put(sector // 8, b"\x34\x52\x4d\x44")
            self.assertProblem(other.decode(ok=False), f"sector {sector} has metadata of dm-remap v4")

    def test_data_that_looks_like_v4(self):
        image = Image(self).write()
        image.put(32, b"\x34\x52\x4d\x44")
        self.assertEqual(image.decode()["problems"], [])

    def test_sequences_not_reserved(self):
        image = Image(self, sequence_end=90)
        image.slots = {30: slot(REMAP, 1, 90)}
        result = image.write().decode()
        self.assertProblem(result, "superblock's sequence 90")
        self.assertProblem(result, "1 blocks or slots")


class Blocks(Base):
    def setUp(self):
        self.image = Image(self)
        self.image.slots = {1300: slot(REMAP, 7, 55)}
        self.image.write()

    def one_bad(self, why, sequence=60):
        result = self.image.decode()
        copy = self.copy_of(result, 5, 0)
        self.assertEqual((copy["valid"], copy["newest"], copy["sequence"]), (False, False, sequence))
        self.assertIn(why, copy["why"])
        self.assertFalse(result["all_copies_equal"])
        self.assertEqual(self.map_of(result), [(7, 1300, 55)])
        self.assertProblem(result, "chunk 5, replica 0: block 5")

    def test_crc(self):
        for byte in (0, 4095):
            self.image.put_block(0, 5)
            self.image.flip(self.image.place(0, 5), byte)
            self.one_bad("wrong crc", None)

    def test_magic(self):
        for magic, why in ((b"DMT\x02", "wrong version: 2"), (b"DMS\x01", "wrong magic"),
                           (bytes(4), "wrong magic")):
            self.image.put_block(0, 5, magic=magic)
            self.one_bad(why, None)

    def test_foreign(self):
        self.image.put_block(0, 5, owner=OTHER, sequence=70, slots={})
        self.one_bad("foreign", 70)

    def test_only_the_low_half_of_the_owner_counts(self):
        self.image.put_block(0, 5, owner=ME[:8] + OTHER[8:])
        self.assertTrue(self.image.decode()["all_copies_equal"])

    def test_number(self):
        self.image.put(self.image.place(0, 5), self.image.table_block(4, self.image.place(0, 5), 70))
        self.one_bad("wrong block number", 70)

    def test_place(self):
        self.image.put(self.image.place(0, 5), self.image.table_block(5, self.image.place(1, 5), 70))
        self.one_bad("wrong place", 70)

    def test_sequence(self):
        for sequence in (0, 2**48, 2**64 - 1):
            self.image.put_block(0, 5, sequence=sequence, slots={})
            self.one_bad("impossible sequence", sequence)

    def test_torn(self):
        unit = self.image.place(0, 5)
        new = self.image.table_block(5, unit, 70, slots={1300: slot(REMAP, 8, 70), 1523: slot(RETIRED)})
        for at in range(512, 4096, 512):
            self.image.put(unit, new[:at] + self.image.table_block(5, unit)[at:])
            self.one_bad("wrong crc", None)

    def test_cannot_be_read(self):
        class Broken(decode.Spare):
            bad = self.image.place(0, 5) * 4096

            def _bytes(self, offset, size):
                if offset <= self.bad < offset + size:
                    raise OSError(5, "Input/output error")
                return super()._bytes(offset, size)
        spare = Broken(self.image.path)
        self.addCleanup(spare.close)
        result, ok = decode.decode(spare)
        self.assertTrue(ok)
        self.assertEqual(self.copy_of(result, 5, 0)["why"], "could not be read")
        self.assertEqual(self.copy_of(result, 4, 0)["why"], "")
        self.assertEqual(self.copy_of(result, 6, 0)["why"], "")

    def test_newest_wins(self):
        for replica in range(5):
            sequence = 61 + replica
            self.image.put_block(replica, 5, sequence=sequence, slots={1300: slot(REMAP, 8, sequence)})
            result = self.image.decode()
            self.assertEqual(self.map_of(result), [(8, 1300, sequence)])
            self.assertEqual([self.copy_of(result, 5, r)["newest"] for r in range(5)],
                             [r == replica for r in range(5)])
            self.assertFalse(result["all_copies_equal"])

    def test_tie_of_sequences(self):
        self.image.put_block(3, 5, slots={1300: slot(REMAP, 8, 56)})
        result = self.image.decode()
        self.assertEqual(self.map_of(result), [(7, 1300, 55)])
        self.assertIn("same sequence", self.copy_of(result, 5, 3)["why"])
        self.image.put_block(0, 5, slots={1300: slot(REMAP, 8, 56)})
        result = self.image.decode()
        self.assertEqual(self.map_of(result), [(8, 1300, 56)])
        self.assertEqual([self.copy_of(result, 5, r)["newest"] for r in range(5)],
                         [True, False, False, True, False])

    def test_lost_block(self):
        for replica in range(5):
            self.image.flip(self.image.place(replica, 9))
            result = self.image.decode(ok=replica < 4)
        self.assertProblem(result, "block 9 has no valid copy")
        self.assertEqual(self.map_of(result), [(7, 1300, 55)])


class Chunks(Base):
    def test_uninitialised(self):
        image = Image(self, chunks={2: range(5), 16: range(5)})
        image.slots = {600: slot(REMAP, 1, 10)}
        image.write()
        for replica in range(5):
            for number in (0, 1, 3):
                image.put(image.place(replica, number), random.Random(number).randbytes(4096))
        image.put_block(0, 4, sequence=80, slots={1100: slot(REMAP, 2, 80)})
        result = image.decode()
        self.assertEqual(result["problems"], [])
        self.assertTrue(result["all_copies_equal"])
        self.assertEqual([c["chunk"] for c in result["chunks"]], [2, 16])
        self.assertEqual([b["number"] for b in result["blocks"]], [2, 16])
        self.assertEqual(self.map_of(result), [(1, 600, 10)])

    def test_none_at_all(self):
        result = Image(self, chunks={}).write().decode()
        self.assertEqual((result["problems"], result["blocks"], result["map"]), ([], [], []))

    def test_good_bits_of_some_replicas(self):
        image = Image(self, chunks={2: [1, 3]})
        image.write()
        image.put_block(0, 2, sequence=80, slots={600: slot(REMAP, 1, 10)})
        result = image.decode()
        self.assertEqual(result["chunks"], [{"chunk": 2, "good": [1, 3]}])
        self.assertEqual([c["replica"] for c in result["blocks"][0]["copies"]], [1, 3])
        self.assertTrue(result["all_copies_equal"])
        self.assertEqual(result["map"], [])

    def test_several_blocks_in_a_chunk(self):
        image = Image(self, units=1024 * MIB, chunks={1: range(5), 516: range(5)})
        image.slots = {254 * 3 + 1: slot(REMAP, 1, 10), 262143: slot(REMAP, 2, 11)}
        result = image.write().decode()
        self.assertEqual(result["problems"], [])
        self.assertEqual([b["number"] for b in result["blocks"]], [2, 3, 1032])
        self.assertEqual(self.map_of(result), [(1, 763, 10), (2, 262143, 11)])
        self.assertEqual(result["geometry"]["chunks"], 517)

    def test_only_the_sixth(self):
        result = Image(self, spare_count=2, uuids=[ME, OTHER], sixth_host=1, sixth_start=2000,
                       chunks={0: range(6), 3: [5]}).write().decode(ok=False)
        self.assertEqual(result["chunks"], [{"chunk": 0, "good": [0, 1, 2, 3, 4, 5]},
                                            {"chunk": 3, "good": [5]}])
        self.assertProblem(result, "block 3 has no valid copy; another spare may have it")

    def test_chunks_that_do_not_exist(self):
        result = Image(self, chunks={0: range(5)}).write()
        result.put_super(0, sequence=91, chunks={0: range(5), 17: [2], 1023: [2]})
        self.assertProblem(result.decode(), "good[2] has bits of chunks that do not exist: 17 to 1023")


class Slots(Base):
    def with_slots(self, slots, ok=True, **fields):
        image = Image(self, **fields)
        image.slots = slots
        return image.write().decode(ok)

    def test_two_slots_for_one_main_unit(self):
        result = self.with_slots({9: slot(REMAP, 7, 20), 3000: slot(EXPLICIT, 7, 22),
                                  1500: slot(REMAP, 7, 21), 10: slot(REMAP, 8, 19)})
        self.assertEqual(self.map_of(result), [(7, 3000, 22), (8, 10, 19)])
        self.assertEqual([(s["spare_unit"], s["sequence"]) for s in result["losers"]], [(1500, 21), (9, 20)])
        self.assertEqual(result["problems"], [])

    def test_two_slots_under_one_sequence(self):
        result = self.with_slots({9: slot(REMAP, 7, 20), 3000: slot(REMAP, 7, 20)}, ok=False)
        self.assertProblem(result, "units 9, 3000 have it under one sequence")
        self.assertEqual((result["map"], len(result["losers"])), ([], 2))
        result = self.with_slots({9: slot(REMAP, 7, 20), 30: slot(REMAP, 7, 20), 31: slot(REMAP, 7, 21)})
        self.assertEqual(self.map_of(result), [(7, 31, 21)])

    def test_damage(self):
        for text, unit, value in (
                ("kind 5", 9, slot(5)), ("kind 255", 9, slot(255)),
                ("reserved", 9, slot(REMAP, 1, 2, reserved=1)), ("reserved", 9, slot(FREE, reserved=128)),
                ("behind the end", 9, slot(REMAP, 5001, 2)), ("sequence 0", 9, slot(EXPLICIT, 1, 0)),
                ("not lost", 9, slot(REMAP, 1, 2, lost=1, may=3)),
                ("in a unit of metadata", 0, slot(REMAP, 1, 2)), ("in a unit of metadata", 820, slot(FREE)),
                ("in a unit of metadata", 1024, slot(RETIRED)), ("in a unit of metadata", 4096, slot(FREE)),
                ("in a unit of metadata", 4317, slot(EXPLICIT, 1, 2))):
            with self.subTest(text, unit=unit):
                result = self.with_slots({unit: value, 40: slot(REMAP, 3, 4)}, ok=False)
                self.assertProblem(result, f"slot of unit {unit}: ")
                self.assertProblem(result, text)
                self.assertEqual(self.map_of(result), [(3, 40, 4)])

    def test_fields_that_mean_nothing(self):
        result = self.with_slots({9: slot(FREE, 2**48 - 1, 0, 1, 2), 10: slot(RETIRED, 2**48 - 1, 0, 1, 2),
                                  820: slot(METADATA, 2**48 - 1, 7, 1, 2)})
        self.assertEqual((result["problems"], result["map"], result["retired"]), ([], [], [10]))

    def test_metadata_where_none_is_known(self):
        result = self.with_slots({9: slot(METADATA), 10: slot(METADATA), 253: slot(METADATA),
                                  254: slot(METADATA)})
        self.assertEqual(result["problems"], [
            f"units {a} have the kind metadata, but no metadata is known there"
            for a in ("9 to 10", "253 to 254")])


class Guests(Base):
    def hosting(self, **fields):
        """A host with the sixth replica of OTHER, 17 MiB large, at unit 2000."""
        start = 2000
        host = Image(self, spare_count=2, uuids=[ME, OTHER], hosted_start=[0, start] + [0] * 14,
                     hosted_blocks=[0, 18] + [0] * 14, hosted_protected=2, **fields)
        host.write()
        guest = Image(self, units=17 * MIB, owner=OTHER, uuids=[ME, OTHER], spare_index=1, spare_count=2,
                      sixth_host=0, sixth_start=start, chunks={4: range(6), 5: range(5), 6: [5]})
        guest.slots = {1020: slot(REMAP, 3, 44), 1525: slot(RETIRED)}
        host.put(start, guest.superblock(10, start))
        for number in (4, 6):
            host.put(start + 1 + number, guest.table_block(number, start + 1 + number, owner=OTHER))
        return host, guest

    def test_decoded(self):
        host, _ = self.hosting()
        result = host.decode()
        self.assertEqual(result["problems"], [
            "guest 1: block 5 has no valid copy; another spare may have it",
            "guest 1: protected, but chunk 5 is not good in the sixth replica"])
        guest = result["guests"][0]
        self.assertEqual((guest["spare"], guest["start"], guest["protected"]), (1, 2000, True))
        self.assertEqual((guest["head"]["copy"], guest["head"]["valid"]), (10, True))
        self.assertEqual(self.map_of(guest), [(3, 1020, 44)])
        self.assertEqual(guest["retired"], [1525])
        self.assertTrue(result["all_copies_equal"])

    def test_remap_inside(self):
        host, _ = self.hosting()
        for replica in range(5):
            host.put_block(replica, 7, slots={2018: slot(REMAP, 1, 2)})
        self.assertProblem(host.decode(ok=False), "slot of unit 2018: remap in a unit of a guest's replica")

    def test_head_gone(self):
        host, _ = self.hosting()
        host.put(2000, bytes(4096))
        result = host.decode()
        self.assertEqual(result["problems"], ["guest 1: the head is not valid: wrong magic"])
        self.assertEqual(result["guests"][0]["map"], [])

    def test_foreign_head(self):
        host, guest = self.hosting()
        host.put(2000, guest.superblock(10, 2000, owner=SET, uuids=[ME, SET]))
        self.assertIn("foreign", host.decode()["guests"][0]["head"]["why"])

    def test_places_that_are_impossible(self):
        for places in ([2000], [0, 0, 2000]):
            host = Image(self, spare_count=2, uuids=[ME, OTHER],
                         hosted_start=places + [0] * (16 - len(places)))
            self.assertProblem(host.write().decode(), "which is no other spare of the set")
        for start in (4095, 4096, 2**32 - 1, 1024):
            host = Image(self, spare_count=2, uuids=[ME, OTHER], hosted_start=[0, start] + [0] * 14)
            self.assertProblem(host.write().decode(), "guest 1")


class Robust(Base):
    def test_random_bytes(self):
        rng = random.Random(1)
        for size in (0, 1, 511, 4096, 5 * 2**20, 16 * 2**20, 17 * 2**20 + 5):
            image = Image(self)
            with open(image.path, "wb") as f:
                f.write(rng.randbytes(size))
            image.decode(ok=False)

    def test_truncated(self):
        image = Image(self).write()
        for size in sorted(random.Random(2).choices(range(4096 * 4096), k=40), reverse=True):
            os.truncate(image.path, size)
            image.decode(ok=False)

    def test_flipped_bits(self):
        """A flip in one copy of everything changes nothing that is decoded."""
        rng = random.Random(3)
        image = Image(self)
        image.slots = {1300: slot(REMAP, 7, 55)}
        image.write()
        want = image.decode()
        for _ in range(60):
            flips = [(image.heads[rng.randrange(10)], rng.randrange(4096), 1 << rng.randrange(8))]
            flips += [(image.place(rng.randrange(5), number), rng.randrange(4096), 1 << rng.randrange(8))
                      for number in range(17)]
            for flip in flips:
                image.flip(*flip)
            got = image.decode()
            self.assertEqual((got["map"], got["geometry"]), (want["map"], want["geometry"]))
            self.assertFalse(got["all_copies_equal"])
            for flip in flips:
                image.flip(*flip)
        self.assertEqual(image.decode(), want)

    def test_random_contents_with_right_crcs(self):
        """Whatever a superblock or a block says, nothing crashes and all of it can be printed."""
        rng = random.Random(4)
        image = Image(self, hosted_start=[0, 2000] + [0] * 14, spare_count=2, uuids=[ME, OTHER]).write()
        for _ in range(150):
            copy = rng.randrange(10)
            block = bytearray(image.superblock(copy, image.heads[copy], sequence=rng.randrange(85, 95)))
            for _ in range(rng.randrange(1, 6)):
                at = 4 * rng.randrange(10, 400)
                block[at:at + 4] = struct.pack("<I", rng.choice((0, 1, 2**31, 2**32 - 1, rng.getrandbits(32),
                                                                 rng.randrange(5000))))
            image.put(image.heads[copy], seal(block))
            number = rng.randrange(17)
            block = bytearray(image.table_block(number, image.place(2, number), rng.randrange(1, 99)))
            for _ in range(rng.randrange(1, 6)):
                at = 8 * rng.randrange(4, 512)
                block[at:at + 8] = struct.pack("<Q", rng.getrandbits(64) & rng.getrandbits(64))
            image.put(image.place(2, number), seal(block))
            guest = bytearray(image.superblock(10, 2000, owner=OTHER, spare_index=1, sequence=80))
            at = 4 * rng.randrange(10, 400)
            guest[at:at + 4] = struct.pack("<I", rng.choice((0, 1, 2**32 - 1, rng.getrandbits(32))))
            image.put(2000, seal(guest))
            spare = decode.Spare(image.path)
            try:
                json.dumps(decode.decode(spare)[0])
            finally:
                spare.close()

    def test_problems_are_bounded(self):
        image = Image(self)
        image.slots = {u: slot(9) for u in range(2000)}
        result = image.write().decode(ok=False)
        self.assertEqual(len(result["problems"]), decode.MAX_PROBLEMS + 1)
        self.assertRegex(result["problems"][-1], "^and [0-9]+ more$")

    def test_large_sparse_spare(self):
        units = 2**28
        image = Image(self, chunks={})
        image.units = units
        g = decode.geometry_for(units)
        image.fields.update(spare_units=units, table_blocks=g["table_blocks"], chunk_blocks=g["chunk_blocks"],
                            starts=g["replica_start"])
        image.heads = image.heads[:5] + g["replica_start"]
        try:
            os.truncate(image.path, 4096 * units)
        except OSError as error:
            self.skipTest(str(error))
        image.chunks = {1000: range(5)}
        for copy in range(10):
            image.put_super(copy)
        image.blocks, image.starts = g["table_blocks"], g["replica_start"]
        image.meta = set()
        for number in range(1000 * 1033, 1001 * 1033):
            for r in range(5):
                image.put_block(r, number)
        began = time.monotonic()
        result = image.decode()
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual((result["problems"], len(result["blocks"])), ([], 1033))


class Command(Base):
    def run_it(self, *arguments):
        done = subprocess.run([sys.executable, os.path.join(HERE, "decode.py"), *arguments],
                              capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def test_decodes(self):
        image = Image(self).write()
        os.chmod(image.path, 0o400)
        status, out, err = self.run_it("--main-sectors", "40003", image.path)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(json.loads(out), image.decode())

    def test_range(self):
        image = Image(self)
        image.slots = {30: slot(REMAP, 1, 2)}
        want = image.write().decode()
        with open(image.path, "rb") as f:
            data = f.read()
        moved = Image(self)
        with open(moved.path, "wb") as f:
            f.write(b"x" * 512 * 13 + data + b"y" * 8192)
        status, out, _ = self.run_it(f"{moved.path}@13+{4096 * 8}")
        self.assertEqual((status, json.loads(out)), (0, want))
        status, out, _ = self.run_it(f"{moved.path}@13+{4096 * 8 + 100}")
        self.assertEqual((status, json.loads(out)["problems"]), (
            0, ["the range goes beyond the end of the file or device"]))
        self.assertEqual(self.run_it(f"{moved.path}@14+{4096 * 8}")[0], 4)
        self.assertEqual(self.run_it(f"{moved.path}@13+{4096 * 8 - 1}")[0], 4)
        self.assertEqual(self.run_it(f"{moved.path}@99999999+0")[0], 4)

    def test_damaged(self):
        image = Image(self)
        status, out, err = self.run_it(image.path)
        self.assertEqual((status, err), (4, ""))
        self.assertFalse(json.loads(out)["all_copies_equal"])

    def test_usage(self):
        path = Image(self).write().path
        for arguments in ([], [path, path], ["--main-sectors", path], ["--main-sectors", "0", path],
                          ["--main-sectors", "x", path], ["--main-sectors", str(2**51 + 1), path],
                          ["--what", path], [path + ".absent"], [os.path.dirname(path)], [path + "@1"],
                          ["/dev/null"], [f"{path}@{10**30}+8"], [f"{path}@-1+8"], [""]):
            with self.subTest(arguments):
                status, out, err = self.run_it(*arguments)
                self.assertEqual((status, out), (2, ""))
                self.assertTrue(err)


if __name__ == "__main__":
    unittest.main()
