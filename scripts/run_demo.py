# SPDX-License-Identifier: GPL-2.0-or-later
"""The main job, visibly: what scripts/demo runs once the programs are built."""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/e2e"))
import harness  # noqa: E402
import victims  # noqa: E402
from harness import MIB, UNIT, UNIT_SECTORS  # noqa: E402
from metadata import Damage, Layout  # noqa: E402

FILES, LOSERS, WRITERS = 240, 32, 32
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


class Wrong(Exception):
    """Data is not what it should be."""


def require(good, what):
    if not good:
        raise Wrong(what)
    print(f"   ok: {what}", flush=True)


class Demo:
    def __init__(self, workspace):
        self.workspace = workspace
        self.steps = 0
        self.started = time.monotonic()

    def step(self, title, *why):
        self.steps += 1
        print(f"\n{BOLD}{self.steps}. {title}{PLAIN}")
        for line in why:
            print(f"   {line}")
        sys.stdout.flush()

    def show(self, *command, lines=12):
        """Runs a command as a person would see it."""
        words = [Path(str(w)).name if i == 0 else str(w) for i, w in enumerate(command)]
        print(f"   $ {' '.join(words)}")
        answer = self.workspace.run(*command)
        for line in answer.stdout.splitlines()[:lines]:
            print(f"     {line}")
        sys.stdout.flush()
        return answer.stdout

    def dmremap(self, *words, **options):
        return self.show(harness.program("dmremap"), *words, **options)

    # --- pieces that several steps use ---

    def attach(self):
        print("   $ dmremap attach demo")
        self.attached = harness.Attached(self.workspace, "demo")
        self.loop = self.attached.loop
        print(f"     {self.loop}")
        require(self.attached.dio == 1, f"{self.loop} does direct I/O (dio = 1)")

    def mount(self):
        self.mnt = self.workspace.mount(self.loop, "files", fs_type="ext4")
        harness.drop_caches()

    def compare(self, lost=()):
        """Every file against what was written; of a file with a lost sector every page but that."""
        skip = {v.name for v in lost}
        sums = {n: s for n, s in self.sums.items() if n not in skip}
        different, unreadable = harness.check_tree(self.mnt.path, sums)
        if different or unreadable:
            raise Wrong(f"differ: {different}; cannot be read: {unreadable}")
        wrong = [w for v in lost for w in v.check_file(self.mnt / v.name)]
        if wrong:
            raise Wrong("; ".join(wrong))
        require(True, f"{len(sums)} files compare equal" + (
            f"; of {len(lost)} more everything but the lost sector, which answers EIO" if lost else ""))

    def remaps(self):
        return {u: (r["spare_sector"], r["lost_mask"]) for u, r in self.set.remaps().items()}

    # --- the story ---

    def run(self):
        self.make()
        self.fill()
        self.break_drive()
        self.read()
        self.write()
        self.salvage()
        self.reattach()
        self.kill()
        self.destroy_metadata()
        print(f"\n{BOLD}All data is what it should be.{PLAIN} {len(self.sums)} files, "
              f"{len(self.remaps())} units moved to the spare, {time.monotonic() - self.started:.0f} s.")
        self.mnt.unmount()
        self.attached.detach()

    def make(self):
        self.step("A set from two sparse files", "main is what wears out: 112 MiB. spare is what stands in: 32 MiB.",
                  "'dust:' in front of main lets us make its sectors fail on command.")
        self.set = harness.Set(self.workspace, "demo", main_size=112 * MIB, spare_size=32 * MIB, dust=True)
        self.dmremap("create", "demo", "--main", self.set.main_member, "--spare", self.set.spare)
        self.step("Mount and attach", "One command starts fusedisk and puts a loop device on its image.")
        self.attach()

    def fill(self):
        self.step(f"ext4 with {FILES} files on it")
        self.show("mkfs.ext4", "-q", "-b", 4096, "-E", "lazy_itable_init=0,lazy_journal_init=0", self.loop)
        self.mount()
        self.sums = harness.make_tree(self.mnt.path, FILES, 1, 8 * 1024, 200 * 1024)
        chosen = victims.choose(self.sums, self.mnt, LOSERS + WRITERS, random.Random(1))
        self.losers, self.writers = chosen[:LOSERS], chosen[LOSERS:]
        self.blocks = victims.ext4_metadata_blocks(self.workspace, self.loop, "dir1")
        self.compare()
        self.mnt.unmount()

    def break_drive(self):
        self.step("The drive goes bad", f"{LOSERS} sectors inside {LOSERS} files cannot be read any more,",
                  f"{WRITERS} sectors inside {WRITERS} other files cannot be written, nor can sectors of",
                  f"4 ext4 metadata blocks ({', '.join(map(str, self.blocks))}). First and last of them:")
        self.set.break_sectors([v.sector for v in self.losers], "read")
        self.set.break_sectors([v.sector for v in self.writers] + [b * UNIT_SECTORS for b in self.blocks], "write")
        self.dmremap("dust", "demo", "main", "queryblock", self.losers[0].sector)
        self.dmremap("dust", "demo", "main", "queryblock", self.blocks[-1] * UNIT_SECTORS)
        self.dmremap("dust", "demo", "main", "countbadblocks")

    def read(self):
        self.step("Read everything, from the drive", "What can be read is there, and its unit moves to the spare.",
                  "A sector that cannot be read is lost: it answers EIO, never other bytes.")
        self.mount()
        self.compare(self.losers)
        wrong = [w for v in self.losers for w in v.check_block(self.loop)]
        require(not wrong, "the 7 good sectors of each bad block are still there" + "; ".join(wrong))
        reads, _ = self.set.dust_failures()
        require(reads >= LOSERS, f"the drive failed {reads} reads meanwhile")
        require(self.set.lost() == {v.sector for v in self.losers}, f"exactly {LOSERS} sectors are lost")

    def write(self):
        self.step("Go on writing", "Sectors that cannot be written cost nobody anything: data first, then the map,",
                  "go to the spare before the write is acknowledged.")
        for number, v in enumerate(self.writers):
            start = v.page * UNIT
            fresh = harness.pattern(number, UNIT)[:len(v.data[start:start + UNIT])]
            v.data = v.data[:start] + fresh + v.data[start + len(fresh):]
            with open(self.mnt / v.name, "r+b", buffering=0) as f:
                os.pwrite(f.fileno(), fresh, start)
                os.fsync(f.fileno())
            self.sums[v.name] = hashlib.sha256(v.data).hexdigest()
        for i in range(40):  # new files: bitmaps, inodes and folders are written
            name = f"dir1/new{i}" if i % 4 else f"new{i}"
            data = harness.pattern(name, 20000)
            (self.mnt / name).write_bytes(data)
            self.sums[name] = hashlib.sha256(data).hexdigest()
        harness.drop_caches()
        _, writes = self.set.dust_failures()
        require(writes >= WRITERS, f"the drive failed {writes} writes; no program saw one")
        missing = {v.unit for v in self.writers} - set(self.remaps())
        require(not missing, "all units that could not be written are on the spare")
        self.compare(self.losers)
        self.dmremap("status", "demo", lines=16)

    def salvage(self):
        self.step("Salvage", "The drive has a good moment: its bad sectors read again.")
        self.dmremap("dust", "demo", "main", "clearbadblocks")
        self.dmremap("salvage", "demo", "all")
        require(not self.set.lost(), "nothing is lost any more")
        harness.drop_caches()
        self.compare()

    def reattach(self):
        self.step("Detach and attach", "The map is on the spare, in five copies.")
        before = self.remaps()
        self.mnt.unmount()
        print("   $ dmremap detach demo")
        self.attached.detach()
        self.attach()
        require(self.remaps() == before, f"the same {len(before)} remaps")
        self.mount()
        self.compare()

    def kill(self):
        self.step("kill -9 of the daemon, in the midst of writing", "What was flushed is there afterwards.")
        before = self.remaps()
        for i in range(10):
            data = harness.pattern(f"kill{i}", 50_000)
            name = f"before-the-kill{i}"
            with open(self.mnt / name, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            self.sums[name] = hashlib.sha256(data).hexdigest()
        (self.mnt / "unflushed").write_bytes(b"?" * MIB)
        print(f"   $ kill -9 {self.attached.pid}")
        self.attached.kill()
        self.mnt.force()
        print("   $ dmremap detach demo")
        self.attached.detach()
        self.attach()
        require(self.remaps() == before, f"the same {len(before)} remaps")
        self.mount()
        self.compare()

    def destroy_metadata(self):
        self.step("Overwrite four of the five copies of all metadata",
                  "All superblocks but one at the fixed sectors; of five tables with their heads, four.")
        before = self.remaps()
        self.mnt.unmount()
        self.attached.detach()
        layout, damage = Layout(self.set.spare), Damage(self.set.spare)
        spoilt = [u for i, u in enumerate(layout.super_units[:5]) if i != 2]
        for replica in (0, 1, 3, 4):
            start = layout.replica_start[replica]
            spoilt += range(start, start + 1 + layout.table_blocks)
        for unit in spoilt:
            damage.unit(unit, "noise")
        print(f"   {len(spoilt)} of {9 + 1 + 5 * layout.table_blocks} blocks of metadata are noise now")
        self.attach()
        require(self.remaps() == before, f"the same {len(before)} remaps")
        self.mount()
        self.compare()
        self.dmremap("message", "demo", 0, "metadata_status")
        spare = self.set.ask("status")["spares"][0]
        require((spare["super_copies_valid"], spare["head_copies_valid"], spare["weakest_block_copies"]) == (5, 5, 5),
                "all copies are mended")


def main():
    missing = harness.why_not()
    if missing:
        sys.exit(f"scripts/demo: {missing}")
    harness.clean_up_on_signals()
    with harness.Workspace() as workspace:
        try:
            Demo(workspace).run()
        except (Wrong, harness.Failure) as problem:
            print(f"\nscripts/demo: FAILED: {problem}\nThe last commands:\n{workspace.recent()}", file=sys.stderr)
            sys.exit(1)


if __name__ == "__main__":
    main()
