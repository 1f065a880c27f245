# SPDX-License-Identifier: GPL-2.0-or-later
"""kill -9 of the daemon at a random moment, under load: what was acknowledged and flushed is there afterwards.

DMREMAP_KILL_ROUNDS rounds (12), from DMREMAP_SEED. Each sector that is written says which sector it is and which write
it comes from, so that a reader can tell old, new and foreign bytes apart. The oracle knows nothing of units and maps.
"""

import errno
import os
import random
import threading
import time

import harness
from harness import MIB, SECTOR, UNIT_SECTORS, DirectFile
from tagged import ZERO, Oracle, contents, describe, read_piece, read_sectors, zero_out

ROUNDS = int(os.environ.get("DMREMAP_KILL_ROUNDS", "12"))
SEED = int(os.environ.get("DMREMAP_SEED", time.time_ns() % 1_000_000))

MAIN_SIZE = 32 * MIB
WRITERS = 4
WRITER_SECTORS = 2 * MIB // SECTOR      # each writer's own part of the disk, one behind the other from sector 0
LOSSES_FIRST = WRITERS * WRITER_SECTORS  # from here on: units whose sectors get lost, a few new ones each round
LOSSES_PER_ROUND = 6
HOT = 24                                # sectors at the start of each part that most of it happens to


class Worker(threading.Thread):
    """A thread that works until the daemon dies under it. Any other failure is the test's."""

    def __init__(self, round_, name):
        super().__init__(name=name)
        self.round, self.chance = round_, random.Random(f"{round_.seed} {name}")
        self.problem, self.operations = None, 0

    def run(self):
        try:
            while not self.round.over.is_set():
                self.step()
                self.operations += 1
        except Exception as problem:
            if not self.round.killing.is_set():
                self.problem = problem


class Writer(Worker):
    """Writes anywhere in its own part, with a flush now and then; one write at a time."""

    def __init__(self, round_, number):
        super().__init__(round_, f"writer {number}")
        self.first = number * WRITER_SECTORS

    def step(self):
        kind = self.chance.random()
        if kind < 0.15:
            self.round.device.sync()
            self.round.flushes += 1
            return
        if kind < 0.3:
            self.read_hot()
            return
        # Few places are hot, so that units are written while they move.
        span = HOT if self.chance.random() < 0.7 else WRITER_SECTORS
        count = min(self.chance.choice((1, 2, 7, 8, 8, 16, 24, 64)), span)
        first = self.first + self.chance.randrange(span - count + 1)
        write = self.round.next_write()
        oracle = self.round.oracle
        oracle.began(first, count, write)
        self.round.device.write(first * SECTOR, contents(first, count, write))
        # A process that dies takes no page cache along: what was answered is held to be there even without a flush.
        oracle.acknowledged(first, count, write)

    def read_hot(self):
        """Nobody else writes here: whatever moves meanwhile, the last write is what is read."""
        for sector, data in read_piece(self.round.device, self.first, HOT):
            if wrong := self.round.oracle.check(sector, data):
                raise harness.Failure(f"sector {sector} while units move: {wrong}")


class Remapper(Worker):
    """Moves units to the spare and back under the writers' hands, hot ones more often."""

    def step(self):
        writer = self.chance.randrange(WRITERS)
        units = (HOT if self.chance.random() < 0.8 else WRITER_SECTORS) // UNIT_SECTORS
        sector = writer * WRITER_SECTORS + self.chance.randrange(units) * UNIT_SECTORS
        verb = self.chance.choice(("remap", "unmap"))
        reply = self.round.set.control(verb, sector=sector)
        if reply["ok"]:
            self.round.moves[verb] += 1
        elif reply["error"]["id"] not in ("not-remapped", "main-still-bad"):
            raise harness.Failure(f"{verb} {sector}: {reply['error']}")


class Loser(Worker):
    """Loses sectors, then writes them again: whole units, single sectors, or never."""

    def __init__(self, round_, units):
        super().__init__(round_, "loser")
        self.units = units

    def step(self):
        if not self.units:
            self.round.over.wait(0.01)
            return
        self.lose_and_overwrite(self.units.pop() * UNIT_SECTORS)

    def lose_and_overwrite(self, first):
        bad = sorted(self.chance.sample(range(first, first + UNIT_SECTORS), self.chance.randint(1, 3)))
        oracle, device = self.round.oracle, self.round.device
        oracle.may_be_lost.update(bad)
        for sector in bad:
            reply = self.round.set.control("dust", store="main", op="addbadblock", sector=sector, mode="read", count=1)
            if not reply["ok"]:
                raise harness.Failure(f"dust: {reply}")
        for sector in range(first, first + UNIT_SECTORS):
            self.expect(sector, lost=sector in bad)
        if self.chance.random() < 0.3:
            return
        whole = self.chance.random() < 0.3
        for start, count in [(first, UNIT_SECTORS)] if whole else [(s, 1) for s in bad]:
            write = self.round.next_write()
            oracle.began(start, count, write)
            device.write(start * SECTOR, contents(start, count, write))
            oracle.acknowledged(start, count, write)
            self.round.overwritten += 1
            if self.chance.random() < 0.3:
                device.sync()

    def expect(self, sector, lost):
        try:
            data = self.round.device.read(sector * SECTOR, SECTOR)
        except OSError as problem:
            if problem.errno == errno.EIO and lost:
                return
            raise
        if lost:
            raise harness.Failure(f"sector {sector} is lost and reads as {describe(data)}")
        if wrong := self.round.oracle.check(sector, data):
            raise harness.Failure(f"sector {sector}: {wrong}")


class Discarder(Worker):
    """Zeroes units behind the writers' parts, some of them remapped."""

    FIRST = LOSSES_FIRST + 16 * MIB // SECTOR

    def step(self):
        first = self.FIRST + self.chance.randrange(256) * UNIT_SECTORS
        count = self.chance.choice((8, 16, 24))
        write = ZERO if self.chance.random() < 0.4 else self.round.next_write()
        if self.chance.random() < 0.3:
            self.round.set.control("remap", sector=first)
        oracle = self.round.oracle
        oracle.began(first, count, write)
        if write == ZERO:
            zero_out(self.round.device.fd, first * SECTOR, count * SECTOR)
        else:
            self.round.device.write(first * SECTOR, contents(first, count, write))
        oracle.acknowledged(first, count, write)
        if self.chance.random() < 0.2:
            self.round.device.sync()


class Round:
    def __init__(self, test_set, device, oracle, seed, first_write, loss_units):
        self.set, self.device, self.oracle, self.seed = test_set, device, oracle, seed
        self.over, self.killing = threading.Event(), threading.Event()
        self.moves = {"remap": 0, "unmap": 0}
        self.write_errors = 0
        self.flushes = self.overwritten = 0
        self._write, self._lock = first_write, threading.Lock()
        self.workers = [Writer(self, n) for n in range(WRITERS)]
        self.workers += [Remapper(self, "remapper a"), Remapper(self, "remapper b"), Remapper(self, "remapper c"), Loser(self, loss_units),
                         Discarder(self, "discarder")]

    def next_write(self):
        with self._lock:
            self._write += 1
            return self._write

    def spoil_hot_sectors(self):
        """Some of the places that are written most cannot be written on main: those writes move units themselves."""
        chance = random.Random(self.seed)
        for writer in range(WRITERS):
            for sector in chance.sample(range(64), 3):
                self.set.control("dust", store="main", op="addbadblock", sector=writer * WRITER_SECTORS + sector,
                                 mode="write", count=1)

    def run(self, seconds):
        """Works for a while and kills the daemon in the midst of it."""
        self.spoil_hot_sectors()
        for worker in self.workers:
            worker.start()
        self.over.wait(seconds)
        self.write_errors = self.set.control("stats")["result"]["main_write_errors"]
        self.killing.set()
        self.set.daemon.kill()
        self.over.set()
        for worker in self.workers:
            worker.join(60)
            if worker.is_alive():
                raise harness.Failure(f"{worker.name} hangs after the daemon's end")
            if worker.problem:
                raise harness.Failure(f"{worker.name}: {worker.problem!r}") from worker.problem


class Kill9(harness.TestCase):
    def test_rounds(self):
        print(f"{ROUNDS} rounds, seed {SEED} (DMREMAP_KILL_ROUNDS, DMREMAP_SEED)", flush=True)
        chance = random.Random(SEED)
        self.set = self.make_set(main_size=MAIN_SIZE, spare_size=48 * MIB, dust=True)
        self.oracle = Oracle()
        loss_units = list(range(LOSSES_FIRST // UNIT_SECTORS, (LOSSES_FIRST + 16 * MIB // SECTOR) // UNIT_SECTORS))
        chance.shuffle(loss_units)
        totals = {"flushes": 0, "overwritten": 0, "remap": 0, "unmap": 0, "operations": 0, "write errors": 0}
        last_write = 0
        for number in range(ROUNDS):
            seed = chance.randrange(1 << 32)
            self.set.start()
            loop = self.set.loop()
            with DirectFile(loop.path, write=True) as device:
                if number:
                    self.check_all(device, number)
                take = [loss_units.pop() for _ in range(min(LOSSES_PER_ROUND, len(loss_units)))]
                round_ = Round(self.set, device, self.oracle, seed, last_write, take)
                self.assertEqual(loop.dio, 1)
                round_.run(chance.uniform(0.05, 0.8))
            last_write = round_.next_write()
            for worker in round_.workers:
                totals["operations"] += worker.operations
            totals["flushes"] += round_.flushes
            totals["overwritten"] += round_.overwritten
            totals["write errors"] += round_.write_errors
            for verb, count in round_.moves.items():
                totals[verb] += count
            loop.detach()
            self.set.kill()
        self.set.start()
        loop = self.set.loop()
        with DirectFile(loop.path) as device:
            self.check_all(device, ROUNDS)
        loop.detach()
        self.set.stop()
        print(totals, flush=True)
        for what, count in totals.items():
            self.assertGreater(count, ROUNDS // 2, f"the rounds did too little: {what}")

    def check_all(self, device, number):
        wrong = []
        touched = sorted(set(self.oracle.sure) | set(self.oracle.open) | self.oracle.may_be_lost)
        for first, count in harness.runs(touched):
            for sector, data in read_sectors(device, first, count):
                problem = self.oracle.check(sector, data)
                if problem:
                    wrong.append(f"sector {sector}: {problem}")
                else:
                    self.oracle.settle(sector, data)
        self.assertEqual(wrong[:20], [], f"{len(wrong)} sectors wrong after kill {number}, seed {SEED}")

    # --- a file system made by hand of the user is no stranger ---

    def test_mkfs_then_kill(self):
        """mkfs through the loop device changes what main is; the set's own main is not refused for it."""
        self.set = self.make_set(main_size=MAIN_SIZE, spare_size=32 * MIB)
        for make in (["mkfs.ext4", "-q"], ["mkfs.ext4", "-q", "-F", "-b", "1024"]):
            self.set.start()
            loop = self.set.loop()
            self.workspace.run(*make, loop)
            self.set.do("remap", 8 * 100)
            self.set.daemon.kill()
            loop.detach()
            self.set.kill()
            self.set.start()
            loop = self.set.loop()
            self.workspace.run("e2fsck", "-fn", loop)
            loop.detach()
            self.set.stop()

    def test_kill_with_a_mounted_file_system(self):
        """Files that were synced are there after the daemon was killed under a mounted file system."""
        self.set = self.make_set(main_size=MAIN_SIZE, spare_size=32 * MIB)
        self.set.start()
        loop = self.set.loop()
        self.workspace.run("mkfs.ext4", "-q", loop)
        sums = {}
        for turn in range(3):
            mnt = self.workspace.mount(loop)
            folder = mnt / f"turn{turn}"
            folder.mkdir()
            sums.update({f"turn{turn}/{n}": s for n, s in harness.make_tree(folder, 60, turn, 1, 100_000).items()})
            for unit in range(300 * turn, 300 * turn + 40):
                self.set.control("remap", sector=unit * 10 * UNIT_SECTORS)
            (mnt / f"unsynced{turn}").write_bytes(b"x" * 100_000)
            self.set.daemon.kill()
            mnt.force()
            loop.detach()
            self.set.kill()
            self.set.start()
            loop = self.set.loop()
            mnt = self.workspace.mount(loop)
            harness.drop_caches()
            self.assertEqual(harness.check_tree(mnt.path, sums), ([], []))
            mnt.unmount()
            self.workspace.run("e2fsck", "-fn", loop)
        loop.detach()
        self.set.stop()


if __name__ == "__main__":
    harness.main()
