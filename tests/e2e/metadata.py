# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a spare keeps its metadata, from dmremap-format(5) and not from the engine, and ways to damage it."""

import json
import random
import struct
import subprocess
import sys

from harness import REPOSITORY, UNIT, Failure

FIXED_UNITS = (0, 128, 256, 512, 1024)  # sectors 0, 1024, 2048, 4096, 8192
REPLICAS = 5
SLOTS = 254
SUPER_MAGIC = b"DMS\x01"
TABLE_MAGIC = b"DMT\x01"


def read_unit(path, unit):
    with open(path, "rb") as f:
        f.seek(unit * UNIT)
        return f.read(UNIT)


def write_units(path, unit, data):
    with open(path, "r+b") as f:
        f.seek(unit * UNIT)
        f.write(data)


class Layout:
    """Places of all metadata of a spare, read from its first superblock that looks like one."""

    def __init__(self, path):
        for unit in FIXED_UNITS:
            block = read_unit(path, unit)
            if block[4:8] == SUPER_MAGIC:
                break
        else:
            raise Failure(f"{path}: no superblock at any of the five places")
        self.table_blocks, = struct.unpack_from("<L", block, 160)
        self.replica_start = struct.unpack_from("<5L", block, 168)
        self.super_units = FIXED_UNITS + self.replica_start

    def metadata_units(self):
        """All units that hold superblocks and replicas."""
        taken = set(self.super_units)
        for start in self.replica_start:
            taken.update(range(start, start + 1 + self.table_blocks))
        return taken

    def block_unit(self, replica, block):
        """Unit of a table block's copy."""
        return self.replica_start[replica] + 1 + block


def initialised_blocks(path, layout):
    """Numbers of the table blocks that replica 0 has."""
    return [b for b in range(layout.table_blocks)
            if read_unit(path, layout.block_unit(0, b))[4:8] == TABLE_MAGIC]


class Damage:
    """Spoils units of a spare, each time in another way: zeros, noise, one flipped bit, a torn write, a block that is
    valid somewhere else."""

    KINDS = ("zeros", "noise", "bit", "torn", "misplaced")

    def __init__(self, path, seed=0):
        self.path, self.chance = path, random.Random(seed)

    def unit(self, unit, kind, elsewhere=None):
        old = read_unit(self.path, unit)
        if kind == "zeros":
            new = bytes(UNIT)
        elif kind == "noise":
            new = self.chance.randbytes(UNIT)
        elif kind == "bit":
            place = self.chance.randrange(UNIT * 8)
            new = bytearray(old)
            new[place // 8] ^= 1 << place % 8
        elif kind == "torn":  # at a 512-byte boundary, as a drive tears
            cut = 512 * self.chance.randint(1, 7)
            new = old[:cut] + self.chance.randbytes(UNIT - cut)
        else:
            new = read_unit(self.path, elsewhere)
            if new == old:
                new = bytes(UNIT)
        write_units(self.path, unit, bytes(new))


def decode(path):
    """What the independent decoder, written from the man page alone, says of a spare."""
    answer = subprocess.run([sys.executable, "-B", str(REPOSITORY / "tests/tools/decode.py"), str(path)],
                            capture_output=True, text=True, timeout=120)
    if answer.returncode not in (0, 4) or not answer.stdout:
        raise Failure(f"decode.py {path}: exit {answer.returncode}: {answer.stderr}")
    return json.loads(answer.stdout)
