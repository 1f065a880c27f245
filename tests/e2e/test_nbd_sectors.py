# SPDX-License-Identifier: GPL-2.0-or-later
"""A fixed 1 % of main's sectors bad, in others of the spare's, too, as an NBD server says it and no double of ours.
Every sector is tagged with its number and its version; a read gives what was written there or EIO.
"""

import os

import harness
import nbd
import tagged_load
from harness import MIB, SECTOR, UNIT_SECTORS
from metadata import FIXED_UNITS, REPLICAS, TABLE_MAGIC, Layout, read_unit
from tagged import contents

SECONDS = float(os.environ.get("DMREMAP_NBD_SECONDS", "2.5"))
THREADS = 4
MAIN_SIZE = 32 * MIB
MAIN_SECTORS = MAIN_SIZE // SECTOR
LEAST_WRITES = 300
# With bad places on the spare as well: no write is refused, as another place is found for what it writes; of the sectors
# at most this part may be unreadable, those that were lost before somebody wrote them again.
REFUSED_WRITES_WITH_BOTH_BAD = 0
FAILED_SECTORS_WITH_BOTH_BAD = 0.05
# Bad places anywhere on the spare, the same whatever DMREMAP_SEED is: they hit superblocks at fixed places and at heads
# of replicas, and copies of the table's blocks, of each of which this many are left at least.
ALL_OF_THE_SPARE = {("write",): 128, ("read", "write"): 133}
LEAST_COPIES = 3


class Sectors(nbd.NbdCase):
    bad_units = None  # of the spare, where bad places are anywhere on it

    def begin(self, main, export_spare=True):
        """What a set is to be made of: main holds version 0 of every sector, and has its bad sectors."""
        print(f"seed {nbd.SEED} (DMREMAP_SEED)", flush=True)
        self.set = nbd.NbdSet(self.workspace, main_size=MAIN_SIZE, export_spare=export_spare)
        self.set.main_file.write_bytes(contents(0, MAIN_SECTORS, 0))
        for mode in main:
            self.set.main_export.bad[mode] = nbd.draw(nbd.SEED, range(MAIN_SECTORS))

    def prepare(self, main, spare=()):
        """A set of that, open on a loop device, the spare's bad sectors in place."""
        self.begin(main, export_spare=bool(spare))
        self.set.start_exports().create()
        if spare:
            for mode in spare:
                self.set.spare_export.bad[mode] = nbd.draw(nbd.SEED + 1, self.set.spare_data_sectors())
            self.set.spare_export.restart()
        self.open()

    def reopen(self, areas, kill):
        if self.bad_units:
            self.assert_copies("after the load")
        self.close(kill)
        self.set.restart_exports()
        self.open()
        for area in areas:
            area.device = self.device
        if self.bad_units:
            self.assert_copies(f"after a restart, {'killed' if kill else 'closed'}")

    def split(self, **options):
        return tagged_load.split(self.device, MAIN_SECTORS, THREADS, nbd.SEED, **options)

    def work(self, **options):
        """Load, then every sector compared; again after a restart of everything, and again after kill -9."""
        areas = self.split(**options)
        tagged_load.run_for(areas, SECONDS, LEAST_WRITES)
        self.compare(areas, "under load")
        for kill in (False, True):
            self.reopen(areas, kill)
            self.compare(areas, f"after a restart, {'killed' if kill else 'closed'}")
        self.figures = tagged_load.total(areas)
        print(self.figures, flush=True)
        self.assertGreaterEqual(self.figures["writes"], LEAST_WRITES)
        return areas

    def compare(self, areas, when):
        for area in areas:
            area.compare_all()
        self.assertEqual(tagged_load.complaints(areas), [], f"{when}, seed {nbd.SEED}")

    def assert_only_bad_units_moved(self, *modes):
        """What is on the spare has a bad sector on main, and nothing else is called lost."""
        bad = set().union(*(self.set.main_export.bad[m] for m in modes))
        units = {s // UNIT_SECTORS for s in bad}
        moved = set(self.set.remaps())
        self.assertEqual(moved - units, set())
        lost = self.set.lost() - self.set.main_export.bad["read"]
        if self.set.spare_export and self.set.spare_export.bad.get("read"):  # a unit that moved may have lost sectors where it came to lie
            lost = {s for s in lost if s // UNIT_SECTORS not in moved}
        self.assertEqual(lost, set())
        print(f"{len(moved)} of {len(units)} bad units moved, {len(self.set.lost())} sectors lost", flush=True)
        return moved, units

    def assert_steady(self):
        """No alarm: these are bad places, not a device that is gone."""
        state = self.set.stats()
        self.assertFalse(state["breaker_open"], state)
        self.assertFalse(state["main_gone"], state)

    # --- main alone ---

    def test_main_bad_for_reads(self):
        self.prepare(("read",))
        bad = self.set.main_export.bad["read"]
        self.work(may_fail=lambda sector: sector in bad)
        moved, units = self.assert_only_bad_units_moved("read")
        self.assertEqual(moved, units, "every bad place was met and moved")
        self.assertGreater(self.figures["failed sectors"], 0)
        self.assert_steady()
        self.close()

    def test_main_bad_for_writes(self):
        """Nobody notices."""
        self.prepare(("write",))
        self.work(may_fail=lambda sector: False)
        moved, units = self.assert_only_bad_units_moved("write")
        self.assertGreater(len(moved), len(units) // 10)
        self.assertEqual(self.set.lost(), set())
        self.assert_steady()
        self.close()

    def test_main_bad_for_both(self):
        self.prepare(("read", "write"))
        bad = self.set.main_export.bad["read"]
        self.work(may_fail=lambda sector: sector in bad)
        moved, units = self.assert_only_bad_units_moved("read", "write")
        self.assertEqual(moved, units, "every bad place was met and moved")
        self.assert_steady()
        self.close()

    # --- and the spare ---

    def check_both(self, modes):
        self.prepare(modes, modes)
        main = {s // UNIT_SECTORS for m in modes for s in self.set.main_export.bad[m]}
        # Bytes are judged as sharply as ever. What may fail: a unit that main cannot serve alone.
        areas = self.work(may_fail=lambda sector: sector // UNIT_SECTORS in main, may_refuse=True, mends=False)
        self.assert_only_bad_units_moved(*modes)
        self.assert_few_failed(areas)
        self.close()

    def assert_few_failed(self, areas):
        refused, writes = self.figures["refused writes"], self.figures["writes"]
        failed = sum(len(a.unreadable) for a in areas)
        print(f"{refused} of {writes} writes refused, {failed} sectors cannot be read", flush=True)
        self.assertLessEqual(refused, REFUSED_WRITES_WITH_BOTH_BAD)
        self.assertLessEqual(failed, MAIN_SECTORS * FAILED_SECTORS_WITH_BOTH_BAD)

    def test_both_bad_for_reads(self):
        self.check_both(("read",))

    def test_both_bad_for_writes(self):
        self.check_both(("write",))

    def test_both_bad_for_both(self):
        self.check_both(("read", "write"))

    # --- and the spare's metadata ---

    def check_metadata_bad(self, modes):
        """As check_both, with bad places anywhere on the spare. What is left of the copies is shown as it is."""
        main = {s // UNIT_SECTORS for m in modes for s in self.set.main_export.bad[m]}
        self.assert_copies("opened")
        areas = self.work(may_fail=lambda sector: sector // UNIT_SECTORS in main, may_refuse=True, mends=False)
        self.assertLess(self.assert_copies("at last")["weakest_block_copies"], REPLICAS)
        self.assert_only_bad_units_moved(*modes)
        self.assert_few_failed(areas)
        self.close()

    def all_of_the_spare(self, modes):
        bad = nbd.draw(ALL_OF_THE_SPARE[modes], range(self.set.spare_file.stat().st_size // SECTOR))
        self.set.spare_export.bad.update({mode: bad for mode in modes})
        self.bad_units = {sector // UNIT_SECTORS for sector in bad}

    def assert_copies(self, when):
        """The bad places are those that no copy can be on; all others have one."""
        layout = Layout(self.set.spare_file)
        copies = [[layout.block_unit(r, block) for r in range(REPLICAS)] for block in range(layout.table_blocks)]
        begun = [units for units in copies
                 if any(read_unit(self.set.spare_file, u)[4:8] == TABLE_MAGIC for u in units)]
        good = [sum(u not in self.bad_units for u in units) for units in begun]
        wanted = {"super_copies_valid": sum(u not in self.bad_units for u in FIXED_UNITS),
                  "head_copies_valid": sum(u not in self.bad_units for u in layout.replica_start),
                  "weakest_block_copies": min(good)}
        self.assertGreaterEqual(min(good), LEAST_COPIES)
        self.assertLess(wanted["super_copies_valid"], REPLICAS)
        shown = self.status()["spares"][0]
        self.assertEqual({key: shown[key] for key in wanted}, wanted, when)
        print(f"{when}: {wanted}, {sum(g < REPLICAS for g in good)} of {len(good)} blocks with fewer", flush=True)
        return wanted

    def test_metadata_bad_for_writes(self):
        """From before the spare is formatted."""
        modes = ("write",)
        self.begin(modes)
        self.all_of_the_spare(modes)
        self.set.start_exports().create()
        self.open()
        self.check_metadata_bad(modes)

    def test_metadata_bad_for_both(self):
        """What cannot be read may carry anything, so it is not formatted; they come up later."""
        modes = ("read", "write")
        self.begin(modes)
        self.all_of_the_spare(modes)
        self.set.start_exports()
        before = harness.sha256_file(self.set.spare_file)
        answer = self.workspace.dmremap("create", self.set.name, "--main", self.set.main_member, "--spare",
                                        self.set.spare_member, "--json", check=False)
        self.refused(answer, "probe-failed", says=(self.set.spare_member, "medium error"))
        self.assertEqual(harness.sha256_file(self.set.spare_file), before, "nothing was written")
        self.set.spare_export.bad = {"read": set(), "write": set()}
        self.set.spare_export.restart()
        self.set.create()
        self.all_of_the_spare(modes)
        self.set.spare_export.restart()
        self.open()
        self.check_metadata_bad(modes)

    def test_spare_goes_bad_later(self):
        """The spare's bad places come up under units that moved there when it was good."""
        self.prepare(("write",), ("read",))
        spare, main = self.set.spare_export, self.set.main_export.bad["write"]
        spare.bad["read"] = set()
        self.close()
        spare.restart()
        self.open()
        areas = self.split(may_fail=lambda sector: False)
        tagged_load.run_for(areas, SECONDS)
        self.compare(areas, "while the spare is good")
        on_spare = self.set.remaps()
        held = sorted(s for r in on_spare.values() for s in range(r["spare_sector"], r["spare_sector"] + UNIT_SECTORS))
        spare.bad = {"read": nbd.draw(nbd.SEED, held, 0.02), "write": nbd.draw(nbd.SEED + 1, held, 0.02)}
        self.close()
        spare.restart()
        self.open()
        units = {s // UNIT_SECTORS for s in main}
        again = self.split(may_fail=lambda sector: sector // UNIT_SECTORS in units, may_refuse=True, mends=False)
        for new, old in zip(again, areas):
            new.oracle, new.write_number = old.oracle, old.write_number
        tagged_load.run_for(again, SECONDS)
        self.compare(again, "after the spare went bad")
        self.reopen(again, kill=True)
        self.compare(again, "after kill -9")
        self.figures = tagged_load.total(again)
        print(self.figures, flush=True)
        self.assert_few_failed(again)
        self.close()


if __name__ == "__main__":
    nbd.main()
