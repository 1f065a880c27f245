# SPDX-License-Identifier: GPL-2.0-or-later
"""A region that blocks for seconds on every read slows nothing else, with any number of workers; nor does one whose
reads fail after that, so that each of them is held in its rescue.
"""

import json
import os
import statistics
import threading
import time

import harness
from harness import MIB, SECTOR, UNIT, DirectFile

MAIN_SIZE = 256 * MIB
REGION = range(4096, 8192)  # sectors 2 MiB to 4 MiB hang
ELSEWHERE_BYTES = 64 * MIB   # what is measured starts here
ELSEWHERE = f"{ELSEWHERE_BYTES}"
DELAY_MS = 2500
AT_ONCE = 24                # reads that hang together, more than there are workers
RATIO = 0.7
MOST_TURNS = 9
FAILING_MS = 600            # a read that fails; the rescue of a unit makes sixteen more of them
FAILING_AT_ONCE = 100
APART = 40                  # sectors between them, so that no two become one request
LOST = [64 + 8 * i for i in range(6)]  # sectors elsewhere that are lost: to write one is a table change


class HangRegion(harness.TestCase):
    def test_one_worker(self):
        self.check_rates(1)

    def test_two_workers(self):
        self.check_rates(2)

    def test_four_workers(self):
        self.check_rates(4)

    def test_many_workers(self):
        self.check_rates(32)

    def check_rates(self, workers):
        self.set = harness.Set(self.workspace, main_size=MAIN_SIZE, spare_size=32 * MIB, dust=True)
        self.fill()
        self.set.create()
        self.set.start(f"workers={workers}")
        self.loop = self.set.loop()
        rows = [("randread", 8), ("randwrite", 8), ("randread", 1)]
        free, hanging = {row: [] for row in rows}, {row: [] for row in rows}
        # In turns, so that a slow moment of the machine is not taken for the hang's fault; and again where the machine
        # is so busy that the turns do not agree. What the hang itself costs, it costs in each turn: so it lowers the
        # best of them and the median alike. A machine that stalls now and then leaves the best as it is, one that is
        # busy all the while and idle for a moment the median: so a row is good where either is.
        waiting, ratios = rows, {}
        for turn in range(MOST_TURNS):
            for row in waiting:
                free[row].append(self.rate(*row))
            with Hangers(self) as hangers:
                for row in waiting:
                    hanging[row].append(self.rate(*row))
                self.flush_elsewhere()
            # Each thread reads without a pause, and each of these reads hung: so did the region all the while.
            self.assertGreaterEqual(len(hangers.took), AT_ONCE)
            self.assertGreaterEqual(min(hangers.took), DELAY_MS / 1000, "every read of the region hung")
            for row in waiting:
                ratios[row] = max(of(hanging[row]) / of(free[row]) for of in (max, statistics.median))
            if turn >= 2:  # a row that is good is not measured again
                waiting = [row for row in waiting if ratios[row] < RATIO]
            if not waiting:
                break
        for (mode, depth), ratio in ratios.items():
            print(f"workers={workers} {mode} depth {depth}: {ratio:.2f}", flush=True)
        self.assertGreaterEqual(min(ratios.values()), RATIO, f"workers={workers}: {free} {hanging}")
        self.set.dust_on("clearbadblocks")
        self.loop.detach()
        self.set.stop()

    def test_failing_reads(self):
        """Many units of a bad region in their rescue at once: table changes elsewhere and a flush do not wait."""
        self.set = harness.Set(self.workspace, main_size=MAIN_SIZE, spare_size=32 * MIB, dust=True)
        self.fill()
        self.set.create()
        self.set.start()
        self.loop = self.set.loop()
        with DirectFile(self.loop.path, write=True) as device:
            for sector in LOST:
                self.set.dust_on("addbadblock", sector, "read", 1)
                self.assertRaisesRegex(OSError, "Input/output", device.read, sector * SECTOR, SECTOR)
            self.assertEqual(self.set.lost(), set(LOST))
            self.set.dust_on("addbadblock", REGION.start, "read", len(REGION))
            before = self.set.dust_failures()[0]
            self.set.delay_reads(REGION.start, len(REGION), FAILING_MS)
            took, wrong = [], []

            def read(number):
                started = time.monotonic()
                try:
                    device.read((REGION.start + APART * number) * SECTOR, UNIT)
                    wrong.append(number)
                except OSError:
                    took.append(time.monotonic() - started)

            threads = [threading.Thread(target=read, args=(n,)) for n in range(FAILING_AT_ONCE)]
            for thread in threads:
                thread.start()
            # Each fails twice before its unit is read in pieces: by then all of them have begun with that.
            harness.wait_until(lambda: self.set.dust_failures()[0] - before >= 2 * FAILING_AT_ONCE, 60, "the rescues hang")
            waited = []
            for i, sector in enumerate(LOST):
                started = time.monotonic()
                device.write(sector * SECTOR, harness.pattern(i, SECTOR))
                if i % 2:
                    os.fsync(device.fd)
                waited.append(time.monotonic() - started)
            still, answered = [t for t in threads if t.is_alive()], len(took)
            for thread in threads:
                thread.join(120)
            print(f"{FAILING_AT_ONCE} rescues of at least {min(took):.1f} s; writes elsewhere at most {max(waited):.2f} s",
                  flush=True)
            for which in (waited[0::2], waited[1::2]):  # one may be late where the machine stalls
                self.assertLess(statistics.median(which), 4 * FAILING_MS / 1000)
            self.assertEqual((len(still), answered), (FAILING_AT_ONCE, 0), "all of them hung all the while")
            self.assertEqual((wrong, len(took)), ([], FAILING_AT_ONCE))
            self.assertGreaterEqual(min(took), 18 * FAILING_MS / 1000, "every read of the region hung")
            for i, sector in enumerate(LOST):
                self.assertEqual(device.read(sector * SECTOR, SECTOR), harness.pattern(i, SECTOR))
            bad = {REGION.start + APART * n + s for n in range(FAILING_AT_ONCE) for s in range(UNIT // SECTOR)}
            self.assertEqual(self.set.lost(), bad)
        self.set.dust_on("clearbadblocks")
        self.loop.detach()
        self.set.stop()

    def flush_elsewhere(self):
        """Writes and flushes while reads hang: none may wait for one of these, which takes DELAY_MS. One may be late
        where the machine stalls; those that wait do so each time, and the second begins when new reads do."""
        took = []
        with DirectFile(self.loop.path, write=True) as device:
            for i in range(3):
                started = time.monotonic()
                device.write(ELSEWHERE_BYTES - (i + 1) * UNIT, harness.pattern(i, UNIT))
                os.fsync(device.fd)
                took.append(time.monotonic() - started)
        self.assertLess(statistics.median(took), DELAY_MS / 1000 / 2, f"flushes waited for reads that hang: {took}")

    def fill(self):
        with open(self.set.main, "r+b") as f:
            for i in range(MAIN_SIZE // (8 * MIB)):
                f.write(harness.pattern(i, 8 * MIB))
            # On the medium now: else the first flush that is timed writes it all out, and is late for that alone.
            f.flush()
            os.fsync(f.fileno())

    def rate(self, mode, depth):
        """Requests a second, elsewhere."""
        answer = self.workspace.run(
            "fio", "--name=rate", f"--filename={self.loop}", "--direct=1", "--ioengine=libaio", f"--rw={mode}",
            "--bs=4k", f"--iodepth={depth}", f"--offset={ELSEWHERE}", "--size=128M", "--time_based", "--runtime=500ms",
            "--thread=1", "--output-format=json", timeout=60)
        job = json.loads(answer.stdout[answer.stdout.index("{"):])["jobs"][0]
        self.assertEqual(job["error"], 0)
        return job["write" if "write" in mode else "read"]["iops"]


class Hangers:
    """Threads that read the slow region again and again, each always with one read under way."""

    def __init__(self, test):
        self.test, self.set = test, test.set
        self.over = threading.Event()
        self.took = []  # seconds of each read
        self.all_begun = threading.Barrier(AT_ONCE + 1)
        self.threads = [threading.Thread(target=self.read, args=(i,)) for i in range(AT_ONCE)]
        self.problems = []

    def __enter__(self):
        self.set.delay_reads(REGION.start, len(REGION), DELAY_MS)
        for thread in self.threads:
            thread.start()
        self.all_begun.wait(60)
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(60)
        self.set.delay_reads(REGION.start, len(REGION), 0)
        self.test.assertEqual(self.problems, [])

    def read(self, number):
        try:
            with DirectFile(self.test.loop.path) as device:
                sector = REGION.start + 64 * number
                self.all_begun.wait(60)
                while not self.over.is_set():
                    started = time.monotonic()
                    device.read(sector * SECTOR, 8 * SECTOR)
                    self.took.append(time.monotonic() - started)
        except Exception as problem:
            self.problems.append(repr(problem))


if __name__ == "__main__":
    harness.main()
