# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in use by one set is not given to another, whatever it is called, and a drive that has no size any more is
away."""

import shutil

import harness
from harness import SECTOR, Attached
from test_spares import MAIN_SIZE, OLD, SPARE_SIZE, Pool


class Copies(Pool):
    """What carries the superblocks of a spare in use may be that spare by another path: a copy looks the same."""

    def setUp(self):
        super().setUp()
        w = self.workspace
        self.create(self.first, self.second)
        self.attached = self.attach()
        self.uuid = w.status_json(self.name)["uuid"]
        self.copy = w.path / "copy.img"
        shutil.copyfile(self.first, self.copy)
        self.before = harness.sha256_file(self.copy)

    def test_spare_add_takes_none(self):
        for options in ([], ["--destroy-set", self.uuid], ["--destroy-set", self.uuid, "--dry-run"]):
            with self.subTest(options):
                self.refused_spare("add", self.copy, *options, identifier="spare-in-set",
                                   says=(self.spares()["first.img"]["uuid"], "which the set uses as", self.first))
        self.assertEqual(harness.sha256_file(self.copy), self.before)
        self.attached.detach()

    def test_no_running_set_is_given_up(self):
        w = self.workspace
        main, spare = w.sparse("other-main.img", MAIN_SIZE), w.sparse("other-spare.img", SPARE_SIZE)
        create = ["create", "taker", "--main", main, "--spare", self.copy, "--destroy-set", self.uuid]
        for options in ([], ["--dry-run"]):
            self.refused(w.dmremap(*create, *options, "--json", check=False), "set-running", says=(self.name,))
        w.dmremap("create", "other", "--main", main, "--spare", spare)
        other = Attached(w, "other")
        add = ["spare", "add", "other", self.copy, "--destroy-set", self.uuid]
        self.refused(w.dmremap(*add, "--json", check=False), "set-running", says=(self.name,))
        self.assertEqual(harness.sha256_file(self.copy), self.before)
        self.attached.detach()
        w.dmremap(*add)
        other.detach()


class Twins(Pool):
    """One file behind two loop devices; two paths to one drive look the same."""

    def run_with_twin(self, image, *spares):
        self.create(*spares)
        attached = self.attach()
        self.remap(range(3, 8))
        return attached, self.workspace.loop(image)

    def check_fsck(self, member, *says):
        answer = self.workspace.run(harness.program("dmremap-fsck"), "-y", member, check=False)
        self.refused(answer, code=8, says=(f"{member}: ", *says))

    def test_the_spare_of_a_running_set(self):
        w = self.workspace
        first = w.loop(self.first)
        attached, twin = self.run_with_twin(self.first, first, self.second)
        self.write_units(attached.loop, range(3, 8), OLD)
        uuid = w.status_json(self.name)["uuid"]
        main = w.sparse("other.img", MAIN_SIZE)
        says = (f"same storage as {first}", f"set '{self.name}'")
        for options in ([], ["--destroy-set", uuid]):
            self.refused_spare("add", twin, *options, identifier="members-overlap", says=says)
            create = w.dmremap("create", "other", "--main", main, "--spare", twin, *options, "--json", check=False)
            self.refused(create, "members-overlap", says=says)
        self.check_fsck(twin, *says)
        w.env = dict(w.env, DMREMAP_RUN_DIR=str(w.folder("run2")))
        self.check_fsck(twin, "another process has in use")  # locks tell it, no record does
        w.env = dict(w.env, DMREMAP_RUN_DIR=str(w.path / "run"))
        attached.detach()
        w.run(harness.program("dmremap-fsck"), "-n", twin, self.second)  # free again
        attached = self.attach()
        self.check_units(attached.loop, range(3, 8), OLD)
        attached.detach()

    def test_the_main_of_a_running_set(self):
        w = self.workspace
        image, self.main = self.main, w.loop(self.main)
        attached, twin = self.run_with_twin(image, self.first)
        create = ["create", "other", "--main", twin, "--spare", self.second, "--json"]
        self.refused(w.dmremap(*create, check=False), "members-overlap", says=(f"same storage as {self.main}",))
        attached.detach()
        self.refused(w.dmremap(*create, check=False), "members-overlap",
                     says=(f"shares sectors with {self.main} of the set {self.name}",))

    def test_a_loop_device_on_a_file_of_a_set(self):
        w = self.workspace
        attached, twin = self.run_with_twin(self.first, self.first)
        self.check_fsck(twin, f"same storage as {self.first}")
        w.env = dict(w.env, DMREMAP_RUN_DIR=str(w.folder("run2")))
        self.check_fsck(twin, "another process has in use")
        w.env = dict(w.env, DMREMAP_RUN_DIR=str(w.path / "run"))
        attached.detach()
        create = ["create", "other", "--main", w.loop(self.main), "--spare", self.second, "--json"]
        self.refused(w.dmremap(*create, check=False), "members-overlap", says=(f"shares sectors with {self.main}",))

    def test_main_and_spare_are_one_file(self):
        w = self.workspace
        one, two = w.loop(self.main), w.loop(self.main)
        self.refused(w.dmremap("create", "same", "--main", one, "--spare", two, "--json", check=False),
                     "members-overlap", says=(one, two))

    def test_parts_of_one_file_behind_loop_devices_of_their_own(self):
        w = self.workspace
        shared = w.sparse("shared.img", 4 * SPARE_SIZE)
        parts = [harness.LoopDevice(w, w.run("losetup", "-f", "--show", "-o", n * SPARE_SIZE, "--sizelimit", SPARE_SIZE,
                                             shared).stdout.strip()) for n in range(4)]
        self.create(*parts[:2])
        attached = self.attach()
        self.remap(range(3, 8))
        self.spare("add", parts[2])
        w.dmremap("create", "other", "--main", w.sparse("other.img", MAIN_SIZE), "--spare", parts[3])
        other = Attached(w, "other")
        whole = w.loop(shared)
        self.refused_spare("add", f"{whole}@{3 * SPARE_SIZE // SECTOR}+{SPARE_SIZE // SECTOR}",
                           identifier="members-overlap", says=("set 'other'",))
        other.detach()
        attached.detach()
        attached = self.attach()
        self.assertEqual(len(self.spares()), 3)
        attached.detach()


class EmptyDrive(Pool):
    def test_a_drive_without_size_is_away_whole_or_in_ranges(self):
        w = self.workspace
        for kind in ("whole", "range"):
            with self.subTest(kind):
                self.name, self.main = kind, w.sparse(f"main-{kind}", MAIN_SIZE)
                drive = w.loop(w.sparse(f"shared-{kind}", 2 * SPARE_SIZE))
                spare = str(drive) if kind == "whole" else f"{drive}@2048+65536"
                self.create(w.sparse(f"first-{kind}", SPARE_SIZE), spare)
                self.attach().detach()
                drive.detach()  # the node stays, its size is 0
                self.refused_attach(identifier="spare-missing", says=(spare, "no room for a single unit"))
                self.attach("--degraded").detach()
                w.dmremap("destroy", kind, "--abandon", self.configured_uuid())

    def configured_uuid(self):
        text = (self.workspace.path / "conf/sets.d" / f"{self.name}.conf").read_text()
        return next(line.split(" = ")[1] for line in text.splitlines() if line.startswith("uuid = "))


if __name__ == "__main__":
    harness.main()
