# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the spares of a running set lie, and what its configuration says of that: also of spares that are away, and of
places that are the set's own disk in the end."""

import os
import shutil

import harness
from harness import MIB, SECTOR
from test_spares import NEW, OLD, SPARE_SIZE, Pool

RANGE = SPARE_SIZE // SECTOR


class Places(Pool):
    UNITS = range(512, 520)

    def setUp(self):
        super().setUp()
        self.shared = self.workspace.sparse("shared.img", 2 * SPARE_SIZE)
        self.lower, self.upper = (f"{self.shared}@{n * RANGE}+{RANGE}" for n in range(2))
        self.conf = self.workspace.path / "conf/sets.d" / f"{self.name}.conf"

    def uuid_of(self, path, present=True):
        return next(s["uuid"] for s in self.workspace.dmremap_json("spare", "list", self.name)["spares"]
                    if s["path"] == str(path) and s["present"] == present)

    def hold_on_second(self, second):
        """A running set whose units are on the second spare, newer than what main has of them."""
        self.create(self.first, second)
        attached = self.attach()
        self.write_units(attached.loop, self.UNITS, OLD)
        self.spare("evacuate", self.first)
        self.remap(self.UNITS)
        self.write_units(attached.loop, self.UNITS, NEW)
        return attached

    def held(self, path):
        return next(s["allocated_units"] for s in self.workspace.dmremap_json("spare", "list", self.name)["spares"]
                    if s["path"] == str(path))

    def test_a_spare_that_is_away_keeps_its_place(self):
        self.hold_on_second(self.upper).detach()
        text = self.conf.read_text()
        state = self.workspace.path / "state"
        away = self.shared.with_suffix(".away")
        for known_by in ("both", "configuration", "state"):
            with self.subTest(known_by=known_by):
                self.shared.rename(away)
                if known_by == "state":
                    self.conf.write_text(text.replace(f"spare = {self.upper}\n", ""))
                if known_by == "configuration":
                    state.rename(state.with_suffix(".away"))
                attached = self.attach("--degraded")
                away.rename(self.shared)
                before = harness.sha256_file(self.shared), self.configured()
                self.refused_spare("add", self.upper, identifier="spare-in-set")
                for member in (self.shared, f"{self.shared}@{RANGE // 2}+{RANGE}", f"dust:{self.shared}@0+{2 * RANGE}"):
                    for options in ([], ["--dry-run"]):
                        self.refused_spare("add", member, *options, identifier="members-overlap",
                                           says=("shares sectors with", self.upper))
                self.assertEqual((harness.sha256_file(self.shared), self.configured()), before)
                self.check_eio(attached.loop, self.UNITS)
                if known_by == "state":
                    self.spare("add", self.lower)  # beside it there is room
                attached.detach()
                if state.with_suffix(".away").exists():
                    shutil.rmtree(state)
                    state.with_suffix(".away").rename(state)
                if known_by != "state":
                    self.conf.write_text(text)
        self.conf.write_text(self.conf.read_text() + f"spare = {self.upper}\n")
        attached = self.attach()
        self.check_units(attached.loop, self.UNITS, NEW)
        self.assertEqual(len(self.spares()), 3)
        attached.detach()

    def test_a_new_spare_in_the_place_of_a_dead_one(self):
        self.hold_on_second(self.second).detach()
        dead = self.second.with_suffix(".dead")
        self.second.rename(dead)
        self.workspace.sparse(self.second.name, SPARE_SIZE)
        attached = self.attach("--degraded")
        old = self.uuid_of(self.second, present=False)
        self.spare("add", self.second)
        self.spare("remove", self.uuid_of(self.second))
        self.assertEqual(self.configured(), [str(self.first), str(self.second)], "the other one has its place there")
        attached.detach()
        self.second.rename(self.second.with_suffix(".new"))
        dead.rename(self.second)
        attached = self.attach()
        self.check_units(attached.loop, self.UNITS, NEW)
        attached.detach()

        self.second.rename(dead)
        self.second.with_suffix(".new").rename(self.second)
        attached = self.attach("--degraded")
        self.spare("add", self.second)
        self.write_units(attached.loop, self.UNITS, OLD)
        self.spare("evacuate", self.first)  # all is on the new one
        self.spare("forget", old, "--yes")
        self.assertEqual(self.configured(), [str(self.first), str(self.second)])
        self.assertEqual(self.held(self.first), 0)
        attached.detach()
        attached = self.attach()
        self.check_units(attached.loop, self.UNITS, OLD)
        attached.detach()

    def test_a_configuration_that_cannot_be_read(self):
        self.create(self.first)
        attached = self.attach()
        text = self.conf.read_text()
        bad = text + "colour = red\n"
        self.conf.write_text(bad)
        before = harness.sha256_file(self.second)
        for options in ([], ["--dry-run"], ["--sparse"]):
            self.refused_spare("add", self.second, *options, identifier="bad-config",
                               says=("unknown key 'colour'", self.conf))
        self.assertEqual((harness.sha256_file(self.second), self.conf.read_text(), [*self.spares()]),
                         (before, bad, ["first.img"]))
        self.assertEqual(os.stat(self.second).st_blocks, 0, "no room was taken")
        self.conf.write_text(text)
        self.spare("add", self.second)
        self.spare("add", self.lower)
        away = self.conf.read_text()
        self.conf.write_text(away + "colour = red\n")
        said = self.workspace.dmremap_json("spare", "remove", self.name, self.second)["configuration_problem"]
        self.assertIn("unknown key 'colour'", said or "")
        attached.detach()
        self.conf.write_text(away)
        self.shared.rename(self.shared.with_suffix(".away"))
        attached = self.attach("--degraded")
        self.conf.write_text(away + "colour = red\n")
        said = self.workspace.dmremap_json("spare", "forget", self.name, self.lower, "--yes")["configuration_problem"]
        self.assertIn("unknown key 'colour'", said or "")
        attached.detach()
        self.conf.write_text(away)
        attached = self.attach()
        self.assertEqual([*self.spares()], ["first.img"])
        attached.detach()

    def test_ranges_of_one_device_are_free_with_the_last(self):
        w = self.workspace
        self.create(self.first, self.lower, self.upper)
        attached = self.attach()
        other = ["create", "other", "--main", w.sparse("other.img", 8 * MIB), "--spare", self.shared]
        says = [self.spare("remove", self.upper).stdout]
        self.refused(w.dmremap(*other, "--json", check=False), "members-overlap")
        self.spare("add", self.upper)  # its place is still ours
        says.append(self.spare("remove", self.lower).stdout)
        self.refused(w.dmremap(*other, "--json", check=False), "members-overlap")
        says.append(self.spare("remove", self.upper).stdout)
        self.assertEqual([said.rstrip().endswith("is free") for said in says], [False, False, True], says)
        w.dmremap(*other)
        attached.detach()


class OwnDisk(Pool):
    """A spare on what the set serves, behind whatever."""

    def setUp(self):
        super().setUp()
        w = self.workspace
        self.main = w.sparse("big.img", 256 * MIB)
        self.create(self.first)
        self.attached = self.attach()

    def tearDown(self):
        self.assertEqual((self.configured(), [*self.spares()]), ([str(self.first)], ["first.img"]))
        self.attached.detach()

    def check_refused(self, member):
        for options in ([], ["--dry-run"]):
            self.refused_spare("add", member, *options, identifier="member-is-image")

    def spare_file(self, path):
        with open(path, "wb") as f:
            f.truncate(SPARE_SIZE)
        return path

    def test_file_of_a_btrfs(self):
        w = self.workspace
        w.run("mkfs.btrfs", "-q", "--mixed", self.attached.loop)
        mount = w.mount(self.attached.loop)
        w.run("btrfs", "subvolume", "create", mount / "sub")
        file = self.spare_file(mount / "sub/spare.img")
        self.check_refused(self.spare_file(mount / "spare.img"))
        self.check_refused(file)
        bound = w.folder("bound")
        w.run("mount", "--bind", mount / "sub", bound)
        again = harness.Mount(w, bound)
        self.check_refused(bound / "spare.img")
        device = w.loop(file)  # and one more step
        self.check_refused(str(device))
        device.detach()
        again.unmount()
        mount.unmount()

    def test_btrfs_with_another_device_in_front(self):
        w = self.workspace
        front = w.loop(w.sparse("front.img", 256 * MIB))
        w.run("mkfs.btrfs", "-q", "-m", "single", "-d", "single", str(front), self.attached.loop)
        w.run("btrfs", "device", "scan", str(front), self.attached.loop)
        mount = w.mount(str(front))
        self.check_refused(self.spare_file(mount / "spare.img"))
        mount.unmount()
        w.run("btrfs", "device", "scan", "--forget", check=False)
        front.detach()

    def test_file_of_a_file_system_on_a_file(self):
        w = self.workspace
        w.run("mkfs.ext4", "-q", self.attached.loop)
        mount = w.mount(self.attached.loop)
        inner = self.spare_file(mount / "inner.img")
        os.truncate(inner, 64 * MIB)
        device = w.loop(inner)
        w.run("mkfs.ext4", "-q", str(device))
        upper = w.mount(str(device), "upper")
        self.check_refused(self.spare_file(upper / "spare.img"))
        upper.unmount()
        device.detach()
        mount.unmount()

    def test_device_over_others(self):
        """As device mapper and RAID are shown in sysfs; not every kernel has them."""
        w = self.workspace
        device = w.loop(w.sparse("upper.img", 64 * MIB))
        slaves, own = w.folder("slaves"), device.sysfs.with_name(os.path.basename(self.attached.loop))
        w.folder("slaves/below")
        (slaves / "below/dev").write_text((own / "dev").read_text())
        shown = device.sysfs / "slaves"
        w.run("mount", "--bind", slaves, shown)
        shown = harness.Mount(w, shown)
        self.check_refused(str(device))
        w.run("mkfs.ext4", "-q", str(device))
        mount = w.mount(str(device))
        self.check_refused(self.spare_file(mount / "spare.img"))
        mount.unmount()
        shown.unmount()
        self.spare("add", str(device), "--wipe=ext4", "--dry-run")
        device.detach()


if __name__ == "__main__":
    harness.main()
