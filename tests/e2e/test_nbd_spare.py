# SPDX-License-Identifier: GPL-2.0-or-later
"""A spare that fails for a moment, is slow, or is gone, as an NBD server and its filters make it; and file systems on
members that both have bad sectors. Sectors are tagged; what is read is compared throughout.
"""

import errno
import os
import threading

import harness
import nbd
import nbd_files
import tagged_load
from harness import MIB, SECTOR, UNIT_SECTORS
from tagged import contents

SECONDS = float(os.environ.get("DMREMAP_NBD_SECONDS", "2"))
MAIN_SIZE, SPARE_SIZE = 16 * MIB, 16 * MIB
MAIN_SECTORS = MAIN_SIZE // SECTOR
HALF = MAIN_SECTORS // 2      # main has no bad place from here on
MOVED = range(0, 128)         # units that are on the spare from the start
MOVED_SECTORS = len(MOVED) * UNIT_SECTORS
KEPT = MOVED[-2:]             # of these, what no load writes: so they are there when the spare goes
LEAST_WRITES = 200
SLOW_MS = 100


class SpareSet(nbd.NbdSet):
    """Main and the first spare are exports; a second spare, where asked, is a file that never fails."""

    def __init__(self, workspace, second=False):
        super().__init__(workspace, main_size=MAIN_SIZE, spare_size=SPARE_SIZE, export_spare=True)
        self.second = workspace.sparse("second.img", SPARE_SIZE) if second else None

    @property
    def spare_members(self):
        return [self.spare_member, *([str(self.second)] if self.second else [])]

    def create(self):
        words = [word for spare in self.spare_members for word in ("--spare", spare)]
        self.workspace.dmremap("create", self.name, "--main", self.main_member, *words)
        return self

    def spare_states(self):
        return {s["path"]: s["state"] for s in self.status_of_now()["spares"]}

    def units_on(self, path):
        """Units of main that the table places on this spare."""
        uuid = next(s["uuid"] for s in self.spare_list() if s["path"] == str(path))
        return {unit for unit, r in self.remaps().items() if r["spare"] == uuid}


class Spare(nbd.NbdCase):
    def start(self, second=False, main_bad=(), before=lambda: None, options=None):
        """A set of version 0 with some units on the exported spare; `before` changes its export once that is so."""
        print(f"seed {nbd.SEED} (DMREMAP_SEED)", flush=True)
        self.set = SpareSet(self.workspace, second)
        self.export = self.set.spare_export
        self.set.main_file.write_bytes(contents(0, MAIN_SECTORS, 0))
        for mode in main_bad:
            self.set.main_export.bad[mode] = nbd.draw(nbd.SEED, range(MOVED_SECTORS, HALF))
        self.set.start_exports().create()
        self.set.start()
        if second:
            self.evacuate_second()  # so that what moves now moves to the other one
        for unit in MOVED:
            self.assertTrue(self.set.control("remap", sector=unit * UNIT_SECTORS)["ok"])
        if second:
            self.evacuate_second("--cancel")
        self.assertEqual(self.set.units_on(self.export.path), set(MOVED))
        self.set.stop()
        before()
        self.export.restart()
        self.open(options)

    def evacuate_second(self, *words):
        self.workspace.dmremap("spare", "evacuate", self.set.name, self.set.second, *words)

    def reopen(self, areas, kill):
        self.close(kill)
        self.set.restart_exports()
        self.open()
        for area in areas:
            area.device, area.unreadable, area.may_fail, area.may_refuse = self.device, set(), lambda sector: False, False

    def compare(self, areas, when):
        for area in areas:
            area.compare_all()
        self.assertEqual(tagged_load.complaints(areas), [], f"{when}, seed {nbd.SEED}")

    # --- errors that pass ---

    def test_errors_that_pass(self):
        """3 % of all requests of the spare fail, whatever they touch, its metadata as well."""
        switch = self.workspace.path / "now-and-then"
        self.start(main_bad=("write",), options=f"read_retries={nbd.RETRIES}", before=lambda: self.export.filter(
            "error", "error-pread-rate=3%", "error-pwrite-rate=3%", f"error-pread-file={switch}",
            f"error-pwrite-file={switch}"))
        # A failed write costs its place, a failed copy of a block of the table that copy: at last one may be refused.
        areas = [tagged_load.Area(self.device, first, count, nbd.SEED, may_fail=lambda sector: False, may_refuse=True)
                 for first, count in ((0, MOVED_SECTORS), (MOVED_SECTORS, MAIN_SECTORS - MOVED_SECTORS))]
        switch.touch()
        with tagged_load.working(areas):
            tagged_load.work_until(areas, lambda: tagged_load.total(areas)["writes"] >= LEAST_WRITES and
                                   self.has_met_errors(), "failed requests of the spare", SECONDS)
        self.compare(areas, "with errors now and then")
        stats, figures = self.set.stats(), tagged_load.total(areas)
        print(f"{figures}; the spare: {stats['spare_read_errors']} failed reads, {stats['spare_write_errors']} failed "
              f"writes; {stats['auto_remaps']} units moved", flush=True)
        self.assertTrue(self.has_met_errors(), stats)
        self.assertEqual(stats["lost_sectors"], 0)
        self.assertLess(figures["refused writes"], figures["writes"] // 20)
        self.assertFalse(stats["main_gone"] or stats["breaker_open"], stats)
        self.assertEqual(self.set.spare_states(), {str(self.export.path): "present"}, "not taken for gone")
        switch.unlink()
        for kill in (False, True):
            self.reopen(areas, kill)
            self.compare(areas, f"after a restart, {'killed' if kill else 'closed'}")
        self.close()

    def has_met_errors(self):
        stats = self.set.control("stats")["result"]
        return stats["spare_read_errors"] > 0 and stats["spare_write_errors"] > 0 and stats["auto_remaps"] > 10

    # --- slow ---

    def test_spare_is_slow(self):
        """nbdkit's delay filter holds up every request of the spare: what lies on main is read and written at its own
        speed. A flush covers what was written to the spare, too, and has to wait for it."""
        self.start(before=lambda: self.export.filter("delay", f"rdelay={SLOW_MS}ms", f"wdelay={SLOW_MS}ms"))
        quick = tagged_load.Area(self.device, MOVED_SECTORS, MAIN_SECTORS - MOVED_SECTORS, nbd.SEED,
                                 may_fail=lambda sector: False, flushes=False)
        slow = tagged_load.split(self.device, MOVED_SECTORS, 4, nbd.SEED, may_fail=lambda sector: False)
        self.check_slow_beside(quick, slow, SLOW_MS)
        self.compare([quick, *slow], "with a slow spare")
        self.close()

    # --- gone ---

    def test_server_ends_in_the_middle(self):
        """One spare of two: what lay on it answers EIO, never main's old bytes; all else is served on."""
        self.start(second=True, main_bad=("write",))
        moved, bad, good = areas = self.load_until_gone()
        status = self.status(code=4)
        self.assertEqual(status["state"], "spare absent")
        self.assertEqual(self.set.spare_states(),
                         {str(self.export.path): "absent", str(self.set.second): "present"})
        away = self.set.units_on(self.export.path)
        print(f"{len(away)} units away", flush=True)
        self.assert_away(away)
        # A unit that is written whole finds another place, a part of one does not.
        first, second = KEPT
        self.assertLessEqual({first, second}, away)
        self.assertRaisesRegex(OSError, "Input/output", self.device.write, (second * UNIT_SECTORS + 1) * SECTOR,
                               bytes(SECTOR))
        moved.write(first * UNIT_SECTORS, UNIT_SECTORS)
        self.device.sync()
        self.assertEqual(self.set.units_on(self.set.second) & {first, second}, {first})
        moved.may_fail = bad.may_fail = lambda sector: sector // UNIT_SECTORS in away - {first}
        self.compare(areas, "with a spare away")
        self.reopen(areas, kill=False)
        self.compare(areas, "with the spare back")
        self.assertEqual((self.status()["state"], set(self.set.spare_states().values())), ("ok", {"present"}))
        self.reopen(areas, kill=True)
        self.compare(areas, "after kill -9")
        self.close()

    def test_server_of_the_only_spare_ends_in_the_middle(self):
        """Nothing says where else its units are: they answer EIO, whole writes, too; what is on main is served on."""
        self.start(main_bad=("write",))
        areas = self.load_until_gone()
        self.assert_away(self.set.units_on(self.export.path))
        status = self.status(code=4)
        print(f"state: {status['state']}", flush=True)
        self.assertEqual(self.set.spare_states(), {str(self.export.path): "failed"})
        self.assertIn("none of its superblocks can be read", self.set.status(check=False).stdout)
        refused = areas[0].figures["refused writes"]
        for unit in MOVED:
            areas[0].write(unit * UNIT_SECTORS, UNIT_SECTORS)
        self.assertEqual(areas[0].figures["refused writes"], refused + len(MOVED))
        self.reopen(areas, kill=True)
        self.compare(areas, "with the spare back")
        self.assertEqual((self.status()["state"], self.set.spare_states()), ("ok", {str(self.export.path): "present"}))
        self.close()

    def load_until_gone(self):
        """The spare's server ends under load. Areas: units that lay on it, main with bad places, main without; the last
        one must not notice, but for a flush that meets the going."""
        gone, bad = threading.Event(), self.set.main_export.bad["write"]
        units = {sector // UNIT_SECTORS for sector in bad}
        areas = [Area(self.device, 0, MOVED_SECTORS, nbd.SEED, mends=False, may_fail=lambda sector: gone.is_set()),
                 Area(self.device, MOVED_SECTORS, HALF - MOVED_SECTORS, nbd.SEED, mends=False,
                      may_fail=lambda sector: gone.is_set() and sector // UNIT_SECTORS in units),
                 Area(self.device, HALF, MAIN_SECTORS - HALF, nbd.SEED, may_fail=lambda sector: False)]
        areas[0].left_alone = len(KEPT) * UNIT_SECTORS
        with tagged_load.working(areas):
            tagged_load.work_until(areas, lambda: tagged_load.total(areas)["writes"] >= LEAST_WRITES, "writes",
                                   SECONDS / 2)
            gone.set()
            for area in areas[:2]:
                area.may_refuse = True
            self.export.kill_server()
            before = dict(areas[2].figures)
            # What lay on the spare fails; main is read and written on.
            moved = [(areas[0], what, 0) for what in ("failed sectors", "refused writes")]
            moved += [(areas[2], what, before[what] + 1) for what in ("reads", "writes")]  # one may be under way
            tagged_load.work_until(areas, lambda: all(area.figures[what] > least for area, what, least in moved),
                                   "what comes of a spare that is gone", SECONDS / 2)
        self.assertEqual(tagged_load.complaints(areas), [])
        print(*(area.figures for area in areas), sep="\n", flush=True)
        for area, what, least in moved:
            self.assertGreater(area.figures[what], least, f"{area.name}: {what} with the spare gone")
        return areas

    def assert_away(self, units):
        self.assertGreater(len(units), 0)
        for unit in units:
            with self.assertRaisesRegex(OSError, "Input/output", msg=f"unit {unit}"):
                self.device.read(unit * UNIT_SECTORS * SECTOR, UNIT_SECTORS * SECTOR)

    def test_flush_that_meets_the_going(self):
        """It fails once, as what it was to cover may be gone; the next one covers what is there."""
        self.start(second=True)
        area = Area(self.device, 0, MAIN_SECTORS, nbd.SEED, may_fail=lambda sector: False, mends=False)
        area.write(0, UNIT_SECTORS)
        area.write(MOVED_SECTORS, UNIT_SECTORS)
        self.export.kill_server()
        self.assertRaisesRegex(OSError, "Input/output", self.device.sync)
        area.write(MOVED_SECTORS + UNIT_SECTORS, UNIT_SECTORS)
        self.device.sync()
        self.assertEqual(self.status(code=4)["state"], "spare absent")
        self.assert_away(MOVED)
        self.reopen([area], kill=True)
        self.compare([area], "with the spare back")
        self.close()


class Area(tagged_load.Area):
    """One whose flush may fail: a flush goes to all members."""

    def flush(self):
        self.figures["flushes"] += 1
        try:
            self.device.sync()
        except OSError as problem:
            self.figures["failed flushes"] += 1
            if problem.errno != errno.EIO:
                self.complain(f"flush: {problem}")


class FileSystems(nbd_files.FileSystemCase):
    SIZE, FILES, LEAST_MOVED = 16 * MIB, 25, 50

    def work_with_both_bad(self, fs_type, *modes):
        self.prepare(fs_type, modes, modes)
        self.read_and_write_until_good()
        self.work_unnoticed()

    def test_ext4_both_bad_for_reads(self):
        self.work_with_both_bad("ext4", "read")

    def test_ext4_both_bad_for_both(self):
        self.work_with_both_bad("ext4", "read", "write")

    def test_btrfs_both_bad_for_reads(self):
        self.work_with_both_bad("btrfs", "read")

    def test_btrfs_both_bad_for_both(self):
        self.work_with_both_bad("btrfs", "read", "write")


if __name__ == "__main__":
    nbd.main()
