# SPDX-License-Identifier: GPL-2.0-or-later
"""dmremap-import: what ddrescue and badblocks really write of a disk with errors, online and offline; and the way back
through `dmremap table`.
"""

import json
import shutil
import sys

import harness
import nbd
from harness import MIB, UNIT_SECTORS

MAIN_SIZE, SPARE_SIZE = 16 * MIB, 32 * MIB
BAD = {100, 101, 2049, 2050, 2051, 9000, 20000, 32760}  # sectors of main
UNITS = len({sector // UNIT_SECTORS for sector in BAD})


class Import(nbd.NbdCase):
    def setUp(self):
        super().setUp()
        self.set = nbd.NbdSet(self.workspace, main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        self.set.main_file.write_bytes(harness.pattern("import", MAIN_SIZE))
        self.set.main_export.bad["read"] = set(BAD)
        self.set.start_exports().create()
        self.list = self.workspace.path / "list"

    def imported(self, *words, name="e2e", code=0):
        answer = self.workspace.run(harness.program("dmremap-import"), "--json", *words, name, self.list, check=False)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return json.loads(answer.stdout)

    def assert_moved(self, bad=BAD):
        self.assertEqual(set(self.set.remaps()), {s // UNIT_SECTORS for s in bad})
        self.assertEqual(self.set.lost(), set(BAD))

    def test_the_mapfile_of_ddrescue_online(self):
        self.workspace.run("ddrescue", "-d", "-b", "512", "-c", "8", self.set.main, self.workspace.path / "rescued",
                           self.list)
        self.assertIn(" -\n", self.list.read_text())
        self.set.start()
        words = ("--format", "ddrescue", "--offset", "0")
        planned = self.imported("-n", *words)
        self.assertEqual((planned["units"], planned["listed_sectors"]), (UNITS, len(BAD)))
        self.assertEqual(self.set.remaps(), {})
        done = self.imported(*words)
        self.assertEqual((done["online"], done["units"], done["already_units"], done["lost_sectors"]),
                         (True, UNITS, 0, len(BAD)))
        self.assert_moved()
        again = self.imported(*words)
        self.assertEqual((again["units"], again["already_units"]), (0, UNITS))
        self.set.stop()

    def test_the_list_of_badblocks_offline(self):
        self.workspace.run("badblocks", "-b", "4096", "-c", "1", "-o", self.list, self.set.main)
        self.assertEqual({int(n) for n in self.list.read_text().split()}, {s // UNIT_SECTORS for s in BAD})
        done = self.imported("--format", "badblocks", "--block-size", "4096", "--offset", "0")
        self.assertEqual((done["online"], done["units"], done["lost_sectors"]), (False, UNITS, len(BAD)))
        self.assertEqual(self.imported("--format", "badblocks", "--block-size", "4096", "--offset", "0")["units"], 0)
        self.set.start()
        self.assert_moved()
        self.set.stop()


class RoundTrip(harness.TestCase):
    def test_what_table_prints_is_imported_as_the_same_units(self):
        w = self.workspace
        first, second = (harness.Set(w, name).create() for name in ("first", "second"))
        first.start()
        second.start()
        units = {0, 1, 2, 77, 4000, first.main.stat().st_size // harness.UNIT - 1}
        for unit in units:
            first.do("remap", unit * UNIT_SECTORS)
        for words, told in ((["ddrescue"], []), (["badblocks"], ["--block-size", "4096"]),
                            (["badblocks", "--block-size", "1024"], ["--block-size", "1024"])):
            text = w.dmremap("table", "first", "--format", *words).stdout
            (w.path / "list").write_text(text)
            w.run(harness.program("dmremap-import"), "--format", words[0], *told, "--offset", 0, "second",
                  w.path / "list")
            self.assertEqual(set(second.remaps()), units, words)
            for unit in units:
                second.do("unmap", unit * UNIT_SECTORS)
        first.stop()
        second.stop()


if __name__ == "__main__":
    missing = [name for name in ("ddrescue", "badblocks") if not shutil.which(name)]
    if missing and not harness.required():
        print(f"skipped: no {' and no '.join(missing)} (packages gddrescue, e2fsprogs)")
        sys.exit(77)
    nbd.main()
