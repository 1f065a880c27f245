# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/soak runs once the programs are built: two sets side by side for a given time, see there.

One set's daemon lives from the first minute to the last: its descriptors and its memory are watched. The other's is
killed or stopped again and again, and its metadata damaged before it starts anew.
"""

import argparse
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/e2e"))
import harness  # noqa: E402
from soak import Subject  # noqa: E402

BYTES_A_REMAP = 40
MOST_GROWTH = 1 << 20
SETTLED_AFTER = 300        # seconds: from here on nothing may grow
LAST_ROUNDS = 30           # seconds before the end in which rounds count as the last
LONG_ENOUGH = 600          # a shorter run shows the figures and judges only the descriptors


class Memory:
    """Descriptors and memory of the daemon that is never stopped, when it is idle between two rounds."""

    def __init__(self, seconds):
        self.started, self.settled = time.monotonic(), min(SETTLED_AFTER, seconds / 4)
        self.long_enough = seconds >= LONG_ENOUGH
        self.seconds = seconds
        self.first = self.last = None

    def wants_alike(self):
        """Whether the next look is one of the two that are compared: the set must be as it was at the other."""
        seconds = time.monotonic() - self.started
        return seconds >= self.settled if self.first is None else seconds >= self.seconds - LAST_ROUNDS

    def look(self, daemon, remaps):
        seconds = time.monotonic() - self.started
        self.last = (seconds, daemon.descriptors(), daemon.memory(), remaps)
        if self.first is None and seconds >= self.settled:
            self.first = self.last

    def words(self):
        return f"; {self.last[1]} descriptors, {self.last[2] / 2**20:.1f} MiB, {self.last[3]} units" if self.last else ""

    def report(self):
        """Prints the figures; what is wrong with them."""
        if self.first is None or self.first is self.last:
            print("   the daemon that stays was looked at less than twice: no word about its growth")
            return ["the daemon that stays was looked at less than twice"] if self.long_enough else []
        for seconds, descriptors, size, remaps in (self.first, self.last):
            print(f"   after {seconds / 60:.1f} minutes: {descriptors} descriptors, {size / 2**20:.2f} MiB of its own, "
                  f"{remaps} units on the spares")
        growth = self.last[2] - self.first[2] - BYTES_A_REMAP * (self.last[3] - self.first[3])
        print(f"   growth less {BYTES_A_REMAP} bytes a remap: {growth / 2**20:.2f} MiB")
        wrong = []
        if self.last[1] != self.first[1]:
            wrong.append(f"descriptors: {self.first[1]}, then {self.last[1]}")
        if self.long_enough and growth >= MOST_GROWTH:
            wrong.append(f"memory grew by {growth} bytes")
        return wrong


def run(minutes, seed):
    """True where nothing was wrong."""
    chance = random.Random(seed)
    over = threading.Event()
    told = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: (told.append(n), over.set()))
    memory = Memory(minutes * 60)
    deadline = time.monotonic() + minutes * 60
    kinds = chance.sample(("ext4", "btrfs"), 2)
    print(f"soak: {minutes:g} minutes, seed {seed}; {kinds[0]} on a daemon that stays, {kinds[1]} on one that is killed",
          flush=True)
    subjects = [Subject("steady", kinds[0], chance.random(), over, memory=memory),
                Subject("killed", kinds[1], chance.random(), over)]
    threads = [threading.Thread(target=s.run, args=(deadline,)) for s in subjects]
    for thread in threads:
        thread.start()
    last_word = time.monotonic()
    while any(t.is_alive() for t in threads):
        over.wait(1) if not over.is_set() else time.sleep(0.2)
        if time.monotonic() - last_word > 60:
            last_word = time.monotonic()
            print("   " + "; ".join(f"{s.name}: {s.figures['rounds']} rounds" for s in subjects) + memory.words(),
                  flush=True)
    for thread in threads:
        thread.join()
    if told:
        print(f"interrupted by {signal.Signals(told[0]).name}; all is taken down", flush=True)
    return report(subjects, memory) and not told


def report(subjects, memory):
    print("\nwhat it survived:")
    for what in subjects[0].figures:
        counts = [s.figures[what] for s in subjects]
        print(f"   {what:<34} {sum(counts):>14,}   ({', '.join(f'{s.name} {c:,}' for s, c in zip(subjects, counts))})")
    wrong = [f"{s.name}: {text}" for s in subjects for text in s.wrong] + memory.report()
    for text in wrong:
        print(f"WRONG: {text}")
    print("nothing was wrong" if not wrong else f"{len(wrong)} things were wrong", flush=True)
    return not wrong


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak", description="wear a set down and compare all data")
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="how long (30)")
    parser.add_argument("--seed", type=int, metavar="S", help="what to draw from (DMREMAP_SEED, or any)",
                        default=int(os.environ.get("DMREMAP_SEED", time.time_ns() % 1_000_000)))
    arguments = parser.parse_args()
    if missing := harness.why_not():
        print(f"scripts/soak: needs root, FUSE and loop devices: {missing}", file=sys.stderr)
        return 1 if harness.required() else 77
    return 0 if run(arguments.minutes, arguments.seed) else 1


if __name__ == "__main__":
    sys.exit(main())
