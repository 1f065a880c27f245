# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of several spares on real devices: added, emptied, removed, missing, back, forgotten, under load."""

import errno
import json
import os
import pty
import shutil
import signal
import subprocess

import harness
import metadata
from harness import MIB, SECTOR, UNIT, UNIT_SECTORS, Attached, DirectFile

MAIN_SIZE, SPARE_SIZE = 96 * MIB, 32 * MIB
OLD, NEW, NEWEST = "old", "new", "newest"


class Pool(harness.TestCase):
    def setUp(self):
        super().setUp()
        w = self.workspace
        self.main, self.first, self.second = (w.sparse(n, s) for n, s in (
            ("main.img", MAIN_SIZE), ("first.img", SPARE_SIZE), ("second.img", SPARE_SIZE)))
        self.name = "pool"

    def create(self, *spares, dust=False):
        members = [word for spare in spares for word in ("--spare", spare)]
        return self.workspace.dmremap("create", self.name, "--main", f"dust:{self.main}" if dust else self.main,
                                      *members)

    def spare(self, operation, *words, **options):
        return self.workspace.dmremap("spare", operation, self.name, *words, **options)

    def refused_spare(self, operation, *words, identifier, code=1, says=()):
        answer = self.spare(operation, *words, "--json", check=False)
        self.refused(answer, identifier, code, says)
        return json.loads(answer.stdout)["error"]

    def spares(self):
        """{file name of the path: what list tells}"""
        return {os.path.basename(s["path"]): s for s in self.workspace.spare_list(self.name)}

    def message(self, word, **options):
        """What a message says of the spares of now."""
        return harness.spares_of_now(lambda: self.workspace.dmremap("message", self.name, 0, word, **options)).stdout

    def configured(self):
        text = (self.workspace.path / "conf/sets.d" / f"{self.name}.conf").read_text()
        return [line.split(" = ")[1] for line in text.splitlines() if line.startswith("spare = ")]

    def refused_attach(self, *options, identifier, says=(), code=4):
        answer = self.workspace.dmremap("attach", self.name, *options, "--json", check=False)
        self.refused(answer, identifier, code, says)

    def attach(self, *options):
        return Attached(self.workspace, self.name, *options)

    # --- units with a content of their own ---

    @staticmethod
    def content(age, unit):
        return harness.pattern(f"{age} {unit}", UNIT)

    def write_units(self, path, units, age):
        with DirectFile(path, write=True) as f:
            for unit in units:
                f.write(unit * UNIT, self.content(age, unit))
            f.sync()

    def check_units(self, path, units, age):
        with DirectFile(path) as f:
            for unit in units:
                self.assertEqual(f.read(unit * UNIT, UNIT), self.content(age, unit), f"unit {unit} is not {age}")

    def check_eio(self, path, units):
        with DirectFile(path) as f:
            for unit in units:
                with self.assertRaises(OSError, msg=f"unit {unit} answers") as failed:
                    f.read(unit * UNIT, UNIT)
                self.assertEqual(failed.exception.errno, errno.EIO)

    def remap(self, units):
        for unit in units:
            self.workspace.dmremap("remap", self.name, unit * UNIT_SECTORS)

    def fio(self, path, size, seconds=0):
        """A verifying job in the background, on a file that it lays out itself."""
        words = ["fio", "--name=verify", f"--filename={path}", "--rw=randwrite", "--bs=4k", f"--size={size}",
                 "--direct=1", "--ioengine=libaio", "--iodepth=8", "--verify=crc32c", "--verify_fatal=1",
                 "--do_verify=1", "--verify_backlog=512", "--randrepeat=0"]
        if seconds:
            words += ["--time_based=1", f"--runtime={seconds}"]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   cwd=self.workspace.path)
        self.workspace.on_close(process, process.kill)
        return process

    def ended_well(self, process):
        out = process.communicate(timeout=120)[0]
        self.workspace.forget(process)
        self.assertEqual(process.returncode, 0, out)


class UnderLoad(Pool):
    def test_spares_of_all_kinds_change_under_a_file_system(self):
        w = self.workspace
        four_k = w.sparse("4k.img", SPARE_SIZE)
        loop = harness.LoopDevice(w, w.run("losetup", "-f", "--show", "-b", "4096", four_k).stdout.strip())
        shared = w.sparse("shared.img", 64 * MIB)
        range_of_it = f"{shared}@2048+65536"
        self.create(self.first, loop, dust=True)
        attached = self.attach()
        self.assertEqual(sorted(self.spares()), sorted(["first.img", os.path.basename(str(loop))]))
        w.run("mkfs.ext4", "-q", "-b", "4096", attached.loop)
        mount = w.mount(attached.loop)
        sums = harness.make_tree(w.folder("mnt/tree"), 40, seed=7)
        self.fail_writes_under(mount / "verified", attached)

        job = self.fio(mount / "verified", "8M", seconds=4)
        added = w.dmremap_json("spare", "add", self.name, range_of_it)
        self.assertIsNone(added["configuration_problem"])
        self.assertEqual(self.configured(), [str(self.first), str(loop), range_of_it])
        self.ended_well(job)
        self.ended_well(self.fio(mount / "verified", "8M"))  # however slow the first one was: each block once
        used = {name: s["allocated_units"] for name, s in self.spares().items()}
        self.assertGreater(used["first.img"], 100, "writes that failed on main went to the first spare")
        self.refused_spare("remove", self.first, identifier="spare-in-use",
                           says=(f"Cannot remove spare {self.first}: {used['first.img']} active allocations",))
        answer = w.dmremap("message", self.name, 0, "spare_remove", self.first, check=False)
        self.assertIn(f"Error: Cannot remove spare {self.first}: {used['first.img']} active allocations", answer.stderr)
        self.assertIn("Devices: 3 total (2 available, 1 in-use, 0 full, 0 failed)\n", self.message("spare_stats"))

        job = self.fio(mount / "verified", "8M", seconds=4)
        moved = w.dmremap_json("spare", "evacuate", self.name, self.first)
        self.assertEqual((moved["lost_sectors"], moved["error"]), (0, None))
        self.assertEqual(self.spares()["first.img"]["allocated_units"], 0)
        self.assertEqual(self.spares()["first.img"]["state"], "draining")
        self.spare("remove", self.first)
        self.ended_well(job)
        self.assertEqual(self.configured(), [str(loop), range_of_it])
        self.assertNotIn("first.img", self.spares())
        # Nothing of the set is on it, and nobody holds it.
        w.dmremap("create", "other", "--main", w.sparse("other.img", 8 * MIB), "--spare", self.first, "--dry-run")

        self.assertEqual(harness.check_tree(mount / "tree", sums), ([], []))
        mount.unmount()
        w.run("e2fsck", "-fn", attached.loop)
        attached.detach()
        attached = self.attach()
        mount = w.mount(attached.loop)
        self.assertEqual(harness.check_tree(mount / "tree", sums), ([], []))
        mount.unmount()
        attached.detach()
        loop.detach()

    def fail_writes_under(self, path, attached):
        """Main fails to write where the first 2 MiB of this file lie."""
        with open(path, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, 8 * MIB)
            f.write(os.urandom(8 * MIB))  # or its extents are unwritten
            f.flush()
            os.fsync(f.fileno())
        _, start, length = harness.extents(path)[0]
        self.workspace.dmremap("dust", self.name, "main", "addbadblock", start // SECTOR, "write",
                               min(length, 2 * MIB) // SECTOR)
        self.workspace.dmremap("dust", self.name, "main", "enable")


class Evacuation(Pool):
    UNITS = range(0, 320)

    def test_cancelled_resumed_and_stopped_with_the_daemon(self):
        self.create(f"dust:{self.first}", self.second)
        attached = self.attach()
        self.write_units(attached.loop, self.UNITS, OLD)
        self.workspace.dmremap("message", self.name, 0, "add_remap", 0, "auto", len(self.UNITS) * UNIT_SECTORS)
        self.write_units(attached.loop, self.UNITS, NEW)
        self.places = sorted(r["spare_sector"] for r in self.workspace.dmremap_json("table", self.name)["remaps"])
        self.slow_reads(60)
        command = [harness.program("dmremap"), "spare", "evacuate", self.name, str(self.first), "--json"]
        reader, writer = os.pipe()
        process = subprocess.Popen([*command, "--progress", str(writer)], env=self.workspace.env, pass_fds=[writer],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.workspace.on_close(process, process.kill)
        os.close(writer)
        with os.fdopen(reader) as progress:
            self.assertEqual(progress.readline(), f"0 {len(self.UNITS)}\n")
            self.while_it_runs(attached)
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=60)
            done, everything = progress.read().split()[-2:]
        self.assertEqual(process.returncode, 1)
        self.assertEqual(json.loads(out)["error"]["id"], "cancelled")
        self.slow_reads(0)
        held = self.spares()
        self.assertEqual(int(everything), len(self.UNITS))
        self.assertEqual(held["second.img"]["allocated_units"], int(done))
        self.assertTrue(0 < int(done) < len(self.UNITS), done)
        self.assertEqual(held["first.img"]["state"], "draining")
        self.check_units(attached.loop, self.UNITS, NEW)

        # The daemon stops in the middle; the next one goes on.
        self.slow_reads(60)
        self.assertTrue(self.control("spare_evacuate", spare=str(self.first))["ok"])
        attached.detach()
        attached = self.attach()
        self.check_units(attached.loop, self.UNITS, NEW)
        self.assertGreater(self.spares()["first.img"]["allocated_units"], 0)
        self.spare("evacuate", self.first)
        self.assertEqual(self.spares()["second.img"]["allocated_units"], len(self.UNITS))
        self.spare("evacuate", self.first, "--cancel")
        self.assertEqual(self.spares()["first.img"]["state"], "present")
        self.check_units(attached.loop, self.UNITS, NEW)
        attached.detach()

    def slow_reads(self, milliseconds):
        """Of the units that are moved, not of the spare's metadata: the state of the spares is told at once."""
        reply = self.control("dust", store="spare0", op="delay", sector=self.places[0],
                             mode=str(self.places[-1] + UNIT_SECTORS - self.places[0]), count=milliseconds)
        self.assertTrue(reply["ok"], reply)
        self.assertTrue(self.control("dust", store="spare0", op="enable")["ok"])

    def control(self, command, **arguments):
        set_ = harness.Set.__new__(harness.Set)
        set_.workspace, set_.name = self.workspace, self.name
        return set_.control(command, **arguments)

    def while_it_runs(self, attached):
        """Other requests are answered meanwhile, and a second evacuation is refused."""
        status = self.workspace.status_json(self.name)
        self.assertTrue(status["answers"])
        self.assertTrue(status["evacuation"]["running"])
        self.assertEqual(status["evacuation"]["path"], f"dust:{self.first}")
        self.refused_spare("evacuate", self.second, identifier="evacuation-running")
        self.refused_spare("remove", self.first, identifier="evacuation-running")
        self.workspace.dmremap("remap", self.name, 4000 * UNIT_SECTORS)
        self.workspace.dmremap("unmap", self.name, 4000 * UNIT_SECTORS)


class ManyTimes(Pool):
    """Spares come, take over, and go, all under one daemon."""
    WARM, CYCLES, UNITS, MOST_GROWTH = 2, 12, 500, MIB

    def test_nothing_is_left_of_spares_that_were_removed(self):
        pool = harness.Set(self.workspace, self.name, main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        pool.create().start()
        moved = range(0, 20 * self.UNITS, 20)
        image = pool.daemon.image
        self.write_units(image, moved, NEW)
        for unit in moved:
            self.assertTrue(pool.control("remap", sector=unit * UNIT_SECTORS)["ok"])
        spare = pool.spare
        for cycle in range(self.WARM + self.CYCLES):
            if cycle == self.WARM:
                memory, descriptors = pool.daemon.memory(), pool.daemon.descriptors()
            spare = self.take_turns(spare, self.workspace.sparse(f"spare{cycle}.img", SPARE_SIZE))
        self.assertEqual(self.spares()[spare.name]["allocated_units"], self.UNITS)
        self.assertEqual(pool.daemon.descriptors(), descriptors)
        self.assertLess(pool.daemon.memory() - memory, self.MOST_GROWTH)
        self.check_units(image, moved, NEW)
        pool.stop()

    def take_turns(self, old, new):
        self.spare("add", new)
        self.spare("evacuate", old)
        self.spare("remove", old)
        old.unlink()
        return new


class Absent(Pool):
    ON_FIRST, ON_SECOND, ON_MAIN = range(20, 28), range(0, 8), range(100, 108)

    def test_a_spare_that_was_cut_or_whose_superblocks_are_damaged_counts_as_away(self):
        self.prepare().detach()
        kept = self.workspace.path / "kept.img"
        for damage, identifier in ((self.cut, "wrong-size"), (self.flip_superblocks, "no-superblock")):
            shutil.copyfile(self.second, kept)
            damage(self.second)
            spoiled = harness.sha256_file(self.second)
            self.refused_attach(identifier=identifier, says=(self.second,))
            attached = self.attach("--degraded")
            notices = self.workspace.status_json(self.name, check=False)["notices"]
            self.assertIn(f"opened without {self.second}", " ".join(notices))
            self.check_eio(attached.loop, self.ON_SECOND)
            self.check_units(attached.loop, self.ON_FIRST, NEW)
            attached.detach()
            self.assertEqual(harness.sha256_file(self.second), spoiled, "it was written")
            shutil.copyfile(kept, self.second)
            attached = self.attach()
            self.check_units(attached.loop, [*self.ON_SECOND, *self.ON_FIRST], NEW)
            attached.detach()

    def test_a_cut_spare_of_another_set_was_named_by_mistake(self):
        """It is not passed over, though this set is whole: what this host saw last of one would count for the other."""
        w = self.workspace
        self.prepare().detach()
        other_main, other = w.sparse("other-main.img", MAIN_SIZE), w.sparse("other.img", SPARE_SIZE)
        w.dmremap("create", "other", "--main", other_main, "--spare", other)
        Attached(w, "other").detach()
        before = {p: p.read_bytes() for p in (w.path / "state").rglob("*.json")}
        self.assertEqual(len(before), 2, "what this host saw of both")
        self.cut(other)
        for spares in ((other, self.first, self.second), (self.first, self.second, other)):
            refused = w.fusedisk("-o", "degraded", "--json", self.main, *spares, w.folder("there"), check=False)
            self.refused(refused, "wrong-size", 4, says=(other,))
        self.assertEqual({p: p.read_bytes() for p in before}, before)

    @staticmethod
    def cut(spare):
        os.truncate(spare, SPARE_SIZE - 4 * MIB)

    @staticmethod
    def flip_superblocks(spare):
        damage = metadata.Damage(spare)
        for unit in metadata.Layout(spare).super_units:
            damage.unit(unit, "bit")

    def test_a_spare_away_back_and_forgotten(self):
        attached = self.prepare()
        attached.detach()
        away = self.second.with_suffix(".away")
        self.second.rename(away)
        self.refused_attach(identifier="spare-missing", says=(self.second, "degraded"))
        attached = self.attach("--degraded")
        self.check_degraded(attached)
        with DirectFile(attached.loop, write=True) as f, self.assertRaises(OSError):
            f.write(self.ON_SECOND[1] * UNIT + SECTOR, bytes(SECTOR))  # nor does a part of a unit change
        self.write_units(attached.loop, [*self.ON_MAIN, self.ON_SECOND[0]], NEWEST)  # a whole one finds another place
        self.check_units(attached.loop, self.ON_SECOND[:1], NEWEST)
        self.check_eio(attached.loop, self.ON_SECOND[1:])
        answer = self.workspace.status(self.name, "--json", check=False)
        self.assertEqual(answer.returncode, 4, "incomplete")
        status = json.loads(answer.stdout)
        self.assertIn("health=0", status["dm"])
        absent = [s for s in status["spares"] if not s["present"]]
        self.assertEqual([(s["path"], s["state"]) for s in absent], [(str(self.second), "absent")])
        told = f"spare {absent[0]['uuid']} ({self.second}) is absent: its units answer EIO"
        self.assertIn(told, status["notices"])
        self.assertIn(f"opened without {self.second}", " ".join(status["notices"]))
        health = self.message("health", check=False)
        self.assertEqual((health.count(told), health.count("is absent")), (1, 1), health)
        self.assertIn("1 failed", self.message("spare_stats"))
        self.assertIn("absent", self.message("metadata_status"))
        self.refused_spare("remove", self.second, identifier="spare-absent")
        self.refused_spare("evacuate", self.second, identifier="spare-absent")
        attached.detach()

        away.rename(self.second)  # and all that was on it
        attached = self.attach()
        self.check_units(attached.loop, [*self.ON_SECOND[1:], *self.ON_FIRST], NEW)
        self.check_units(attached.loop, [self.ON_SECOND[0], *self.ON_MAIN], NEWEST)  # what came back is older
        self.assertEqual(self.spares()["second.img"]["allocated_units"], len(self.ON_SECOND) - 1)
        attached.detach()

        self.second.rename(away)
        attached = self.attach("--degraded")
        self.forget(attached)
        attached.detach()
        away.rename(self.second)
        attached = self.attach()  # the configuration does not name it any more
        self.check_eio(attached.loop, self.ON_SECOND[2:])
        self.check_units(attached.loop, self.ON_SECOND[1:2], NEW)
        uuid = self.workspace.status_json(self.name)["uuid"]
        self.refused_spare("add", self.second, identifier="spare-in-set",
                           says=("was a spare of this set", "--destroy-set", uuid))
        self.spare("add", self.second, "--destroy-set", uuid)
        self.assertEqual(self.configured(), [str(self.first), str(self.second)])
        self.check_eio(attached.loop, self.ON_SECOND[2:])
        self.check_units(attached.loop, [self.ON_SECOND[0], *self.ON_MAIN], NEWEST)
        self.write_units(attached.loop, self.ON_SECOND, NEW)
        self.check_units(attached.loop, [*self.ON_SECOND, *self.ON_FIRST], NEW)
        attached.detach()

    def prepare(self):
        """What main holds of remapped units is old, what the spares hold is new."""
        self.create(self.first, self.second)
        attached = self.attach()
        self.write_units(attached.loop, [*self.ON_SECOND, *self.ON_FIRST, *self.ON_MAIN], OLD)
        self.remap(self.ON_SECOND)
        self.spare("evacuate", self.first)
        self.spare("evacuate", self.first, "--cancel")
        self.remap(self.ON_FIRST)
        self.write_units(attached.loop, [*self.ON_SECOND, *self.ON_FIRST], NEW)
        held = self.spares()
        self.assertEqual([held[n]["allocated_units"] for n in ("first.img", "second.img")],
                         [len(self.ON_FIRST), len(self.ON_SECOND)])
        self.assertEqual(held["second.img"]["protected_by"], held["first.img"]["uuid"])
        return attached

    def check_degraded(self, attached):
        self.check_eio(attached.loop, self.ON_SECOND)
        self.check_units(attached.loop, self.ON_FIRST, NEW)
        self.check_units(attached.loop, self.ON_MAIN, OLD)

    def forget(self, attached):
        self.refused_spare("forget", self.first, identifier="spare-present")
        rest = self.ON_SECOND[1:]
        sectors = len(rest) * UNIT_SECTORS
        self.refused_spare("forget", self.second, identifier="not-confirmed", code=2,
                           says=(f"{len(rest)} units with {sectors} sectors",))
        planned = self.workspace.dmremap_json("spare", "forget", self.name, self.second, "--dry-run")
        done = self.workspace.dmremap_json("spare", "forget", self.name, self.second, "--yes")
        self.assertEqual((done["units"], done["lost_sectors"]), (len(rest), sectors))
        self.assertEqual((planned["units"], planned["lost_sectors"]), (done["units"], done["lost_sectors"]))
        self.check_eio(attached.loop, rest)
        self.check_units(attached.loop, self.ON_FIRST, NEW)
        self.assertEqual(self.configured(), [str(self.first)])
        status = self.workspace.status_json(self.name, check=False)
        self.assertEqual([n for n in status["notices"] if "absent" in n or "without" in n], [])
        self.write_units(attached.loop, rest[:1], NEW)  # lost until written
        self.check_units(attached.loop, rest[:1], NEW)

    def test_forget_asks_on_a_terminal(self):
        attached = self.prepare()
        attached.detach()
        away = self.second.with_suffix(".away")
        self.second.rename(away)
        attached = self.attach("--degraded")
        uuid = next(s["uuid"] for s in self.spares().values() if not s["present"])
        told = f"{len(self.ON_SECOND)} units with {len(self.ON_SECOND) * UNIT_SECTORS} sectors become lost for good"
        for answer in ("no\n", "y\n", "YES\n", "yes, please\n", "\n", "\x04"):  # the last one: the end of the input
            with self.subTest(answer=answer):
                code, text = self.on_terminal(answer, "spare", "forget", self.name, uuid)
                self.assertEqual(code, 1, text)
                self.assertIn(told, text)
                self.assertIn("was not forgotten; nothing changed", text)
                self.check_degraded(attached)
                self.assertEqual(self.workspace.dmremap_json("lost", self.name)["lost"], [])
                self.assertEqual((len(self.spares()), self.configured()), (2, [str(self.first), str(self.second)]))
        attached.detach()
        away.rename(self.second)  # so it comes back with all that it holds
        attached = self.attach()
        self.check_units(attached.loop, [*self.ON_SECOND, *self.ON_FIRST], NEW)
        attached.detach()

        self.second.rename(away)
        attached = self.attach("--degraded")
        code, text = self.on_terminal("yes\n", "spare", "forget", self.name, uuid)
        self.assertEqual(code, 0, text)
        self.assertIn(told, text)
        self.assertEqual(([*self.spares()], self.configured()), (["first.img"], [str(self.first)]))
        lost = {s for r in self.workspace.dmremap_json("lost", self.name)["lost"]
                for s in range(r["sector"], r["sector"] + r["count"])}
        self.assertEqual(lost, {unit * UNIT_SECTORS + s for unit in self.ON_SECOND for s in range(UNIT_SECTORS)})
        attached.detach()
        attached = self.attach()  # it was the only one that lacked
        self.check_degraded(attached)
        attached.detach()

    def on_terminal(self, answer, *words, prompt="Type yes to go on: "):
        """Runs the command on a terminal of its own and answers the question: (exit status, all that it showed)."""
        terminal, its_end = pty.openpty()
        try:
            process = subprocess.Popen([harness.program("dmremap"), *words], env=self.workspace.env, stdin=its_end,
                                       stdout=its_end, stderr=its_end, start_new_session=True)
        finally:
            os.close(its_end)
        self.workspace.on_close(process, process.kill)
        shown, asked = "", False
        with os.fdopen(terminal, "r+b", buffering=0) as terminal:
            while harness.poll_fd(terminal, 30):
                try:
                    shown += terminal.read(4096).decode()
                except OSError:  # EIO: nobody has its other end any more
                    break
                if not asked and shown.endswith(prompt):
                    asked = True
                    terminal.write(answer.encode())
            code = process.wait(30)
        self.workspace.forget(process)
        self.assertTrue(asked, f"it did not ask: {shown}")
        return code, shown

    def test_a_spare_added_or_removed_when_the_machine_went_down(self):
        """The configuration names what is no spare (yet, or any more): passed over, and said."""
        self.create(self.first, self.second)
        conf = self.workspace.path / "conf/sets.d" / f"{self.name}.conf"
        blank, gone = self.workspace.sparse("blank.img", SPARE_SIZE), self.workspace.path / "gone.img"
        conf.write_text(conf.read_text() + f"spare = {blank}\nspare = {gone}\n")
        attached = self.attach()
        notices = " ".join(self.workspace.status_json(self.name)["notices"])
        for path in (blank, gone):
            self.assertIn(f"opened without {path}", notices)
        self.spare("add", blank)  # is named already
        self.assertEqual(self.configured().count(str(blank)), 1)
        self.assertEqual(len(self.spares()), 3)
        notices = " ".join(self.workspace.status_json(self.name)["notices"])
        self.assertNotIn(f"opened without {blank}", notices)
        self.assertIn(f"opened without {gone}", notices)
        attached.detach()
        self.refused_attach_with(conf, [self.first, blank], says=(self.second.name,))

    def test_a_range_that_was_being_added_when_the_machine_went_down(self):
        """As with a whole device: it is passed over, and can be added then. The set's own claim is no obstacle."""
        shared = self.workspace.sparse("shared.img", 64 * MIB)
        ranges = [f"{shared}@{n * 65536}+65536" for n in range(2)]
        self.create(ranges[0])
        conf = self.workspace.path / "conf/sets.d" / f"{self.name}.conf"
        conf.write_text(conf.read_text() + f"spare = {ranges[1]}\n")
        attached = self.attach()
        self.assertIn(f"opened without {ranges[1]}", self.notices())
        self.write_units(attached.loop, self.ON_FIRST, OLD)
        self.spare("add", ranges[1])
        self.assertEqual((len(self.spares()), self.configured()), (2, ranges))
        self.check_units(attached.loop, self.ON_FIRST, OLD)
        attached.detach()

    def refused_attach_with(self, conf, spares, says):
        """One that the set lists is not named at all."""
        text = [line for line in conf.read_text().splitlines() if not line.startswith("spare = ")]
        conf.write_text("\n".join(text + [f"spare = {s}" for s in spares]) + "\n")
        self.refused_attach(identifier="spare-missing")

    def test_an_older_copy_of_the_spares(self):
        self.create(self.first, self.second)
        attached = self.attach()
        self.write_units(attached.loop, self.ON_FIRST, OLD)
        self.remap(self.ON_FIRST)
        attached.detach()
        for path in (self.first, self.second):
            shutil.copyfile(path, path.with_suffix(".old"))
        attached = self.attach()
        self.write_units(attached.loop, self.ON_FIRST, NEW)
        attached.detach()
        for path in (self.first, self.second):
            path.with_suffix(".old").replace(path)
        before = harness.sha256_file(self.first)
        self.refused_attach(identifier="spare-older", says=("--accept-older",))
        self.assertEqual(harness.sha256_file(self.first), before)
        attached = self.attach("--accept-older")
        self.check_units(attached.loop, self.ON_FIRST, OLD)
        attached.detach()
        self.copied_while_it_ran()
        attached = self.attach()  # accepted once is known
        attached.detach()
        # Where nothing can be kept, that is said, and no more.
        shutil.rmtree(self.workspace.path / "state")
        (self.workspace.path / "state").touch()
        attached = self.attach()
        self.assertIn(str(self.workspace.path / "state"), self.notices())
        attached.detach()
        # So, too, where it is while the set runs that it cannot be kept.
        (self.workspace.path / "state").unlink()
        attached = self.attach()
        self.assertNotIn(str(self.workspace.path / "state"), self.notices())
        shutil.rmtree(self.workspace.path / "state")
        (self.workspace.path / "state").touch()
        self.spare("add", self.workspace.sparse("third.img", SPARE_SIZE))
        self.assertIn(str(self.workspace.path / "state"), self.notices())
        (self.workspace.path / "state").unlink()
        self.spare("remove", self.workspace.path / "third.img")
        self.assertNotIn(str(self.workspace.path / "state"), self.notices())
        attached.detach()

    def notices(self):
        return " ".join(self.workspace.status_json(self.name)["notices"])

    def copied_while_it_ran(self):
        """A copy of one spare, taken in the same session that wrote to it later: no table says what is old."""
        attached = self.attach()
        self.write_units(attached.loop, self.ON_FIRST, OLD)
        shutil.copyfile(self.first, self.first.with_suffix(".copy"))
        self.write_units(attached.loop, self.ON_FIRST, NEWEST)
        attached.detach()
        shutil.copyfile(self.first, self.first.with_suffix(".now"))
        self.first.with_suffix(".copy").replace(self.first)
        before = [harness.sha256_file(p) for p in (self.first, self.second, self.main)]
        self.refused_attach(identifier="spare-older", says=(self.first, "--accept-older"))
        self.assertEqual([harness.sha256_file(p) for p in (self.first, self.second, self.main)], before)
        self.first.with_suffix(".now").replace(self.first)
        attached = self.attach()
        self.check_units(attached.loop, self.ON_FIRST, NEWEST)
        attached.detach()


class Refusals(Pool):
    def test_nothing_becomes_a_spare_by_guess(self):
        w = self.workspace
        shared = w.sparse("shared.img", 64 * MIB)
        self.create(self.first, f"{shared}@0+65536")
        attached = self.attach()
        plain = w.sparse("plain.img", SPARE_SIZE)
        ext4, other, small = (w.sparse(n, s) for n, s in (("ext4.img", SPARE_SIZE), ("other.img", SPARE_SIZE),
                                                         ("small.img", 8 * MIB)))
        w.run("mkfs.ext4", "-q", ext4)
        w.dmremap("create", "other", "--main", w.sparse("other-main.img", 8 * MIB), "--spare", other, "--no-persist")
        mounted = w.loop(w.sparse("mounted.img", SPARE_SIZE))
        w.run("mkfs.ext4", "-q", mounted)
        mount = w.mount(mounted, "mounted")
        on_a_spare = w.loop(plain)
        held = self.state(ext4, other, small, plain)
        for member, identifier in (
                (self.main, "in-use"), (self.first, "in-use"), (f"{shared}@32768+65536", "members-overlap"),
                (shared, "members-overlap"), (ext4, "spare-has-signature"), (other, "spare-in-set"),
                (small, "spare-too-small"), (w.path / "nowhere.img", "not-found"), (w.path, "not-a-device"),
                (mounted, "mounted"), (plain, "loop-backed"), (attached.loop, "member-is-image"),
                (attached.image, "member-is-image"), (f"{plain}@0+8000000", "range-beyond-end")):
            with self.subTest(member=str(member)):
                self.refused_spare("add", member, identifier=identifier)
                answer = w.dmremap("message", self.name, 0, "spare_add", member, "--json", check=False)
                self.refused(answer, identifier)
        self.refused_spare("add", self.first, identifier="in-use", says=("is a member of this set already",))
        self.refused_spare("add", ext4, "--wipe=xfs", identifier="spare-has-signature", says=("--wipe=ext4",))
        self.refused_spare("add", other, "--wipe=dmremap", identifier="spare-in-set")
        self.refused(w.dmremap("message", self.name, 0, "spare_add", "plain.img", "--json", check=False),
                     "bad-member", code=2)
        self.refused_spare("add", f"{plain}@1+8", identifier="misaligned-range", code=2)
        self.spare("add", ext4, "--wipe=ext4", "--dry-run")
        self.assertEqual(self.state(ext4, other, small, plain), held, "nothing was written")
        on_a_spare.detach()
        mount.unmount()
        mounted.detach()
        # What was asked for goes.
        self.spare("add", ext4, "--wipe=ext4")
        self.spare("add", f"{shared}@65536+65536")
        self.spare("remove", f"{shared}@65536+65536")
        self.spare("add", f"{shared}@65536+65536")  # its place is still ours
        self.assertEqual(self.configured(), [str(self.first), f"{shared}@0+65536", str(ext4),
                                             f"{shared}@65536+65536"])
        attached.detach()

    def state(self, *files):
        return ([harness.sha256_file(f) for f in files], self.configured(), sorted(self.spares()))

    def test_what_cannot_be_done_says_why(self):
        w = self.workspace
        self.create(self.first)
        attached = self.attach()
        for operation in ("remove", "evacuate", "forget"):
            self.refused_spare(operation, w.path / "nowhere.img", identifier="no-such-spare")
        self.refused_spare("remove", self.first, identifier="last-spare")
        self.refused_spare("evacuate", self.first, identifier="last-spare")
        self.refused_spare("forget", self.first, "--yes", identifier="spare-present")
        for n in range(15):
            self.spare("add", w.sparse(f"{n}.img", 16 * MIB))
        self.refused_spare("add", self.second, identifier="too-many-spares")
        self.assertEqual(len(self.spares()), 16)
        attached.detach()
        attached = self.attach()
        self.assertEqual(len(self.spares()), 16)
        attached.detach()


if __name__ == "__main__":
    harness.main()
