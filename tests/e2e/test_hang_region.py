# SPDX-License-Identifier: GPL-2.0-or-later
"""A region that blocks for seconds on every read slows nothing else, with any number of workers."""

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
        # is so busy that the turns do not agree. What the hang itself costs stays, however often it is measured.
        for turn in range(MOST_TURNS):
            for row in rows:
                free[row].append(self.rate(*row))
            with Hangers(self) as hangers:
                for row in rows:
                    hanging[row].append(self.rate(*row))
                self.flush_elsewhere()
                self.assertEqual(hangers.hanging(), AT_ONCE, "the region really hung all the while")
            ratios = {row: statistics.median(hanging[row]) / statistics.median(free[row]) for row in rows}
            if turn >= 2 and min(ratios.values()) >= RATIO:
                break
        for (mode, depth), ratio in ratios.items():
            print(f"workers={workers} {mode} depth {depth}: {ratio:.2f}", flush=True)
        self.assertGreaterEqual(min(ratios.values()), RATIO, f"workers={workers}: {free} {hanging}")
        self.set.dust_on("clearbadblocks")
        self.loop.detach()
        self.set.stop()

    def flush_elsewhere(self):
        """Writes and flushes while reads hang: none may wait for one of these, which takes DELAY_MS."""
        with DirectFile(self.loop.path, write=True) as device:
            for i in range(3):
                started = time.monotonic()
                device.write(ELSEWHERE_BYTES - (i + 1) * UNIT, harness.pattern(i, UNIT))
                os.fsync(device.fd)
                self.assertLess(time.monotonic() - started, DELAY_MS / 1000 / 2, "a flush waited for reads that hang")

    def fill(self):
        with open(self.set.main, "r+b") as f:
            for i in range(MAIN_SIZE // (8 * MIB)):
                f.write(harness.pattern(i, 8 * MIB))

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
        self.under_way = 0
        self.lock = threading.Lock()
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

    def hanging(self):
        with self.lock:
            return self.under_way

    def read(self, number):
        try:
            with DirectFile(self.test.loop.path) as device:
                sector = REGION.start + 64 * number
                with self.lock:
                    self.under_way += 1
                self.all_begun.wait(60)
                while not self.over.is_set():
                    device.read(sector * SECTOR, 8 * SECTOR)
        except Exception as problem:
            self.problems.append(repr(problem))
        finally:
            with self.lock:
                self.under_way -= 1


if __name__ == "__main__":
    harness.main()
