# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that is killed with its N-th write: what a test and the NBD server that takes the writes tell each other, in a
file that both map. The killing is the server's, so that it comes at the same write each time.
"""

import mmap
import os
import signal
import struct
import time

_FORM = struct.Struct("=QQqqQ")  # writes counted; the one to kill at (0: none), who, bytes of it that are kept; 1: killed

class Killer:
    def __init__(self, path):
        if not os.path.exists(path):
            with open(path, "wb") as f:
                f.write(bytes(_FORM.size))
        with open(path, "r+b") as f:
            self._map = mmap.mmap(f.fileno(), _FORM.size)

    def _get(self):
        return list(_FORM.unpack(self._map[:]))

    def _set(self, *fields):
        self._map[:] = _FORM.pack(*fields)

    # --- the test ---

    def arm(self, at, kept=0):
        """From here on writes are counted from 1. The process that `victim` names is killed when write `at` comes; of that
        one the first `kept` bytes are written, of those behind it nothing. at 0: nobody is killed."""
        self._set(0, at, 0, kept, 0)

    def victim(self, pid):
        count, at, _, kept, killed = self._get()
        self._set(count, at, pid, kept, killed)

    def writes(self):
        return self._get()[0]

    def killed(self):
        return self._get()[4] != 0

    # --- the server, one thread at a time ---

    def write_came(self, length):
        """How many bytes of this write are to be written."""
        count, at, _, kept, killed = self._get()
        if killed:
            return 0
        if at == 0 or count + 1 < at:
            self._map[:8] = struct.pack("=Q", count + 1)  # the victim may be named meanwhile
            return length
        while (pid := self._get()[2]) == 0:
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        self._set(count + 1, at, pid, kept, 1)
        return min(kept, length)
