# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 of the daemon within changes of its spares: at each write to a spare in turn, from the first to the last that
the change makes, at the last one also when it is whole, and at each file or folder of the host's own records that the
daemon opens meanwhile: the configuration and what this host saw last. Those come before the first write, between two,
and between the last and the answer; a record's folder is opened to be flushed when the new record is in place.
Afterwards the set opens, all data is compared byte for byte, and the change is made again to its end.

The spares are ranges of one file behind an NBD server, which kills the daemon itself when the write comes, and an open
waits for open_gate.py: as exact as a switch in the daemon would be, without one. DMREMAP_KILL_POINTS: at how many
writes of each long change (16), or "all"; DMREMAP_SEED says which.
"""

import collections
import functools
import os
import random
import re
import shutil
import time

import harness
import nbd
from harness import MIB, SECTOR, UNIT, UNIT_SECTORS, DirectFile
from nbd_killer import Killer
from open_gate import OpenGate

POINTS = os.environ.get("DMREMAP_KILL_POINTS", "16")
SEED = nbd.SEED

MAIN_SIZE, SPARE_SIZE = 2 * MIB, 16 * MIB
MAIN_UNITS, SPARE_SECTORS = MAIN_SIZE // UNIT, SPARE_SIZE // SECTOR
ON_A, ON_B = range(20, 36), range(60, 76)
OLD, NEW, NEWEST = "old", "new", "newest"
UNREADABLE = None


@functools.lru_cache(maxsize=4096)
def content(version, unit):
    """version: one, or one for each sector."""
    if isinstance(version, tuple):
        return b"".join(sector_of(content(v, unit), s) for s, v in enumerate(version))
    return harness.pattern(f"{version} {unit}", UNIT)


def sector_of(data, number):
    return data[number * SECTOR:(number + 1) * SECTOR]


def torn(versions, unit, data):
    """A write that was not answered and is there in part: the version of each sector as a tuple in a list, or nothing."""
    if data is None or len(versions) < 2 or UNREADABLE in versions:
        return []
    by_sector = [next((v for v in versions if sector_of(content(v, unit), s) == sector_of(data, s)), None)
                 for s in range(UNIT_SECTORS)]
    return [] if None in by_sector else [tuple(by_sector)]


class Dead(Exception):
    """The daemon was killed under a request."""


class Pool(harness.Set):
    def what_to_serve(self):
        return ["--name", self.name]


class KillSpares(harness.TestCase):
    def setUp(self):
        self.parent = harness.memory_folder(512 * MIB)  # what was written survives kill -9 there, too
        super().setUp()
        w = self.workspace
        self.set = Pool(w, "pool", main_size=MAIN_SIZE, spare_size=3 * SPARE_SIZE)
        self.set.main.write_bytes(b"".join(content(OLD, u) for u in range(MAIN_UNITS)))
        control = w.path / "killer"
        self.killer = Killer(control)
        self.gate = None
        self.export = nbd.Export(w, "spares", self.set.spare)
        self.export.parameters.append(f"killer={control}")
        self.export.start()
        self.links = [w.path / f"spare-{letter}" for letter in "abc"]
        self.members = [f"{link}@{n * SPARE_SECTORS}+{SPARE_SECTORS}" for n, link in enumerate(self.links)]
        for n in range(3):
            self.bring(n)

    def bring(self, n):
        if not self.links[n].is_symlink():
            self.links[n].symlink_to(self.export.path)

    def take_away(self, n):
        self.links[n].unlink()

    # --- the set ---

    def open(self, degraded=False):
        """Serves; whoever is to be killed is this daemon."""
        daemon = self.set.start("degraded" if degraded else None, wait=False)
        self.killer.victim(daemon.pid)
        if self.gate:
            self.gate.victim(daemon.pid)
        try:
            self.set._wait_ready(60)
        except harness.Failure:
            self.died_or_raise()

    def control(self, command, **arguments):
        try:
            return self.set.control(command, **arguments)
        except (OSError, ValueError):
            self.died_or_raise()

    def killed(self):
        return self.killer.killed() or (self.gate is not None and self.gate.killed)

    def died_or_raise(self):
        if not self.killed():
            raise
        raise Dead() from None

    def must(self, command, *also_good, **arguments):
        """An answer that is good, or a refusal that says that there is nothing left to do."""
        reply = self.control(command, **arguments)
        if not reply["ok"] and reply["error"]["id"] not in also_good:
            raise harness.Failure(f"{command} {arguments}: {reply['error']}")
        return reply

    def write(self, units, version):
        """Acknowledged or not, the data is followed."""
        try:
            with DirectFile(self.set.image, write=True) as f:
                for unit in units:
                    self.may_hold[unit] = [*self.may_hold[unit], version]
                    f.write(unit * UNIT, content(version, unit))
                    self.may_hold[unit] = [version]
        except OSError:  # of a close, too
            self.died_or_raise()

    def compare(self, when):
        """Every byte of the disk. What is found is what must be there from now on."""
        wrong = []
        with DirectFile(self.set.image) as f:
            for unit in range(MAIN_UNITS):
                try:
                    data = f.read(unit * UNIT, UNIT)
                except OSError:
                    data = None
                found = [v for v in self.may_hold[unit] if data == (None if v is UNREADABLE else content(v, unit))]
                found = found or torn(self.may_hold[unit], unit, data)
                if not found:
                    is_ = next((v for v in (OLD, NEW, NEWEST) if data == content(v, unit)), "something else")
                    wrong.append(f"unit {unit}: {self.may_hold[unit]} expected, "
                                 f"{'unreadable' if data is None else is_} found")
                self.may_hold[unit] = found[-1:] or self.may_hold[unit]
        self.assertEqual(wrong, [], when)

    def lost(self):
        return {s for r in self.control("lost")["result"]["lost"] for s in range(r["sector"], r["sector"] + r["count"])}

    def status(self):
        return harness.spares_of_now(lambda: self.control("status"))["result"]

    def uuids(self):
        return {s["index"]: s["uuid"] for s in self.status()["spares"]}

    # --- the state to begin with, and back to it ---

    def make(self, spares):
        """A set of the first so many spares; 16 units on each of the first two, newer than what main has of them."""
        words = [word for member in self.members[:spares] for word in ("--spare", member)]
        self.workspace.dmremap("create", self.set.name, "--main", self.set.main, *words)
        self.may_hold = {unit: [OLD] for unit in range(MAIN_UNITS)}
        self.killer.arm(0)
        self.open()
        for index, units in ((0, ON_A), (1, ON_B)):
            self.must("add_remap", dest=units[0] * UNIT_SECTORS, source=None, sectors=len(units) * UNIT_SECTORS,
                      spare=str(index))
            self.write(units, NEW)
        self.uuid = self.uuids()
        self.set_uuid = self.status()["uuid"]
        self.set.stop()

    KEPT = ("conf", "state")

    def keep(self):
        self.kept = (dict(self.may_hold), [link.is_symlink() for link in self.links])
        base = self.workspace.folder("base")
        for path in (self.set.main, self.set.spare):
            self.workspace.run("cp", "--sparse=always", path, base / path.name)
        for name in self.KEPT:
            shutil.copytree(self.workspace.path / name, base / name)

    def go_back(self):
        self.set.kill()  # where a turn failed it still runs
        base = self.workspace.path / "base"
        self.may_hold = dict(self.kept[0])
        for n, there in enumerate(self.kept[1]):
            (self.bring if there else lambda n: self.links[n].unlink(missing_ok=True))(n)
        for path in (self.set.main, self.set.spare):
            self.workspace.run("cp", "--sparse=always", base / path.name, path)  # the server has it open: the same file
        for name in self.KEPT:
            shutil.rmtree(self.workspace.path / name)
            shutil.copytree(base / name, self.workspace.path / name)

    # --- killing ---

    def kill_everywhere(self, name, change, opened=True, degraded=False, afterwards=None, share=0.5, sampled=False):
        """`change` is made with the set open, unless it opens it; what it does again must be harmless. `afterwards`
        follows each time when the change was made again, and in that share of the cases before, without its rest.
        sampled: not at every write, which would take too long."""
        started = time.monotonic()
        self.keep()
        opens = self.run_once(change, opened, degraded)
        writes = self.killer.writes()
        self.set.stop()
        chance = random.Random(f"{SEED} {name}")
        points = range(1, writes + 1)
        if sampled and POINTS != "all":
            points = sorted({1, writes, *chance.sample(points, min(int(POINTS), writes))})
        killed = 0
        whole = MIB  # more than any write has
        turns = [(at, chance.choice((0, 512 * chance.randrange(1, 8), whole))) for at in points]
        for at, kept in [*turns, (writes, whole)]:
            when = f"{name}: killed at write {at} of {writes}, {kept} bytes of it kept, seed {SEED}"
            with self.subTest(when):
                self.go_back()
                self.run_once(change, opened, degraded, at, kept)
                killed += self.killed()
                self.after_a_kill(when, change, opened, degraded, afterwards, chance.random() < share)
        self.assertGreaterEqual(killed, len(points) - 1, f"{name}: it makes fewer writes than it did first")
        for at in range(1, len(opens) + 1):
            when = f"{name}: killed when it opened {opens[at - 1]}, {at} of {len(opens)}"
            with self.subTest(when):
                self.go_back()
                self.run_once(change, opened, degraded, open_at=at)
                self.assertTrue(self.killed())
                self.after_a_kill(when, change, opened, degraded, afterwards, chance.random() < share)
        print(f"{name}: {writes} writes, {killed} kills at them and {len(opens)} at opens of records, "
              f"{time.monotonic() - started:.1f} s", flush=True)
        self.go_back()

    def after_a_kill(self, when, change, opened, degraded, afterwards, before_the_rest):
        self.set.kill()
        self.killer.arm(0)
        self.gate = None
        self.open(degraded)
        self.compare(when)
        if afterwards and before_the_rest:
            afterwards(when)
        if opened:
            change()
        self.compare(f"{when}, then done again")
        self.set.stop()
        if afterwards:
            self.open(degraded)
            afterwards(when)
            self.set.stop()

    def run_once(self, change, opened, degraded, at=0, kept=0, open_at=0):
        """Makes the change and kills where that is said: at a write, or at an open. What it opened."""
        self.gate = None
        self.killer.arm(0)
        if opened:
            self.open(degraded)
        self.killer.arm(at, kept)
        records = [self.workspace.path / "conf/sets.d", self.workspace.path / "state/sets"]
        with OpenGate(records, open_at) as self.gate:
            if opened:
                self.killer.victim(self.set.daemon.pid)
                self.gate.victim(self.set.daemon.pid)
            try:
                change()
            except Dead:
                self.set.daemon.wait()
        return self.gate.opened

    # --- the changes ---

    def add(self):
        request = {"member": self.members[2], "wipe": [], "dry_run": False}
        reply = self.must("spare_add", "in-use", "members-overlap", "spare-in-set", destroy_set="", **request)
        if not reply["ok"] and reply["error"]["id"] == "spare-in-set":  # half made
            self.must("spare_add", destroy_set=self.set_uuid, **request)
        self.assertEqual(len(self.uuids()), 3)

    def add_instead_of_another(self):
        self.must("spare_add", "in-use", "members-overlap", "spare-in-set", member=self.members[2], wipe=[], dry_run=False,
                  destroy_set=self.other_uuid)
        if len(self.uuids()) < 3:  # half made
            self.add()
        self.assertEqual(len(self.uuids()), 3)

    def remove(self):
        self.must("spare_remove", "no-such-spare", spare=self.uuid[2], dry_run=False)
        self.assertEqual(sorted(self.uuids()), [0, 1])

    def evacuate(self):
        self.must("spare_evacuate", spare=self.uuid[0])
        while (now := self.must("evacuation")["result"])["running"]:
            pass
        self.assertIsNone(now["error"])
        held = {s["index"]: s["allocated_units"] for s in self.status()["spares"]}
        self.assertEqual((held[0], held[1]), (0, len(ON_A) + len(ON_B)))

    def forget(self):
        self.must("spare_forget", "no-such-spare", spare=self.uuid[1], dry_run=False)
        self.assertEqual(sorted(self.uuids()), [0])
        self.assertEqual(self.lost(), set(range(ON_B[0] * UNIT_SECTORS, (ON_B[-1] + 1) * UNIT_SECTORS)))

    def work_without_b(self):
        """Units of the spare that is away are rewritten, others removed and remapped elsewhere."""
        self.write(ON_B[:4], NEWEST)
        for unit in ON_A[:3]:
            self.must("unmap", "not-remapped", sector=unit * UNIT_SECTORS)
        for unit in (100, 101):
            self.must("remap", sector=unit * UNIT_SECTORS)
        self.write((100, 101), NEWEST)
        self.write(ON_A[1:2], NEWEST)
        for unit in (*ON_A[1:3], ON_B[1]):
            self.must("remap", sector=unit * UNIT_SECTORS)
        self.write([*ON_A[2:4], ON_B[0]], NEWEST)

    def bring_b_back(self, when):
        """What it holds of units that were not written meanwhile is shown again, and nothing else of it."""
        self.set.stop()
        self.bring(1)
        for unit in ON_B:
            self.may_hold[unit] = [NEW if v is UNREADABLE else v for v in self.may_hold[unit]]
        self.open()
        self.compare(f"{when}, and the spare is back")

    def bring_forgotten_back(self, when):
        """It is named again. One that is still a spare of the set is taken in, and what it holds is shown, but for what
        was lost already; one that was forgotten is left out, and nothing of it is shown. Then it is away as before."""
        forgotten = 1 not in self.uuids()
        lost = {sector // UNIT_SECTORS for sector in self.lost()}
        self.set.stop()
        self.bring(1)
        if not forgotten:
            for unit in set(ON_B) - lost:
                self.may_hold[unit] = [NEW]
        conf = self.workspace.path / "conf/sets.d" / f"{self.set.name}.conf"
        configured = conf.read_text()
        self.came_back[forgotten, self.members[1] in configured] += 1
        if self.members[1] not in configured:
            self.assertTrue(forgotten, when)
            conf.write_text(f"{configured}spare = {self.members[1]}\n")
        self.open()
        self.compare(f"{when}, and the spare is named again")
        self.assertEqual(sorted(self.uuids()), [0] if forgotten else [0, 1], when)
        place = self.members[1].split("@")[1]  # the links lead to one file: it may be named by another one
        said = [n for n in self.status()["notices"] if f"@{place} was removed from the set" in n]
        self.assertEqual(len(said), 1 if forgotten else 0, when)
        self.set.stop()
        self.take_away(1)
        conf.write_text(configured)
        for unit in ON_B:
            self.may_hold[unit] = [UNREADABLE]
        self.open(degraded=True)
        self.compare(f"{when}, and the spare is away again")

    # --- the tests ---

    def test_add(self):
        self.make(2)
        self.kill_everywhere("add", self.add)

    def test_add_instead_of_another_set(self):
        w = self.workspace
        self.make(2)
        w.dmremap("create", "another", "--main", w.sparse("another.img", MIB), "--spare", self.members[2], "--no-persist")
        says = self.workspace.dmremap("create", "third", "--main", w.path / "another.img", "--spare", self.members[2],
                                      "--no-persist", "--dry-run", check=False).stderr
        self.other_uuid = re.search(r"--destroy-set ([0-9a-f-]{36})", says).group(1)
        self.kill_everywhere("add, with another set on it", self.add_instead_of_another)

    def test_remove(self):
        self.make(3)
        self.kill_everywhere("remove", self.remove)

    def test_evacuate(self):
        self.make(2)
        self.kill_everywhere("evacuate", self.evacuate, sampled=True)

    def away(self):
        self.make(2)
        self.take_away(1)
        for unit in ON_B:
            self.may_hold[unit] = [UNREADABLE]

    def test_forget(self):
        self.away()
        self.came_back = collections.Counter()  # (forgotten, still named in the configuration)
        self.kill_everywhere("forget", self.forget, degraded=True)
        shutil.rmtree(self.workspace.path / "base")
        self.kill_everywhere("forget, and it comes back", self.forget, degraded=True,
                             afterwards=self.bring_forgotten_back, share=1)
        print(f"back, by (forgotten, configured): {dict(self.came_back)}", flush=True)
        self.assertEqual(set(self.came_back), {(False, True), (True, True), (True, False)}, "each case was met")

    def test_away_and_back(self):
        self.away()
        self.kill_everywhere("work while one is away", self.work_without_b, degraded=True, afterwards=self.bring_b_back,
                             sampled=True)
        self.open(degraded=True)
        self.work_without_b()
        self.set.stop()
        self.bring(1)
        for unit in ON_B:
            self.may_hold[unit] = [NEW if v is UNREADABLE else v for v in self.may_hold[unit]]
        shutil.rmtree(self.workspace.path / "base")
        self.kill_everywhere("open when it is back", self.open, opened=False, sampled=True)


if __name__ == "__main__":
    nbd.main()
