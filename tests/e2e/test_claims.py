# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in use by one set is not given to another, whatever it is called, and a drive that has no size any more is
away."""

import shutil

import harness
from harness import Attached
from test_spares import MAIN_SIZE, SPARE_SIZE, Pool


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
