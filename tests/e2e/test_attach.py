# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that attach and detach one set at the same time, and loop devices that somebody else made."""

import fcntl
import json
import os
import re
import socket
import subprocess
from pathlib import Path

import harness
from harness import MIB, SECTOR, Attached, DirectFile, write_at

MAIN_SIZE, SPARE_SIZE = 16 * MIB, 32 * MIB
AT_ONCE = 6
DELAY_MS = 300  # of each of the samples of main that a close takes


class AttachAndDetach(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.old = harness.pattern("main", MAIN_SIZE)
        self.set = harness.Set(self.workspace, "e2e", main_size=MAIN_SIZE, spare_size=SPARE_SIZE, dust=True)
        write_at(self.set.main, 0, self.old)
        self.set.create()
        self.workspace.on_close("the rest", self.clear)

    def clear(self):
        """Of a test that failed."""
        place = self.workspace.path / "run/e2e"
        for device in self.loops():
            self.workspace.run("losetup", "-d", device, check=False)
        harness.wait_until(lambda: not self.loops(), 20, "the loop devices go")
        harness.force_unmount(self.workspace, place)

    def begin(self, *words):
        """A command that goes on by itself."""
        started = subprocess.Popen([harness.program("dmremap"), *map(str, words)], env=self.workspace.env,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.workspace.on_close(started, started.kill)
        return started

    def end(self, started):
        """(exit status, output, messages)"""
        out, err = started.communicate(timeout=150)
        self.workspace.forget(started)
        return started.returncode, out, err

    def loops(self):
        """All loop devices on the image of the set."""
        image = str(self.workspace.path / "run/e2e/disk.img")
        return sorted(f"/dev/{p.parents[1].name}" for p in Path("/sys/block").glob("loop*/loop/backing_file")
                      if p.exists() and p.read_text().strip() == image)

    def assert_whole(self, device):
        with DirectFile(device) as opened:
            self.assertTrue(opened.read(0, MAIN_SIZE) == self.old, "all of main's data")

    def attach_and_detach(self):
        attached = Attached(self.workspace, "e2e")
        self.assert_whole(attached.loop)
        attached.detach()


class AtOnce(AttachAndDetach):
    def test_attaches(self):
        """However many attach it, one writable loop device stands on the set, and all of them name it."""
        for served in (False, True, True, True):
            with self.subTest(served=served):
                if served:
                    place = self.workspace.folder("run/e2e")
                    self.workspace.fusedisk(self.set.main_member, self.set.spare_member, place)
                answers = [self.end(one) for one in [self.begin("attach", "e2e") for _ in range(AT_ONCE)]]
                self.assertEqual({code for code, _, _ in answers}, {0}, answers)
                device, = self.loops()
                self.assertEqual({out for _, out, _ in answers}, {device + "\n"})
                attached = Attached(self.workspace, "e2e", loop=device)
                self.assert_whole(device)
                attached.detach()

    def test_waits_for_another_command_and_says_so(self):
        uuid = json.loads(self.workspace.dmremap("list", "--all", "--json").stdout)["sets"][0]["uuid"]
        for verb in ("attach", "detach"):
            turn = self.workspace.folder("run/.turns") / uuid
            with open(turn, "w") as held:
                fcntl.flock(held, fcntl.LOCK_EX)
                held.write("4711\n")
                held.flush()
                started = self.begin(verb, "e2e")
                said = started.stderr.readline()
                self.assertIn("process 4711", said)
                self.assertIn("waiting", said)
                self.assertIsNone(started.poll())
                self.assertEqual(len(self.loops()), 0 if verb == "attach" else 1, "nothing was done")
            code, out, err = self.end(started)
            self.assertEqual(code, 0, err)
            if verb == "attach":
                attached = Attached(self.workspace, "e2e", loop=out.strip())
                # The daemon has not got the lock: a command that is killed leaves none behind.
                self.workspace.run("flock", "-n", turn, "true")
        attached.wait_end()
        attached.ended()

    def test_attaches_and_detaches(self):
        """Whatever comes first: each does the whole of its work, and the last state is one of the two."""
        for _ in range(3):
            answers = [self.end(one) for one in [self.begin(verb, "e2e") for verb in ("attach", "detach") * 3]]
            for number, (code, out, err) in enumerate(answers):
                nothing = number % 2 == 1 and "there is nothing to detach" in err
                self.assertEqual(code, 1 if nothing else 0, (out, err))
                self.assertNotIn("died", err)
            self.assertLessEqual(len(self.loops()), 1)
            if self.loops():
                Attached(self.workspace, "e2e", loop=self.loops()[0]).detach()
        self.attach_and_detach()


class Closing(AttachAndDetach):
    """A daemon whose mount is gone, and that still writes, lives."""

    def setUp(self):
        super().setUp()
        self.attached = Attached(self.workspace, "e2e")
        with DirectFile(self.attached.loop, write=True) as device:
            device.write(0, b"n" * 8 * SECTOR)
        self.old = b"n" * 8 * SECTOR + self.old[8 * SECTOR:]
        self.set.do("remap", 800)
        self.set.delay_reads(0, MAIN_SIZE // SECTOR, DELAY_MS)

    def takes_no_requests(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            return s.connect_ex(str(self.set.run_dir / "control")) != 0

    def begin_to_close(self):
        """Its socket is gone, and it is not."""
        self.workspace.run("losetup", "-d", self.attached.loop)
        harness.wait_until(lambda: not self.loops(), 20, "the loop device goes")
        self.workspace.run("umount", self.attached.mountpoint)
        harness.wait_until(self.takes_no_requests, 60, "it closes")
        self.assertFalse(harness.poll_fd(self.attached._pidfd, 0), "the daemon is there")

    def ended_by(self, answer):
        """The daemon had ended when the command did, and nobody took it for dead."""
        code, out, err = answer
        self.assertEqual(code, 0, err)
        self.assertTrue(harness.poll_fd(self.attached._pidfd, 0), "the daemon has ended")
        self.assertNotIn("died", err + out)
        return out

    def test_detach(self):
        self.begin_to_close()
        self.assertIn("stopping", self.workspace.dmremap("detach", "e2e", "-n").stdout)
        self.assertEqual(json.loads(self.workspace.dmremap("list", "--json").stdout)["sets"][0]["state"], "running")
        refused = self.workspace.dmremap("remap", "e2e", 1600, "--json", check=False)
        self.assertEqual(json.loads(refused.stdout)["error"]["id"], "stopping")
        self.ended_by(self.end(self.begin("detach", "e2e")))
        self.attached.ended()
        self.attach_and_detach()

    def test_detach_while_another_detaches(self):
        first = self.begin("detach", "e2e")
        harness.wait_until(self.takes_no_requests, 60, "it closes")
        self.assertFalse(harness.poll_fd(self.attached._pidfd, 0), "the daemon is there")
        self.ended_by(self.end(self.begin("detach", "e2e")))
        self.ended_by(self.end(first))
        self.attached.ended()
        self.attach_and_detach()

    def test_attach(self):
        self.begin_to_close()
        device = self.ended_by(self.end(self.begin("attach", "e2e"))).strip()
        self.workspace.forget(self.attached)
        os.close(self.attached._pidfd)
        again = Attached(self.workspace, "e2e", loop=device)
        self.assert_whole(device)
        self.assertEqual([r["main_sector"] for r in self.set.ask("table")["remaps"]], [800])
        again.detach()


class OtherLoopDevices(AttachAndDetach):
    """What attach did not make, it takes only where it is what attach would make."""

    def setUp(self):
        super().setUp()
        self.attached = Attached(self.workspace, "e2e")
        self.workspace.run("losetup", "-d", self.attached.loop)
        harness.wait_until(lambda: not self.loops(), 20, "the loop device goes")

    def losetup(self, *words):
        return self.workspace.run("losetup", "-f", "--show", *words, self.attached.image).stdout.strip()

    def test_other_ones_are_left_alone(self):
        others = [self.losetup(*words) for words in (["-r", "--offset", MIB], ["--offset", MIB], ["--sizelimit", MIB], ["-r"])]
        planned = json.loads(self.workspace.dmremap("attach", "e2e", "-n", "--json").stdout)
        self.assertIsNone(planned["loop"])
        device = self.workspace.dmremap("attach", "e2e").stdout.strip()
        self.assertEqual(self.loops(), sorted([*others, device]))
        self.assertNotIn(device, others)
        self.assert_whole(device)
        with DirectFile(device, write=True) as opened:
            opened.write(0, b"w" * SECTOR)
        self.assertEqual(self.workspace.dmremap("attach", "e2e").stdout.strip(), device, "again")
        said = self.workspace.dmremap("detach", "e2e").stdout
        self.assertEqual(sorted(re.findall(r"/dev/loop\d+", said)), sorted([*others, device]))
        self.assertEqual(self.loops(), [])
        self.attached.wait_end()
        self.attached.ended()

    def test_one_that_will_do(self):
        for direct in ("on", "off"):
            device = self.losetup(f"--direct-io={direct}")
            made = json.loads(self.workspace.dmremap("attach", "e2e", "--json").stdout)
            self.assertEqual((made["loop"], made["direct_io"]), (device, direct == "on"))
            self.assertEqual(self.loops(), [device])
            self.workspace.run("losetup", "-d", device)
            harness.wait_until(lambda: not self.loops(), 20, "the loop device goes")
        self.attached.detach()

    def test_of_a_read_only_set(self):
        self.attached.detach()
        place = self.workspace.folder("run/e2e")
        self.workspace.fusedisk("-o", "ro", self.set.main_member, self.set.spare_member, place)
        attached = Attached(self.workspace, "e2e")
        self.assertEqual(self.workspace.dmremap("attach", "e2e").stdout.strip(), attached.loop)
        self.assertEqual(self.loops(), [attached.loop])
        self.assert_whole(attached.loop)
        attached.detach()


class AnotherSetAtThePlace(AttachAndDetach):
    def test_what_was_killed_there_takes_nothing_of_the_next_one_away(self):
        w = self.workspace
        there = w.folder("there")
        attached = Attached(w, "e2e", there)
        attached.kill()
        w.run("losetup", "-d", attached.loop)
        w.run("umount", there)
        main, content = w.sparse("next.img", MAIN_SIZE), harness.pattern("next", MAIN_SIZE)
        write_at(main, 0, content)
        w.dmremap("create", "next", "--main", main, "--spare", w.sparse("next-spare.img", SPARE_SIZE))
        after = Attached(w, "next", there)
        again = Attached(w, "e2e")  # clears away what the killed one left
        backing = Path("/sys/block", Path(after.loop).name, "loop/backing_file")
        self.assertEqual(backing.read_text().strip() if backing.exists() else "", f"{there}/disk.img",
                         "the other set's loop device stays")
        self.assertNotEqual(again.loop, after.loop)
        with DirectFile(after.loop) as opened:
            self.assertTrue(opened.read(0, MAIN_SIZE) == content, "what it shows, too")
        self.assert_whole(again.loop)
        again.detach()
        after.detach()


if __name__ == "__main__":
    harness.main()
