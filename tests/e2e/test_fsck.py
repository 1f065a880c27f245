# SPDX-License-Identifier: GPL-2.0-or-later
"""dmremap-fsck on real files and devices: what it opens, what it brings back, how fsck(8) and a running set meet it."""

import hashlib
import json
import os
import re
import shutil

import harness
from harness import MIB, UNIT, UNIT_SECTORS, Attached, DirectFile

MAIN_SIZE, SPARE_SIZE = 64 * MIB, 64 * MIB
MOVED = list(range(100, 140))


class Fsck(harness.TestCase):
    def setUp(self):
        super().setUp()
        w = self.workspace
        self.main, self.first, self.second = (w.sparse(n, s) for n, s in (
            ("main.img", MAIN_SIZE), ("first.img", SPARE_SIZE), ("second.img", SPARE_SIZE)))

    def fsck(self, *words, **options):
        return self.workspace.run(harness.program("dmremap-fsck"), *words, check=False, **options)

    def make_set(self, name="demo", spares=1):
        """A set with moved units; every unit of MOVED has a content of its own. Stopped again."""
        members = [word for spare in (self.first, self.second)[:spares] for word in ("--spare", spare)]
        self.workspace.dmremap("create", name, "--main", self.main, *members)
        attached = Attached(self.workspace, name)
        for unit in MOVED:
            self.workspace.dmremap("remap", name, unit * UNIT_SECTORS)
        with DirectFile(attached.loop, write=True) as f:
            for unit in MOVED:
                f.write(unit * UNIT, harness.pattern(f"moved {unit}", UNIT))
            f.sync()
        attached.detach()

    def check_data(self, name="demo"):
        attached = Attached(self.workspace, name)
        with DirectFile(attached.loop) as f:
            for unit in MOVED:
                self.assertEqual(f.read(unit * UNIT, UNIT), harness.pattern(f"moved {unit}", UNIT), f"unit {unit}")
        attached.detach()

    @staticmethod
    def digest(path):
        with open(path, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()

    @staticmethod
    def overwrite(path, places, content):
        with open(path, "r+b") as f:
            for place in places:
                f.seek(place)
                f.write(content)

    def check_brought_back(self):
        damaged = self.digest(self.first)
        looked = self.fsck("-n", "demo")
        self.assertEqual(looked.returncode, 4, looked.stdout)
        self.assertEqual(self.digest(self.first), damaged)
        repaired = self.fsck("-y", "demo")
        self.assertEqual(repaired.returncode, 1, repaired.stdout + repaired.stderr)
        after = self.digest(self.first)
        again = self.fsck("-y", "demo")
        self.assertEqual(again.returncode, 0, again.stdout)
        self.assertEqual(self.digest(self.first), after, "a second run writes")
        log, = (self.workspace.path / "state/undo").iterdir()
        undone = self.fsck("--undo-apply", log)
        self.assertEqual(undone.returncode, 0, undone.stderr)
        self.assertEqual(self.digest(self.first), damaged, "not byte for byte")
        self.assertEqual(self.fsck("-y", "--no-undo", "demo").returncode, 1)
        self.check_data()

    def test_front_superblocks_overwritten(self):
        self.make_set()
        self.overwrite(self.first, [u * UNIT for u in (0, 128, 256, 512, 1024)], os.urandom(UNIT))
        self.check_brought_back()

    def test_first_8_mib_zeroed(self):
        self.make_set()
        self.overwrite(self.first, [0], bytes(8 * MIB))
        self.check_brought_back()

    def test_all_superblocks_of_one_of_two_spares(self):
        self.make_set(spares=2)
        heads = [int(s) // 8 for s in self.heads(self.first)]
        self.overwrite(self.first, [u * UNIT for u in (0, 128, 256, 512, 1024, *heads)], os.urandom(UNIT))
        self.check_brought_back()

    def heads(self, spare):
        """Sectors of the replicas' heads, by the fields of the format."""
        with open(spare, "rb") as f:
            super_block = f.read(UNIT)
        return [int.from_bytes(super_block[168 + 4 * r:172 + 4 * r], "little") * 8 for r in range(5)]

    def opened(self, trace):
        """[(path, flags)] of all that was opened."""
        return re.findall(r'open(?:at)?\([^"]*"([^"]*)", ([A-Z_|0-9]+)', trace.read_text())

    def check_opens_nothing(self, *words):
        trace = self.workspace.path / "trace"
        before = [self.digest(p) for p in (self.main, self.first, self.second)]
        self.workspace.run("strace", "-f", "-o", trace, "-e", "trace=open,openat,openat2,creat",
                           harness.program("dmremap-fsck"), *words, check=False)
        opened = [(path, flags) for path, flags in self.opened(trace)
                  if os.path.realpath(path) in (str(self.main), str(self.first), str(self.second))]
        self.assertTrue(opened)
        for path, flags in opened:
            self.assertIn("O_RDONLY", flags, path)
        self.assertEqual([self.digest(p) for p in (self.main, self.first, self.second)], before)

    def test_looking_opens_nothing_for_writing(self):
        self.make_set(spares=2)
        self.overwrite(self.first, [128 * UNIT], bytes(UNIT))
        self.check_opens_nothing("-n", "demo")
        self.check_opens_nothing("--plan", self.workspace.path / "plan", "demo")
        self.check_opens_nothing(self.first, self.second)  # nobody to ask: as -n

    def test_running_set_is_refused(self):
        self.make_set()
        attached = Attached(self.workspace, "demo")
        for words in (("-n",), ("-p",), ("-y", "--force")):
            answer = self.fsck(*words, "demo", "--json")
            self.assertEqual(answer.returncode, 8)
            self.assertEqual(json.loads(answer.stdout)["error"]["id"], "in-use")
        attached.detach()
        self.assertEqual(self.fsck("-n", "demo").returncode, 0)

    def test_loop_device_and_range(self):
        """One device serves as a spare from its middle."""
        disk = self.workspace.sparse("disk.img", 128 * MIB)
        device = self.workspace.loop(disk)
        member = f"{device}@65536+65536"
        self.workspace.dmremap("create", "part", "--main", self.main, "--spare", member)
        self.overwrite(disk, [(65536 // 8 + 256) * UNIT], bytes(UNIT))
        self.assertEqual(self.fsck("-p", member).returncode, 1)
        self.assertEqual(self.fsck("-n", "part").returncode, 0)
        device.detach()

    def test_under_fsck(self):
        """fsck(8) starts fsck.dmremap and passes its exit status on."""
        self.make_set()
        folder = self.workspace.folder("bin")
        (folder / "fsck.dmremap").symlink_to(harness.program("dmremap-fsck"))
        device = self.workspace.loop(self.first)
        environment = dict(self.workspace.env, PATH=f"{folder}:{self.workspace.env['PATH']}")
        fsck = shutil.which("fsck") or "/sbin/fsck"

        def run(*words):
            self.workspace.env, kept = environment, self.workspace.env
            try:
                return self.workspace.run(fsck, "-t", "dmremap", device, "--", *words, check=False)
            finally:
                self.workspace.env = kept

        self.assertEqual(run("-a").returncode, 0)
        self.overwrite(self.first, [512 * UNIT], bytes(UNIT))
        self.workspace.run("blockdev", "--flushbufs", device)
        self.assertEqual(run("-n").returncode, 4)
        self.assertEqual(run("-a", "-f").returncode, 1)
        self.assertEqual(run("-p").returncode, 0)
        device.detach()


if __name__ == "__main__":
    harness.main()
