# SPDX-License-Identifier: GPL-2.0-or-later
"""Sectors that say which sector they are and which write they come from, and what a reader may find in them."""

import errno
import fcntl
import hashlib
import struct

from harness import SECTOR

ZERO = -1  # the "write" of a discard, and what a fresh file holds
_BLKZEROOUT = 0x127F


def content(sector, write):
    """512 bytes that only this write to this sector has."""
    if write == ZERO:
        return bytes(SECTOR)
    head = struct.pack("<QQ", sector, write)
    return head + hashlib.shake_128(head).digest(SECTOR - len(head))


def contents(first, count, write):
    return b"".join(content(s, write) for s in range(first, first + count))


def describe(data):
    """What bytes that should not be there are."""
    if data == bytes(SECTOR):
        return "zeros"
    sector, write = struct.unpack_from("<QQ", data)
    whole = data == content(sector, write)
    return f"{'the' if whole else 'a broken'} write {write} of sector {sector}"


class Oracle:
    """What each sector may hold: the write that was acknowledged last, or one that was never answered well. `before`:
    the write that all sectors come from in the beginning."""

    def __init__(self, before=ZERO):
        self.before = before
        self.sure = {}       # sector -> number of the acknowledged write
        self.open = {}       # sector -> writes that began later and were not answered
        self.may_be_lost = set()

    def began(self, first, count, write):
        for s in range(first, first + count):
            self.open.setdefault(s, []).append(write)

    def acknowledged(self, first, count, write):
        for s in range(first, first + count):
            self.sure[s] = write
            self.open.pop(s, None)
            self.may_be_lost.discard(s)

    def allowed(self, sector):
        return [self.sure.get(sector, self.before)] + self.open.get(sector, [])

    def check(self, sector, data):
        """None, or what is wrong. data None: the read failed."""
        if data is None:
            return None if sector in self.may_be_lost else "cannot be read"
        allowed = self.allowed(sector)
        if any(data == content(sector, w) for w in allowed):
            return None
        return f"allowed: writes {allowed}; found {describe(data)}"

    def settle(self, sector, data):
        """From here on it is what was found: an unanswered write may not appear or go later on."""
        if data is None:
            self.open.pop(sector, None)
            return
        if sector not in self.open:
            return
        allowed = self.allowed(sector)
        del self.open[sector]
        self.sure[sector] = next(w for w in reversed(allowed) if data == content(sector, w))


def zero_out(fd, offset, length):
    """Zeros a range of a block device, by a discard or by writing."""
    fcntl.ioctl(fd, _BLKZEROOUT, struct.pack("QQ", offset, length))


def read_sectors(device, first, count):
    """(sector, bytes or None) of a range; what a large read cannot give is read sector by sector."""
    for start in range(first, first + count, 1024):
        yield from read_piece(device, start, min(1024, first + count - start))


def read_piece(device, first, count):
    """[(sector, bytes or None)]; None where the sector alone answers EIO, any other error is raised."""
    try:
        data = device.read(first * SECTOR, count * SECTOR)
        return [(first + i, data[i * SECTOR:(i + 1) * SECTOR]) for i in range(count)]
    except OSError as problem:
        if problem.errno != errno.EIO:
            raise
    if count == 1:
        return [(first, None)]
    half = count // 2
    return read_piece(device, first, half) + read_piece(device, first + half, count - half)
