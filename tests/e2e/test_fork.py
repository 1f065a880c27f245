# SPDX-License-Identifier: GPL-2.0-or-later
"""Two spares that were in use without each other: refused together, and the way out of dmremap-recovery(7), step by
step, for either side. The data is then exactly that of the chosen side; only main is one for both.
"""

import itertools
import json
import os
import shutil

import harness
from harness import MIB, UNIT, UNIT_SECTORS, Attached, DirectFile

MAIN_SIZE, SPARE_SIZE = 32 * MIB, 16 * MIB
UNITS = MAIN_SIZE // UNIT
EIO = None  # in the place of a content
OLD, NEW = "old", "new"
ON_FIRST, ON_SECOND = range(0, 32), range(40, 72)  # moved before the fork
MOVED_APART = {"first": range(100, 116), "second": range(120, 136)}  # that this side moved alone
MOVED_BOTH = range(140, 148)  # each side moved them to its own spare
ON_MAIN = range(160, 176)
SIDES = ("first", "second")


def content(version, unit):
    return harness.pattern(f"{version} {unit}", UNIT)


class Fork(harness.TestCase):
    def setUp(self):
        super().setUp()
        w, self.name = self.workspace, "fork"
        self.main = w.sparse("main.img", MAIN_SIZE)
        self.spare = {side: w.sparse(f"{side}.img", SPARE_SIZE) for side in SIDES}
        self.conf = w.path / "conf/sets.d" / f"{self.name}.conf"
        self.state = w.path / "state"
        self.shows = {}  # by side: unit -> version
        self.make()
        self.configured = self.conf.read_text()
        for side in SIDES:
            self.work_alone(side)
        self.name_spares(*SIDES)
        self.files = [self.main, *self.spare.values()]

    # --- how the fork comes about ---

    def make(self):
        w = self.workspace
        w.dmremap("create", self.name, "--main", self.main, *(x for s in self.spare.values() for x in ("--spare", s)))
        attached = Attached(w, self.name)
        self.uuid = {os.path.basename(s["path"]).removesuffix(".img"): s["uuid"]
                     for s in w.spare_list(self.name)}
        self.set_uuid = w.status_json(self.name)["uuid"]
        before = {unit: OLD for unit in range(UNITS)}
        self.write(attached.loop, before, before, OLD)
        for side, units in (("first", ON_FIRST), ("second", ON_SECOND)):
            self.move_to(side, units)
            self.write(attached.loop, before, units, NEW)
        attached.detach()
        self.before = before

    def work_alone(self, side):
        """The machine goes on with one of them while the other one is away. Main is the same throughout."""
        other = self.other(side)
        away = self.spare[other].with_suffix(".away")
        self.spare[other].rename(away)
        self.name_spares(side)
        shutil.rmtree(self.state)  # each side on a host of its own, which saw nothing of the other one
        attached = Attached(self.workspace, self.name, "--degraded")
        here, there = (ON_FIRST, ON_SECOND) if side == "first" else (ON_SECOND, ON_FIRST)
        shows = self.shows[side] = {**self.before, **{unit: EIO for unit in there}}
        if side == "second":  # what the first side wrote to main
            shows.update({unit: "first" for unit in [*MOVED_APART["second"], *ON_MAIN]})
        self.check(attached.loop, side)
        self.move_to(side, [*MOVED_APART[side], *MOVED_BOTH])
        self.write(attached.loop, shows, [*here[:8], *there[:8], *MOVED_APART[side], *MOVED_BOTH], side)
        self.write(attached.loop, shows, [*MOVED_APART[other], *ON_MAIN], side)  # on main
        self.check(attached.loop, side)
        attached.detach()
        for _ in range(2 if side == "first" else 0):
            Attached(self.workspace, self.name, "--degraded").detach()
        shutil.copytree(self.state, self.workspace.path / f"state-{side}")
        away.rename(self.spare[other])
        if side == "second":  # the first one never heard of what came to main later
            self.shows["first"].update({unit: side for unit in ON_MAIN})

    def other(self, side):
        return SIDES[1 - SIDES.index(side)]

    def name_spares(self, *sides):
        """In the configuration, as somebody would with an editor."""
        lines = [line for line in self.configured.splitlines() if not line.startswith("spare = ")]
        self.conf.write_text("\n".join(lines + [f"spare = {self.spare[side]}" for side in sides]) + "\n")

    # --- units ---

    def move_to(self, side, units):
        for first, count in harness.runs(units):
            self.workspace.dmremap("message", self.name, 0, "add_remap", first * UNIT_SECTORS, "auto",
                                   count * UNIT_SECTORS, self.spare[side])

    def write(self, path, shows, units, version):
        with DirectFile(path, write=True) as f:
            for unit in units:
                f.write(unit * UNIT, content(version, unit))
                shows[unit] = version
            f.sync()

    def check(self, path, side):
        wrong = []
        with DirectFile(path) as f:
            for unit in range(200):
                try:
                    data = f.read(unit * UNIT, UNIT)
                except OSError:
                    data = EIO
                wanted = self.shows[side][unit]
                if data != (EIO if wanted is EIO else content(wanted, unit)):
                    found = "EIO" if data is EIO else [v for v in (OLD, NEW, *SIDES) if data == content(v, unit)]
                    wrong.append(f"unit {unit}: {wanted or 'EIO'} expected, {found} found")
        self.assertEqual(wrong, [], f"what side {side} holds")

    def hashes(self):
        return [harness.sha256_file(path) for path in self.files]

    # --- the way out, as dmremap-recovery(7) has it under "forked-set" ---

    def test_refused_and_either_side_kept(self):
        before = self.hashes()
        answer = self.workspace.dmremap("attach", self.name, "--json", check=False)
        self.refused(answer, "forked-set", code=4, says=(*self.spare.values(), "Choose one side", "--degraded",
                                                         "dmremap spare forget", "Nothing was written"))
        self.assertEqual(self.hashes(), before, "nothing was written")
        for path in self.files:
            self.workspace.run("cp", "--sparse=always", path, path.with_suffix(".forked"))
        for host, side in itertools.product(SIDES, SIDES):
            with self.subTest(host_of=host, kept=side):
                for path in self.files:
                    self.workspace.run("cp", "--sparse=always", path.with_suffix(".forked"), path)
                shutil.rmtree(self.state)
                shutil.copytree(self.workspace.path / f"state-{host}", self.state)
                self.look_at(self.other(side), host)
                self.keep(side, host)

    def is_older(self, side, host):
        """What the first side did took more sequence numbers: its host takes the second one for an older copy, and
        wants to be told that it is not."""
        return (side, host) == ("second", "first")

    def look_at(self, side, host):
        before = self.hashes()
        folder = self.workspace.folder(f"look-{side}")
        self.name_spares(side)
        serve = ["--name", self.name, folder]
        if self.is_older(side, host):
            answer = self.workspace.fusedisk("-o", "ro,degraded", "--json", *serve, check=False)
            self.refused(answer, "spare-older", code=4, says=("-o accept_older",))
        self.workspace.fusedisk("-o", "ro,degraded" + ",accept_older" * self.is_older(side, host), *serve)
        self.workspace.on_close(folder, lambda: harness.force_unmount(self.workspace, folder))
        self.check(folder / "disk.img", side)
        info = json.loads((self.workspace.path / "run/.sets" / self.name / "info.json").read_text())
        ended = os.pidfd_open(info["pid"])
        self.workspace.run("umount", folder)
        self.assertTrue(harness.poll_fd(ended, 30))
        os.close(ended)
        self.workspace.forget(folder)
        self.assertEqual(self.hashes(), before, "it was only looked at")

    def keep(self, side, host):
        w, other = self.workspace, self.other(side)
        shows = self.shows[side]
        away = [unit for unit in shows if shows[unit] is EIO]
        self.name_spares(side)
        if self.is_older(side, host):
            self.refused(w.dmremap("attach", self.name, "--degraded", "--json", check=False), "spare-older", code=4,
                         says=("--accept-older",))
        attached = Attached(w, self.name, "--degraded", *["--accept-older"] * self.is_older(side, host))
        self.assertIn("spare absent", w.status(self.name, check=False).stdout)
        self.check(attached.loop, side)
        forgotten = w.dmremap_json("spare", "forget", self.name, self.uuid[other], "--yes")
        self.assertEqual(forgotten["units"], len(away))
        self.check(attached.loop, side)
        self.assertEqual(w.status_json(self.name)["state"], "lost sectors" if away else "ok")
        attached.detach()
        attached = Attached(w, self.name)  # whole now
        self.check(attached.loop, side)
        attached.detach()

        # "Refused as forked-set wherever it is named again, and the message names it: leave it out, or wipe it."
        self.name_spares(*SIDES)
        before = self.hashes()
        self.refused(w.dmremap("attach", self.name, "--json", check=False), "forked-set", code=4,
                     says=(f'"what": "{self.spare[other]}"', "leave it out"))
        self.assertEqual(self.hashes(), before)
        self.name_spares(side)
        attached = Attached(w, self.name)
        self.check(attached.loop, side)
        w.dmremap("spare", "add", self.name, self.spare[other], "--destroy-set", self.set_uuid)
        self.check(attached.loop, side)
        attached.detach()
        attached = Attached(w, self.name)
        self.check(attached.loop, side)
        attached.detach()


if __name__ == "__main__":
    harness.main()
