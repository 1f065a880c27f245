# SPDX-License-Identifier: GPL-2.0-or-later
"""A main that fails as a whole, for a moment, or by being slow; nbdkit's own filters, a plugin that holds up reads and
the end of its process are what makes it fail. Sectors are tagged; what is read is compared throughout.
"""

import os
import threading
import time

import harness
import nbd
import tagged_load
from harness import MIB, SECTOR, UNIT_SECTORS
from tagged import contents

SECONDS = float(os.environ.get("DMREMAP_NBD_SECONDS", "3"))
MAIN_SIZE = 32 * MIB
MAIN_SECTORS = MAIN_SIZE // SECTOR
BY_HAND = range(0, 64)        # units that are on the spare from the start, for tests that want some there
MOST_REMAPS = 100             # what a main that fails every write may cost
HANGING = 6                   # fewer than the threads that nbdfuse has
LEAST_WRITES = 200
SLOW_MS = 100


class Device(nbd.NbdCase):
    def start(self, options=None, before=lambda: None):
        """A set of version 0 with some units on the spare; `before` changes the export once it is created."""
        print(f"seed {nbd.SEED} (DMREMAP_SEED)", flush=True)
        self.set = nbd.NbdSet(self.workspace, main_size=MAIN_SIZE)
        self.set.main_file.write_bytes(contents(0, MAIN_SECTORS, 0))
        self.set.start_exports().create()
        self.set.start()
        for unit in BY_HAND:
            self.assertTrue(self.set.control("remap", sector=unit * UNIT_SECTORS)["ok"])
        self.set.stop()
        before()
        self.set.main_export.restart()
        self.open(options)

    def areas(self, **options):
        return tagged_load.split(self.device, MAIN_SECTORS, 4, nbd.SEED, **options)

    def compare(self, areas, when):
        for area in areas:
            area.compare_all()
        self.assertEqual(tagged_load.complaints(areas), [], f"{when}, seed {nbd.SEED}")

    # --- gone ---

    def test_server_ends_in_the_middle(self):
        self.start()
        gone = threading.Event()
        areas = self.areas(may_fail=lambda sector: gone.is_set() and sector // UNIT_SECTORS not in BY_HAND,
                           mends=False)
        with tagged_load.working(areas):
            tagged_load.work_until(areas, lambda: tagged_load.total(areas)["writes"] >= LEAST_WRITES, "writes",
                                   SECONDS / 2)
            gone.set()
            for area in areas:
                area.may_refuse = True
            self.set.main_export.kill_server()
            tagged_load.work_until(areas, lambda: self.has_failed(areas), "failed reads and writes", SECONDS / 2)
        self.assertEqual(tagged_load.complaints(areas), [])
        print(tagged_load.total(areas), flush=True)
        self.assertTrue(self.has_failed(areas))
        # No unit was spent on it, none is called lost, and everybody is told.
        status = self.status(code=4)
        self.assertEqual(status["state"], "main does not answer")
        self.assertIn("main does not answer", self.set.status(check=False).stdout)
        self.assertTrue(status["stats"]["main_gone"])
        self.assertEqual(sorted(self.set.remaps()), list(BY_HAND))
        self.assertEqual(self.set.lost(), set())
        self.assertRaisesRegex(OSError, "Input/output", self.device.read, 1000 * UNIT_SECTORS * SECTOR, SECTOR)
        # Everything started anew: all is there.
        self.close(kill=True)
        self.set.restart_exports()
        gone.clear()
        self.open()
        for area in areas:
            area.device, area.unreadable = self.device, set()
        self.compare(areas, "after the restart")
        status = self.status()
        self.assertEqual((status["state"], len(self.set.remaps())), ("ok", len(BY_HAND)))
        self.close()

    @staticmethod
    def has_failed(areas):
        figures = tagged_load.total(areas)
        return figures["failed sectors"] > 0 and figures["refused writes"] > 0

    # --- every write fails ---

    def test_every_write_fails(self):
        switch = self.workspace.path / "writes-fail"
        self.start(before=lambda: self.set.main_export.filter("error", "error-pwrite-rate=100%",
                                                              f"error-pwrite-file={switch}"))
        area = tagged_load.Area(self.device, 0, MAIN_SECTORS, nbd.SEED, may_fail=lambda sector: False, may_refuse=True)
        for unit in range(200, 300):
            area.write(unit * UNIT_SECTORS, UNIT_SECTORS)
        self.assertEqual(area.figures["refused writes"], 0)
        switch.touch()
        # What is on the spare is written all the while, twice for each failure: that says nothing of main.
        spent = self.fail_writes(area, range(1000, 1400), rewrites=2)
        self.assertIn("breaker", self.set.status(check=False).stdout)
        # Reads go on, and so do writes of what is on the spare already.
        for unit in BY_HAND:
            area.write(unit * UNIT_SECTORS, UNIT_SECTORS)
        area.compare(0, 1600 * UNIT_SECTORS)
        # Asked to go on while it is as bad as before: a little more is spent, no more than that.
        self.set.message("reset_breaker")
        self.assertFalse(self.set.stats()["breaker_open"])
        again = self.fail_writes(area, range(2000, 2400), each=50)
        print(f"{spent} and {again} remaps until the breaker opened", flush=True)
        # The drive writes again: all goes on, by message.
        switch.unlink()
        self.set.message("reset_breaker")
        refused = area.figures["refused writes"]
        for unit in range(900, 2500):
            area.write(unit * UNIT_SECTORS, UNIT_SECTORS)
        area.flush()
        self.assertEqual(area.figures["refused writes"], refused)
        self.assertEqual(self.status()["state"], "ok")
        self.compare([area], "after the drive works again")
        self.close(kill=True)
        self.set.restart_exports()
        self.open()
        area.device = self.device
        self.compare([area], "after a restart")
        self.close()

    def fail_writes(self, area, units, each=1, rewrites=0):
        """Writes of that many units each, which main fails; how many remaps they cost until the breaker opened. After each
        of them so many of units that are on the spare, which it takes."""
        before, refused = len(self.set.remaps()), area.figures["refused writes"]
        for unit in units[::each]:
            area.write(unit * UNIT_SECTORS, each * UNIT_SECTORS)
            for n in range(rewrites):
                area.write(BY_HAND[(unit + n) % len(BY_HAND)] * UNIT_SECTORS, UNIT_SECTORS)
        spent = len(self.set.remaps()) - before
        refused = area.figures["refused writes"] - refused
        status = self.status(code=4)
        self.assertTrue(status["stats"]["breaker_open"], status)
        self.assertIn("breaker", status["state"])
        self.assertLess(spent, MOST_REMAPS)
        self.assertGreater(spent, 0)
        if each == 1:
            self.assertEqual(spent + refused, len(units), "a write is moved or refused, nothing else")
        return spent

    # --- errors that pass ---

    def test_errors_that_a_retry_heals(self):
        """2 % of all requests fail, whatever they touch: nobody gets an error, nothing is called lost."""
        switch = self.workspace.path / "now-and-then"
        self.start(f"read_retries={nbd.RETRIES}", before=lambda: self.set.main_export.filter(
            "error", "error-pread-rate=2%", "error-pwrite-rate=2%", f"error-pread-file={switch}",
            f"error-pwrite-file={switch}"))
        areas = self.areas(may_fail=lambda sector: False)
        switch.touch()
        with tagged_load.working(areas):
            tagged_load.work_until(areas, self.has_met_errors, "failed requests of main", SECONDS)
        self.compare(areas, "with errors now and then")
        stats = self.set.stats()
        self.assertTrue(self.has_met_errors(), stats)
        self.assertEqual(stats["lost_sectors"], 0)
        self.assertFalse(stats["breaker_open"] or stats["main_gone"])
        print(f"{stats['main_read_errors']} failed reads, {stats['main_write_errors']} failed writes, "
              f"{stats['auto_remaps']} units moved", flush=True)
        switch.unlink()
        self.close(kill=True)
        self.set.restart_exports()
        self.open()
        for area in areas:
            area.device = self.device
        self.compare(areas, "after a restart")
        self.close()

    def has_met_errors(self):
        stats = self.set.control("stats")["result"]
        return stats["main_read_errors"] > 10 and stats["main_write_errors"] > 10

    # --- slow ---

    def test_main_is_slow(self):
        """nbdkit's delay filter holds up every request of main: what lies on the spare is read and written at its own
        speed, and no unit is moved for it."""
        self.start(before=lambda: self.set.main_export.filter("delay", f"rdelay={SLOW_MS}ms", f"wdelay={SLOW_MS}ms"))
        moved = len(BY_HAND) * UNIT_SECTORS
        quick = tagged_load.Area(self.device, 0, moved, nbd.SEED, may_fail=lambda sector: False, flushes=False)
        slow = [tagged_load.Area(self.device, moved * n, moved, nbd.SEED, may_fail=lambda sector: False)
                for n in range(1, 5)]
        self.check_slow_beside(quick, slow, SLOW_MS)
        self.compare([quick, *slow], "with a slow main")
        status = self.status()
        self.assertEqual((status["state"], sorted(self.set.remaps())), ("ok", list(BY_HAND)))
        self.close()

    def test_main_hangs(self):
        """The server holds up every read of main: units on the spare are served as ever."""
        hold = self.workspace.path / "hold"
        self.start(before=lambda: self.set.main_export.parameters.append(f"hold={hold}"))
        self.check_hanging(hold, hanging=range(1000, 1000 + HANGING), quick=BY_HAND)
        self.close()

    def check_hanging(self, hold, hanging, quick):
        """Reads of the units `hanging` under way for as long as the file `hold` is there, which is until all is
        checked: those of `quick` go on and status answers."""
        over, wrong = [], []

        def read(unit):
            data = self.device.read(unit * UNIT_SECTORS * SECTOR, UNIT_SECTORS * SECTOR)
            over.append(unit)
            if data != contents(unit * UNIT_SECTORS, UNIT_SECTORS, 0):
                wrong.append(unit)

        threads = [threading.Thread(target=read, args=(unit,)) for unit in hanging]
        beside = threading.Thread(target=lambda: [read(unit) for unit in quick])
        hold.touch()
        try:
            for thread in threads:
                thread.start()
            harness.wait_until(lambda: self.set.control("status")["result"]["requests_away"] >= len(hanging), 60,
                               "the reads hang")
            self.set.status()  # an answer that waited for these reads would never come
            answered = min(self.seconds_of_status() for _ in range(3))  # one may be late where the machine stalls
            beside.start()
            beside.join(60)
            self.assertEqual(over, list(quick), "these are read, and all of the others still hang")
        finally:
            hold.unlink()
            for thread in threads:
                thread.join(60)
        self.assertEqual((wrong, sorted(over)), ([], sorted([*quick, *hanging])))
        print(f"status answered in {answered:.2f} s, {len(quick)} reads meanwhile", flush=True)
        self.assertLess(answered, 1.0)

    def seconds_of_status(self):
        asked = time.monotonic()
        self.set.do("status", check=False)
        return time.monotonic() - asked


if __name__ == "__main__":
    nbd.main()
