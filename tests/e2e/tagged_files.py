# SPDX-License-Identifier: GPL-2.0-or-later
"""Files made of sectors that say which file, which sector of it and which version they are."""

import errno
import mmap
import os
import random

from harness import MIB, SECTOR, UNIT, UNIT_SECTORS, DirectFile
from tagged import Oracle, content, contents

FILE_SECTORS = 1 << 20  # numbers of sectors set aside for a file: sector n of file f has the number f * this + n
FOLDERS = 5


class Files:
    """Files of whole pages in a few folders of one place, and what may be in each of their sectors. One thread."""

    def __init__(self, seed, largest=48):
        self.chance, self.oracle = random.Random(seed), Oracle()
        self.largest = largest  # pages
        self.pages = {}         # file number -> its size in pages
        self.version = 0
        self._next = 0
        self._creating = None

    def make(self, root, count=1):
        for _ in range(count):
            self._creating, self._next = self._next, self._next + 1
            pages = self.chance.randint(1, self.largest)
            self.write(root, self._creating, 0, pages)
            self.pages[self._creating] = pages
            self._creating = None

    def rewrite(self, root, count=1):
        """Pages of some files, in place as far as the file system does that."""
        for number in self.chance.choices(sorted(self.pages), k=count):
            pages = self.chance.randint(1, self.pages[number])
            self.write(root, number, self.chance.randint(0, self.pages[number] - pages), pages)

    def remove(self, root, number):
        self.path(root, number).unlink()
        self._forget(number, self.pages.pop(number))

    def write(self, root, number, page, pages):
        """On the medium on return, so a crash may not take it back; where it raises: old or new."""
        self.version += 1
        first, count = number * FILE_SECTORS + page * UNIT_SECTORS, pages * UNIT_SECTORS
        self.oracle.began(first, count, self.version)
        with open(self.path(root, number), "r+b" if number in self.pages else "xb", buffering=0) as f:
            f.seek(page * UNIT)
            f.write(contents(first, count, self.version))
            os.fsync(f.fileno())
        self.oracle.acknowledged(first, count, self.version)

    def after_crash(self, root):
        """A file that was being made may be there, in part, or not: away with it."""
        if self._creating is not None:
            self.path(root, self._creating).unlink(missing_ok=True)
            self._forget(self._creating, self.largest)
            self._creating = None

    def _forget(self, number, pages):
        for sector in range(number * FILE_SECTORS, number * FILE_SECTORS + pages * UNIT_SECTORS):
            self.oracle.sure.pop(sector, None)
            self.oracle.open.pop(sector, None)

    @staticmethod
    def path(root, number):
        folder = root / f"folder{number % FOLDERS}"
        folder.mkdir(exist_ok=True)
        return folder / f"file{number:05}"

    # --- reading ---

    def check(self, root, only=None):
        """(complaints, {(file, page) that answer EIO}); every page, or those of `only`, by direct I/O."""
        wrong, unreadable = [], set()
        chosen = {n: range(p) for n, p in self.pages.items()} if only is None else \
            {n: [p for m, p in only if m == n] for n, _ in only}
        with mmap.mmap(-1, UNIT) as room:
            for number, pages in chosen.items():
                fd = os.open(self.path(root, number), os.O_RDONLY | os.O_DIRECT)
                try:
                    # btrfs answers a direct read that failed from its cache.
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    for page in pages:
                        try:
                            got = os.preadv(fd, [room], page * UNIT)
                        except OSError as problem:
                            if problem.errno != errno.EIO:
                                wrong.append(f"file {number} page {page}: {problem}")
                            unreadable.add((number, page))
                        else:
                            wrong += self._judge(number, page, room[:got])
                finally:
                    os.close(fd)
        return wrong, unreadable

    def _judge(self, number, page, data):
        if len(data) != UNIT:
            return [f"file {number} page {page}: {len(data)} bytes"]
        wrong, first = [], number * FILE_SECTORS + page * UNIT_SECTORS
        for i in range(UNIT_SECTORS):
            sector_data = data[i * SECTOR:(i + 1) * SECTOR]
            if problem := self.oracle.check(first + i, sector_data):
                wrong.append(f"file {number} sector {page * UNIT_SECTORS + i}: {problem}")
            else:
                self.oracle.settle(first + i, sector_data)
        return wrong

    def places(self, device):
        """{sector of a device or file: (file, page)} of all that lies there as it should be; found by the tags, so
        whatever a file system's own map says. Right where nothing is being written."""
        home = {}
        with DirectFile(device) as disk:
            size = os.lseek(disk.fd, 0, os.SEEK_END)
            for start in range(0, size, MIB):
                piece = disk.read(start, min(MIB, size - start))
                for at in range(0, len(piece), SECTOR):
                    sector = int.from_bytes(piece[at:at + 8], "little")
                    if sector in self.oracle.sure and \
                            piece[at:at + SECTOR] == content(sector, self.oracle.sure[sector]):
                        home[(start + at) // SECTOR] = (sector // FILE_SECTORS, sector % FILE_SECTORS // UNIT_SECTORS)
        return home
