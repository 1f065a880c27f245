# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting, stopping, attaching, and every command of an administrator with its exit status and JSON."""

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
from pathlib import Path

import harness
from harness import MIB, SECTOR, UNIT, UNIT_SECTORS, Attached, DirectFile, write_at

MAIN_SIZE, SPARE_SIZE = 16 * MIB, 32 * MIB


class LifeCycle(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.old = harness.pattern("main", MAIN_SIZE)
        self.set = harness.Set(self.workspace, "e2e", main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        write_at(self.set.main, 0, self.old)
        self.set.create()

    def assert_image(self, path=None):
        harness.drop_caches()
        self.assertTrue((path or self.set.image).read_bytes() == self.old, "the image is main's data")

    def write(self, sector, data, path=None):
        write_at(path or self.set.image, sector, data)
        at = sector * SECTOR
        self.old = self.old[:at] + data + self.old[at + len(data):]

    def dmremap(self, *words, code=0):
        answer = self.workspace.dmremap(*words, check=False)
        self.assertEqual(answer.returncode, code, f"{words}: {answer.stdout}{answer.stderr}")
        return answer.stdout

    def dmremap_json(self, *words, code=0):
        return json.loads(self.dmremap(*words, "--json", code=code))


class Daemon(LifeCycle):
    def test_folder_and_clean_stop_by_umount(self):
        daemon = self.set.start()
        self.assertEqual(sorted(os.listdir(daemon.mountpoint)), ["ctl", "disk.img"])
        self.assertEqual(os.stat(self.set.image).st_size, MAIN_SIZE)
        self.assert_image()
        self.write(100, b"x" * 5000)
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(os.listdir(daemon.mountpoint), [])
        self.set.start()
        self.assert_image()
        self.assertTrue(self.set.status_json()["running"])
        self.set.stop()

    def test_on_a_file(self):
        place = self.workspace.path / "e2e.img"
        place.write_bytes(b"what was there")
        self.set.start(on_file=True)
        self.assertEqual(os.stat(place).st_size, MAIN_SIZE)
        self.assert_image()
        self.write(8, b"y" * 512)
        self.set.stop()
        self.assertEqual(place.read_bytes(), b"what was there")
        self.set.start(on_file=True)
        self.assert_image()
        self.set.stop()

    def test_background(self):
        """Returns once the mount serves; ends by itself after the unmount."""
        mountpoint = self.workspace.folder("bg")
        self.workspace.on_close("bg", lambda: harness.force_unmount(self.workspace, mountpoint))
        for _ in range(3):
            self.workspace.fusedisk(self.set.main, self.set.spare, mountpoint)
            self.assert_image(mountpoint / "disk.img")
            info = json.loads((self.set.run_dir / "info.json").read_text())
            self.assertEqual((info["name"], info["mountpoint"]), ("e2e", str(mountpoint)))
            pidfd = os.pidfd_open(info["pid"])
            self.workspace.run("umount", mountpoint)
            self.assertTrue(harness.poll_fd(pidfd, 30), "the daemon ends")
            os.close(pidfd)
            self.assertFalse((self.set.run_dir / "info.json").exists())

    def test_start_on_a_dead_mount(self):
        """What a killed daemon left at the mount point, and nobody uses, is taken away; folder and file."""
        for on_file in (False, True):
            daemon = self.set.start(on_file=on_file)
            self.write(64, b"d" * 512)
            daemon.kill()
            self.assertTrue(harness.is_mounted(daemon.mountpoint))
            self.set.start(on_file=on_file)
            self.assert_image()
            self.set.stop()
            self.assertFalse(harness.is_mounted(daemon.mountpoint))

    def test_sigterm(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = self.set.start()
            self.write(200, str(number).encode() * 512)
            daemon.signal(number)
            self.assertEqual(daemon.wait(), 0)
            self.assertFalse(harness.is_mounted(daemon.mountpoint))
        self.set.start()
        self.assert_image()
        self.set.stop()

    def test_sigterm_under_a_loop_device(self):
        daemon = self.set.start()
        loop = self.set.loop()
        daemon.signal(signal.SIGTERM)
        harness.wait_until(lambda: loop.path in daemon.log(), 20, "the log names the loop device")
        self.assertTrue(daemon.running())
        with DirectFile(loop.path, write=True) as device:
            self.assertEqual(device.read(4096, 8192), self.old[4096:12288])
            device.write(4096, b"z" * 8192)
            device.sync()
            self.assertEqual(device.read(4096, 8192), b"z" * 8192)
        self.old = self.old[:4096] + b"z" * 8192 + self.old[12288:]
        busy = self.workspace.run("umount", daemon.mountpoint, check=False)
        self.assertNotEqual(busy.returncode, 0, "umount refuses, too")
        loop.detach()
        daemon.signal(signal.SIGTERM)
        self.assertEqual(daemon.wait(), 0)
        self.set.start()
        self.assert_image()
        self.set.stop()

    def test_read_only(self):
        self.set.start()
        for unit in (3, 700, 701):
            self.set.do("remap", unit * UNIT_SECTORS)
        self.write(3 * UNIT_SECTORS + 1, b"r" * 1000)
        self.set.daemon.kill()  # dirty: there would be something to mend
        self.set.kill()
        before = self.set.hash_members()
        stamps = [os.stat(p).st_mtime_ns for p in (self.set.main, self.set.spare)]
        daemon = self.set.start("ro")
        self.assert_image()
        with self.assertRaises(OSError) as caught:
            os.close(os.open(self.set.image, os.O_RDWR))
        self.assertIn(caught.exception.errno, (errno.EROFS, errno.EACCES))
        loop = self.workspace.loop(self.set.image)
        with DirectFile(loop.path) as device:
            self.assertEqual(device.read(0, MAIN_SIZE), self.old)
        loop.detach()
        self.assertTrue(self.set.status_json()["read_only"])
        for words in (("remap", 80), ("unmap", 24), ("message", 0, "add_remap 8 auto 8")):
            self.assertEqual(self.set.do(*words, check=False).returncode, 1, words)
        self.assertEqual(daemon.stop(), 0)
        self.assertEqual(self.set.hash_members(), before, "nothing at all is written")
        self.assertEqual([os.stat(p).st_mtime_ns for p in (self.set.main, self.set.spare)], stamps)

    def test_any_byte(self):
        """Reads and writes at any byte, across sectors, units and remaps."""
        self.set.start()
        for unit in range(10, 30, 3):
            self.set.do("remap", unit * UNIT_SECTORS)
        expected = bytearray(self.old)
        chance = random.Random(9)
        fd = os.open(self.set.image, os.O_RDWR)
        try:
            for _ in range(400):
                at = chance.randrange(9 * UNIT, 32 * UNIT)
                length = chance.choice((1, 3, 511, 512, 513, 4095, 4096, 4097, 9000))
                data = chance.randbytes(length)
                self.assertEqual(os.pwrite(fd, data, at), length)
                expected[at:at + length] = data
                at, length = chance.randrange(9 * UNIT, 32 * UNIT), chance.randrange(1, 10000)
                self.assertEqual(os.pread(fd, length, at), bytes(expected[at:at + length]))
            end = MAIN_SIZE - 5
            self.assertEqual(os.pread(fd, 100, end), bytes(expected[end:]))
            with self.assertRaises(OSError):
                os.pwrite(fd, b"beyond", MAIN_SIZE)
        finally:
            os.close(fd)
        self.assertEqual(os.stat(self.set.image).st_size, MAIN_SIZE)
        self.old = bytes(expected)
        self.assert_image()
        self.set.stop()
        self.set.start()
        self.assert_image()
        self.set.stop()

    def test_durable_writes(self):
        """The kernel sends no fsync after a write with O_DSYNC or O_SYNC: it is durable once it is answered."""
        self.set.start()
        before = self.set.stats()["flushes"]

        def flushes(open_flags, write_flags=0):
            nonlocal before
            fd = os.open(self.set.image, os.O_WRONLY | open_flags)
            try:
                for n in range(5):
                    self.assertEqual(os.pwritev(fd, [b"d" * UNIT], n * UNIT, write_flags), UNIT)
            finally:
                os.close(fd)
            now = self.set.stats()["flushes"]
            done, before = now - before, now
            return done

        self.assertEqual(flushes(0), 0)
        self.assertEqual(flushes(os.O_DSYNC), 5)
        self.assertEqual(flushes(os.O_SYNC), 5)
        self.assertEqual(flushes(0, os.RWF_DSYNC), 5)
        self.old = b"d" * (5 * UNIT) + self.old[5 * UNIT:]
        self.assert_image()
        self.set.stop()

    def test_dry_run(self):
        before, folder = self.set.hash_members(), self.workspace.folder("place")
        words = [self.set.main, self.set.spare, folder, "--dry-run", "--json"]
        planned = json.loads(self.workspace.fusedisk(*words).stdout)
        self.assertEqual((planned["name"], planned["image"]), ("e2e", str(folder / "disk.img")))
        swapped = self.workspace.fusedisk(self.set.spare, self.set.main, folder, "-n", "--json", check=False)
        self.assertEqual((swapped.returncode, json.loads(swapped.stdout)["error"]["id"]), (1, "main-is-spare"))
        self.assertEqual(self.set.hash_members(), before, "nothing is written")
        self.set.start()
        served = self.workspace.fusedisk(*words, check=False)
        self.assertEqual((served.returncode, json.loads(served.stdout)["error"]["id"]), (1, "in-use"))
        self.set.stop()
        self.set.start().kill()  # what a dead daemon left is seen, and left there
        left = Path("/proc/self/mounts").read_text().count(str(self.workspace.path))
        self.assertEqual(left, 1)
        self.workspace.fusedisk(self.set.main, self.set.spare, self.set.daemon.mountpoint, "-n")
        self.assertEqual(Path("/proc/self/mounts").read_text().count(str(self.workspace.path)), left)
        self.set.start()
        self.set.stop()

    def test_loop_device_without_direct_io(self):
        """Slower, not wrong."""
        self.set.start()
        loop = self.set.loop(direct=False)
        self.assertEqual(loop.dio, 0)
        chance = random.Random(3)
        for _ in range(60):
            unit = chance.randrange(MAIN_SIZE // UNIT - 40)
            if chance.random() < 0.3:
                self.set.do("remap", unit * UNIT_SECTORS)
            self.write(unit * UNIT_SECTORS, chance.randbytes(chance.randrange(1, 40) * SECTOR), loop.path)
        self.workspace.run("blockdev", "--flushbufs", loop)
        self.assertTrue(Path(loop.path).read_bytes() == self.old)
        loop.detach()
        self.assert_image()
        self.set.stop()
        self.set.start()
        self.assert_image()
        self.set.stop()

    def test_control_tree(self):
        self.set.start()
        self.set.do("remap", 800)
        ctl = self.set.daemon.mountpoint / "ctl"
        found = {}
        for folder, _, names in os.walk(ctl):
            for name in names:
                path = os.path.join(folder, name)
                if os.access(path, os.R_OK):
                    found[os.path.relpath(path, ctl)] = Path(path).read_text(errors="replace")
        self.assertTrue(any("e2e" in text for text in found.values()), found)
        self.assertIn("remap_table", found)
        self.assertIn("800", found["remap_table"])
        with self.assertRaises(OSError):
            (ctl / "new").write_text("x")
        self.set.stop()


class Attach(LifeCycle):
    def test_attach_and_detach(self):
        attached = Attached(self.workspace, "e2e")
        self.assertRegex(attached.loop, r"^/dev/loop\d+$")
        self.assertEqual(attached.dio, 1)
        self.assertEqual(attached.mountpoint, str(self.workspace.path / "run/e2e"))
        with DirectFile(attached.loop) as device:
            self.assertEqual(device.read(0, MAIN_SIZE), self.old)
        self.assertEqual(self.workspace.status_json("e2e")["loop"], [attached.loop])
        again = self.workspace.dmremap("attach", "e2e", check=False)
        self.assertNotEqual((again.returncode, again.stdout), (0, ""))
        attached.detach()
        self.dmremap("status", "e2e", code=1)

    def test_dry_runs(self):
        """They say what attach and detach would do, refuse what those would refuse, and change nothing."""
        before, folder = self.set.hash_members(), self.workspace.path / "run/e2e"
        planned = self.dmremap_json("attach", "e2e", "--dry-run")
        self.assertEqual((planned["dry_run"], planned["loop"], planned["mountpoint"]), (True, None, str(folder)))
        self.assertFalse(folder.exists())
        self.assertEqual(self.dmremap_json("attach", "--all", "-n")["sets"][0]["mountpoint"], str(folder))
        nowhere = self.workspace.path / "nowhere"
        self.assertEqual(self.dmremap_json("attach", "e2e", str(nowhere), "-n", code=1)["error"]["id"], "mountpoint")
        spare, away = Path(self.set.spare), Path(self.set.spare).with_suffix(".away")
        spare.rename(away)
        refused = self.dmremap_json("attach", "e2e", "-n", code=4)["error"]["id"]
        self.assertEqual(self.dmremap_json("attach", "e2e", code=4)["error"]["id"], refused)
        away.rename(spare)
        self.assertEqual(self.set.hash_members(), before, "nothing is written")

        attached = Attached(self.workspace, "e2e")
        self.assertEqual(self.dmremap_json("attach", "e2e", "-n")["loop"], attached.loop)
        planned = self.dmremap_json("detach", "e2e", "--dry-run")
        self.assertEqual((planned["loop"], planned["running"]), ([attached.loop], True))
        self.assertEqual(self.dmremap_json("detach", "--all", "-n")["sets"], [
            {key: value for key, value in planned.items() if key not in ("text", "schema")}])
        self.assertEqual(self.dmremap_json("sync", "e2e", "-n")["members"], 2)
        self.assertEqual(self.dmremap_json("set", "e2e", "auto_remap=0", "-n")["now"], "1")
        self.assertEqual(self.dmremap_json("get", "e2e", "auto_remap")["auto_remap"], "1")
        with open(attached.loop, "rb"):  # a program that has it open
            refused = self.dmremap_json("detach", "e2e", "-n", code=1)["error"]
            self.assertEqual(refused["id"], "loop-in-use")
        self.assertEqual(self.workspace.status_json("e2e")["loop"], [attached.loop])
        attached.detach()

    def test_attach_where_told(self):
        folder = self.workspace.folder("here")
        attached = Attached(self.workspace, "e2e", folder)
        self.assertEqual(attached.mountpoint, str(folder))
        self.assertEqual(self.dmremap("attach", "e2e", f"{folder}/../here/"), attached.loop + "\n")
        elsewhere = str(self.workspace.folder("elsewhere"))
        for words in (("attach", "e2e", elsewhere), ("attach", "e2e", elsewhere, "-n")):
            refused = self.dmremap_json(*words, code=1)["error"]
            self.assertEqual(refused["id"], "served-elsewhere")
            self.assertIn(str(folder), refused["why"])
        attached.detach()

    def test_detach_refuses_while_in_use(self):
        self.old = bytes(MAIN_SIZE)
        attached = Attached(self.workspace, "e2e")
        self.workspace.run("mkfs.ext4", "-q", attached.loop)
        mnt = self.workspace.mount(attached.loop)
        (mnt / "file").write_text("kept")
        answer = attached.detach(check=False)
        self.assertEqual(answer.returncode, 1)
        self.assertIn(str(mnt.path), answer.stderr, "it names who uses it")
        self.assertEqual((mnt / "file").read_text(), "kept")
        mnt.unmount()
        attached.detach()

    def test_detach_waits_for_who_looks_for_a_moment(self):
        """Such as udev, or another program that goes through all devices."""
        attached = Attached(self.workspace, "e2e")
        with open(attached.loop, "rb"):
            detaching = subprocess.Popen([harness.program("dmremap"), "detach", "e2e"], env=self.workspace.env,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            self.workspace.on_close(detaching, detaching.kill)
            harness.wait_until(lambda: attached.loop in self.opened_by(detaching.pid), 20, "detach looks at the device")
        self.assertEqual((detaching.communicate(timeout=60)[0].count("stopped"), detaching.returncode), (1, 0))
        self.workspace.forget(detaching)
        attached.wait_end()
        attached.ended()

    @staticmethod
    def opened_by(pid):
        folder = f"/proc/{pid}/fd"
        with contextlib.suppress(FileNotFoundError):
            return {os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
        return set()

    def test_detach_clears_what_a_kill_left(self):
        attached = Attached(self.workspace, "e2e")
        with DirectFile(attached.loop, write=True) as device:
            device.write(0, b"k" * UNIT)
            device.sync()
        self.old = b"k" * UNIT + self.old[UNIT:]
        attached.kill()
        self.assertEqual(attached.detach().returncode, 0)
        attached = Attached(self.workspace, "e2e")
        with DirectFile(attached.loop) as device:
            self.assertEqual(device.read(0, MAIN_SIZE), self.old)
        attached.detach()

    def test_all(self):
        harness.Set(self.workspace, "other", main_size=MAIN_SIZE, spare_size=SPARE_SIZE).create()
        self.dmremap("attach", "--all")
        both = [Attached.adopt(self.workspace, name) for name in ("e2e", "other")]
        self.assertEqual({s["name"] for s in self.dmremap_json("list")["sets"]}, {"e2e", "other"})
        self.dmremap("detach", "--all")
        for one in both:
            one.wait_end()
            one.ended()
        self.assertEqual(self.dmremap_json("list")["sets"], [])


class Commands(LifeCycle):
    def test_help_and_version(self):
        for name in ("dmremap", "fusedisk"):
            self.assertIn("sage", self.workspace.run(harness.program(name), "--help").stdout)
            self.assertRegex(self.workspace.run(harness.program(name), "--version").stdout, rf"^{name} \d+\.\d+")

    def test_create_dry_run(self):
        spare = self.workspace.sparse("fresh.img", SPARE_SIZE)
        before = harness.sha256_file(spare)
        main = self.workspace.sparse("fresh-main.img", MAIN_SIZE)
        said = self.dmremap("create", "fresh", "--main", main, "--spare", spare, "--dry-run")
        self.assertIn(str(spare), said)
        self.assertEqual(harness.sha256_file(spare), before)
        self.assertFalse((self.workspace.path / "conf/sets.d/fresh.conf").exists())
        self.dmremap_json("create", "fresh", "--main", main, "--spare", spare, "--dry-run")
        made = self.dmremap_json("create", "fresh", "--main", main, "--spare", spare, "--no-persist")
        self.assertEqual(made["name"], "fresh")
        self.assertFalse((self.workspace.path / "conf/sets.d/fresh.conf").exists())
        self.assertNotEqual(harness.sha256_file(spare), before)

    def test_create_by_table(self):
        length = MAIN_SIZE // SECTOR
        for number, line in enumerate(("0 {len} remap {main} {spare} 0 {slen}", "0 {len} remap {main} 0 {spare} 0 {slen}",
                                       "0 {len} remap-v4 {main} {spare}", "0 {len} dm-remap-v4 {main} {spare}")):
            with self.subTest(line):
                name = f"table{number}"
                main = self.workspace.sparse(f"{name}.main", MAIN_SIZE)
                spare = self.workspace.sparse(f"{name}.spare", SPARE_SIZE)
                text = line.format(len=length, main=main, spare=spare, slen=SPARE_SIZE // SECTOR)
                self.dmremap("create", name, "--table", text)
                made = harness.sha256_file(spare)
                self.dmremap("create", name, "--table", text)  # this very set already: opened, never formatted again
                self.assertEqual(harness.sha256_file(spare), made)
                attached = Attached(self.workspace, name)
                self.dmremap("remap", name, 88)
                self.assertEqual(self.dmremap_json("create", name, "--table", text)["outcome"], "opened", "it runs")
                refused = self.dmremap_json("create", name, "--main", main, "--spare", self.set.spare, code=1)
                self.assertEqual(refused["error"]["id"], "name-taken")
                attached.detach()
                self.dmremap("create", name, "--table", text)
                attached = Attached(self.workspace, name)
                self.assertEqual([r["main_sector"] for r in self.dmremap_json("table", name)["remaps"]], [88])
                attached.detach()

    def test_create_by_table_on_a_range(self):
        main, spare = self.workspace.sparse("r.main", MAIN_SIZE), self.workspace.sparse("r.spare", 80 * MIB)
        start = 8 * MIB // SECTOR
        self.dmremap("create", "r", "--table", f"0 16384 remap {main} {spare} {start} 65536")
        attached = Attached(self.workspace, "r")
        self.assertEqual(os.stat(attached.image).st_size, 16384 * SECTOR)
        attached.detach()
        with open(spare, "rb") as f:
            self.assertEqual(f.read(8 * MIB), bytes(8 * MIB), "nothing before the range")
            f.seek((start + 65536) * SECTOR)
            self.assertEqual(f.read().count(0), 80 * MIB - (start + 65536) * SECTOR, "nothing behind it")

    def test_reports(self):
        self.set.start()
        self.set.do("remap", 800)
        self.set.message("add_remap", 1600, "auto", 8)
        status = self.workspace.status_json("e2e")
        self.assertEqual((status["schema"], status["name"], status["running"], status["answers"]), (1, "e2e", True, True))
        self.assertEqual((status["main"]["sectors"], status["pid"]), (MAIN_SIZE // SECTOR, self.set.daemon.pid))
        spare = status["spares"][0]
        self.assertEqual((spare["super_copies_valid"], spare["head_copies_valid"], spare["weakest_block_copies"]), (5, 5, 5))
        self.assertEqual((spare["units"], spare["allocated_units"], spare["clean"]), (SPARE_SIZE // UNIT, 2, False))
        self.assertEqual(self.workspace.status_json(status["uuid"])["name"], "e2e", "a UUID does for a name")
        dm = self.set.status("--format", "dm").stdout
        self.assertRegex(dm, r"^0 32768 remap v5\.0 2/\d+ 0/\d+ 2/\d+ health=1 errors=W0:R0 auto_remaps=0 manual_remaps=2 "
                             r"scan=0% metadata=enabled autosave=active saves=\d+/\d+")
        self.assertRegex(self.set.status("--format", "prometheus").stdout, r"(?m)^dmremap_\w+(\{.*\})? \d")
        self.assertIn("e2e", self.set.status().stdout)
        self.assertEqual(self.set.stats()["remapped_units"], 2)
        self.dmremap("stats", "e2e")
        table = self.dmremap_json("table", "e2e")["remaps"]
        self.assertEqual([(r["main_sector"], r["kind"], r["sectors"]) for r in table], [(800, "explicit", 8), (1600, "explicit", 8)])
        self.assertIn("800", self.dmremap("table", "e2e"))
        self.assertEqual(self.dmremap_json("lost", "e2e")["lost"], [])
        listed = self.dmremap_json("list")["sets"]
        self.assertEqual([(s["name"], s["running"]) for s in listed], [("e2e", True)])
        self.dmremap("sync", "e2e")
        self.set.stop()
        self.assertEqual(self.dmremap_json("list")["sets"], [])
        listed = self.dmremap_json("list", "--all")["sets"]
        ours = [s for s in listed if s["name"] == "e2e"]
        self.assertEqual([s["running"] for s in ours], [False])
        self.assertIn("attach", ours[0]["next"])

    def test_settings(self):
        self.set.start()
        self.dmremap("set", "e2e", "auto_remap=0")
        self.assertIn("0", self.dmremap("get", "e2e", "auto_remap"))
        self.assertFalse(self.workspace.status_json("e2e")["auto_remap"])
        self.dmremap("set", "e2e", "read_retries=3")
        self.assertEqual(str(self.dmremap_json("get", "e2e")["read_retries"]), "3")
        self.dmremap("set", "e2e", "no_such=1", code=2)
        self.dmremap("set", "e2e", "auto_remap=maybe", code=2)
        self.set.stop()

    def test_messages(self):
        self.set.start()
        expected = {
            "ping": "pong", "remap 800": "", "remove_remap 800": "", "add_remap 800 auto 8": "", "set_auto_remap 0": "",
            "set_auto_remap 1": "", "save": "", "sync": "", "metadata_status": "5", "spare_stats": "Spare Pool Statistics:",
            "status": "remap v5.0", "stats": "", "health": "", "clear_stats": "", "reset_breaker": "", "debug 2": "",
            "help": "add_remap",
        }
        for words, says in expected.items():
            with self.subTest(words):
                self.assertIn(says, self.dmremap("message", "e2e", 0, words))
        said = self.dmremap("message", "e2e", 0, "spare_stats")
        self.assertRegex(said, r"Devices: 1 total \(\d available, 1 in-use, 0 full, 0 failed\)")
        self.assertRegex(said, r"Capacity: \d+ MB total, \d+ MB allocated, \d+ MB free")
        self.assertRegex(said, r"Allocations: 1 active, \d+ lifetime")
        self.assertIn("pong", self.dmremap("message", "e2e", 0, "ping"))
        self.dmremap("message", "e2e", 5, "ping", code=2)
        self.set.stop()

    def test_rename(self):
        self.set.start()
        self.set.do("remap", 800)
        self.dmremap("rename", "e2e", "renamed")
        self.assertEqual(self.workspace.status_json("renamed")["name"], "renamed")
        self.dmremap("status", "e2e", code=1)
        daemon = self.set.daemon
        self.assertEqual(daemon.stop(), 0)
        attached = Attached(self.workspace, "renamed")
        self.assertEqual([r["main_sector"] for r in self.dmremap_json("table", "renamed")["remaps"]], [800])
        self.dmremap("rename", "renamed", "again")
        attached.name = "again"
        attached.detach()
        self.assertFalse((self.workspace.path / "run/renamed").exists(), "the folder that attach made goes with it")
        self.dmremap("rename", "again", "renamed")
        self.dmremap("rename", "renamed", "bad name", code=2)
        self.dmremap("rename", "no-such", "other", code=1)

    def configurations(self):
        return sorted(path.name for path in (self.workspace.path / "conf/sets.d").glob("*.conf"))

    def test_two_renames_at_once(self):
        attached = Attached(self.workspace, "e2e")
        name = "e2e"
        for turn in range(10):
            new = [f"{turn}a", f"{turn}b"]
            both = [subprocess.Popen([harness.program("dmremap"), "rename", name, one], env=self.workspace.env,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for one in new]
            done = [one for one, process in zip(new, both) if process.wait() == 0]
            self.assertEqual(len(done), 1)
            name, = done
            self.assertEqual(self.configurations(), [f"{name}.conf"])
            self.assertEqual([one["name"] for one in self.dmremap_json("list")["sets"]], done)
        attached.name = name
        attached.detach()

    def test_a_rename_that_was_cut_off(self):
        conf = self.workspace.path / "conf/sets.d"
        def cut_off(old, new):
            text = (conf / f"{old}.conf").read_text()
            (conf / f"{new}.conf").write_text(text.replace(f"name = {old}", f"name = {new}"))
        for left in ("aa", "zz"):
            with self.subTest(left):
                cut_off("e2e", left)
                answer = self.workspace.dmremap("attach", "--all", check=False)
                attached = Attached.adopt(self.workspace, "e2e")  # first, so that nothing of it is left
                self.assertEqual(answer.returncode, 0, answer)
                served = self.dmremap_json("attach", left)  # known by either name
                self.assertEqual((served["name"], served["loop"]), ("e2e", attached.loop))
                self.dmremap("detach", "--all")
                attached.wait_end()
                attached.ended()
                self.dmremap("rename", "e2e", left)
                self.assertEqual(self.configurations(), [f"{left}.conf"])
                self.dmremap("rename", left, "e2e")
        cut_off("e2e", "aa")
        self.dmremap("destroy", "e2e")
        self.assertEqual(self.configurations(), [])

    def test_destroy(self):
        attached = Attached(self.workspace, "e2e")
        self.dmremap("destroy", "e2e", code=1)
        attached.detach()
        self.dmremap("destroy", "e2e")
        self.dmremap("status", "e2e", code=1)
        self.assertFalse((self.workspace.path / "conf/sets.d/e2e.conf").exists())
        self.assertTrue(self.set.main.read_bytes() == self.old, "main's data stays")
        self.dmremap("create", "anew", "--main", self.set.main, "--spare", self.set.spare)

    def test_destroy_with_remaps(self):
        """What main does not have is not given up without being told to; written back, main is whole."""
        self.set.start()
        self.set.do("remap", 800)
        self.write(800, b"on the spare" * 341)
        self.set.stop()
        refused = self.workspace.dmremap("destroy", "e2e", check=False)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.dmremap("destroy", "e2e", "--write-back")
        self.assertTrue(self.set.main.read_bytes() == self.old, "main alone is the disk now")
        self.dmremap("create", "anew", "--main", self.set.main, "--spare", self.set.spare)

    def test_destroy_writes_nothing_to_what_bears_nothing_of_the_set(self):
        """A path of the configuration that is another drive by now, with a place that cannot be read."""
        other = self.workspace.path / "other.img"
        content = harness.pattern("somebody's", 32 * MIB)
        other.write_bytes(content)
        other.with_name("other.img.dust").write_text("1024 read\n")
        conf = self.workspace.path / "conf/sets.d/e2e.conf"
        conf.write_text(conf.read_text() + f"spare = dust:{other}\n")
        said = self.workspace.dmremap("destroy", "e2e").stdout
        self.assertIn(f"{other} is left as it is", said)
        self.assertTrue(other.read_bytes() == content, "not a byte of it")
        self.assertFalse(conf.exists())
        self.dmremap("create", "anew", "--main", self.set.main, "--spare", self.set.spare)

    def test_a_start_of_a_user_that_fails_leaves_nothing(self):
        """What fails once the mount is there: the path of the socket is too long."""
        run, there = self.workspace.folder("u"), self.workspace.folder("there")
        long_name = run / ("d" * 100)
        for path in (run, there, self.set.main, self.set.spare):
            os.chown(path, 65534, 65534)
        as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"DMREMAP_RUN_DIR={long_name}",
                     f"DMREMAP_STATE_DIR={run}/state", f"DMREMAP_CONF_DIR={run}/conf")
        failed = self.workspace.run(*as_nobody, harness.program("fusedisk"), "--foreground", self.set.main, self.set.spare,
                                    there, check=False, timeout=60)
        self.assertEqual(failed.returncode, 1, failed.stderr)
        self.assertIn("long", failed.stderr)
        self.assertFalse(harness.is_mounted(there))
        again = self.workspace.run(*as_nobody[:5], f"DMREMAP_RUN_DIR={run}/run", *as_nobody[6:],
                                   harness.program("fusedisk"), self.set.main, self.set.spare, there)
        self.assertEqual(again.returncode, 0)
        self.workspace.run("umount", there)

    def test_usage(self):
        for words in ((), ("frobnicate",), ("remap",), ("remap", "e2e", "not-a-number"), ("create",), ("status", "e2e", "--nope"),
                      ("table", "e2e", "--format", "nope")):
            with self.subTest(words):
                self.dmremap(*words, code=2)
        for words in (("status", "nobody"), ("remap", "nobody", 8), ("detach", "nobody"), ("attach", "nobody")):
            with self.subTest(words):
                self.dmremap(*words, code=1)
                self.assertIn("id", self.dmremap_json(*words, code=1)["error"])


if __name__ == "__main__":
    harness.main()
