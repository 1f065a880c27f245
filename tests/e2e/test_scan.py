# SPDX-License-Identifier: GPL-2.0-or-later
"""dmremap-scan on real devices and running sets. Nothing is opened for writing, and no byte changes."""

import fcntl
import json
import os
import re
import signal
import subprocess

import harness
from harness import MIB, UNIT_SECTORS

SPARE_SIZE = 32 * MIB


class Scan(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.images = self.workspace.folder("images")

    def make(self, name, spares=2, folder=None):
        """A set in files of the images folder; (main, spares)."""
        w, folder = self.workspace, folder or self.images
        main = w.sparse(f"{folder.name}/{name}-main.img", 48 * MIB)
        main.write_bytes(harness.pattern(name, 48 * MIB))
        found = [w.sparse(f"{folder.name}/{name}-{n}.img", SPARE_SIZE) for n in range(spares)]
        w.dmremap("create", name, "--main", main, *(word for s in found for word in ("--spare", s)))
        return main, found

    def use(self, name):
        attached = harness.Attached(self.workspace, name)
        for unit in (5, 6, 900):
            self.workspace.dmremap("remap", name, unit * UNIT_SECTORS)
        return attached

    def scan(self, *words, code=0, **options):
        answer = self.workspace.run(harness.program("dmremap-scan"), "--json", *words, check=False, **options)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return json.loads(answer.stdout)

    def one_set(self, doc, name):
        found = [s for s in doc["sets"] if s["name"] == name]
        self.assertEqual(len(found), 1, doc)
        return found[0]

    def opened_for_writing(self, *words, codes=(0, 4)):
        """Runs a program under strace; the paths that it opened in any way but read-only."""
        log = self.workspace.path / "strace.log"
        answer = self.workspace.run("strace", "-f", "-qq", "-o", log, "-e",
                                    "trace=open,openat,openat2,creat,memfd_create", *words, check=False)
        self.assertIn(answer.returncode, codes, answer.stderr)
        written, opened = set(), 0
        for line in log.read_text().splitlines():
            match = re.search(r'\b(open|openat|openat2|creat)\((?:AT_FDCWD, )?"([^"]*)", (\S+)', line)
            if not match:
                continue
            opened += 1
            call, path, flags = match.groups()
            if call == "creat" or re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", flags):
                written.add(path)
        self.assertGreater(opened, 5)
        return written


class Finds(Scan):
    def test_a_set_on_loop_devices_is_found_among_all_devices(self):
        w = self.workspace
        main, spares = self.make("data")
        self.use("data").detach()
        loops = [w.loop(path) for path in (main, *spares)]
        (w.path / "conf/sets.d/data.conf").unlink()
        for state in (w.path / "state/sets").iterdir():
            state.unlink()
        # The machine may have sets of its own, well or not.
        found = self.one_set(json.loads(w.run(harness.program("dmremap-scan"), "--json", check=False).stdout), "data")
        self.assertEqual(found["state"], "complete")
        self.assertEqual(found["main"], str(loops[0]))
        self.assertEqual([s["members"][0]["member"] for s in found["spares"]], [str(l) for l in loops[1:]])
        self.assertEqual(found["next"], "dmremap-reassemble data")
        # The files and the loop devices on them are the same storage: no copies.
        found = self.one_set(self.scan(self.images, *loops), "data")
        self.assertEqual((found["state"], found["main"]), ("complete", str(loops[0])))

    def test_a_spare_in_a_partition_is_the_partition(self):
        w = self.workspace
        disk = w.sparse("disk.img", 80 * MIB)
        loop = w.loop(disk)
        part = f"{loop}p1"
        w.run("addpart", loop, 1, 2048, 65536)  # also where the kernel itself reads no partition tables
        w.on_close(part, lambda: w.run("delpart", loop, 1))
        main = w.sparse("main.img", 16 * MIB)
        main.write_bytes(harness.pattern("part", 16 * MIB))
        w.dmremap("create", "part", "--main", main, "--spare", part)
        for words in ([str(loop), part, str(main)], ["--deep", str(loop), part, str(main)]):
            found = self.one_set(self.scan(*words), "part")
            self.assertEqual(found["spares"][0]["members"][0]["member"], part)
        # The partition table is lost: the search finds the range.
        found = self.one_set(self.scan("--deep", str(loop), str(main)), "part")
        self.assertEqual(found["spares"][0]["members"][0]["member"], f"{loop}@2048+65536")

    def test_a_running_set_is_shown_and_not_read(self):
        main, spares = self.make("data")
        attached = self.use("data")
        found = self.one_set(self.scan(self.images), "data")
        self.assertEqual((found["state"], found["next"]), ("running", "dmremap status data"))
        self.assertEqual(found["running"]["spares"], [str(s) for s in spares])
        log = self.workspace.path / "running.log"
        self.workspace.run("strace", "-f", "-o", log, "-e", "trace=open,openat", harness.program("dmremap-scan"),
                           "--deep", self.images)
        for path in (*spares, main):
            self.assertNotIn(f'"{path}"', log.read_text())
        self.assertNotIn(attached.loop + '"', log.read_text())

    def test_a_set_whose_daemon_died_says_so(self):
        self.make("data")
        attached = self.use("data")
        attached.kill()
        found = self.one_set(self.scan(self.images, code=4), "data")
        self.assertEqual((found["state"], found["next"]), ("died", "dmremap detach data"))
        self.workspace.dmremap("detach", "data")
        self.assertEqual(self.one_set(self.scan(self.images), "data")["state"], "complete")


class WritesNothing(Scan):
    def test_no_descriptor_for_writing_and_no_byte_changed(self):
        main, spares = self.make("data", spares=3)
        self.use("data").detach()
        other = self.workspace.folder("others")
        copy = self.workspace.sparse("others/copy.img", 64 * MIB)
        with open(copy, "r+b") as f:
            f.seek(5 * MIB)
            f.write(spares[0].read_bytes())
        loop = self.workspace.loop(main)
        files = [main, *spares, copy]
        before = [harness.sha256_file(p) for p in files]
        times = [os.stat(p).st_mtime_ns for p in files]
        scan = harness.program("dmremap-scan")
        for words in ([], ["--json"], ["--deep"], ["--deep", "--json"]):
            self.assertEqual(self.opened_for_writing(scan, *words, self.images, other, loop), set(), words)
        self.assertEqual(self.opened_for_writing(scan), set())
        self.assertEqual([harness.sha256_file(p) for p in files], before)
        self.assertEqual([os.stat(p).st_mtime_ns for p in files], times)
        keep = self.workspace.path / "keep"
        written = self.opened_for_writing(scan, "--deep", "--resume", keep, self.images)
        self.assertTrue(written)
        for path in written:  # written beside it, then renamed
            self.assertRegex(path, re.escape(str(keep.parent)) + r"(/\.keep\.\w+)?$")


class Stops(Scan):
    def test_an_interrupted_search_goes_on(self):
        w = self.workspace
        main, spares = self.make("data", spares=1)
        disk = w.sparse("disk.img", 4096 * MIB)
        with open(disk, "r+b") as f:
            f.seek(4000 * MIB)
            f.write(spares[0].read_bytes())
        keep = w.path / "keep"
        # The pipe is the brake, however quick the machine: one page holds some 200 lines, one for 8 MiB, and a search
        # that cannot tell how far it is waits. So the signal comes in the middle of it.
        read, write = os.pipe()
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        process = subprocess.Popen([harness.program("dmremap-scan"), "--json", "--deep", "--resume", keep, "--progress",
                                    str(write), str(main), str(disk)], env=w.env, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, pass_fds=(write,))
        w.on_close(process, process.kill)
        os.close(write)
        with os.fdopen(read, "rb", buffering=0) as lines:  # unbuffered: what is not looked at stays in the pipe
            first = next(line for line in lines if int(line.split()[0]) > 256 * MIB)
            self.assertEqual(int(first.split()[1]), 4096 * MIB + 48 * MIB)
            process.send_signal(signal.SIGINT)
            list(lines)
        out, err = process.communicate(timeout=60)
        w.forget(process)
        doc = json.loads(out)
        self.assertEqual((process.returncode, doc["search"]["stopped"]), (1, True), err)
        self.assertEqual(doc["sets"], [])
        self.assertIn("the same command goes on", err)
        done = json.loads(keep.read_text())["devices"][str(disk)]["done"]
        self.assertGreater(done, 128 * MIB)
        self.assertLess(done, 4000 * MIB)
        answer = w.run(harness.program("dmremap-scan"), "--json", "--deep", "--resume", keep, main, disk)
        found = self.one_set(json.loads(answer.stdout), "data")
        self.assertEqual(found["spares"][0]["members"][0]["member"], f"{disk}@{4000 * 2048}+65536")


if __name__ == "__main__":
    harness.main()
