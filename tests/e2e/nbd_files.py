# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system on members with bad sectors, as an NBD server says it. The files are made of sectors that say which
file, which sector and which version they are.
"""

import errno

import harness
import nbd
from harness import MIB, SECTOR, UNIT_SECTORS
from tagged_files import Files

MAKE = {"ext4": ["mkfs.ext4", "-q"], "btrfs": ["mkfs.btrfs", "-q", "--mixed"]}  # mixed: for small disks


class FileSystemCase(nbd.NbdCase):
    SIZE = 48 * MIB  # small for the sake of time: each of the bad places costs a change of the table
    FILES = 80
    LEAST_MOVED = 100

    def prepare(self, fs_type, main, spare=()):
        print(f"seed {nbd.SEED} (DMREMAP_SEED)", flush=True)
        self.fs_type = fs_type
        self.set = nbd.NbdSet(self.workspace, main_size=self.SIZE, spare_size=32 * MIB, export_spare=bool(spare))
        for mode in main:
            self.set.main_export.bad[mode] = nbd.draw(nbd.SEED, range(self.set.main_sectors))
        self.set.start_exports().create()
        for mode in spare:
            self.set.spare_export.bad[mode] = nbd.draw(nbd.SEED + 1, self.set.spare_data_sectors())
        if spare:
            self.set.spare_export.restart()
        self.open()

    # --- what an administrator does with a drive that has bad places before he trusts it ---

    def read_and_write_all(self):
        """Reads it from end to end, so that each place is met and its unit moved, and writes it, so that no sector is
        without data."""
        self.assertGreater(self.read_all(), 0)
        self.assertEqual(self.set.lost(), self.set.main_export.bad["read"], "just these were lost")
        self.write_all()
        self.assertEqual(self.set.lost(), set())

    def read_and_write_until_good(self):
        """Where the spare has bad places as well a unit may move to one; each turn leaves fewer of them."""
        left = [self.read_all()]
        while left[-1] > 0:
            self.assertLess(len(left), 8, f"it does not get better: {left}")
            self.write_all()
            left.append(self.read_all())
        print(f"pieces that could not be read, turn by turn: {left}", flush=True)
        self.assertGreater(left[0], 0)
        self.assertEqual(self.set.lost(), set())
        stats = self.set.stats()
        self.assertGreater(stats["spare_read_errors"] + stats["spare_write_errors"], 10, "the spare's were met, too")

    def read_all(self):
        """How many pieces of 128 KiB answer EIO."""
        failed = 0
        for start in range(0, self.set.main_sectors, 256):
            try:
                self.device.read(start * SECTOR, 256 * SECTOR)
            except OSError as problem:
                self.assertEqual(problem.errno, errno.EIO)
                failed += 1
        return failed

    def write_all(self):
        for start in range(0, self.set.main_sectors, 2048):
            self.device.write(start * SECTOR, bytes(MIB))
        self.device.sync()

    # --- the file system ---

    def make_file_system(self):
        self.workspace.run(*MAKE[self.fs_type], self.loop)
        self.mnt = self.workspace.mount(self.loop, fs_type=self.fs_type)

    def check_file_system(self):
        self.workspace.run(*{"ext4": ["e2fsck", "-fn"], "btrfs": ["btrfs", "check"]}[self.fs_type], self.loop)

    def remount(self, kill=False):
        """Everything down and up again, the exports, too."""
        self.mnt.unmount()
        self.close(kill)
        self.set.restart_exports()
        self.open()
        self.check_file_system()
        self.mnt = self.workspace.mount(self.loop, fs_type=self.fs_type)

    def assert_all_there(self, files, when):
        harness.drop_caches()
        self.assertEqual(files.check(self.mnt.path), ([], set()), f"{when}, seed {nbd.SEED}")

    def work_unnoticed(self):
        """A file system's life; no error at all may show."""
        self.make_file_system()
        files = Files(nbd.SEED)
        files.make(self.mnt.path, self.FILES)
        files.rewrite(self.mnt.path, self.FILES)
        self.assert_all_there(files, "written")
        self.remount()
        self.assert_all_there(files, "after a restart")
        files.rewrite(self.mnt.path, self.FILES // 2)
        files.make(self.mnt.path, self.FILES // 4)
        self.remount(kill=True)
        self.assert_all_there(files, "after kill -9")
        stats = self.set.stats()
        self.assertFalse(stats["breaker_open"] or stats["main_gone"], stats)
        print(f"{self.fs_type}: {sum(files.pages.values())} pages, {stats['remapped_units']} units on the spare",
              flush=True)
        self.assertGreater(stats["remapped_units"], self.LEAST_MOVED)
        self.mnt.unmount()
        self.close()
