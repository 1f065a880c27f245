# SPDX-License-Identifier: GPL-2.0-or-later
"""dmremap-fsck on real files and devices: what it opens, what it brings back, how fsck(8) and a running set meet it."""

import hashlib
import itertools
import json
import os
import re
import shutil
import signal

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

    def trace(self, calls, *words, inject=()):
        """Runs dmremap-fsck under strace; (its answer, the lines of the trace). Descriptors appear with their paths."""
        log = self.workspace.path / "trace"
        answer = self.workspace.run("strace", "-f", "-y", "-qq", "-o", log, "-e", f"trace={calls}", *inject,
                                    harness.program("dmremap-fsck"), *words, check=False)
        return answer, log.read_text().splitlines()

    def check_opens_nothing(self, *words):
        members = [str(p) for p in (self.main, self.first, self.second)]
        looked_at = set(members if "demo" in words else members[1:])
        before = [self.digest(p) for p in members]
        answer, lines = self.trace("open,openat,openat2,creat", *words)
        self.assertEqual(answer.returncode, 4, answer.stderr)
        opened = [match.groups() for line in lines
                  if (match := re.search(r'(\w+)\((?:[^"]*, )?"([^"]*)", \{?(?:flags=)?([A-Z_|0-9]+)', line))]
        self.assertEqual({path for _, path, _ in opened} & set(members), looked_at)
        written = {path for call, path, flags in opened
                   if call == "creat" or re.search("O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", flags)}
        # Claims are records of their own, and a plan is written beside its place and renamed.
        for path in written:
            self.assertRegex(path, rf"^{self.workspace.path}/(run/\.claims/|\.plan\.)")
        self.assertEqual([self.digest(p) for p in members], before)

    def test_undo_log_where_a_file_system_cannot_refuse_to_replace(self):
        self.make_set(spares=2)
        self.overwrite(self.first, [128 * UNIT], bytes(UNIT))
        damaged = self.digest(self.first)
        log = self.workspace.path / "undo.log"
        no_flags = ("-e", "inject=renameat2:error=EINVAL")
        answer, lines = self.trace("renameat2,rename", "-p", "--undo", log, "demo", inject=no_flags)
        self.assertEqual(answer.returncode, 1, answer.stderr)
        self.assertTrue(any("renameat2" in line and "INJECTED" in line for line in lines), lines)
        self.assertNotEqual(self.digest(self.first), damaged)
        answer, _ = self.trace("renameat2,rename", "--plan", log, "demo", inject=no_flags)
        self.assertEqual(answer.returncode, 0, answer.stderr)  # clean: no plan, the log stays
        self.assertEqual(self.fsck("--undo-apply", log).returncode, 0)
        self.assertEqual(self.digest(self.first), damaged)
        kept = log.read_bytes()
        answer, _ = self.trace("renameat2,rename", "-p", "--undo", log, "demo", inject=no_flags)
        self.assertEqual(answer.returncode, 8, answer.stderr)  # never replaced
        self.assertEqual(log.read_bytes(), kept)
        self.assertEqual(self.digest(self.first), damaged)
        self.assertEqual([p.name for p in self.workspace.path.iterdir() if "undo.log" in p.name], ["undo.log"])

    def test_looking_opens_nothing_for_writing(self):
        self.make_set(spares=2)
        self.overwrite(self.first, [128 * UNIT], bytes(UNIT))
        self.check_opens_nothing("-n", "demo")
        self.check_opens_nothing("--plan", self.workspace.path / "plan", "demo")
        self.check_opens_nothing(self.first, self.second)  # nobody to ask: as -n

    def test_undo_log_is_durable_before_the_first_write(self):
        self.make_set()
        self.overwrite(self.first, [128 * UNIT], bytes(UNIT))
        answer, lines = self.trace("write,pwrite64,pwritev,pwritev2,fsync,fdatasync,rename,renameat,renameat2", "-y", "demo")
        self.assertEqual(answer.returncode, 1)
        folder = self.workspace.path / "state/undo"
        log, = folder.iterdir()

        def first(pattern):
            return next(n for n, line in enumerate(lines) if re.search(pattern, line))

        steps = [first(rf"write\(\d+<{folder}/\."), first(rf"fsync\(\d+<{folder}/\."), first(f'rename.*"{log}"'),
                 first(rf"fsync\(\d+<{folder}>"), first(rf"write\w*\(\d+<{self.first}>")]
        self.assertEqual(steps, sorted(steps), "\n".join(lines))

    def killed_at_each(self, *words):
        """Runs dmremap-fsck again and again from one state of the spare, killed at its first, second, ... write, flush
        and rename; yields after each."""
        with open(self.first, "rb") as f:
            content = f.read()
        for call in ("pwrite64", "fdatasync", "renameat2"):
            for when in itertools.count(1):
                self.overwrite(self.first, [0], content)
                answer, _ = self.trace(call, *words, inject=("-e", f"inject={call}:signal=KILL:when={when}"))
                if answer.returncode not in (-signal.SIGKILL, 128 + signal.SIGKILL):
                    self.assertIn(answer.returncode, (0, 1), answer.stderr)
                    break
                yield f"{call} {when}"
        self.overwrite(self.first, [0], content)

    def test_killed_repair_is_completed_or_taken_back(self):
        self.make_set()
        self.overwrite(self.first, [u * UNIT for u in (0, 256, 1024)], os.urandom(UNIT))
        damaged = self.digest(self.first)
        folder = self.workspace.folder("state/undo")
        cuts = 0
        for place in self.killed_at_each("-y", "demo"):
            cuts += 1
            with self.subTest(place):
                logs = list(folder.glob("*.undo"))
                self.assertTrue(logs or self.digest(self.first) == damaged, "written without an undo log")
                # Half of them are completed, half of them taken back first.
                if logs and cuts % 2:
                    self.assertEqual(self.fsck("--undo-apply", logs[0]).returncode, 0)
                    self.assertEqual(self.digest(self.first), damaged)
                self.assertIn(self.fsck("-y", "--no-undo", "demo").returncode, (0, 1))
                self.assertEqual(self.fsck("-n", "demo").returncode, 0)
                for log in logs:
                    log.unlink()
        self.assertGreater(cuts, 6)
        for log in folder.glob("*.undo"):
            log.unlink()
        self.assertEqual(self.fsck("-y", "demo").returncode, 1)
        log, = folder.glob("*.undo")
        cuts = 0
        for place in self.killed_at_each("--undo-apply", log):
            cuts += 1
            with self.subTest(f"taking back, {place}"):
                self.assertEqual(self.fsck("--undo-apply", log).returncode, 0)
                self.assertEqual(self.digest(self.first), damaged)
        self.assertGreater(cuts, 4)
        self.assertEqual(self.fsck("-n", "demo").returncode, 0)  # as it was before the first of these
        self.check_data()

    def file_system_on(self, name):
        """A set on loop devices whose ext4 lies partly on the spare, in units that differ from main's; its file names
        and their contents, and the spare's device."""
        spare = self.workspace.loop(self.first)
        self.workspace.dmremap("create", name, "--main", self.main, "--spare", spare)
        attached = Attached(self.workspace, name)
        self.workspace.run("mkfs.ext4", "-q", "-F", attached.loop)
        mount = self.workspace.mount(attached.loop)
        files = {f"file{n}": harness.pattern(f"{name} {n}", 40_000 + 1000 * n) for n in range(30)}
        for file, content in files.items():
            (mount / file).write_bytes(harness.pattern("old", len(content)))
        os.sync()
        for unit in [0, 1, *range(9, 4000, 13)]:
            self.workspace.dmremap("remap", name, unit * UNIT_SECTORS)
        for file, content in files.items():
            with open(mount / file, "r+b") as f:
                f.write(content)
        mount.unmount()
        attached.detach()
        with open(self.main, "rb") as f:
            on_main = f.read()
        self.assertTrue([f for f, c in files.items()
                         if any(c[at:at + UNIT] not in on_main for at in range(0, len(c), UNIT))], "nothing was moved")
        return spare, files

    def check_file_system(self, damage):
        spare, files = self.file_system_on("demo")
        damage(spare.path)
        self.workspace.run("blockdev", "--flushbufs", spare)
        found = self.workspace.run(harness.program("dmremap-scan"), "--deep", "--json", spare, self.main, check=False)
        found, = (s for s in json.loads(found.stdout)["sets"] if s["name"] == "demo")
        states = [c["state"] for c in found["spares"][0]["members"][0]["superblocks"]]
        self.assertIn("valid", states)
        self.assertEqual(set(states[:5]), {"gone"})
        for status in (1, 0):
            answer = self.fsck("-y", "demo")
            self.assertEqual(answer.returncode, status, answer.stdout + answer.stderr)
        attached = Attached(self.workspace, "demo")
        self.workspace.run("e2fsck", "-fn", attached.loop)
        mount = self.workspace.mount(attached.loop)
        for file, content in files.items():
            self.assertEqual((mount / file).read_bytes(), content, file)
        mount.unmount()
        attached.detach()
        spare.detach()

    def test_file_system_after_the_front_superblocks_are_overwritten(self):
        self.check_file_system(lambda spare: self.overwrite(
            spare, [u * UNIT for u in (0, 128, 256, 512, 1024)], os.urandom(UNIT)))

    def test_file_system_after_the_first_8_mib_are_zeroed(self):
        self.check_file_system(lambda spare: self.overwrite(spare, [0], bytes(8 * MIB)))

    def test_running_set_is_refused(self):
        self.make_set()
        attached = Attached(self.workspace, "demo")
        for words in (("-n",), ("-n", "--force"), ("-p",), ("-y",), ("-y", "--force")):
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

    def test_installed_where_fsck_looks_for_it(self):
        place = self.workspace.folder("installed")
        self.workspace.run("cmake", "--install", harness.build_dir(), "--prefix", place)
        program = place / "sbin/dmremap-fsck"
        self.assertEqual(os.readlink(place / "sbin/fsck.dmremap"), "dmremap-fsck")
        self.assertTrue(os.access(place / "sbin/fsck.dmremap", os.X_OK))
        self.assertTrue(program.is_file())
        self.assertTrue((place / "share/man/man8/dmremap-fsck.8").is_file())


if __name__ == "__main__":
    harness.main()
