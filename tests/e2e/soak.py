# SPDX-License-Identifier: GPL-2.0-or-later
"""One set that is worn down for a while: rounds of load and mishaps, all data compared after each. Threads of one
Subject share it as soak_load.py says; two Subjects share nothing.
"""

import contextlib
import os
import random
import shutil
import subprocess
import threading
import time

import harness
import soak_load
from harness import MIB, SECTOR, UNIT_SECTORS
from metadata import Damage, Layout, initialised_blocks
from tagged_files import Files

MAIN_SIZE, SPARE_SIZE = 160 * MIB, 48 * MIB
MOST_UNITS = 4000      # on the spares; then the drive is well for a moment and units go back
MOST_SPARES = 3
WARM_READERS = 64
MAKE = {"ext4": ["mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        "btrfs": ["mkfs.btrfs", "-q"]}
CHECK = {"ext4": ["e2fsck", "-fn"], "btrfs": ["btrfs", "check", "--force"]}  # force: it would look into all mounts, dead ones, too
FIGURES = ("rounds", "kills", "daemons started", "bytes compared", "pages compared", "fio runs", "bad sectors",
           "bad sectors on spares", "sectors lost", "failed reads, each EIO", "sectors salvaged", "units moved by hand",
           "units moved back", "units moved by errors", "metadata copies spoiled", "spares added", "spares emptied",
           "spares removed")


class SoakSet(harness.Set):
    """A set of one spare or more, all behind dust."""

    def __init__(self, workspace, name):
        super().__init__(workspace, name, main_size=MAIN_SIZE, spare_size=SPARE_SIZE, dust=True)
        self.spares = [self.spare]

    @property
    def spare_members(self):
        return [f"dust:{path}" for path in self.spares]


class Subject:
    """A set under a file system. `memory`: its daemon stays from the first minute to the last and is looked at."""

    def __init__(self, name, fs_type, seed, over, memory=None):
        self.name, self.fs_type, self.over, self.memory = name, fs_type, over, memory
        self.chance = random.Random(seed)
        self.figures = dict.fromkeys(FIGURES, 0)
        self.wrong = []
        self.files, self.trees = Files(self.chance.random(), largest=32), {}
        self.lost_pages, self.doubtful_pages = set(), set()  # (file, page) that must, that may answer EIO
        self.by_hand = []        # units that were moved by hand
        self.round_over, self.killing = threading.Event(), threading.Event()
        self.quiet = threading.Lock()   # whoever holds it is alone with the tagged files
        self.moving = threading.Lock()  # whoever holds it is alone with the map, but for errors
        self.set = None
        self._number = self._spares_made = 0
        self._errors_moved = 0

    def next_number(self):
        self._number += 1
        return self._number

    def run(self, deadline):
        """Until the deadline or until somebody sets `over`; what is wrong is in `wrong`, all is taken down."""
        self.workspace = harness.Workspace(own_sessions=True)
        try:
            self.prepare()
            while not self.over.is_set() and time.monotonic() < deadline:
                self.round(deadline)
                self.figures["rounds"] += 1
            if self.set.daemon and self.set.daemon.running():
                self.down()
        except Exception as problem:
            log = "\n".join(self.set.daemon.log().splitlines()[-12:]) if self.set and self.set.daemon else ""
            self.wrong.append(f"{problem!r}\n{log}")
            self.over.set()
        finally:
            self.round_over.set()
            self.workspace.close()

    # --- up and down ---

    def prepare(self):
        self.set = SoakSet(self.workspace, self.name)
        self.set.create()
        # A program of earlier days knows the words but refuses them; only one that can do it can also stop it.
        self.can_change_spares = "--cancel" in self.workspace.dmremap("spare", "--help").stdout
        self.up()
        if self.memory:
            self.warm_up()
        self.workspace.run(*MAKE[self.fs_type], self.loop)
        if not self.memory:
            self.down()

    def warm_up(self):
        """Lets every thread of the daemon use all of its buffer, those of the slow path as well, so that a buffer that
        is used for the first time later on is not taken for a leak."""
        places = [n * MIB for n in range(WARM_READERS)]
        for offset in places:
            self.dust("main", "addbadblock", offset // SECTOR, "read")

        def read_and_write(offset):
            with harness.DirectFile(self.loop.path, write=True) as device:
                for _ in range(8):
                    with contextlib.suppress(OSError):
                        device.read(offset, MIB)
                device.write(offset, bytes(MIB))

        threads = [threading.Thread(target=read_and_write, args=(offset,)) for offset in places]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.set.control("dust", store="main", op="clearbadblocks")
        for offset in places:
            self.set.control("unmap", sector=offset // SECTOR)

    def up(self):
        self.set.start()
        self.figures["daemons started"] += 1
        self.loop = self.set.loop()

    def down(self):
        self.count_moved()
        self.loop.detach()
        self.set.stop()

    def mount(self):
        return self.workspace.mount(self.loop, fs_type=self.fs_type)

    def sync(self, path):
        """What was written is on the medium on return. A btrfs whose device failed turns read-only, and from then on
        syncfs(2) succeeds without doing anything: seen with Linux 6.18."""
        self.workspace.run("sync", "-f", path)
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            raise harness.Failure(f"{path} turned read-only: what was written last is not on the medium")

    def count_moved(self):
        moved = self.set.control("stats")["result"]["auto_remaps"]
        self.figures["units moved by errors"] += moved - self._errors_moved
        self._errors_moved = moved

    # --- a round ---

    def round(self, deadline):
        if not self.set.daemon.running():
            self.up()
        self.mnt = self.mount()
        self.clear_away()
        self.compare()
        self.round_over.clear()
        self.killing.clear()
        threads = soak_load.start(self, self.mnt.path)
        try:
            self.mishaps(min(deadline, time.monotonic() + self.chance.uniform(4, 12)))
        finally:
            kill = self.memory is None and self.chance.random() < 0.7
            if kill:
                self.killing.set()
                self.count_moved()
                self.set.daemon.kill()
            self.round_over.set()
            complaints = soak_load.join(threads)
        if complaints:
            raise harness.Failure("; ".join(complaints))
        if kill:
            self.figures["kills"] += 1
            self.mnt.force()
            self.loop.detach()
            self.set.kill()
        else:
            self.end_well()
        if not self.set.daemon.running() and self.chance.random() < 0.7:
            self.spoil_metadata()

    def end_well(self):
        self.compare()
        # A program that the other Subject starts just now has our open files until its exec.
        harness.wait_until(lambda: self.workspace.run("umount", self.mnt.path, check=False).returncode == 0, 20,
                           f"{self.mnt.path} is unmounted")
        self.workspace.forget(self.mnt)
        self.workspace.run(*CHECK[self.fs_type], self.loop)
        self.make_room()
        if self.memory is None:
            self.down()
        else:
            self.count_moved()
            if self.memory.wants_alike():
                while len(self.set.spares) > 1:  # each has descriptors of its own
                    self.empty_spare(always_remove=True)
            if len(self.set.spares) == 1:
                self.memory.look(self.set.daemon, self.set.control("stats")["result"]["remapped_units"])

    def clear_away(self):
        """What a killed round left half made."""
        self.files.after_crash(self.mnt.path)
        for entry in self.mnt.path.iterdir():
            if entry.name.startswith("tree") and entry.name not in self.trees:
                shutil.rmtree(entry)
        for number in range(5):
            (self.mnt / f"folder{number}").mkdir(exist_ok=True)
        self.sync(self.mnt.path)

    def compare(self):
        """Everything that was written and acknowledged; what is lost answers EIO, nothing else does."""
        with self.quiet:
            wrong, unreadable = self.files.check(self.mnt.path)
            if not self.lost_pages <= unreadable <= self.lost_pages | self.doubtful_pages:
                wrong.append(f"EIO without a reason: {sorted(unreadable - self.lost_pages)[:5]}; lost, and reads: "
                             f"{sorted(self.lost_pages - unreadable)[:5]}")
            pages = sum(self.files.pages.values())
        if wrong:
            raise harness.Failure("; ".join(wrong[:20]))
        self.figures["pages compared"] += pages
        self.figures["bytes compared"] += (pages - len(unreadable)) * harness.UNIT
        self.figures["failed reads, each EIO"] += len(unreadable)
        for name in list(self.trees):
            soak_load.compare_tree(self, self.mnt.path, name)

    # --- mishaps, one after the other ---

    def mishaps(self, until):
        kinds = [self.fail_writes, self.fail_writes, self.lose, self.lose, self.heal, self.salvage,
                 self.fail_spare_writes]
        if self.can_change_spares:
            kinds += [self.add_spare, self.empty_spare]
        while time.monotonic() < until and not self.over.is_set() and not self.round_over.wait(
                self.chance.uniform(0.1, 0.8)):
            self.chance.choice(kinds)()
            state = self.set.control("status")["result"]["stats"]
            if state["breaker_open"] or state["main_gone"]:
                raise harness.Failure(f"took bad places for the end of main: {state['state']}")

    def dust(self, store, op, sector, mode, count=1):
        reply = self.set.control("dust", store=store, op=op, sector=sector, mode=mode, count=count)
        if not reply["ok"]:
            raise harness.Failure(f"dust {store} {op} {sector}: {reply['error']}")

    def fail_writes(self):
        """A few places of main cannot be written any more, whatever is there. Nobody may notice."""
        for _ in range(self.chance.randint(1, 4)):
            count = self.chance.choice((1, 1, 2, 8))
            self.dust("main", "addbadblock", self.chance.randrange(MAIN_SIZE // SECTOR - count), "write", count)
            self.figures["bad sectors"] += count

    def lose(self):
        """A few sectors under tagged files cannot be read any more: only their pages may answer EIO from now on."""
        with self.quiet, self.moving:
            if len(self.lost_pages) > 40:
                return
            self.sync(self.mnt.path)
            moved = set(self.set.remaps())
            home = {s: p for s, p in self.files.places(self.set.main).items() if s // UNIT_SECTORS not in moved}
            if not home:
                return
            chosen = self.chance.sample(sorted(home), min(len(home), self.chance.randint(1, 5)))
            for sector in chosen:
                self.dust("main", "addbadblock", sector, self.chance.choice(("read", "both")))
            pages = {home[s] for s in chosen}
            wrong, unreadable = self.files.check(self.mnt.path, only=sorted(pages))
            # Not all need to fail now: btrfs reads from its cache, or a copy was left behind that is nowhere in use.
            self.lost_pages |= unreadable
            self.doubtful_pages |= pages - unreadable
            if wrong:
                raise harness.Failure(f"{wrong}; bad sectors: {sorted(chosen)}")
            self.figures["bad sectors"] += len(chosen)
            self.figures["sectors lost"] += sum(home[s] in unreadable for s in chosen)
            self.figures["failed reads, each EIO"] += len(unreadable)

    def write(self, number, first, count):
        """Writes pages of a tagged file: they must read again. Where a kill comes between, a lost one may or may not."""
        pages = {(number, page) for page in range(first, first + count)}
        self.doubtful_pages |= pages & self.lost_pages
        self.lost_pages -= pages
        self.files.write(self.mnt.path, number, first, count)
        self.doubtful_pages -= pages

    def removed(self, number):
        pages = {(number, page) for page in range(self.files.pages[number])}
        self.lost_pages -= pages
        self.doubtful_pages -= pages

    def heal(self):
        """Half of the lost pages are written again, and read."""
        with self.quiet:
            for number, page in sorted(self.lost_pages):
                if self.chance.random() < 0.5:
                    self.write(number, page, 1)
                    wrong, unreadable = self.files.check(self.mnt.path, only=[(number, page)])
                    if wrong or unreadable:
                        raise harness.Failure(f"file {number} page {page} was written again: {wrong or 'EIO'}")

    def salvage(self):
        """The drive reads again: all that was lost comes back."""
        with self.quiet, self.moving:
            if not self.lost_pages or self.chance.random() < 0.5:
                return
            self.dust("main", "removebadblock", 0, "read", MAIN_SIZE // SECTOR)
            reply = self.set.control("salvage", sector=None)
            if not reply["ok"] or reply["result"]["still_lost"]:
                raise harness.Failure(f"salvage: {reply}")
            self.figures["sectors salvaged"] += reply["result"]["recovered"]
            wrong, unreadable = self.files.check(self.mnt.path, only=sorted(self.lost_pages))
            if wrong or unreadable:
                raise harness.Failure(f"salvaged, and: {wrong} EIO: {sorted(unreadable)}")
            self.lost_pages.clear()

    def fail_spare_writes(self):
        """A free place of the first spare cannot be written: the next one is taken. Not under metadata: what is spoiled
        there between rounds would be more than four copies."""
        metadata = Layout(self.set.spares[0]).metadata_units()
        with self.moving:
            used = {r["spare_sector"] // UNIT_SECTORS for r in self.set.remaps().values()}
            free = [u for u in range(SPARE_SIZE // harness.UNIT) if u not in used and u not in metadata]
            if len(free) < 1000:
                return
            unit = self.chance.choice(free[:800])
            self.dust(str(self.set.spares[0]), "addbadblock", unit * UNIT_SECTORS + self.chance.randrange(UNIT_SECTORS), "write")
        self.figures["bad sectors on spares"] += 1

    # --- spares that come and go ---

    def spare(self, operation, member, *words):
        self.workspace.dmremap("spare", operation, self.set.name, member, *words)

    def evacuate(self, member):
        """Waits as long as units move: each takes several flushes, and the machine may have other work."""
        command = [harness.program("dmremap"), "spare", "evacuate", self.set.name, member]
        with subprocess.Popen(command, env=self.workspace.env, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            moved = -1
            while True:
                try:
                    out, err = running.communicate(timeout=120)
                    break
                except subprocess.TimeoutExpired:
                    before, moved = moved, self.set.control("evacuation")["result"]["done"]
                    if moved == before:
                        running.kill()
                        raise harness.Failure(f"{member}: no unit has left it for 120 s, {moved} had before")
        if running.returncode != 0:
            raise harness.Failure(f"spare evacuate {member}: exit {running.returncode}\n{out}{err}")

    def add_spare(self):
        if len(self.set.spares) >= MOST_SPARES:
            return
        self._spares_made += 1
        path = self.workspace.sparse(f"{self.name}-spare{self._spares_made}.img", SPARE_SIZE)
        self.spare("add", f"dust:{path}")
        self.set.spares.append(path)
        self.figures["spares added"] += 1

    def empty_spare(self, always_remove=False):
        """Moves what the oldest spare holds to the others, then takes it out; sometimes it stays."""
        if len(self.set.spares) < 2:
            return
        member = f"dust:{self.set.spares[0]}"
        self.evacuate(member)
        self.figures["spares emptied"] += 1
        if always_remove or self.chance.random() < 0.7:
            self.spare("remove", member)
            self.set.spares.pop(0).unlink()
            self.figures["spares removed"] += 1
        else:
            self.spare("evacuate", member, "--cancel")

    # --- between rounds ---

    def make_room(self):
        """Where much is on the spares: the drive is well for a moment, and units go back."""
        remaps = self.set.remaps()
        if len(remaps) < MOST_UNITS:
            return
        self.set.control("dust", store="main", op="clearbadblocks")
        for unit in self.chance.sample(sorted(remaps), len(remaps) * 3 // 4):
            reply = self.set.control("unmap", sector=unit * UNIT_SECTORS)
            if reply["ok"]:
                self.figures["units moved back"] += 1
            elif reply["error"]["id"] not in soak_load.EXPECTED:
                raise harness.Failure(f"unmap unit {unit}: {reply['error']}")
        self.by_hand = []

    def spoil_metadata(self):
        """Up to four of the five copies of any block of the table, and of the superblock all but a few."""
        for spare in self.set.spares:
            layout, damage = Layout(spare), Damage(spare, self.chance.random())
            victims = self.chance.sample(layout.super_units, self.chance.randint(1, 4))
            for block in initialised_blocks(spare, layout):
                if self.chance.random() < 0.8:
                    victims += [layout.block_unit(replica, block)
                                for replica in self.chance.sample(range(5), self.chance.randint(1, 4))]
            for unit in victims:
                damage.unit(unit, self.chance.choice(("zeros", "noise", "bit", "torn")))
            self.figures["metadata copies spoiled"] += len(victims)
