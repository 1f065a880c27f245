# SPDX-License-Identifier: GPL-2.0-or-later
"""ext4 and btrfs on a main of which a fixed 1 % of the sectors is bad, as an NBD server says it: they work on. The
files are made of sectors that say which file, which sector and which version they are.
"""

import errno
import os

import harness
import nbd
from harness import MIB, SECTOR, UNIT_SECTORS
from tagged_files import Files

SIZE = 48 * MIB  # small for the sake of time: each of the bad places costs a change of the table
MAKE = {"ext4": ["mkfs.ext4", "-q"], "btrfs": ["mkfs.btrfs", "-q", "--mixed"]}  # mixed: for small disks
FILES = 80


class FileSystems(nbd.NbdCase):
    def prepare(self, fs_type, main, spare=()):
        print(f"seed {nbd.SEED} (DMREMAP_SEED)", flush=True)
        self.fs_type = fs_type
        self.set = nbd.NbdSet(self.workspace, main_size=SIZE, spare_size=32 * MIB, export_spare=bool(spare))
        for mode in main:
            self.set.main_export.bad[mode] = nbd.draw(nbd.SEED, range(self.set.main_sectors))
        self.set.start_exports().create()
        for mode in spare:
            self.set.spare_export.bad[mode] = nbd.draw(nbd.SEED + 1, self.set.spare_data_sectors())
        if spare:
            self.set.spare_export.restart()
        self.open()

    def read_and_write_all(self):
        """What an administrator does with a drive that has bad places before he trusts it: reads it from end to end,
        so that each place is met and its unit moved, and writes it, so that no sector is without data."""
        failed = 0
        for start in range(0, self.set.main_sectors, 256):
            try:
                self.device.read(start * SECTOR, 256 * SECTOR)
            except OSError as problem:
                self.assertEqual(problem.errno, errno.EIO)
                failed += 1
        self.assertGreater(failed, 0)
        self.assertEqual(self.set.lost(), self.set.main_export.bad["read"], "just these were lost")
        for start in range(0, self.set.main_sectors, 2048):
            self.device.write(start * SECTOR, bytes(MIB))
        self.device.sync()
        self.assertEqual(self.set.lost(), set())

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
        files.make(self.mnt.path, FILES)
        files.rewrite(self.mnt.path, FILES)
        self.assert_all_there(files, "written")
        self.remount()
        self.assert_all_there(files, "after a restart")
        files.rewrite(self.mnt.path, FILES // 2)
        files.make(self.mnt.path, FILES // 4)
        self.remount(kill=True)
        self.assert_all_there(files, "after kill -9")
        stats = self.set.stats()
        self.assertFalse(stats["breaker_open"] or stats["main_gone"], stats)
        print(f"{self.fs_type}: {sum(files.pages.values())} pages, {stats['remapped_units']} units on the spare",
              flush=True)
        self.assertGreater(stats["remapped_units"], 100)
        self.mnt.unmount()
        self.close()

    def places(self, files):
        home = files.places(self.set.main_file)
        self.assertEqual(len(home), sum(files.pages.values()) * UNIT_SECTORS, "each sector has one place")
        return home

    # --- bad from the first day ---

    def test_ext4_main_bad_for_writes(self):
        self.prepare("ext4", ("write",))
        self.work_unnoticed()

    def test_btrfs_main_bad_for_writes(self):
        self.prepare("btrfs", ("write",))
        self.work_unnoticed()

    def test_ext4_main_bad_for_reads(self):
        self.prepare("ext4", ("read",))
        self.read_and_write_all()
        self.work_unnoticed()

    def test_btrfs_main_bad_for_both(self):
        self.prepare("btrfs", ("read", "write"))
        self.read_and_write_all()
        self.work_unnoticed()

    def test_ext4_both_bad_for_writes(self):
        self.prepare("ext4", ("write",), ("write",))
        self.work_unnoticed()

    # --- bad under files that are there ---

    def test_ext4_reads_go_bad_later(self):
        self.go_bad_later("ext4")

    def test_btrfs_reads_go_bad_later(self):
        self.go_bad_later("btrfs")

    def go_bad_later(self, fs_type):
        """1 % of what the files lie on cannot be read any more. Just those pages answer EIO, until they are written."""
        self.prepare(fs_type, ())
        self.make_file_system()
        files = Files(nbd.SEED)
        files.make(self.mnt.path, FILES)
        os.sync()
        self.mnt.unmount()
        home = self.places(files)
        self.mnt = self.workspace.mount(self.loop, fs_type=fs_type)
        bad = nbd.draw(nbd.SEED, home)
        self.set.main_export.bad["read"] = bad
        self.remount()
        wrong, unreadable = files.check(self.mnt.path)
        self.assertEqual(wrong, [])
        self.assertEqual(unreadable, {home[s] for s in bad}, "just the pages with a bad sector")
        self.assertGreaterEqual(len(unreadable), 20)
        print(f"{fs_type}: {len(bad)} bad sectors, {len(unreadable)} pages lost", flush=True)
        for number, page in sorted(unreadable):
            files.write(self.mnt.path, number, page, 1)
        self.assert_all_there(files, "written again")
        self.remount(kill=True)
        self.assert_all_there(files, "after kill -9")
        self.mnt.unmount()
        self.close()


if __name__ == "__main__":
    nbd.main()
