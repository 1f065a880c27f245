# SPDX-License-Identifier: GPL-2.0-or-later
"""Which files the lost sectors belong to. What is right is read from the disk itself: every sector of every file says
whose it is and the how-manieth."""

import os
import random
import subprocess

import harness
from harness import MIB, SECTOR, UNIT_SECTORS, DirectFile

MAGIC = b"owner:"


def tagged(inode_name, size):
    """Bytes of a file of which each sector tells its place."""
    return b"".join(f"owner:{inode_name}:{i}:".encode().ljust(SECTOR, b".") for i in range(size // SECTOR))


def tags_on(path, offset=0):
    """{sector from `offset`: (name, number)} of a disk's image."""
    found = {}
    with open(path, "rb") as disk:
        end, at = os.fstat(disk.fileno()).st_size, 0
        while at < end:
            try:
                at = os.lseek(disk.fileno(), at, os.SEEK_DATA)
            except OSError:
                break
            hole = os.lseek(disk.fileno(), at, os.SEEK_HOLE)
            at -= at % SECTOR
            while at < hole:
                piece = os.pread(disk.fileno(), min(MIB, hole - at), at)
                for i in range(0, len(piece), SECTOR):
                    if piece.startswith(MAGIC, i):
                        name, number = piece[i + len(MAGIC):i + 100].split(b":")[:2]
                        found[(at + i - offset) // SECTOR] = (name.decode(), int(number))
                at += len(piece)
    return found


class LostFiles(harness.TestCase):
    MADE_OF = {"ext4": ["mkfs.ext4", "-q"], "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}

    def make(self, kind, device):
        """Files on a fresh file system; {name in the tags: all paths}."""
        self.workspace.run(*self.MADE_OF[kind], device)
        mount = self.workspace.mount(device, fs_type=kind)
        chance, names = random.Random(kind), {}
        for i in range(24):
            path = f"dir{i % 3}/sub/file {i}" if i % 2 else f"plain{i}"
            names[f"f{i}"] = [path]
            (mount / path).parent.mkdir(parents=True, exist_ok=True)
            (mount / path).write_bytes(tagged(f"f{i}", SECTOR * chance.randrange(16, 800)))
        names["odd"] = ["dir0/odd\nname\\\udcff"]
        (mount / names["odd"][0]).write_bytes(tagged("odd", 64 * SECTOR))
        os.link(mount / names["f0"][0], mount / "dir1/second name")
        names["f0"].append("dir1/second name")
        if kind != "ext4":
            self.workspace.run("cp", "--reflink=always", mount / names["f1"][0], mount / "shared")
            names["f1"].append("shared")
        if kind == "btrfs":
            self.workspace.run("btrfs", "subvolume", "create", mount / "volume")
            (mount / "volume/inner").write_bytes(tagged("inner", 64 * SECTOR))
            names["inner"] = ["volume/inner"]
        with open(mount / "set aside", "wb") as f:  # blocks that were never written are nobody's
            os.posix_fallocate(f.fileno(), 0, MIB)
        mount.unmount()
        return names

    def lose(self, device, sectors):
        self.set.break_sectors(sectors, "read")
        harness.drop_caches()
        with DirectFile(device.path) as disk:
            for sector in sectors:
                with self.assertRaises(OSError):
                    disk.read(sector * SECTOR, SECTOR)
        self.assertEqual(self.set.lost(), set(sectors))

    def choose(self, names, tags, seed):
        """Some sectors of many files; always of those with more names than one or odd ones."""
        chance, chosen = random.Random(seed), {}
        for name in [n for n in names if n[0] != "f" or len(names[n]) > 1] + chance.sample(sorted(names), 8):
            sector = chance.choice(sorted(s for s, (owner, _) in tags.items() if owner == name))
            chosen[sector] = tags[sector]
        return chosen

    def expected(self, names, chosen, before=""):
        """{(path, byte)} of every name of every file hit."""
        return {(before + path, number * SECTOR) for owner, number in chosen.values() for path in names[owner]}

    def report(self, code=0):
        answer = self.workspace.dmremap("lost", self.set.name, "--files", "--json", check=False)
        self.assertEqual(answer.returncode, code, answer.stderr)
        return harness.json.loads(answer.stdout)["areas"]

    def owned(self, area):
        return {(f["path"].replace("\ufffd", "\udcff"), f["offset"] + at) for f in area["files"]
                for at in range(0, f["length"], SECTOR)}

    def whole_disk(self, kind):
        self.set = self.make_set(main_size=400 * MIB, dust=True)
        self.set.start()
        loop = self.set.loop()
        names = self.make(kind, loop)
        tags = tags_on(self.set.main)
        chosen = self.choose(names, tags, kind)
        free = max(tags) + 40960 - max(tags) % UNIT_SECTORS  # 20 MiB behind the last file
        super_block = {"ext4": 2, "xfs": 0, "btrfs": 128}[kind]
        self.assertNotIn(free, tags)
        self.lose(loop, sorted([*chosen, free]))
        # Not mounted, on a loop device; then none of that; then mounted.
        for mounted in (False, False, True):
            if mounted:
                loop = self.set.loop()
                mount = self.workspace.mount(loop, fs_type=kind)
            area, = self.report()
            self.assertEqual((area["type"], area["mounted"], area["problem"]), (kind, mounted, None))
            self.assertEqual(area["lost_sectors"], len(chosen) + 1)
            before = f"{mount.path}/" if mounted else ""
            self.assertEqual(self.owned(area), self.expected(names, chosen, before))
            self.assertEqual([(o["sector"], o["count"], o["kind"]) for o in area["others"]], [(free, 1, "free")])
            self.assertEqual({f["sector"] for f in area["files"]}, set(chosen))
            self.check_rsync_list(names, chosen, before)
            if mounted:
                mount.unmount()
                # What is not a file's: the file system's own.
                self.lose_super_block(loop, super_block, {*chosen, free})
            loop.detach() if loop else None
            self.assertEqual(self.loops(), [])
            loop = None
        self.set.stop()

    def lose_super_block(self, loop, sector, lost):
        self.set.break_sectors([sector], "read")
        harness.drop_caches()
        with DirectFile(loop.path) as disk, self.assertRaises(OSError):
            disk.read(sector * SECTOR, SECTOR)
        self.assertEqual(self.set.lost(), lost | {sector})
        areas = self.report(code=4)  # nothing to be looked into any more, and it says so
        self.assertEqual(sum(a["lost_sectors"] for a in areas), len(lost) + 1)
        self.assertEqual([f for a in areas for f in a["files"]], [])

    def loops(self):
        return [line for line in self.workspace.run("losetup", "-nO", "BACK-FILE").stdout.splitlines()
                if str(self.set.image) in line]

    def check_rsync_list(self, names, chosen, before):
        """As rsync reads it: the names, each once, ended by zeros."""
        answer = subprocess.run([harness.program("dmremap"), "lost", self.set.name, "--format", "rsync"],
                                env=self.workspace.env, capture_output=True, check=True)
        listed = [os.fsdecode(name) for name in answer.stdout.split(b"\0")]
        self.assertEqual(listed.pop(), "")
        self.assertEqual(sorted(listed), sorted({path for path, _ in self.expected(names, chosen, before)}))

    def test_ext4(self):
        self.whole_disk("ext4")

    def test_xfs(self):
        self.whole_disk("xfs")

    def test_btrfs(self):
        self.whole_disk("btrfs")

    def test_partitions(self):
        """Two partitions and what lies before them."""
        self.set = self.make_set(main_size=500 * MIB, dust=True)
        self.set.start()
        loop = self.set.loop()
        self.workspace.run("sh", "-c", r'printf "label: gpt\nsize=200M\nsize=200M\n" | sfdisk -q "$0"', loop)
        loop.detach()
        loop = self.set.loop(partitions=True)
        starts, names = (2048, 2048 + 200 * 2048), {}
        for number, kind in ((1, "ext4"), (2, "btrfs")):
            names[kind] = self.make(kind, loop.partition(number))
        tags = tags_on(self.set.main)
        half = starts[1]
        first = self.choose(names["ext4"], {s: t for s, t in tags.items() if s < half}, 1)
        second = self.choose(names["btrfs"], {s: t for s, t in tags.items() if s >= half}, 2)
        self.lose(loop, sorted([1024, *first, *second]))
        refused = self.workspace.dmremap("lost", self.set.name, "--format", "rsync", "--json", check=False)
        areas = self.report()
        self.assertEqual([(a["type"], a["first_sector"]) for a in areas],
                         [("ext4", starts[0]), ("btrfs", starts[1]), (None, None)])
        self.assertEqual(self.owned(areas[0]), self.expected(names["ext4"], first))
        self.assertEqual(self.owned(areas[1]), self.expected(names["btrfs"], second))
        self.assertEqual([(o["sector"], o["kind"]) for o in areas[2]["others"]], [(1024, "unknown")])
        self.assertEqual(refused.returncode, 0, "--json is --format json")
        self.refused(self.workspace.dmremap("lost", self.set.name, "--format", "rsync", check=False),
                     says=["ext4", "mount this one"])
        text = self.workspace.dmremap("lost", self.set.name, "--files", errors="surrogateescape").stdout
        for path, _ in self.expected(names["btrfs"], second):
            self.assertIn(path.replace("\\", "\\134").replace("\n", "\\012"), text)
        loop.detach()
        self.set.stop()

    def test_nothing_lost_and_nothing_there(self):
        self.set = self.make_set(main_size=64 * MIB, dust=True)
        self.set.start()
        self.assertEqual(self.report(), [])
        loop = self.set.loop()
        self.lose(loop, [4096])
        area, = self.report(code=4)
        self.assertEqual(([(o["sector"], o["kind"]) for o in area["others"]], area["type"]), ([(4096, "unknown")], None))
        self.refused(self.workspace.dmremap("lost", self.set.name, "--files", "--format", "badblocks", check=False),
                     code=2, says=["--files"])
        loop.detach()
        self.set.stop()


if __name__ == "__main__":
    harness.main()
