# SPDX-License-Identifier: GPL-2.0-or-later
"""ext4, xfs, btrfs and a partition table on the loop device, while units are moved underneath."""

import itertools
import os
import random
import threading
import time

import harness
from harness import MIB, UNIT, UNIT_SECTORS


class Remapper:
    """Moves random units to the spare, and some back, until told to stop."""

    def __init__(self, test_set, seed, sectors):
        self.set, self.chance, self.units = test_set, random.Random(seed), sectors // UNIT_SECTORS
        self.remapped, self.returned, self.problems = [], 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _work(self):
        try:
            while not self._stop.is_set() and len(self.remapped) < 2500:
                self._one()
                self._stop.wait(0.002)  # a pace, so that the spare lasts
        except Exception as problem:  # shown by the test, in its own thread
            self.problems.append(repr(problem))

    def _one(self):
        if self.remapped and self.chance.random() < 0.3:
            unit = self.remapped.pop(self.chance.randrange(len(self.remapped)))
            verb, self.returned = "unmap", self.returned + 1
        else:
            unit, verb = self.chance.randrange(self.units), "remap"
            self.remapped.append(unit)
        reply = self.set.control(verb, sector=unit * UNIT_SECTORS)
        if not reply["ok"] and reply["error"]["id"] != "not-remapped":  # the same unit twice
            self.problems.append(f"{verb} unit {unit}: {reply['error']}")


MOST_SECONDS = 120  # for the moves that a test wants to see; far more than a busy machine needs


class FileSystems(harness.TestCase):
    def start(self, main_size=512 * MIB, spare_size=64 * MIB):
        self.set = self.make_set(main_size=main_size, spare_size=spare_size)
        self.set.start()
        self.loop = self.set.loop()
        self.assertEqual(self.loop.dio, 1)
        self.sectors = main_size // 512

    def reattach(self, **options):
        self.loop.detach()
        self.set.stop()
        self.set.start()
        self.loop = self.set.loop(**options)

    def fill_and_check(self, fs_type, check):
        """A tree written while units move; read again, and again after a remount; the file system's own check."""
        mnt = self.workspace.mount(self.loop, fs_type=fs_type)
        with Remapper(self.set, fs_type, self.sectors) as remapper:
            sums = harness.make_tree(mnt.path, 600, fs_type, 1, 256 * 1024)
            for name in list(sums)[::5]:  # holes and new places
                (mnt / name).unlink()
                del sums[name]
            sums.update({f"again/{n}": s for n, s in self.tree(mnt / "again").items()})
            os.sync()
            harness.drop_caches()
            self.assertEqual(harness.check_tree(mnt.path, sums), ([], []))
            # The pace of the moves is the machine's, and that of the files, too: work goes on until enough were moved.
            for turn in self.until(remapper, moved=20, returned=5):
                sums.update({f"more/{n}": s for n, s in self.tree(mnt / "more", 20, turn).items()})
                os.sync()
                harness.drop_caches()
                self.assertEqual(harness.check_tree(mnt.path, sums), ([], []))
        self.assertEqual(remapper.problems, [])
        self.assertGreater(len(remapper.remapped), 20)
        self.assertGreater(remapper.returned, 5)
        mnt.unmount()
        self.reattach()
        check()
        mnt = self.workspace.mount(self.loop, fs_type=fs_type)
        self.assertEqual(harness.check_tree(mnt.path, sums), ([], []))
        self.assertGreater(len(self.set.remaps()), 20)
        return mnt

    @staticmethod
    def tree(folder, files=100, seed="again"):
        folder.mkdir(exist_ok=True)
        return harness.make_tree(folder, files, seed, 1, 128 * 1024)

    def until(self, remapper, moved, returned=0):
        """0, 1, ... for turns of work that goes on until so many units are on the spare and were moved back; fails
        where they are not in time. Twice `moved`: some are moved back before the remapper is told to stop."""
        deadline = time.monotonic() + MOST_SECONDS
        for turn in itertools.count():
            if remapper.problems or (len(remapper.remapped) > 2 * moved and remapper.returned > returned):
                return
            self.assertLess(time.monotonic(), deadline, "too few units were moved under the work")
            yield turn

    # --- the file systems ---

    def test_ext4(self):
        self.start()
        self.workspace.run("mkfs.ext4", "-q", self.loop)
        self.fill_and_check("ext4", lambda: self.workspace.run("e2fsck", "-fn", self.loop)).unmount()

    def test_xfs(self):
        self.start()
        self.workspace.run("mkfs.xfs", "-q", self.loop)
        self.fill_and_check("xfs", lambda: self.workspace.run("xfs_repair", "-n", self.loop)).unmount()

    def test_btrfs(self):
        self.start()
        self.workspace.run("mkfs.btrfs", "-q", self.loop)
        mnt = self.fill_and_check("btrfs", lambda: self.workspace.run("btrfs", "check", self.loop))
        with Remapper(self.set, "scrub", self.sectors) as remapper:
            said = self.workspace.run("btrfs", "scrub", "start", "-B", mnt.path).stdout
        self.assertEqual(remapper.problems, [])
        self.assertIn("no errors found", said)
        mnt.unmount()

    def test_ext4_discard_frees_space(self):
        """Where main can punch holes, what the file system discards is given back, and reads as zeros."""
        self.start()
        self.workspace.run("mkfs.ext4", "-q", self.loop)
        mnt = self.workspace.mount(self.loop, options="discard")
        keep, gone = harness.pattern("keep", 8 * MIB), harness.pattern("gone", 8 * MIB)
        (mnt / "keep").write_bytes(keep)
        for i in range(12):
            (mnt / f"gone{i}").write_bytes(gone)
        os.sync()
        place = harness.extents(mnt / "gone3")[0][1] // UNIT
        for unit in range(place, place + 20):  # some of what goes is on the spare
            self.set.do("remap", unit * UNIT_SECTORS)
        full = self.used()
        for i in range(12):
            (mnt / f"gone{i}").unlink()
        os.sync()
        self.workspace.run("fstrim", mnt.path)
        freed = full - self.used()
        self.assertGreater(freed, 90 * MIB, "main is smaller by what was deleted")
        with harness.DirectFile(self.loop.path) as device:
            self.assertEqual(device.read(place * UNIT, 20 * UNIT), bytes(20 * UNIT), "discarded units read as zeros")
        harness.drop_caches()
        self.assertEqual((mnt / "keep").read_bytes(), keep)
        mnt.unmount()
        self.reattach()
        self.workspace.run("e2fsck", "-fn", self.loop)
        mnt = self.workspace.mount(self.loop)
        self.assertEqual((mnt / "keep").read_bytes(), keep)
        mnt.unmount()

    def used(self):
        return self.set.main.stat().st_blocks * 512

    def test_partition_table(self):
        self.start(main_size=192 * MIB)
        self.workspace.run("sh", "-c", f"printf 'label: gpt\\nsize=80M\\nsize=80M\\n' | sfdisk -q {self.loop}")
        self.loop.detach()
        self.loop = self.set.loop(partitions=True)
        sums = {}
        for number in (1, 2):
            part = self.loop.partition(number)
            self.workspace.run("mkfs.ext4", "-q", part)
            mnt = self.workspace.mount(part, f"part{number}")
            sums[number] = harness.make_tree(mnt.path, 60, number, 1, 100_000)
            for unit in (256 + 10 * number, 20 * MIB // UNIT + number):
                self.set.do("remap", unit * UNIT_SECTORS)
            mnt.unmount()
        self.reattach(partitions=True)
        for number in (1, 2):
            self.workspace.run("e2fsck", "-fn", self.loop.partition(number))
            mnt = self.workspace.mount(self.loop.partition(number), f"part{number}")
            self.assertEqual(harness.check_tree(mnt.path, sums[number]), ([], []))
            mnt.unmount()
        self.workspace.run("sfdisk", "-q", "-V", self.loop)

    # --- fio ---

    def test_fio_verify(self):
        """Random sizes and depths, each block with a checksum of its own, while units are moved to and fro."""
        self.start(main_size=96 * MIB)
        seed = int(os.environ.get("DMREMAP_SEED", time.time_ns() % 1_000_000))
        print(f"seed {seed} (DMREMAP_SEED)", flush=True)
        chance = random.Random(seed)
        with Remapper(self.set, seed, self.sectors) as remapper:
            for turn in itertools.chain(range(4), self.until(remapper, moved=50)):
                depth = chance.choice((1, 2, 7, 16, 32, 64))
                smallest = chance.choice((512, 1024, 4096))
                largest = chance.choice((16, 64, 256)) * 1024
                self.fio(f"--offset={24 * (turn % 4)}M", "--size=24M", f"--bsrange={smallest}-{largest}",
                         f"--iodepth={depth}", "--rw=randrw", "--verify_backlog=64", f"--randseed={seed + turn}")
        self.assertEqual(remapper.problems, [])
        self.assertGreater(len(remapper.remapped), 50)
        # All over the same blocks once more, written, remounted, then only verified.
        words = ("--size=96M", "--bs=8k", "--iodepth=16", "--rw=randwrite", f"--randseed={seed}")
        with Remapper(self.set, seed + 1, self.sectors) as remapper:
            self.fio(*words, "--do_verify=0")
        self.assertEqual(remapper.problems, [])
        self.reattach()
        self.fio(*words, "--verify_only")

    def fio(self, *words):
        state = self.workspace.folder("fio")
        self.workspace.run("fio", "--name=verify", f"--filename={self.loop}", "--direct=1", "--ioengine=libaio",
                           "--verify=crc32c", "--verify_fatal=1", "--thread=1", "--output-format=terse", *words,
                           cwd=state, timeout=300)


if __name__ == "__main__":
    harness.main()
