# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job, end to end: a file system on a drive that loses sectors keeps every byte that could still be read."""

import hashlib
import os
import random

import harness
import victims
from harness import MIB, UNIT, UNIT_SECTORS
from metadata import Damage, Layout, decode

READ_VICTIMS = 32   # files that get a sector that cannot be read
WRITE_VICTIMS = 32  # files that get a sector that cannot be written
SEED = 20


class MainJob(harness.TestCase):
    def test_main_job(self):
        self.set = self.make_set(main_size=112 * MIB, spare_size=32 * MIB, dust=True)
        self.make_file_system()
        self.break_drive()
        self.read_what_is_left()
        self.write_on()
        self.remount_cleanly()
        self.overwrite_a_lost_sector()
        self.kill_and_remount()
        self.salvage()
        self.destroy_metadata()

    # --- steps ---

    def attach(self):
        self.set.start()
        self.loop = self.set.loop()
        self.assertEqual(self.loop.dio, 1, "the loop device does direct I/O")

    def mount(self):
        self.mnt = self.workspace.mount(self.loop, fs_type="ext4")

    def detach(self):
        self.mnt.unmount()
        self.loop.detach()

    def make_file_system(self):
        self.attach()
        self.workspace.run("mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.loop)
        self.mount()
        self.sums = harness.make_tree(self.mnt.path, 200, SEED, 8 * 1024, 200 * 1024)
        chosen = victims.choose(self.sums, self.mnt, READ_VICTIMS + WRITE_VICTIMS, random.Random(SEED))
        self.readers, self.writers = chosen[:READ_VICTIMS], chosen[READ_VICTIMS:]
        self.metadata = victims.ext4_metadata_blocks(self.workspace, self.loop, "dir1")
        self.mnt.unmount()

    def break_drive(self):
        self.set.break_sectors([v.sector for v in self.readers], "read")
        self.set.break_sectors([v.sector for v in self.writers], "write")
        self.set.break_sectors([b * UNIT_SECTORS + 3 for b in self.metadata], "write")
        harness.drop_caches()
        self.mount()

    def read_what_is_left(self):
        """Through the file system; then what the drive still gives of the bad blocks, sector by sector."""
        self.check_files(lost=self.readers)
        self.assertGreaterEqual(self.set.dust_failures()[0], READ_VICTIMS, "the drive was really asked")
        self.assertGreaterEqual(self.set.stats()["main_read_errors"], READ_VICTIMS)
        self.assertEqual(self.set.lost(), {v.sector for v in self.readers})
        self.assertEqual([w for v in self.readers for w in v.check_block(self.loop.path)], [])

    def check_files(self, lost):
        """Every file compares equal; one with a lost sector in all pages but that, which is EIO and nothing else."""
        self.assert_tree(skip={v.name for v in lost})
        self.assertEqual([w for v in lost for w in v.check_file(self.mnt / v.name)], [])

    def assert_tree(self, skip=()):
        different, unreadable = harness.check_tree(self.mnt.path, {n: s for n, s in self.sums.items()
                                                                   if n not in skip})
        self.assertEqual((different, unreadable), ([], []))

    def write_on(self):
        """Blocks whose sectors cannot be written any more go to the spare, unseen."""
        for number, v in enumerate(self.writers):
            new = bytearray(v.data)
            fresh = harness.pattern(f"new {number}", UNIT)
            start = v.page * UNIT
            new[start:start + UNIT] = fresh[:len(new[start:start + UNIT])]
            v.data = bytes(new)
            with open(self.mnt / v.name, "r+b", buffering=0) as f:
                os.pwrite(f.fileno(), v.data[start:start + UNIT], start)
                os.fsync(f.fileno())
            self.sums[v.name] = hashlib.sha256(v.data).hexdigest()
        for i in range(40):  # new files: bitmaps, inodes (also of the root, of the first table block) and folders
            name = f"dir1/later{i:03}" if i % 4 else f"later{i:03}"
            data = harness.pattern(name, 20000)
            (self.mnt / name).write_bytes(data)
            self.sums[name] = hashlib.sha256(data).hexdigest()
        os.sync()
        harness.drop_caches()
        self.check_files(lost=self.readers)
        remaps = self.set.remaps()
        for v in self.readers + self.writers:
            self.assertIn(v.unit, remaps)
        for block in self.metadata:
            self.assertIn(block, remaps, "a metadata block that could not be written in place")
        self.assertGreaterEqual(self.set.stats()["main_write_errors"], WRITE_VICTIMS + len(self.metadata))

    def remount_cleanly(self):
        before = self.set.remaps()
        self.detach()
        self.set.stop()
        self.attach()
        self.assertEqual(self.places(self.set.remaps()), self.places(before))
        self.workspace.run("e2fsck", "-fn", self.loop)
        self.mount()
        harness.drop_caches()
        self.assertEqual(self.set.lost(), {v.sector for v in self.readers})
        self.check_files(lost=self.readers)

    @staticmethod
    def places(remaps):
        return {unit: (r["spare_sector"], r["lost_mask"], r["kind"]) for unit, r in remaps.items()}

    def overwrite_a_lost_sector(self):
        """A page written whole is there again; the rest of the file never was away."""
        v = self.readers.pop()
        fresh = harness.pattern("again", UNIT)[:len(v.data[v.page * UNIT:][:UNIT])]
        v.data = v.data[:v.page * UNIT] + fresh + v.data[(v.page + 1) * UNIT:]
        with open(self.mnt / v.name, "r+b", buffering=0) as f:
            # The page cache may not read the page first: all of it is replaced, past the end of the file, too.
            os.pwrite(f.fileno(), fresh.ljust(UNIT, b"\0"), v.page * UNIT)
            os.ftruncate(f.fileno(), len(v.data))
            os.fsync(f.fileno())
        self.sums[v.name] = hashlib.sha256(v.data).hexdigest()
        harness.drop_caches()
        self.assertNotIn(v.sector, self.set.lost())
        self.check_files(lost=self.readers)

    def kill_and_remount(self):
        os.sync()
        before = self.places(self.set.remaps())
        self.set.daemon.kill()
        self.mnt.force()
        self.loop.detach()
        self.set.kill()
        self.attach()
        self.assertEqual(self.places(self.set.remaps()), before)
        self.mount()
        harness.drop_caches()
        self.check_files(lost=self.readers)

    def salvage(self):
        """The drive reads again (it was reopened without its bad sectors): what was lost comes back."""
        self.set.do("salvage", "all")
        self.assertEqual(self.set.lost(), set())
        harness.drop_caches()
        self.check_files(lost=[])

    def destroy_metadata(self):
        """All of four replicas, their heads, and four of the five fixed superblocks."""
        before = self.places(self.set.remaps())
        self.detach()
        self.set.stop()
        layout, damage = Layout(self.set.spare), Damage(self.set.spare, SEED)
        for survivor in (0, 3):
            for i, unit in enumerate(layout.super_units[:5]):
                if i != survivor:
                    damage.unit(unit, "noise")
            for replica in range(5):
                for unit in range(layout.replica_start[replica],
                                  layout.replica_start[replica] + 1 + layout.table_blocks):
                    if replica != 4 - survivor:
                        damage.unit(unit, "noise")
            self.attach()
            self.assertEqual(self.places(self.set.remaps()), before)
            self.mount()
            harness.drop_caches()
            self.check_files(lost=[])
            self.detach()
            self.set.stop()
            self.assert_mended()

    def assert_mended(self):
        said = decode(self.set.spare)
        self.assertEqual(said["problems"], [])
        self.assertTrue(said["all_copies_equal"])


if __name__ == "__main__":
    harness.main()
