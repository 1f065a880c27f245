# SPDX-License-Identifier: GPL-2.0-or-later
"""A process that is killed when it opens its N-th file or folder below given folders: while it waits for fanotify(7) to
let it, so that it does nothing after that. It needs root and CONFIG_FANOTIFY_ACCESS_PERMISSIONS.
"""

import ctypes
import os
import select
import signal
import struct
import threading

_CLASS_CONTENT, _CLOEXEC = 0x4, 0x1
_MARK_ADD = 0x1
_OPEN_PERM, _ON_FOLDER, _ON_CHILD = 0x00010000, 0x40000000, 0x08000000
_AT_FDCWD = -100
_ALLOW = 1
_EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, length of this, mask, descriptor, process
_ANSWER = struct.Struct("=iI")
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"fanotify: {os.strerror(ctypes.get_errno())}")
    return answer


class OpenGate:
    """Within `with`: counts what the process that `victim` names opens in the folders, and the folders; at number `at`
    (0: never) it is killed. The opens of all others go on; until it is named only ours do."""

    def __init__(self, folders, at=0):
        self.at = at
        self._victim = None
        self._named = threading.Event()
        self.opened = []  # names, in order
        self.killed = False
        self._folders = [str(f) for f in folders]

    def victim(self, pid):
        self._victim = pid
        self._named.set()

    def __enter__(self):
        self._fd = _checked(_libc.fanotify_init(_CLASS_CONTENT | _CLOEXEC, os.O_RDONLY | os.O_CLOEXEC))
        try:
            for folder in self._folders:
                _checked(_libc.fanotify_mark(self._fd, _MARK_ADD,
                                             ctypes.c_uint64(_OPEN_PERM | _ON_FOLDER | _ON_CHILD), _AT_FDCWD,
                                             folder.encode()))
        except OSError:
            os.close(self._fd)
            raise
        self._over, self._end = os.pipe()
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._named.set()
        os.close(self._end)
        self._thread.join()
        os.close(self._over)
        os.close(self._fd)  # whoever still waits goes on

    def _answer(self):
        while self._over not in (ready := select.select([self._fd, self._over], [], [])[0]) or self._fd in ready:
            events = os.read(self._fd, 4096)
            while events:
                length, _, _, _, _, fd, pid = _EVENT.unpack_from(events)
                events = events[length:]
                self._came(fd, pid)
                os.write(self._fd, _ANSWER.pack(fd, _ALLOW))
                os.close(fd)

    def _came(self, fd, pid):
        if pid == os.getpid():
            return
        self._named.wait()
        if pid != self._victim or self.killed:
            return
        self.opened.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if len(self.opened) == self.at:
            self.killed = True
            os.kill(pid, signal.SIGKILL)
