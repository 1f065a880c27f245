# SPDX-License-Identifier: GPL-2.0-or-later
"""What keeps a set busy in a soak: threads that write, copy, verify and move until told to stop."""

import os
import random
import shutil
import threading

import harness
from harness import MIB, UNIT, UNIT_SECTORS

FIO_MIB = 6
TREE_FILES = 24
MOST_TREES = 4
MOST_FILES = 40
MOST_BY_HAND = 600   # units that are moved for no other reason than to move
EXPECTED = {"not-remapped", "main-still-bad", "lost-sectors", "main-unreadable", "spare-unreadable"}


class Busy(threading.Thread):
    """Does one thing again and again while a round lasts. An error is the soak's, but for what the end of a killed
    daemon brings."""

    def __init__(self, subject, mnt):
        super().__init__(name=type(self).__name__)
        self.subject, self.mnt = subject, mnt
        self.chance = random.Random(subject.chance.random())
        self.figures = subject.figures
        self.problem = None

    def run(self):
        try:
            while not self.subject.round_over.is_set():
                self.step()
        except Exception as problem:
            if not self.subject.killing.is_set():
                self.problem = f"{self.name}: {problem!r}"
                self.subject.round_over.set()


class Writer(Busy):
    """Tagged files: made, written again, removed; each on the medium before the next. `quiet` keeps it still."""

    def step(self):
        files = self.subject.files
        with self.subject.quiet:
            kind = self.chance.random()
            if len(files.pages) < 12 or (kind < 0.2 and len(files.pages) < MOST_FILES):
                files.make(self.mnt)
            elif kind < 0.25:
                number = self.chance.choice(sorted(files.pages))
                self.subject.removed(number)
                files.remove(self.mnt, number)
            else:
                self.rewrite(files)
        self.subject.round_over.wait(0.01)

    def rewrite(self, files):
        whole = {n: range(p) for n, p in files.pages.items()}
        number = self.chance.choice(sorted(whole))
        first = self.chance.randrange(len(whole[number]))
        count = self.chance.randint(1, len(whole[number]) - first)
        self.subject.write(number, first, count)


class Copier(Busy):
    """Trees of files by random content, copied, all compared by their checksums; the oldest goes."""

    def step(self):
        trees = self.subject.trees
        name = f"tree{self.subject.next_number()}"
        (self.mnt / name).mkdir()
        sums = harness.make_tree_in(self.mnt / name, TREE_FILES, self.chance.random(), 1, 96 * 1024)
        copy = name + "-copy"
        shutil.copytree(self.mnt / name, self.mnt / copy)
        self.subject.sync(self.mnt)
        trees.update({name: sums, copy: sums})
        while len(trees) > MOST_TREES:
            oldest = next(iter(trees))
            compare_tree(self.subject, self.mnt, oldest)
            del trees[oldest]
            shutil.rmtree(self.mnt / oldest)


def compare_tree(subject, mnt, name):
    """Every file of a tree, from the medium."""
    for path, _, names in os.walk(mnt / name):
        for one in names:
            with open(os.path.join(path, one), "rb") as f:
                os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                subject.figures["bytes compared"] += os.fstat(f.fileno()).st_size
    different, unreadable = harness.check_tree(mnt / name, subject.trees[name])
    if different or unreadable:
        raise harness.Failure(f"{name}: differ: {different[:5]}; cannot be read: {unreadable[:5]}")


class Fio(Busy):
    """fio writes a file in random pieces and verifies each by its checksum."""

    def step(self):
        folder = self.mnt / "fio"
        folder.mkdir(exist_ok=True)
        depth, largest = self.chance.choice((1, 4, 16)), self.chance.choice((4, 16, 64, 256))
        answer = self.subject.workspace.run(
            "fio", "--name=soak", f"--directory={folder}", f"--size={FIO_MIB}M", "--rw=randwrite", "--direct=1",
            "--ioengine=libaio", f"--bsrange=4k-{largest}k", "--blockalign=4k", f"--iodepth={depth}",
            "--verify=crc32c", "--verify_fatal=1", "--thread=1", f"--randseed={self.chance.randrange(1 << 30)}",
            "--fallocate=none", "--output-format=terse", check=False, cwd=self.subject.workspace.folder("fio"))
        if answer.returncode != 0:
            raise harness.Failure(f"fio: {answer.returncode} {answer.stdout[-500:]} {answer.stderr[-500:]}")
        self.figures["fio runs"] += 1
        self.figures["bytes compared"] += FIO_MIB * MIB
        self.subject.round_over.wait(0.5)


class Mover(Busy):
    """Moves units to the spare and back by hand, under everybody's feet."""

    def step(self):
        units = self.subject.set.main.stat().st_size // UNIT
        with self.subject.moving:
            by_hand = self.subject.by_hand
            back = by_hand and (len(by_hand) > MOST_BY_HAND or self.chance.random() < 0.45)
            unit = by_hand.pop(self.chance.randrange(len(by_hand))) if back else self.chance.randrange(units)
            reply = self.subject.set.control("unmap" if back else "remap", sector=unit * UNIT_SECTORS)
            if not back:
                by_hand.append(unit)
        if reply["ok"]:
            self.figures["units moved back" if back else "units moved by hand"] += 1
        elif reply["error"]["id"] not in EXPECTED:
            raise harness.Failure(f"{'unmap' if back else 'remap'} unit {unit}: {reply['error']}")
        self.subject.round_over.wait(0.02)


def start(subject, mnt):
    """All of them, running."""
    threads = [kind(subject, mnt) for kind in (Writer, Copier, Fio, Mover)]
    for thread in threads:
        thread.start()
    return threads


def join(threads):
    """Waits for their end; what they complain of."""
    for thread in threads:
        thread.join(180)
        if thread.is_alive():
            return [f"{thread.name} hangs"]
    return [t.problem for t in threads if t.problem]
