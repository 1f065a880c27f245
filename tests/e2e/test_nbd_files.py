# SPDX-License-Identifier: GPL-2.0-or-later
"""ext4 and btrfs on a main of which a fixed 1 % of the sectors is bad, as an NBD server says it: they work on. The
files are made of sectors that say which file, which sector and which version they are.
"""

import os

import nbd
import nbd_files
from harness import UNIT_SECTORS
from tagged_files import Files


class FileSystems(nbd_files.FileSystemCase):
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
        files.make(self.mnt.path, self.FILES)
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
