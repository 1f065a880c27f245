# SPDX-License-Identifier: GPL-2.0-or-later
"""Remaps made by hand: which bytes are where before and after, and what is refused."""

import harness
from harness import MIB, SECTOR, UNIT, UNIT_SECTORS, read_at, write_at
from metadata import Layout

MAIN_SIZE, SPARE_SIZE = 16 * MIB, 32 * MIB
PREPARED = range(5000 - 8, 8000)  # sectors of the spare that hold known bytes before it is a spare


class Remap(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.set = harness.Set(self.workspace, "e2e", main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        self.old = harness.pattern("main", MAIN_SIZE)
        self.spare_bytes = harness.pattern("spare", len(PREPARED) * SECTOR)
        write_at(self.set.main, 0, self.old)
        write_at(self.set.spare, PREPARED.start, self.spare_bytes)
        self.set.create().start()

    # --- helpers ---

    def image(self):
        harness.drop_caches()
        return self.set.image.read_bytes()

    def spare_at(self, sector, count):
        at = (sector - PREPARED.start) * SECTOR
        return self.spare_bytes[at:at + count * SECTOR]

    def reopen(self):
        self.set.stop()
        self.set.start()

    def assert_image(self, expected, why):
        got = self.image()
        if got != expected:
            first = next(i for i in range(len(expected)) if got[i] != expected[i])
            self.fail(f"{why}: differs first at sector {first // SECTOR} (byte {first})")

    def with_spare_bytes(self, dest, source, count):
        new = bytearray(self.old)
        new[dest * SECTOR:(dest + count) * SECTOR] = self.spare_at(source, count)
        return bytes(new)

    # --- what is done ---

    def test_remap_keeps_every_byte(self):
        self.assert_image(self.old, "before")
        self.set.do("remap", 2048)
        self.assert_image(self.old, "after the remap")
        entry = self.set.remaps()[2048 // UNIT_SECTORS]
        self.assertEqual(read_at(self.set.spare, entry["spare_sector"], UNIT_SECTORS),
                         self.old[2048 * SECTOR:][:UNIT], "the spare's unit holds main's bytes")
        self.reopen()
        self.assert_image(self.old, "after a remount")
        self.set.stop()
        write_at(self.set.main, 2048, b"\xee" * UNIT)  # what main holds there no longer matters
        self.set.start()
        self.assert_image(self.old, "it is served from the spare")

    def test_message_remap_and_a_sector_inside_a_unit(self):
        self.set.message("remap", 2051)
        self.set.message("remap 2053")  # the same unit, and WORDS as one argument
        self.assertEqual(list(self.set.remaps()), [2048 // UNIT_SECTORS])
        self.assert_image(self.old, "after both")

    def test_add_remap_shows_the_spares_bytes(self):
        # 100 sectors: twelve whole units and half of one, whose other half is main's and is copied across.
        self.assert_image(self.old, "before")
        self.set.message("add_remap", 1000, 5000, 100)
        new = self.with_spare_bytes(1000, 5000, 100)
        self.assert_image(new, "after add_remap")
        self.assertEqual(read_at(self.set.spare, 5100, 4), self.old[1100 * SECTOR:1104 * SECTOR],
                         "the rest of the last unit was copied to the spare")
        self.assertEqual(read_at(self.set.spare, 5000, 100), self.spare_at(5000, 100))
        self.assertEqual(sha(read_at(self.set.main, 0, MAIN_SIZE // SECTOR)), sha(self.old), "main is not written")
        self.reopen()
        self.assert_image(new, "after a remount")
        self.set.message("add_remap", 1000, 5000, 100)  # mapped to each other already: stays as it is
        self.assert_image(new, "a second time")

    def test_add_remap_with_both_ends_inside_units(self):
        self.set.message("add_remap", 3003, 7003, 50)
        new = self.with_spare_bytes(3003, 7003, 50)
        self.assert_image(new, "after add_remap")
        self.set.message("add_remap", 4001, 7505, 3)  # within one unit
        new = new[:4001 * SECTOR] + self.spare_at(7505, 3) + new[4004 * SECTOR:]
        self.assert_image(new, "a piece of one unit")
        self.reopen()
        self.assert_image(new, "after a remount")

    def test_add_remap_auto(self):
        self.set.message("add_remap", 2000, "auto", 16)
        remaps = self.set.remaps()
        self.assertEqual(sorted(remaps), [250, 251])
        new = bytearray(self.old)
        for unit, r in remaps.items():
            new[unit * UNIT:(unit + 1) * UNIT] = read_at(self.set.spare, r["spare_sector"], UNIT_SECTORS)
        self.assert_image(bytes(new), "the bytes of the spare's units that were chosen")

    def test_remove_remap_gives_main_the_spares_bytes(self):
        self.set.message("add_remap", 1000, 5000, 100)
        new = self.with_spare_bytes(1000, 5000, 100)
        self.set.message("remove_remap", 1003)
        self.assert_image(new, "the image is as before")
        self.assertEqual(read_at(self.set.main, 1000, 8), self.spare_at(5000, 8), "main's unit has the spare's bytes")
        self.assertEqual(read_at(self.set.main, 1008, 8), self.old[1008 * SECTOR:1016 * SECTOR],
                         "the next one is still main's own")
        self.assertNotIn(1000 // UNIT_SECTORS, self.set.remaps())
        self.set.do("unmap", 1096)  # the half unit
        self.assertEqual(read_at(self.set.main, 1096, 8), new[1096 * SECTOR:1104 * SECTOR])
        self.reopen()
        self.assert_image(new, "after a remount")
        self.assertEqual(len(self.set.remaps()), 11)

    def test_writes_follow_the_remap(self):
        self.set.do("remap", 4096)
        self.set.message("add_remap", 1000, 5000, 8)
        new = bytearray(self.with_spare_bytes(1000, 5000, 8))
        for sector, count, seed in ((4090, 20, "across"), (1001, 2, "inside"), (996, 16, "over both edges")):
            data = harness.pattern(seed, count * SECTOR)
            write_at(self.set.image, sector, data)
            new[sector * SECTOR:(sector + count) * SECTOR] = data
        self.assert_image(bytes(new), "after the writes")
        self.reopen()
        self.assert_image(bytes(new), "after a remount")

    # --- what is refused ---

    def test_refusals_change_nothing(self):
        self.set.message("add_remap", 1000, 5000, 16)
        layout = Layout(self.set.spare)
        replica = layout.replica_start[2] * UNIT_SECTORS
        main_end, spare_end = MAIN_SIZE // SECTOR, SPARE_SIZE // SECTOR
        before = self.set.hash_members()
        remaps = self.set.remaps()
        cases = [
            # why, words of a message, what the answer must speak of
            ("misaligned to each other", ("add_remap", 2001, 6000, 8), ("8",)),
            ("main's sectors beyond its end", ("add_remap", main_end - 8, 6000, 16), ()),
            ("all beyond main's end", ("add_remap", main_end, 6000, 8), ()),
            ("the spare's sectors beyond its end", ("add_remap", 2000, spare_end - 8, 16), ()),
            ("far beyond", ("add_remap", 2000, (1 << 60), 8), ()),
            ("overflow", ("add_remap", 2000, (1 << 64) - 8, 16), ()),
            ("nothing", ("add_remap", 2000, 6000, 0), ()),
            ("the superblock", ("add_remap", 2000, 0, 8), ("metadata",)),
            ("a superblock copy", ("add_remap", 2000, 4088, 16), ("metadata",)),
            ("a table replica", ("add_remap", 2000, replica + 8, 8), ("metadata",)),
            ("main's unit goes elsewhere already", ("add_remap", 1000, 6000, 8), ()),
            ("the spare's unit serves another", ("add_remap", 2000, 5000, 8), ()),
            ("one of many is in the way", ("add_remap", 2000, 4960, 80), ()),
            ("a remap beyond the end", ("remap", main_end), ()),
            ("no remap there", ("remove_remap", 2000), ()),
            ("remove beyond the end", ("remove_remap", main_end), ()),
            ("not a number", ("remap", "12x"), ()),
            ("negative", ("remap", "-8"), ()),
            ("too few words", ("add_remap", 2000), ()),
            ("unknown message", ("frobnicate",), ("frobnicate",)),
        ]
        replies = {}
        for why, words, says in cases:
            with self.subTest(why):
                answer = self.set.message(*words, check=False)
                self.assertNotEqual(answer.returncode, 0, answer.stdout)
                text = (answer.stderr + answer.stdout).strip()
                self.assertTrue(text, "a reason is given")
                for word in says:
                    self.assertIn(word, text)
                replies[why] = text
                self.assertEqual(self.set.hash_members(), before)
        self.assertEqual(self.set.remaps(), remaps)
        for hits_something in ("the superblock", "the spare's unit serves another"):
            self.assertRegex(replies[hits_something], "free", "the nearest free range is named")
        for verb, sector in (("remap", main_end), ("unmap", 2000), ("unmap", main_end), ("salvage", main_end)):
            with self.subTest(f"dmremap {verb} {sector}"):
                self.assertEqual(self.set.do(verb, sector, check=False).returncode, 1)
                self.assertEqual(self.set.hash_members(), before)
        self.set.stop()

    def test_nothing_else_of_the_spare_changes(self):
        """Neither explicit nor automatic remaps touch spare units that are not theirs."""
        before = read_at(self.set.spare, PREPARED.start, len(PREPARED))
        for sector in range(8000, 8400, 8):
            self.set.control("remap", sector=sector)
        self.assertEqual(read_at(self.set.spare, PREPARED.start, len(PREPARED)), before)
        self.set.message("add_remap", 1000, 5000, 100)
        after = bytearray(before)
        after[(5100 - PREPARED.start) * SECTOR:(5104 - PREPARED.start) * SECTOR] = self.old[1100 * SECTOR:1104 * SECTOR]
        self.assertEqual(read_at(self.set.spare, PREPARED.start, len(PREPARED)), bytes(after))


def sha(data):
    import hashlib
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    harness.main()
