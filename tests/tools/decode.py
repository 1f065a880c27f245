#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Decode the metadata of one dmremap spare; written from dmremap-format(5) alone.

    decode.py [--main-sectors N] SPARE

SPARE is a file or block device, or PATH@START+LENGTH, a range of either in sectors.  It is only read.
--main-sectors gives the size that main really has; that it differs from the recorded one is a problem.

Prints one JSON object:

superblocks       the ten copies.  copy and unit say what was looked for and where; the same fields of the
                  block are recorded_copy and recorded_unit.  Fields are shown where magic and crc are right.
                  newest: the copy is valid and has the bytes of the newest one.
geometry          units of the spare, and what the newest superblock records.
chunks            the initialised ones; a 5 in good is the sixth replica, which lies on another spare.
blocks            every block of the initialised chunks, with its copies in the good replicas 0 to 4.
map, losers       the slots of the kinds 1 and 2 by unit of main; lost and may_answer are masks, bit s for
                  sector s.  Only the slots of this spare are seen: another may win over one of the map.
retired           units of the kind 3.
guests            the sixth replicas of other spares that this one holds, decoded in the same way.
problems          text, one entry for everything that is not as the format wants it.
all_copies_equal  every good copy of this spare's superblock and blocks, on this spare, is valid and carries
                  the same content and sequence.

Exit status: 0 decoded (there may be problems), 4 damaged beyond decoding or refused (what could be decoded
is printed all the same), 2 usage.
"""

import argparse
import bisect
import json
import os
import re
import stat
import struct
import sys
import uuid
import zlib

SECTOR = 512
UNIT = 4096
UNIT_SECTORS = 8
SLOTS = 254
SLOTS_AT = 32
MAX_SPARES = 16
MAX_CHUNKS = 1024
MAX_UNITS = 2**32 - 1
MIN_UNITS = 4096
MAX_SEQUENCE = 2**48 - 1
MAIN_SECTORS_END = 2**51 + 1
REPLICAS = 5
SIXTH = 5
COPY_SIXTH = 10
NO_HOST = 0xFFFFFFFF
FIXED = (0, 128, 256, 512, 1024)
FIRST_REPLICA = 1025

SUPER_LETTERS = b"DMS"
SUPER_MAGIC = b"DMS\x01"
TABLE_MAGIC = b"DMT\x01"
V4_MAGIC = 0x444D5234
V4_SECTORS = (0, 256, 512, 768, 1024, 2048, 4096, 8192)

FREE, REMAP, EXPLICIT, RETIRED, METADATA = range(5)
KINDS = ("free", "remap", "explicit remap", "retired", "metadata")
FREE_SLOTS = bytes(16 * SLOTS)
METADATA_SLOTS = struct.pack("<QQ", 0, METADATA << 48) * SLOTS

FLAG_CLEAN = 1
INCOMPAT_IMAGE = 4   # a metadata image: may be looked at

PIECE = 256          # units in one read of a table
MAX_PROBLEMS = 1000

SUPERBLOCK = (       # field, offset, type, size or count
    ("crc", 0, "u4", 1), ("magic", 4, "u4", 1), ("sequence", 8, "u8", 1), ("spare_uuid", 16, "uuid", 1),
    ("copy", 32, "u4", 1), ("unit", 36, "u4", 1), ("set_uuid", 40, "uuid", 1), ("set_name", 56, "text", 64),
    ("feature_compat", 120, "u4", 1), ("feature_ro_compat", 124, "u4", 1), ("feature_incompat", 128, "u4", 1),
    ("spare_index", 132, "u4", 1), ("spare_count", 136, "u4", 1), ("flags", 140, "u4", 1),
    ("main_sectors", 144, "u8", 1), ("spare_units", 152, "u8", 1), ("table_blocks", 160, "u4", 1),
    ("chunk_blocks", 164, "u4", 1), ("replica_start", 168, "u4", 5), ("super_good", 188, "u4", 1),
    ("sequence_next", 192, "u8", 1), ("sequence_end", 200, "u8", 1), ("session", 208, "u8", 1),
    ("sessions", 216, "pair", 16), ("spare_uuids", 472, "uuid", 16), ("sixth_host", 728, "u4", 1),
    ("sixth_start", 732, "u4", 1), ("hosted_start", 736, "u4", 16), ("hosted_protected", 800, "u4", 1),
    ("main_block_device", 808, "u4", 1), ("main_block_size", 812, "u4", 1), ("main_serial", 816, "text", 64),
    ("main_wwn", 880, "text", 64), ("main_partuuid", 944, "text", 40), ("main_fs_uuid", 984, "text", 40),
    ("main_fs_type", 1024, "text", 16), ("sample_mask", 1040, "u4", 1), ("samples", 1048, "u4", 16),
    ("lifetime_allocations", 1112, "u8", 1), ("auto_remaps", 1120, "u8", 1), ("manual_remaps", 1128, "u8", 1),
    ("read_errors", 1136, "u8", 1), ("write_errors", 1144, "u8", 1), ("saves_tried", 1152, "u8", 1),
    ("saves_done", 1160, "u8", 1), ("hosted_blocks", 1168, "u4", 16), ("absent_map", 1232, "u1", 16),
    ("good", 1280, "bits", 6),
)


def div_up(a, b):
    return -(-a // b)


class Problems:
    """The list of problems, of bounded length."""

    def __init__(self):
        self.texts = []
        self.more = 0

    def add(self, text):
        if len(self.texts) < MAX_PROBLEMS:
            self.texts.append(text)
        else:
            self.more += 1

    def result(self):
        return self.texts + ([f"and {self.more} more"] if self.more else [])


class Spare:
    """A file, a block device or a range of either, read in units."""

    def __init__(self, path, start=0, length=None):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise OSError(f"{path}: neither a regular file nor a block device")
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.start = start * SECTOR
        there = max(0, os.lseek(self.fd, 0, os.SEEK_END) - self.start)
        self.size = there if length is None else min(there, length * SECTOR)
        self.clipped = length is not None and there < length * SECTOR
        self.count = self.size // UNIT

    def close(self):
        os.close(self.fd)

    def _bytes(self, offset, size):
        data = b""
        while len(data) < size:
            more = os.pread(self.fd, size - len(data), self.start + offset + len(data))
            if not more:
                return None
            data += more
        return data

    def number(self, sector):
        """The 32-bit number at byte 0 of a sector, or None."""
        if (sector + 1) * SECTOR > self.size:
            return None
        try:
            data = self._bytes(sector * SECTOR, 4)
        except OSError:
            return None
        return data and struct.unpack("<I", data)[0]

    def units(self, first, count):
        """The units from first on, None for each that could not be read."""
        inside = max(0, min(count, self.count - first))
        data = None
        if inside:
            try:
                data = self._bytes(first * UNIT, inside * UNIT)
            except OSError:
                data = None
        if data is not None:
            result = [data[i * UNIT:(i + 1) * UNIT] for i in range(inside)]
        elif inside > 1:
            result = [self.units(first + i, 1)[0] for i in range(inside)]
        else:
            result = [None] * inside
        return result + [None] * (count - inside)


class Superblock:
    """The fields of a superblock; as_json() for the output."""

    def __init__(self, data):
        self.data = data
        for name, offset, kind, count in SUPERBLOCK:
            setattr(self, name, self._field(offset, kind, count))

    def _field(self, offset, kind, count):
        data = self.data
        if kind == "text":
            return data[offset:offset + count].split(b"\0", 1)[0]
        if kind == "uuid":
            values = [data[offset + 16 * i:offset + 16 * i + 16] for i in range(count)]
        elif kind == "bits":
            return [data[offset + 128 * i:offset + 128 * i + 128] for i in range(count)]
        elif kind == "pair":
            return list(struct.iter_unpack("<QQ", data[offset:offset + 16 * count]))
        else:
            values = list(struct.unpack_from(f"<{count}{dict(u1='B', u4='I', u8='Q')[kind]}", data, offset))
        return values if count > 1 else values[0]

    def content(self):
        """All that does not differ between copies."""
        return self.data[8:32] + self.data[40:]

    def is_good(self, replica, chunk):
        return bool(self.good[replica][chunk // 8] >> (chunk % 8) & 1)

    def as_json(self):
        result = {}
        for name, _, kind, count in SUPERBLOCK:
            value = getattr(self, name)
            if kind == "text":
                value = value.decode("utf-8", "backslashreplace")
            elif kind == "uuid":
                value = [uuid_text(v) for v in value] if count > 1 else uuid_text(value)
            elif kind == "bits":
                value = [v.hex() for v in value]
            elif kind == "pair":
                value = [{"held": held, "given": given} for held, given in value]
            result["recorded_" + name if name in ("copy", "unit") else name] = value
        return result


def uuid_text(data):
    return str(uuid.UUID(bytes=bytes(data))) if any(data) else None


def block_trouble(data, magic):
    """Why data is no block with this magic at all: rules 1 to 3 of READING."""
    if data is None:
        return "could not be read"
    if data[4:8] != magic:
        if data[4:7] == magic[:3]:
            return f"wrong version: {data[7]}"
        return "wrong magic"
    if zlib.crc32(data[4:]) != struct.unpack_from("<I", data)[0]:
        return "wrong crc"
    return ""


def superblock_trouble(sb, copy, unit, owner):
    """Why sb is no valid copy: rules 4 to 7; owner may be None, not known yet."""
    if owner is not None and sb.spare_uuid != owner:
        return f"foreign: of spare {uuid_text(sb.spare_uuid)}"
    if sb.copy != copy:
        return f"wrong copy number: {sb.copy}"
    if sb.unit != unit:
        return f"wrong place: written for unit {sb.unit}"
    if not 1 <= sb.sequence <= MAX_SEQUENCE:
        return f"impossible sequence: {sb.sequence}"
    if not 1 <= sb.spare_count <= MAX_SPARES:
        return f"impossible spare_count: {sb.spare_count}"
    if sb.spare_index >= sb.spare_count:
        return f"impossible spare_index: {sb.spare_index} of {sb.spare_count}"
    if sb.spare_uuids[sb.spare_index] != sb.spare_uuid:
        return f"spare_uuids does not have spare_uuid at place {sb.spare_index}"
    if not 0 < sb.main_sectors < MAIN_SECTORS_END:
        return f"impossible main_sectors: {sb.main_sectors}"
    if sb.sequence_next > sb.sequence_end:
        return f"sequence_next {sb.sequence_next} is above sequence_end {sb.sequence_end}"
    if sb.sequence_end > MAX_SEQUENCE + 1:
        return f"impossible sequence_end: {sb.sequence_end}"
    if not sb.set_name:
        return "set_name is empty"
    return ""


def geometry_for(units):
    """N, B, C and replica_start for a spare of so many units; None if it is too small."""
    if units < MIN_UNITS:
        return None
    n = min(units, MAX_UNITS)
    blocks = div_up(n, SLOTS)
    size = blocks + 1
    taken = [(f, f + 1) for f in FIXED] + [(FIRST_REPLICA, FIRST_REPLICA + size)]
    starts = [FIRST_REPLICA]
    for r in range(1, REPLICAS):
        at = n * r // 5
        while True:
            clash = [end for first, end in taken if first < at + size and at < end]
            if not clash:
                break
            at = max(clash)
        starts.append(at)
        taken.append((at, at + size))
    return {"spare_units": n, "table_blocks": blocks, "chunk_blocks": div_up(blocks, 1024),
            "replica_start": starts}


def overlap(ranges):
    """The first two ranges (first, end, name) that overlap, or None."""
    ranges = sorted(ranges)
    for a, b in zip(ranges, ranges[1:]):
        if b[0] < a[1]:
            return a, b
    return None


def own_ranges(sb):
    """Units of the spare's superblock copies and replicas: (first, end, name)."""
    return ([(f, f + 1, f"superblock copy {c}") for c, f in enumerate(FIXED)] +
            [(s, s + sb.table_blocks + 1, f"replica {r}") for r, s in enumerate(sb.replica_start)])


def geometry_trouble(sb):
    """Why the recorded geometry is to be refused."""
    n = sb.spare_units
    if not MIN_UNITS <= n <= MAX_UNITS:
        return f"impossible spare_units: {n}"
    if sb.table_blocks != div_up(n, SLOTS):
        return f"table_blocks {sb.table_blocks} does not follow from spare_units {n}"
    if sb.chunk_blocks != div_up(sb.table_blocks, 1024):
        return f"chunk_blocks {sb.chunk_blocks} does not follow from table_blocks {sb.table_blocks}"
    ranges = own_ranges(sb)
    for _, end, name in ranges:
        if end > n:
            return f"{name} leaves the spare"
    both = overlap(ranges)
    if both:
        return f"{both[0][2]} and {both[1][2]} overlap"
    return ""


class Copy:
    """One superblock copy that was looked for."""

    def __init__(self, copy, unit, data):
        self.copy = copy
        self.unit = unit
        self.newest = False
        self.sb = None
        self.why = block_trouble(data, SUPER_MAGIC)
        if not self.why:
            self.sb = Superblock(data)
            self.why = superblock_trouble(self.sb, copy, unit, None)
        self.valid = not self.why

    def want_owner(self, owner):
        if self.valid:
            self.why = superblock_trouble(self.sb, self.copy, self.unit, owner)
            self.valid = not self.why

    def as_json(self):
        result = {"copy": self.copy, "unit": self.unit, "valid": self.valid, "newest": self.newest,
                  "why": self.why, "sequence": None}
        if self.sb:
            result.update(self.sb.as_json())
        return result


def best(copies):
    """The newest of valid copies: highest sequence, then lowest number."""
    return min(copies, key=lambda c: (-c.sb.sequence, c.copy))


def read_heads(spare, starts):
    return [Copy(REPLICAS + r, s, spare.units(s, 1)[0]) for r, s in enumerate(starts)]


def read_superblocks(spare, problems):
    """The ten copies, and the newest superblock or None."""
    fixed = [Copy(c, u, spare.units(u, 1)[0]) for c, u in enumerate(FIXED)]
    lead = [c for c in fixed if c.valid]
    if lead:
        starts = best(lead).sb.replica_start
    else:
        geometry = geometry_for(spare.count)
        problems.add("no fixed superblock copy is valid")
        starts = geometry["replica_start"] if geometry else []
    heads = read_heads(spare, starts)
    votes = {}
    for c in fixed + heads:
        if c.valid:
            votes[c.sb.spare_uuid] = votes.get(c.sb.spare_uuid, 0) + 1
    if not votes:
        return fixed + heads, None
    most = max(votes.values())
    if len(votes) > 1:
        found = ", ".join(f"{uuid_text(u)} ({n})" for u, n in sorted(votes.items()))
        problems.add(f"superblock copies of different spares: {found}")
        if list(votes.values()).count(most) > 1:
            problems.add("no spare has most of the superblock copies: refused")
            return fixed + heads, None
    owner = next(u for u, n in votes.items() if n == most)
    for c in fixed + heads:
        c.want_owner(owner)
    lead = best([c for c in fixed if c.valid] or [c for c in heads if c.valid])
    if lead.sb.replica_start != starts:
        moved = read_heads(spare, lead.sb.replica_start)
        for c in moved:
            c.want_owner(owner)
        if any(c.valid for c in fixed + moved):
            heads = moved
    newest = best([c for c in fixed + heads if c.valid])
    for c in fixed + heads:
        if not c.valid:
            continue
        c.newest = c.sb.content() == newest.sb.content()
        if c.sb.sequence != newest.sb.sequence:
            c.why = f"older than sequence {newest.sb.sequence}"
        elif not c.newest:
            c.why = f"same sequence as copy {newest.copy}, other bytes"
    return fixed + heads, newest.sb


class Table:
    """The table of one spare, as far as its replicas lie on the spare that is read."""

    def __init__(self, spare, sb, replicas, hosted, problems, prefix=""):
        self.spare = spare
        self.sb = sb
        self.replicas = replicas    # number of the replica: unit of its head
        self.hosted = hosted        # (first, end) of guests' replicas: not data, though their slots are free
        self.problems = problems
        self.prefix = prefix
        self.damaged = False
        self.equal = True
        self.chunks = []
        self.blocks = []
        self.map = []
        self.losers = []
        self.retired = []
        self.remaps = {}
        self.unexplained = []
        self.ahead = 0
        self.main_units = div_up(sb.main_sectors, UNIT_SECTORS)
        merged = []
        meta = [(first, end) for first, end, _ in own_ranges(sb)]
        for first, end in sorted(meta + [(sb.spare_units, sb.table_blocks * SLOTS)]):
            if merged and first <= merged[-1][1]:
                merged[-1][1] = max(end, merged[-1][1])
            else:
                merged.append([first, end])
        self.meta_first = [m[0] for m in merged]
        self.meta_end = [m[1] for m in merged]

    def say(self, text):
        self.problems.add(self.prefix + text)

    def damage(self, text):
        self.damaged = True
        self.say(text)

    def decode(self):
        sb = self.sb
        count = div_up(sb.table_blocks, sb.chunk_blocks)
        for r in range(6):
            extra = [c for c in range(count, MAX_CHUNKS) if sb.is_good(r, c)]
            if extra:
                self.say(f"good[{r}] has bits of chunks that do not exist: {extra[0]} to {extra[-1]}")
        for c in range(count):
            good = [r for r in range(6) if sb.is_good(r, c)]
            if good:
                self.chunks.append({"chunk": c, "good": good})
                self._chunk(c, [r for r in good if r in self.replicas], good)
        for main_unit in sorted(self.remaps):
            self._winner(sorted(self.remaps[main_unit], key=lambda s: (-s["sequence"], s["spare_unit"])))
        for first, end in self.unexplained:
            self.say(f"units {first} to {end - 1} have the kind metadata, but no metadata is known there")
        if self.ahead:
            self.say(f"{self.ahead} blocks or slots have a sequence not below sequence_end {sb.sequence_end}")

    def _winner(self, slots):
        if len(slots) > 1 and slots[0]["sequence"] == slots[1]["sequence"]:
            tied = [str(s["spare_unit"]) for s in slots if s["sequence"] == slots[0]["sequence"]]
            self.damage(f"main unit {slots[0]['main_unit']}: units {', '.join(tied)} have it under one "
                        f"sequence, {slots[0]['sequence']}: none wins")
            self.losers += slots
            return
        self.map.append(slots[0])
        self.losers += slots[1:]

    def _chunk(self, c, here, good):
        sb = self.sb
        first = c * sb.chunk_blocks
        end = min(sb.table_blocks, first + sb.chunk_blocks)
        bad = {}
        for at in range(first, end, PIECE):
            count = min(PIECE, end - at)
            data = {r: self.spare.units(self.replicas[r] + 1 + at, count) for r in here}
            for i in range(count):
                self._block(at + i, {r: data[r][i] for r in here}, good, bad)
        for (r, why), blocks in sorted(bad.items()):
            more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
            self.say(f"chunk {c}, replica {r}: block {blocks[0]}{more}: {why}")

    def _trouble(self, data, number, unit):
        """Why data is no valid copy of a block, and its sequence if it is a block at all."""
        why = block_trouble(data, TABLE_MAGIC)
        if why:
            return why, None
        sequence, owner, recorded, place = struct.unpack_from("<Q8sII", data, 8)
        if owner != self.sb.spare_uuid[:8]:
            why = "foreign: of another spare"
        elif recorded != number:
            why = "wrong block number"
        elif place != unit:
            why = "wrong place"
        elif not 1 <= sequence <= MAX_SEQUENCE:
            why = "impossible sequence"
        return why, sequence

    def _block(self, number, data, good, bad):
        copies = []
        newest = None
        for r in sorted(data):
            unit = self.replicas[r] + 1 + number
            why, sequence = self._trouble(data[r], number, unit)
            copies.append({"replica": r, "unit": unit, "valid": not why, "sequence": sequence,
                           "newest": False, "why": why})
            if not why and (newest is None or sequence > newest["sequence"]):
                newest = copies[-1]
        self.blocks.append({"number": number, "copies": copies})
        if newest is None:
            self.equal = False
            other = "; another spare may have it" if any(r not in self.replicas for r in good) else ""
            self.damage(f"block {number} has no valid copy{other}")
            self._bad(copies, number, bad)
            return
        picked = data[newest["replica"]]
        same = (picked[8:28], picked[32:])
        for copy in copies:
            if copy["valid"]:
                mine = data[copy["replica"]]
                copy["newest"] = (mine[8:28], mine[32:]) == same
                if copy["sequence"] != newest["sequence"]:
                    copy["why"] = "older than the newest copy"
                elif not copy["newest"]:
                    copy["why"] = "same sequence as the newest copy, other bytes"
        self._bad(copies, number, bad)
        if newest["sequence"] >= self.sb.sequence_end:
            self.ahead += 1
        self._slots(number, picked[SLOTS_AT:])

    def _bad(self, copies, number, bad):
        for copy in copies:
            if not copy["newest"]:
                self.equal = False
                bad.setdefault((copy["replica"], copy["why"]), []).append(number)

    def _slots(self, number, data):
        base = number * SLOTS
        meta = set()
        at = bisect.bisect_right(self.meta_end, base)
        while at < len(self.meta_first) and self.meta_first[at] < base + SLOTS:
            meta.update(range(max(base, self.meta_first[at]), min(base + SLOTS, self.meta_end[at])))
            at += 1
        if not meta and data == FREE_SLOTS or len(meta) == SLOTS and data == METADATA_SLOTS:
            return
        for unit, (low, high) in enumerate(struct.iter_unpack("<QQ", data), base):
            if low or high or unit in meta:
                self._slot(unit, low, high, unit in meta)

    def _slot(self, unit, low, high, meta):
        main_unit, lost, may = low & MAX_SEQUENCE, low >> 48 & 0xFF, low >> 56
        sequence, kind = high & MAX_SEQUENCE, high >> 48 & 0xFF
        where = f"slot of unit {unit}: "
        if high >> 56:
            self.damage(f"{where}reserved bits are set")
        elif kind > METADATA:
            self.damage(f"{where}kind {kind}")
        elif meta and kind != METADATA:
            self.damage(f"{where}{KINDS[kind]} in a unit of metadata")
        elif kind not in (FREE, METADATA) and any(first <= unit < end for first, end in self.hosted):
            self.damage(f"{where}{KINDS[kind]} in a unit of a guest's replica")
        elif kind == METADATA and not meta:
            if self.unexplained and self.unexplained[-1][1] == unit:
                self.unexplained[-1][1] = unit + 1
            else:
                self.unexplained.append([unit, unit + 1])
        elif kind == RETIRED:
            self.retired.append(unit)
        elif kind in (REMAP, EXPLICIT):
            if main_unit >= self.main_units:
                self.damage(f"{where}main unit {main_unit} is behind the end of main")
            elif not sequence:
                self.damage(f"{where}remap with sequence 0")
            elif may & ~lost:
                self.damage(f"{where}main may answer for a sector that is not lost")
            else:
                self.ahead += sequence >= self.sb.sequence_end
                self.remaps.setdefault(main_unit, []).append(
                    {"main_unit": main_unit, "spare_unit": unit, "sequence": sequence, "lost": lost,
                     "may_answer": may, "kind": KINDS[kind]})


def check_features(sb, say):
    """False if the superblock forbids reading."""
    if sb.feature_ro_compat:
        say(f"unknown feature_ro_compat {sb.feature_ro_compat:#x}: may only be read")
    unknown = sb.feature_incompat & ~INCOMPAT_IMAGE
    if unknown:
        say(f"unknown feature_incompat {unknown:#x}: refused")
        return False
    return True


class Guest:
    """The sixth replica of spare g, hosted on the spare that is read."""

    def __init__(self, spare, host, g, problems):
        self.spare = spare
        self.g = g
        self.start = host.hosted_start[g]
        self.owner = host.spare_uuids[g]
        self.protected = bool(host.hosted_protected >> g & 1)
        self.problems = problems
        self.prefix = f"guest {g}: "
        self.table = None
        self.head = Copy(COPY_SIXTH, self.start, spare.units(self.start, 1)[0])
        self.head.want_owner(self.owner)
        if self.head.valid and self.head.sb.spare_index != g:
            self.say(f"the head says spare_index {self.head.sb.spare_index}")
        why = geometry_trouble(self.head.sb) if self.head.valid else f"the head is not valid: {self.head.why}"
        self.usable = not why
        if why:
            self.say(why)
        else:
            self.head.newest = True
        self.end = self.start + 1 + host.hosted_blocks[g]
        if self.usable and self.head.sb.table_blocks != host.hosted_blocks[g]:
            self.say(f"hosted_blocks is {host.hosted_blocks[g]}, the table has {self.head.sb.table_blocks} blocks")

    def say(self, text):
        self.problems.add(self.prefix + text)

    def decode(self):
        if not self.usable or not check_features(self.head.sb, self.say):
            return
        sb = self.head.sb
        self.table = Table(self.spare, sb, {SIXTH: self.start}, hosted_ranges(sb), self.problems, self.prefix)
        self.table.decode()
        missing = [c["chunk"] for c in self.table.chunks if SIXTH not in c["good"]]
        if self.protected and missing:
            self.say(f"protected, but chunk {missing[0]} is not good in the sixth replica")

    def as_json(self):
        result = {"spare": self.g, "spare_uuid": uuid_text(self.owner), "start": self.start,
                  "protected": self.protected, "head": self.head.as_json()}
        for key in ("chunks", "blocks", "map", "losers", "retired"):
            result[key] = getattr(self.table, key) if self.table else []
        return result


def hosted_ranges(sb):
    """Units that a superblock's guests take, as (first, end)."""
    return [(start, start + 1 + sb.hosted_blocks[g]) for g, start in enumerate(sb.hosted_start) if start]


def find_guests(spare, sb, problems):
    """The guests, and the units that they take as (first, end, name)."""
    guests = []
    ranges = []
    for g, start in enumerate(sb.hosted_start):
        if not start:
            if sb.hosted_protected >> g & 1:
                problems.add(f"hosted_protected has the bit of guest {g}, which is not hosted")
        elif g == sb.spare_index or not any(sb.spare_uuids[g]):
            problems.add(f"hosted_start has a place for {g}, which is no other spare of the set")
        else:
            guest = Guest(spare, sb, g, problems)
            guests.append(guest)
            if guest.end <= sb.spare_units:
                ranges.append((start, guest.end, f"the replica of guest {g}"))
            else:
                guest.say("the replica leaves the spare")
    return guests, ranges


def check_superblock(sb, copies, main_sectors, problems):
    """Rules that decide nothing."""
    for c in copies:
        if not c.newest:
            problems.add(f"superblock copy {c.copy} at unit {c.unit}: {c.why}")
        if c.copy >= REPLICAS and c.unit != sb.replica_start[c.copy - REPLICAS]:
            problems.add(f"superblock copy {c.copy} was looked for in another place than the newest records")
    if sb.replica_start != geometry_for(sb.spare_units)["replica_start"]:
        problems.add("replica_start does not follow from spare_units")
    if sb.sequence >= sb.sequence_end:
        problems.add(f"the superblock's sequence {sb.sequence} is not below sequence_end {sb.sequence_end}")
    if main_sectors is not None and main_sectors != sb.main_sectors:
        problems.add(f"main has {main_sectors} sectors, not {sb.main_sectors} as recorded")
    alone = sum(any(u) for u in sb.spare_uuids) == 1
    if alone and (sb.sixth_host != NO_HOST or any(sb.hosted_start) or any(sb.good[SIXTH])):
        problems.add("a set of one spare has a sixth replica")
    if not alone and sb.sixth_host != NO_HOST and (
            sb.sixth_host >= sb.spare_count or sb.sixth_host == sb.spare_index):
        problems.add(f"impossible sixth_host: {sb.sixth_host}")


def check_foreign(spare, data, problems):
    """Say what a spare without a superblock of version 1 is."""
    if data is not None and data[4:7] == SUPER_LETTERS and data[4:8] != SUPER_MAGIC:
        problems.add(f"unit 0 has a superblock of version {data[7]}: refused")
    for sector in V4_SECTORS:
        if spare.number(sector) == V4_MAGIC:
            problems.add(f"sector {sector} has metadata of dm-remap v4: refused")


def decode(spare, main_sectors=None):
    """The result as a dictionary, and whether the spare could be decoded."""
    problems = Problems()
    if spare.clipped:
        problems.add("the range goes beyond the end of the file or device")
    result = {"superblocks": [], "geometry": {"units": spare.count}, "chunks": [], "blocks": [], "map": [],
              "losers": [], "retired": [], "guests": [], "problems": [], "all_copies_equal": False,
              "metadata_image": False}
    ok = _decode(spare, main_sectors, problems, result)
    result["problems"] = problems.result()
    return result, ok


def _decode(spare, main_sectors, problems, result):
    copies, sb = read_superblocks(spare, problems)
    result["superblocks"] = [c.as_json() for c in copies]
    unit0 = spare.units(0, 1)[0]
    if sb is None:
        problems.add("no superblock could be chosen")
        check_foreign(spare, unit0, problems)
        return False
    for key in ("spare_units", "table_blocks", "chunk_blocks", "replica_start"):
        result["geometry"][key] = getattr(sb, key)
    result["metadata_image"] = bool(sb.feature_incompat & INCOMPAT_IMAGE)
    if not check_features(sb, problems.add):
        return False
    why = geometry_trouble(sb)
    if why:
        problems.add(f"{why}: refused")
        return False
    if spare.count < sb.spare_units:
        problems.add(f"the spare has {spare.count} units, less than spare_units {sb.spare_units}: refused")
        return False
    result["geometry"]["chunks"] = div_up(sb.table_blocks, sb.chunk_blocks)
    check_superblock(sb, copies, main_sectors, problems)

    guests, ranges = find_guests(spare, sb, problems)
    both = overlap(own_ranges(sb) + ranges)
    if both:
        problems.add(f"{both[0][2]} and {both[1][2]} overlap")
    table = Table(spare, sb, dict(enumerate(sb.replica_start)), hosted_ranges(sb), problems)
    table.decode()
    for g in guests:
        g.decode()

    for key in ("chunks", "blocks", "map", "losers", "retired"):
        result[key] = getattr(table, key)
    result["guests"] = [g.as_json() for g in guests]
    good_supers = [c for c in copies if sb.super_good >> c.copy & 1]
    result["all_copies_equal"] = table.equal and bool(good_supers) and all(c.newest for c in good_supers)
    if sb.flags & FLAG_CLEAN and not result["all_copies_equal"]:
        problems.add("the set is marked clean, but copies differ")
    return not table.damaged


def spare_argument(text):
    match = re.fullmatch(r"(.+)@([0-9]+)\+([0-9]+)", text, re.DOTALL)
    if not match or os.path.exists(text):
        return text, 0, None
    start, length = int(match[2]), int(match[3])
    if (start + length) * SECTOR >= 2**63:
        raise argparse.ArgumentTypeError(f"no such range: {text}")
    return match[1], start, length


def sectors_argument(text):
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 0 < int(text) < MAIN_SECTORS_END:
        raise argparse.ArgumentTypeError(f"no number of sectors: {text}")
    return int(text)


def main(argv=None):
    parser = argparse.ArgumentParser(description="Decode the metadata of one dmremap spare as JSON.")
    parser.add_argument("--main-sectors", metavar="N", type=sectors_argument, help="size of main")
    parser.add_argument("spare", metavar="SPARE", type=spare_argument, help="PATH or PATH@START+LENGTH")
    options = parser.parse_args(argv)
    try:
        spare = Spare(*options.spare)
    except (OSError, ValueError) as error:
        print(f"decode.py: {error}", file=sys.stderr)
        return 2
    try:
        result, ok = decode(spare, options.main_sectors)
    finally:
        spare.close()
    json.dump(result, sys.stdout)
    print()
    return 0 if ok else 4


if __name__ == "__main__":
    sys.exit(main())
