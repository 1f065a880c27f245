# SPDX-License-Identifier: GPL-2.0-or-later
"""Spare files on a file system that is full: space is set aside before use, or its lack is told as what it is."""

import errno
import os

import harness
from harness import MIB, UNIT, UNIT_SECTORS, DirectFile

SPARE_SIZE = 32 * MIB
BAD = range(100, 160)  # units of main that cannot be written


def content(version, unit):
    return harness.pattern(f"{version} {unit}", UNIT)


def allocated(path):
    return path.stat().st_blocks * 512


class FullHost(harness.TestCase):
    def host(self, size, fs_type="tmpfs"):
        """The folder of a small file system."""
        folder = self.workspace.folder("host")
        if fs_type == "tmpfs":
            self.workspace.run("mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder)
            return harness.Mount(self.workspace, folder).path
        image = self.workspace.sparse("host.img", size)
        self.workspace.run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", image)
        return self.workspace.mount(self.workspace.loop(image, direct=False), "host").path

    def sparse_on(self, folder, name="spare.img", size=SPARE_SIZE):
        path = folder / name
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def fill(self, folder):
        """Takes all the room that is left; the file that has it."""
        ballast = folder / "ballast"
        with open(ballast, "wb", buffering=0) as f:
            for piece in (MIB, UNIT):
                try:
                    while True:
                        f.write(bytes(piece))
                except OSError as problem:
                    self.assertEqual(problem.errno, errno.ENOSPC)
            os.fsync(f.fileno())
        return ballast

    def make(self, spare, *options):
        self.set = harness.Set(self.workspace, dust=True)
        self.set.spare.unlink()
        self.set.spare = spare
        with open(self.set.main, "r+b") as f:
            for unit in range(200):
                f.write(content("old", unit))
        return self.workspace.dmremap("create", self.set.name, "--main", self.set.main_member, "--spare",
                                      self.set.spare_member, *options, "--json", check=False)

    def open(self):
        self.set.start()
        self.set.break_sectors(range(BAD[0] * UNIT_SECTORS, (BAD[-1] + 1) * UNIT_SECTORS), "write")
        self.loop = self.set.loop()

    def write(self, units, version):
        """Units that were written; each of the others was refused with EIO."""
        done = []
        with DirectFile(self.loop.path, write=True) as f:
            for unit in units:
                try:
                    f.write(unit * UNIT, content(version, unit))
                    done.append(unit)
                except OSError as problem:
                    self.assertEqual(problem.errno, errno.EIO)
            f.sync()
        return done

    def check(self, new):
        """All of the data: units in `new` have that version, the others are old."""
        with DirectFile(self.loop.path) as f:
            for unit in range(200):
                self.assertEqual(f.read(unit * UNIT, UNIT), content(new.get(unit, "old"), unit), f"unit {unit}")

    def spare_listed(self):
        return self.set.spare_list()[0]

    def test_create_without_room(self):
        for fs_type in ("tmpfs", "ext4"):
            with self.subTest(fs_type):
                folder = self.host(24 * MIB, fs_type)
                spare = self.sparse_on(folder)
                with open(spare, "r+b") as f:
                    f.seek(7 * MIB)
                    f.write(b"what was there")
                os.sync()
                before, had = (harness.sha256_file(spare), spare.stat().st_size), allocated(spare)
                self.refused(self.make(spare), "spare-host-full", says=(spare, "32 MiB", "--sparse"))
                self.assertEqual((harness.sha256_file(spare), spare.stat().st_size), before)
                self.assertLessEqual(allocated(spare), had + UNIT, "but for a block of the file system's own")
                self.assertEqual(list((self.workspace.path / "conf").rglob("*.conf")), [])
                self.assertEqual(self.workspace.dmremap("create", "e2e", "--main", self.set.main, "--spare", spare,
                                                        "--sparse").returncode, 0)
                self.workspace.close()
                self.workspace = harness.Workspace()
                self.addCleanup(self.workspace.close)

    def test_one_spare_of_two_without_room(self):
        """The first one's space is given back."""
        folder = self.host(48 * MIB)
        first, second = self.sparse_on(folder), self.sparse_on(folder, "second.img")
        main = self.workspace.sparse("main.img", 8 * MIB)
        words = ("create", "two", "--main", main, "--spare", first, "--spare", second)
        self.refused(self.workspace.dmremap(*words, "--json", check=False), "spare-host-full", says=(second,))
        self.assertEqual((allocated(first), allocated(second)), (0, 0))
        self.workspace.dmremap(*words, "--sparse")

    def test_added_without_room(self):
        folder = self.host(24 * MIB)
        more = self.sparse_on(folder)
        self.assertEqual(self.make(self.workspace.sparse("first.img", SPARE_SIZE)).returncode, 0)
        self.set.start()
        for answer in (self.workspace.dmremap("spare", "add", self.set.name, more, "--json", check=False),
                       self.set.message("spare_add", more, "--json", check=False)):
            self.refused(answer, "spare-host-full", says=(more, "--sparse"))
            self.assertEqual(allocated(more), 0)
            self.assertEqual(more.stat().st_size, SPARE_SIZE)
        conf = (self.workspace.path / "conf/sets.d" / f"{self.set.name}.conf").read_text()
        self.assertNotIn(str(more), conf)
        self.workspace.dmremap("spare", "add", self.set.name, more, "--sparse")
        self.assertLess(allocated(more), 8 * MIB)
        enough = self.sparse_on(self.workspace.path, "enough.img")
        self.workspace.dmremap("spare", "add", self.set.name, enough)
        self.assertGreaterEqual(allocated(enough), SPARE_SIZE)
        self.set.stop()

    def test_space_set_aside_is_there_when_the_host_fills_up(self):
        folder = self.host(48 * MIB)
        self.assertEqual(self.make(self.sparse_on(folder)).returncode, 0)
        self.fill(folder)
        self.open()
        self.assertEqual(self.write(BAD, "new"), list(BAD))
        self.check(dict.fromkeys(BAD, "new"))
        self.loop.detach()
        self.set.stop()

    def test_sparse_spare_on_a_host_that_fills_up(self):
        folder = self.host(48 * MIB)
        spare = self.sparse_on(folder)
        self.assertEqual(self.make(spare, "--sparse").returncode, 0)
        self.open()
        first, rest = BAD[:10], BAD[10:]
        self.assertEqual(self.write(first, "new"), list(first))
        before = self.spare_listed()
        self.assertEqual(before["state"], "present")
        ballast = self.fill(folder)
        wrote = []
        for _ in range(4):  # more errors than would trip the breaker
            wrote += self.write(rest, "newer")
        self.assertEqual(wrote, [])
        # What has its place is written as ever, what is well on main too.
        self.assertEqual(self.write([*first, 3], "newer"), [*first, 3])
        self.check(dict.fromkeys([*first, 3], "newer"))
        listed = self.spare_listed()
        self.assertEqual((listed["state"], listed["present"]), ("host-full", True))
        self.assertEqual(listed["usable_units"], before["usable_units"], "none was retired")
        self.assertEqual(listed["weakest_block_copies"], 5)
        status = self.set.status_json()
        self.assertEqual(status["state"], "no space left on the file system of a spare")
        stats = self.set.stats()
        self.assertEqual((stats["spare_write_errors"], stats["breaker_open"], stats["lost_sectors"]), (0, False, 0))
        self.assertGreaterEqual(stats["spare_host_full_errors"], 4 * len(rest))
        self.assertIn("no space left on the file system",
                      harness.spares_of_now(lambda: self.set.message("health")).stdout)
        harness.wait_until(lambda: "no space left on the file system that it lies on" in self.set.daemon.log(), 10,
                           "the log says so")
        ballast.unlink()
        self.assertEqual(self.write(rest, "newest"), list(rest))
        now = dict.fromkeys(first, "newer") | dict.fromkeys(rest, "newest") | {3: "newer"}
        self.check(now)
        self.assertEqual(self.spare_listed()["state"], "present")
        self.assertEqual(self.set.status_json()["state"], "ok")
        self.loop.detach()
        self.set.stop()
        self.open()
        self.check(now)
        self.loop.detach()
        self.set.stop()

    def test_limit_on_the_size_of_files(self):
        """RLIMIT_FSIZE sends a signal that would end the daemon: the write fails, and nothing else."""
        self.set = self.make_set(main_size=16 * MIB, spare_size=SPARE_SIZE)
        self.set.start()
        pid = str(self.set.daemon.pid)
        with DirectFile(self.set.image, write=True) as f:
            f.write(12 * MIB, content("old", 1))
            self.workspace.run("prlimit", "--pid", pid, f"--fsize={8 * MIB}:unlimited")
            f.write(0, content("new", 0))
            with self.assertRaises(OSError) as refused:
                f.write(12 * MIB, content("new", 1))
            self.assertIn(refused.exception.errno, (errno.ENOSPC, errno.EIO))
            self.assertEqual(f.read(12 * MIB, UNIT), content("old", 1))
            self.assertEqual(self.set.remaps(), {}, "that says nothing of the drive")
            self.workspace.run("prlimit", "--pid", pid, "--fsize=unlimited:unlimited")
            f.write(12 * MIB, content("new", 1))
            f.sync()
            self.assertEqual(f.read(12 * MIB, UNIT), content("new", 1))
            self.assertEqual(f.read(0, UNIT), content("new", 0))
        self.set.stop()


if __name__ == "__main__":
    harness.main()
