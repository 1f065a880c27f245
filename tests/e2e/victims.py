# SPDX-License-Identifier: GPL-2.0-or-later
"""Files with one bad sector each, and what of such a file must still be there."""

import errno
import os

from harness import SECTOR, UNIT, UNIT_SECTORS, DirectFile, extents


class Victim:
    """A file with one bad sector: where that lies in the file and on the disk."""

    def __init__(self, name, path, chance):
        self.name = name
        logical, physical, length = chance.choice(extents(path))
        reach = min(length, os.path.getsize(path) - logical)
        within = chance.randrange((reach + SECTOR - 1) // SECTOR)
        self.sector = physical // SECTOR + within
        self.file_sector = logical // SECTOR + within
        self.page = self.file_sector // UNIT_SECTORS
        self.data = path.read_bytes()

    @property
    def unit(self):
        return self.sector // UNIT_SECTORS

    def sector_data(self, sector):
        """What a sector of the bad block holds: the file's bytes, zeros behind its end."""
        at = (self.file_sector + sector - self.sector) * SECTOR
        return self.data[at:at + SECTOR].ljust(SECTOR, b"\0")

    def check_file(self, path):
        """What is wrong with the file while its sector is lost: every page but that one must compare equal, that one
        must answer EIO and no bytes. A list of complaints."""
        wrong = []
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # page by page, not in larger pieces
            for page in range((len(self.data) + UNIT - 1) // UNIT):
                try:
                    got = os.pread(fd, UNIT, page * UNIT)
                except OSError as problem:
                    if problem.errno != errno.EIO or page != self.page:
                        wrong.append(f"{self.name}: page {page} cannot be read: {problem}")
                else:
                    if page == self.page:
                        wrong.append(f"{self.name}: page {page} is lost and reads as something")
                    elif got != self.data[page * UNIT:(page + 1) * UNIT]:
                        wrong.append(f"{self.name}: page {page} differs")
        finally:
            os.close(fd)
        return wrong

    def check_block(self, device):
        """The same of the block on the disk, sector by sector: seven are there, one answers EIO."""
        wrong = []
        with DirectFile(device) as disk:
            for sector in range(self.unit * UNIT_SECTORS, (self.unit + 1) * UNIT_SECTORS):
                try:
                    got = disk.read(sector * SECTOR, SECTOR)
                except OSError as problem:
                    if problem.errno != errno.EIO or sector != self.sector:
                        wrong.append(f"{self.name}: sector {sector} cannot be read: {problem}")
                else:
                    if sector == self.sector:
                        wrong.append(f"{self.name}: sector {sector} is lost and reads as something")
                    elif got != self.sector_data(sector):
                        wrong.append(f"{self.name}: sector {sector} differs")
        return wrong


def choose(sums, root, count, chance):
    """That many files of a tree, as victims."""
    return [Victim(name, root / name, chance) for name in chance.sample(sorted(sums), count)]


def ext4_metadata_blocks(workspace, device, folder):
    """Four blocks of an ext4 (of 4 KiB blocks) that are written again when files are added to `folder` of its root:
    block bitmap, inode bitmap, inode table, and the folder's own."""
    group = workspace.run("dumpe2fs", device).stdout.split("Group 0:")[1]
    words = ("Block bitmap at ", "Inode bitmap at ", "Inode table at ")
    blocks = [int(group.split(w)[1].split()[0].split("-")[0].rstrip(",")) for w in words]
    return blocks + [int(workspace.run("debugfs", "-R", f"blocks /{folder}", device).stdout.split()[0])]
