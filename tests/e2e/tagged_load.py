# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads that write tagged sectors to a device, read them back and complain of every byte nobody wrote there."""

import contextlib
import errno
import random
import threading
import time

import harness
from harness import SECTOR, UNIT_SECTORS
from tagged import ZERO, Oracle, contents, read_piece, read_sectors, zero_out

SIZES = (1, 1, 2, 3, 7, 8, 8, 8, 13, 16, 24, 64, 64, 256)  # sectors
MOST_SECONDS = 120  # for what a test waits for under load; far more than a busy machine needs


class Area(threading.Thread):
    """One thread and the part of the device that only it uses; so each read has one right answer.

    may_fail(sector): whether a read of this sector alone may answer EIO. A sector of a unit whose read failed and that
    was written whole since must read again, whatever may_fail says, where `mends` is set.
    may_refuse: whether a write may fail. flushes: whether it flushes now and then.
    left_alone: so many sectors at the end of the area are touched by who has it alone, not by the thread."""

    left_alone = 0

    def __init__(self, device, first, count, seed, may_fail, may_refuse=False, mends=True, before=0, flushes=True):
        super().__init__(name=f"sectors {first} to {first + count - 1}")
        self.device, self.first, self.count = device, first, count
        self.chance = random.Random(f"{seed} {first}")
        self.may_fail, self.may_refuse, self.mends = may_fail, may_refuse, mends
        self.flushes = flushes
        self.oracle = Oracle(before)
        self.over = threading.Event()
        self.write_number = 0
        self.moved, self.mended = set(), set()  # units that failed a read; sectors of such that were written since
        self.unreadable = set()
        self.wrong, self.problem = [], None
        self.figures = {"writes": 0, "refused writes": 0, "reads": 0, "compared sectors": 0, "failed sectors": 0,
                        "flushes": 0, "failed flushes": 0}

    def run(self):
        try:
            while not self.over.is_set():
                self.step()
        except Exception as problem:  # the test shows it
            self.problem = problem

    def step(self):
        kind = self.chance.random()
        count = self.chance.choice(SIZES)
        first = self.first + self.chance.randrange(self.count - self.left_alone - count + 1)
        if kind < 0.45:
            self.write(first, count)
        elif kind < 0.48:
            self.write(first, count, zeros=True)
        elif kind < 0.97 or not self.flushes:
            self.compare(first, count)
        else:
            self.flush()

    # --- writing ---

    def write(self, first, count, zeros=False):
        self.write_number += 1
        number = ZERO if zeros else self.write_number
        self.oracle.began(first, count, number)
        self.figures["writes"] += 1
        try:
            if zeros:
                zero_out(self.device.fd, first * SECTOR, count * SECTOR)
            else:
                self.device.write(first * SECTOR, contents(first, count, number))
        except OSError as problem:
            self.figures["refused writes"] += 1
            if problem.errno != errno.EIO or not self.may_refuse:
                self.complain(f"write {number} of {count} sectors at {first}: {problem}")
            return
        self.oracle.acknowledged(first, count, number)
        for sector in range(first, first + count):
            self.unreadable.discard(sector)
            if sector // UNIT_SECTORS in self.moved:
                self.mended.add(sector)

    def flush(self):
        self.figures["flushes"] += 1
        try:
            self.device.sync()
        except OSError as problem:
            self.figures["failed flushes"] += 1
            if problem.errno != errno.EIO or not self.may_refuse:
                self.complain(f"flush: {problem}")

    # --- reading ---

    def compare(self, first, count):
        self.figures["reads"] += 1
        for sector, data in read_piece(self.device, first, count):
            self.judge(sector, data)

    def compare_all(self):
        """Every sector of the area; with the device of now."""
        for sector, data in read_sectors(self.device, self.first, self.count):
            self.judge(sector, data)

    def judge(self, sector, data):
        if data is None:
            self.figures["failed sectors"] += 1
            self.unreadable.add(sector)
            self.moved.add(sector // UNIT_SECTORS)
            if not self.may_fail(sector):
                self.complain(f"sector {sector} cannot be read and nothing is wrong with it")
            elif self.mends and sector in self.mended:
                self.complain(f"sector {sector} was written since its unit was moved and cannot be read")
            return
        self.figures["compared sectors"] += 1
        if problem := self.oracle.check(sector, data):
            self.complain(f"sector {sector}: {problem}")
        elif sector in self.unreadable and self.mends:
            self.complain(f"sector {sector} was lost and reads again though nobody wrote it")
        else:
            self.oracle.settle(sector, data)

    def complain(self, text):
        if len(self.wrong) < 20:
            self.wrong.append(text)


def split(device, sectors, threads, seed, **options):
    """The device in equal areas, one a thread."""
    each = sectors // threads // UNIT_SECTORS * UNIT_SECTORS
    return [Area(device, n * each, each if n < threads - 1 else sectors - n * each, seed, **options)
            for n in range(threads)]


@contextlib.contextmanager
def working(areas):
    """Lets all work; ends them after that and raises what a thread failed of. Complaints stay in the areas."""
    for area in areas:
        area.start()
    try:
        yield
    finally:
        for area in areas:
            area.over.set()
        for area in areas:
            area.join(60)
    for area in areas:
        if area.is_alive():
            raise harness.Failure(f"{area.name}: hangs")
        if area.problem:
            raise harness.Failure(f"{area.name}: {area.problem!r}") from area.problem


def work_until(areas, done, what, seconds=0):
    """Lets areas that are at work go on until done(), however busy the machine is, and for so long at least."""
    areas[0].over.wait(seconds)
    deadline = time.monotonic() + MOST_SECONDS
    # Where a thread ended, working() says why.
    while all(area.is_alive() for area in areas) and not done():
        if time.monotonic() > deadline:
            raise harness.Failure(f"not within {MOST_SECONDS} s under load: {what}")
        areas[0].over.wait(0.05)


def run_for(areas, seconds, writes=0):
    """Lets all work for that long, and until there were that many writes."""
    with working(areas):
        work_until(areas, lambda: total(areas)["writes"] >= writes, f"{writes} writes", seconds)


class Rate:
    """Requests that an area answered in a stretch of time."""

    def __init__(self, area):
        self.area = area

    def _now(self):
        return self.area.figures["reads"] + self.area.figures["writes"], time.monotonic()

    def __enter__(self):
        self._began = self._now()
        return self

    def __exit__(self, *_):
        count, at = self._now()
        self.count, self.seconds = count - self._began[0], at - self._began[1]

    def rate(self):
        return self.count / self.seconds

    def __str__(self):
        return f"{self.count} in {self.seconds:.1f} s"


def rates_beside(quick, slow, turns):
    """`quick` works throughout; in turns alone and beside one request of each of `slow`. Returns its rates alone, and
    beside them."""
    alone, beside = [], []
    with working([quick]):
        while len(beside) < turns:
            with Rate(quick) as rate:
                threads = [threading.Thread(target=area.step) for area in slow]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(60)
            beside.append(rate)
            with Rate(quick) as rate:
                quick.over.wait(beside[-1].seconds)
            alone.append(rate)
    return alone, beside


def total(areas):
    """The figures of all."""
    return {what: sum(a.figures[what] for a in areas) for what in areas[0].figures}


def complaints(areas):
    return [text for a in areas for text in a.wrong]
