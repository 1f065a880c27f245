# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies of the metadata destroyed in every combination that leaves one: the same map, the same data, all mended."""

import itertools
import random
import shutil
import subprocess

import harness
from harness import MIB, UNIT, UNIT_SECTORS, write_at
from metadata import Damage, Layout, decode, initialised_blocks, write_units

MAIN_SIZE, SPARE_SIZE = 8 * MIB, 16 * MIB


class Metadata(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.set = harness.Set(self.workspace, "e2e", main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        write_at(self.set.main, 0, harness.pattern("main", MAIN_SIZE))
        self.set.create().start()
        chance = random.Random(5)
        for unit in chance.sample(range(0, 1500), 300):  # more than one block of the table
            reply = self.set.control("remap", sector=unit * UNIT_SECTORS)
            self.assertTrue(reply["ok"], reply)
        # Units 627 and 2000 of the spare: blocks of their own, one of them far from what automatic remaps use.
        for dest, unit in ((1600, 627), (1601, 2000), (1602, 4000)):
            self.set.message("add_remap", dest * UNIT_SECTORS, unit * UNIT_SECTORS, 8)
        write_at(self.set.image, 8 * 1000, harness.pattern("written", 600 * UNIT))
        self.map = self.places()
        self.image = self.set.image.read_bytes()
        self.set.stop()
        self.layout = Layout(self.set.spare)
        self.saved = {}
        for path in (self.set.main, self.set.spare):
            self.saved[path] = path.with_suffix(".saved")
            copy_sparse(path, self.saved[path])

    def places(self):
        return {unit: (r["spare_sector"], r["lost_mask"], r["kind"]) for unit, r in self.set.remaps().items()}

    def restore(self):
        # To this host an old copy is suspicious; that is another test's subject.
        shutil.rmtree(self.workspace.path / "state", ignore_errors=True)
        copy_sparse(self.saved[self.set.spare], self.set.spare)

    def assert_opens_and_mends(self):
        self.set.start()
        self.assertEqual(self.places(), self.map, "the same map")
        harness.drop_caches()
        self.assertEqual(self.set.image.read_bytes(), self.image, "the same data")
        self.set.stop()
        self.assert_all_right()

    def assert_all_right(self):
        """By the decoder that shares no code with the engine."""
        said = decode(self.set.spare)
        self.assertEqual(said["problems"], [])
        self.assertTrue(said["all_copies_equal"])
        self.assertEqual([s["newest"] for s in said["superblocks"]], [True] * 10)
        for block in said["blocks"]:
            self.assertEqual([c["newest"] for c in block["copies"]], [True] * 5, block)
        found = {m["main_unit"]: (m["spare_unit"] * UNIT_SECTORS, m["lost"]) for m in said["map"]}
        self.assertEqual(found, {unit: place[:2] for unit, place in self.map.items()})

    # --- superblocks ---

    def test_superblocks_every_combination_of_the_five(self):
        """All ten are destroyed but one, or but any non-empty choice of the five at the fixed sectors."""
        fixed = self.layout.super_units[:5]
        choices = [c for n in range(1, 5) for c in itertools.combinations(fixed, n)]
        kinds = itertools.cycle(Damage.KINDS)
        for left in choices:
            kind = next(kinds)
            with self.subTest(left=left, kind=kind):
                self.restore()
                self.destroy_supers(set(self.layout.super_units) - set(left), kind)
                self.assert_opens_and_mends()

    def test_superblocks_one_head_is_left(self):
        for left in self.layout.super_units[5:]:
            for kind in ("zeros", "noise"):
                with self.subTest(left=left, kind=kind):
                    self.restore()
                    self.destroy_supers(set(self.layout.super_units) - {left}, kind)
                    self.assert_opens_and_mends()

    def destroy_supers(self, units, kind):
        damage = Damage(self.set.spare, repr(sorted(units)))
        elsewhere = next(u for u in self.layout.super_units if u not in units)
        for unit in sorted(units):
            damage.unit(unit, kind, elsewhere)

    def test_all_superblocks_destroyed(self):
        self.restore()
        write_all(self.set.spare, self.layout.super_units)
        self.assert_refused_unwritten()

    # --- table blocks ---

    def test_table_block_every_combination(self):
        blocks = initialised_blocks(self.set.spare, self.layout)
        self.assertGreaterEqual(len(blocks), 4)
        kinds = itertools.cycle(Damage.KINDS)
        chosen = itertools.cycle((blocks[0], blocks[-1], 2000 // 254, 627 // 254, 1024 // 254))
        choices = [c for n in range(1, 5) for c in itertools.combinations(range(5), n)]
        for left in choices:
            block, kind = next(chosen), next(kinds)
            with self.subTest(left=left, block=block, kind=kind):
                self.restore()
                self.destroy_block(block, set(range(5)) - set(left), kind)
                self.assert_opens_and_mends()

    def test_every_block_has_another_last_copy(self):
        """Each block of the table keeps one replica, each another: no replica is whole."""
        self.restore()
        for block in range(self.layout.table_blocks):
            self.destroy_block(block, set(range(5)) - {block % 5}, Damage.KINDS[block % len(Damage.KINDS)])
        self.assert_opens_and_mends()

    def destroy_block(self, block, replicas, kind):
        damage = Damage(self.set.spare, repr((block, kind, sorted(replicas))))
        other = block - 1 if block else block + 1
        for replica in sorted(replicas):
            damage.unit(self.layout.block_unit(replica, block), kind, self.layout.block_unit(replica, other))

    def test_an_old_copy_does_not_win(self):
        """A replica as it was before the last change: valid, but of an older sequence."""
        self.restore()
        self.set.start()
        self.assertTrue(self.set.control("remap", sector=1700 * UNIT_SECTORS)["ok"])
        write_at(self.set.image, 1700 * UNIT_SECTORS, b"new" * 1000 + b"!" * 1096)
        self.map, self.image = self.places(), self.set.image.read_bytes()
        self.set.stop()
        new_place = self.map[1700][0] // UNIT_SECTORS
        with open(self.saved[self.set.spare], "rb") as old:
            for replica in range(4):
                unit = self.layout.block_unit(replica, new_place // 254)
                old.seek(unit * UNIT)
                write_units(self.set.spare, unit, old.read(UNIT))
        self.assert_opens_and_mends()

    def test_all_of_one_block_destroyed(self):
        for block in (627 // 254, 2000 // 254):
            with self.subTest(block=block):
                self.restore()
                self.destroy_block(block, set(range(5)), "noise")
                text = self.assert_refused_unwritten()
                self.assertRegex(text, rf"block {block}\b", "the message names the block")

    def assert_refused_unwritten(self):
        before = self.set.hash_members()
        daemon = self.set.start(wait=False)
        code = daemon.wait()
        self.assertIn(code, (1, 4))
        self.assertFalse(harness.is_mounted(daemon.mountpoint))
        self.assertEqual(self.set.hash_members(), before, "nothing is written")
        return daemon.log()

    def test_read_only_chooses_in_memory(self):
        self.restore()
        self.destroy_supers(set(self.layout.super_units[1:]), "noise")
        self.destroy_block(627 // 254, {0, 1, 2, 3}, "noise")
        before = self.set.hash_members()
        self.set.start("ro")
        self.assertEqual(self.places(), self.map)
        self.assertEqual(self.set.image.read_bytes(), self.image)
        self.set.stop()
        self.assertEqual(self.set.hash_members(), before, "nothing at all is written")


def copy_sparse(source, target):
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def write_all(path, units):
    for unit in units:
        write_units(path, unit, bytes(UNIT))


if __name__ == "__main__":
    harness.main()
