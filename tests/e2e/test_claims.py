# SPDX-License-Identifier: GPL-2.0-or-later
"""What is in use by one set is not given to another, and what is not there is not taken for wrong: drives that have no
size any more."""

import harness
from test_spares import MAIN_SIZE, SPARE_SIZE, Pool


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
                w.dmremap("destroy", kind, "--abandon", self.uuid())

    def uuid(self):
        text = (self.workspace.path / "conf/sets.d" / f"{self.name}.conf").read_text()
        return next(line.split(" = ")[1] for line in text.splitlines() if line.startswith("uuid = "))


if __name__ == "__main__":
    harness.main()
