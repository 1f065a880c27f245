# SPDX-License-Identifier: GPL-2.0-or-later
"""An nbdkit plugin (nbdkit-python-plugin(3)): a drive with bad sectors, kept in a file.

file=PATH   what the drive holds
bad=PATH    which of its sectors fail: lines "read FIRST COUNT" and "write FIRST COUNT" (sectors of 512 bytes); read when
            the server starts, so they are as fixed as those of a real drive

hold=PATH   while a file of this name is there, no read is answered; it may come and go at any time
killer=PATH a file of nbd_killer.py: the process named there is killed with the write counted there

As on a real drive, a write that fails has written what lies before its first bad sector.
"""

import bisect
import errno
import io
import os
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import nbd_killer
import nbdkit

API_VERSION = 2
SECTOR = 512
_settings = {"file": None, "bad": None, "hold": None, "killer": None}
_bad = {"read": [], "write": []}  # sorted sector numbers
_fd = -1
_killer = None
_killer_lock = threading.Lock()


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def config(key, value):
    if key not in _settings:
        raise RuntimeError(f"unknown parameter {key}")
    _settings[key] = value


def get_ready():
    global _fd, _killer
    _fd = os.open(_settings["file"], os.O_RDWR | os.O_CLOEXEC)
    if _settings["killer"]:
        _killer = nbd_killer.Killer(_settings["killer"])
    if not _settings["bad"]:
        return
    with io.open(_settings["bad"], encoding="ascii") as lines:
        for line in lines:
            kind, first, count = line.split()
            _bad[kind] += range(int(first), int(first) + int(count))
    for numbers in _bad.values():
        numbers.sort()


def open(readonly):
    return 1


def get_size(h):
    return os.fstat(_fd).st_size


def can_multi_conn(h):
    return True


def _first_bad(kind, offset, length):
    """The first sector of that kind which the request touches, or None."""
    numbers = _bad[kind]
    at = bisect.bisect_left(numbers, offset // SECTOR)
    return numbers[at] if at < len(numbers) and numbers[at] * SECTOR < offset + length else None


def _fail(what):
    nbdkit.set_error(errno.EIO)
    raise RuntimeError(what)


def pread(h, buf, offset, flags):
    while _settings["hold"] and os.path.exists(_settings["hold"]):
        time.sleep(0.005)
    sector = _first_bad("read", offset, len(buf))
    if sector is not None:
        _fail(f"sector {sector} cannot be read")
    done = 0
    while done < len(buf):
        done += os.preadv(_fd, [memoryview(buf)[done:]], offset + done)


def pwrite(h, buf, offset, flags):
    sector = _first_bad("write", offset, len(buf))
    length = len(buf) if sector is None else max(sector * SECTOR - offset, 0)
    dead = False
    if _killer:
        with _killer_lock:
            kept = _killer.write_came(length)
        dead, length = kept < length, min(kept, length)
    done = 0
    while done < length:
        done += os.pwritev(_fd, [memoryview(buf)[done:length]], offset + done)
    if sector is not None:
        _fail(f"sector {sector} cannot be written")
    if dead:
        _fail("whoever wrote this is dead")


def flush(h, flags):
    os.fdatasync(_fd)
