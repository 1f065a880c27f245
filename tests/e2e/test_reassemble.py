# SPDX-License-Identifier: GPL-2.0-or-later
"""dmremap-reassemble: after a "reboot" sets come back with other names, and nothing wrong is started."""

import hashlib
import json
import os
import shutil

import harness
from harness import MIB, UNIT, UNIT_SECTORS, Attached, DirectFile

MAIN_SIZE, SPARE_SIZE = 64 * MIB, 32 * MIB
NAMES = ("alpha", "beta")


class Reassemble(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.w = self.workspace
        self.disks = self.w.folder("disks")
        self.files = {}  # set: [main, spares]
        self.sums = {}   # set: {file: digest}
        self.units = {}  # set: {unit: bytes} beside the file system

    def make(self, name, spares=3):
        """A set with a file system of files, in which units moved to every spare, and then everything stopped."""
        w = self.w
        main = w.sparse(f"disks/{name}-main", MAIN_SIZE)
        found = [w.sparse(f"disks/{name}-spare{n}", SPARE_SIZE) for n in range(spares)]
        w.dmremap("create", name, "--main", main, *(word for s in found for word in ("--spare", s)))
        attached = Attached(w, name)
        w.run("mkfs.ext4", "-q", "-b", "4096", attached.loop)
        mount = w.mount(attached.loop, name=f"mnt-{name}")
        self.sums[name] = harness.make_tree(mount.path, 30, seed=name)
        for path in list(self.sums[name])[:12]:
            for _, place, length in harness.extents(mount / path):
                for unit in range(place // UNIT, (place + length + UNIT - 1) // UNIT):
                    w.dmremap("remap", name, unit * UNIT_SECTORS)
        for path in list(self.sums[name])[:6]:  # main's old bytes are the wrong ones now
            data = harness.pattern(f"new {path}", (mount / path).stat().st_size)
            with open(mount / path, "r+b") as f:
                f.write(data)
                os.fsync(f.fileno())
            self.sums[name][path] = hashlib.sha256(data).hexdigest()
        mount.unmount()
        remaps = w.dmremap_json("table", name)["remaps"]
        self.assertGreater(len(remaps), 12)
        attached.detach()
        self.files[name] = [main, *found]

    def reboot(self):
        """The run folder is gone, and every disk has another name."""
        shutil.rmtree(self.w.path / "run")
        for name, files in self.files.items():
            for n, path in enumerate(files):
                new = path.with_name(hashlib.sha256(str(path).encode()).hexdigest()[:8])
                path.rename(new)
                files[n] = new

    def reassemble(self, *words, code=0, **options):
        answer = self.w.run(harness.program("dmremap-reassemble"), *words, check=False, **options)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return answer

    def judged(self, *words, code=0):
        """{name: object} of the JSON; what was started is ended at the end of the test."""
        sets = {s["name"]: s for s in json.loads(self.reassemble("--json", *words, code=code).stdout)["sets"]}
        self.adopted = {name: Attached(self.w, name, loop=s["loop"]) for name, s in sets.items() if s["started"]}
        return sets

    def check_data(self, name, loop):
        mount = self.w.mount(loop, name=f"back-{name}", options="ro")
        self.assertEqual(harness.check_tree(mount.path, self.sums[name]), ([], []))
        mount.unmount()

    def nothing_runs(self):
        self.assertEqual(self.w.dmremap_json("list")["sets"], [])

    def hashes(self):
        return {str(p): harness.sha256_file(p) for p in sorted(self.disks.iterdir())}


class Reboot(Reassemble):
    def setUp(self):
        super().setUp()
        for name in NAMES:
            self.make(name)

    def test_two_sets_of_three_spares_come_back_with_their_data(self):
        self.reboot()
        # Some are files still, some loop devices, with numbers that nobody had before.
        blocker = self.w.loop(self.w.sparse("blocker", MIB))
        loops = {name: self.w.loop(files[n]) for name, n in (("alpha", 0), ("beta", 2))
                 for files in [self.files[name]]}
        answer = self.reassemble("--all", self.disks, *loops.values())
        lines = dict(line.split() for line in answer.stdout.splitlines())
        self.assertEqual(sorted(lines), sorted(NAMES))
        for name in NAMES:
            Attached.adopt(self.w, name)
            self.check_data(name, lines[name])
            info = self.w.status_json(name)
            members = [str(p) for p in self.files[name]]
            members[0 if name == "alpha" else 2] = str(loops[name])
            self.assertEqual(info["main"]["path"] if isinstance(info["main"], dict) else info["main"], members[0])
        again = self.judged("--all", self.disks, *loops.values())
        self.assertEqual([(s["verdict"], s["loop"]) for s in again.values()],
                         [("running", lines[name]) for name in again])
        for name in NAMES:
            self.w.dmremap("detach", name)
        blocker.detach()

    def test_what_is_wrong_is_said_and_nothing_wrong_is_started(self):
        """A spare of alpha is missing, a spare of beta is there twice, and the mains have changed places."""
        self.reboot()
        gone = self.files["alpha"].pop(2)
        gone.rename(self.w.path / "gone")
        shutil.copyfile(self.files["beta"][1], self.disks / "zz-clone")
        a, b = self.files["alpha"][0], self.files["beta"][0]
        swap = self.w.path / "swap"
        a.rename(swap)
        b.rename(a)
        swap.rename(b)
        before = self.hashes()
        sets = self.judged("--all", self.disks, code=4)
        self.assertEqual({n: (s["verdict"], s["error"]["id"], s["started"]) for n, s in sets.items()},
                         {"alpha": ("refused", "spare-missing", False), "beta": ("refused", "set-copies", False)})
        self.assertEqual([m["last_seen"] for m in sets["alpha"]["missing"]],
                         [str(self.disks / "alpha-spare1")])
        self.assertEqual(sorted(sets["beta"]["candidates"]),
                         sorted([str(self.files["beta"][1]), str(self.disks / "zz-clone")]))
        text = self.reassemble("--all", self.disks, code=4).stderr
        self.assertIn(f"spare 1 ({sets['alpha']['missing'][0]['uuid']}, last seen as ", text)
        self.assertIn(str(self.disks / "zz-clone"), text)
        self.nothing_runs()
        self.assertEqual(self.hashes(), before)

        # With only one of its mains' names left, and that of the other set: nothing fits.
        beta_main = a  # they have changed places
        sets = self.judged("alpha", "--degraded", beta_main, *self.files["alpha"][1:], code=4)
        self.assertEqual((sets["alpha"]["verdict"], sets["alpha"]["error"]["id"]), ("refused", "main-mismatch"))
        sets = self.judged("alpha", "--degraded", "--accept-main", beta_main, *self.files["alpha"][1:], code=4)
        self.assertEqual(sets["alpha"]["verdict"], "refused")
        self.assertEqual(self.hashes(), before)

        # Degraded when told: what lies on the missing spare answers EIO, the rest is right.
        sets = self.judged("alpha", "--degraded", self.disks)
        self.assertEqual((sets["alpha"]["started"], sets["alpha"]["main"]), (True, str(b)))
        self.assertEqual(self.w.status("alpha", check=False).returncode, 4)
        different, _ = self.tree_without_mounting_errors("alpha")
        self.assertEqual(different, [])
        self.adopted["alpha"].detach()
        # With the clone left out by name beta is certain, with the main that has its data.
        self.files["beta"][0] = a
        sets = self.judged("beta", *self.files["beta"])
        self.assertEqual(sets["beta"]["main"], str(a))
        self.check_data("beta", sets["beta"]["loop"])
        self.adopted["beta"].detach()

    def tree_without_mounting_errors(self, name):
        mount = self.w.mount(self.adopted[name].loop, name=f"back-{name}", options="ro,noload")
        found = harness.check_tree(mount.path, self.sums[name])
        mount.unmount()
        return found

    def test_a_crash_leaves_main_to_be_accepted_where_its_name_changed(self):
        attached = Attached(self.w, "alpha")
        attached.kill()
        self.w.dmremap("detach", "alpha")
        self.w.forget(attached)
        self.assertEqual(self.judged("-n", "alpha", self.disks)["alpha"]["verdict"], "certain")  # configured
        self.reboot()
        sets = self.judged("alpha", self.disks, code=4)
        self.assertEqual((sets["alpha"]["verdict"], sets["alpha"]["started"]), ("refused", False))  # two files of its size
        self.assertEqual(sets["alpha"]["error"]["id"], "main-copies")
        sets = self.judged("alpha", *self.files["alpha"], code=4)
        self.assertEqual(sets["alpha"]["verdict"], "needs --accept-main")
        self.nothing_runs()
        sets = self.judged("alpha", "--accept-main", *self.files["alpha"])
        self.check_data("alpha", sets["alpha"]["loop"])
        self.adopted["alpha"].detach()


class OneSet(Reassemble):
    def test_dry_run_opens_nothing_for_writing(self):
        self.make("alpha", spares=2)
        self.reboot()
        loop = self.w.loop(self.files["alpha"][1])
        before = self.hashes()
        log = self.w.path / "strace.log"
        self.w.run("strace", "-f", "-qq", "-o", log, "-e", "trace=open,openat,openat2,creat",
                   harness.program("dmremap-reassemble"), "-n", "--all", self.disks, loop)
        lines = [line for line in log.read_text().splitlines() if "open" in line or "creat(" in line]
        self.assertGreater(len(lines), 10)
        self.assertEqual([line for line in lines if any(f in line for f in ("O_WRONLY", "O_RDWR", "O_CREAT", "creat("))], [])
        self.assertEqual(self.hashes(), before)
        self.nothing_runs()

    def test_a_mounted_main_is_refused(self):
        self.make("alpha", spares=1)
        loop = self.w.loop(self.files["alpha"][0])
        mount = self.w.mount(loop, options="ro,noload")
        answer = self.reassemble("--json", "alpha", loop, self.files["alpha"][1], code=4)
        self.refused(answer, "mounted", code=4)
        mount.unmount()

    def test_a_start_that_fails_leaves_nothing(self):
        self.make("alpha", spares=1)
        self.w.env["DMREMAP_FUSEDISK"] = "/bin/false"
        answer = self.reassemble("--json", "alpha", self.disks, code=1)
        self.refused(answer, "fusedisk-failed")
        self.nothing_runs()

    def test_options_of_the_configuration_hold(self):
        self.make("alpha", spares=1)
        conf = self.w.path / "conf/sets.d/alpha.conf"
        conf.write_text(conf.read_text() + "options = read_retries=7\n")
        self.reboot()
        self.judged("alpha", self.disks)
        self.assertIn("7", self.w.dmremap("get", "alpha", "read_retries").stdout)
        self.adopted["alpha"].detach()


if __name__ == "__main__":
    harness.main()
