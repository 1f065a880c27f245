# SPDX-License-Identifier: GPL-2.0-or-later
"""The daemon ends soon after the unmount, whatever an administrator's command is doing, and loses nothing by it."""

import json
import subprocess
import time

import harness
from harness import MIB, SECTOR, UNIT, UNIT_SECTORS, DirectFile, read_at, write_at

LOST = range(800, 840)  # units, each with one sector that cannot be read
QUICK = 3               # the first of them; each of the others takes DELAY_MS, all of them longer than STOPPED
DELAY_MS = 4000
STOPPED = 120           # seconds


class Stopping(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.old = harness.pattern("main", 16 * MIB)
        self.set = harness.Set(self.workspace, "e2e", main_size=16 * MIB, spare_size=32 * MIB, dust=True)
        write_at(self.set.main, 0, self.old)
        self.set.create()
        self.set.start()

    def lost_sectors(self):
        return {unit * UNIT_SECTORS + 3 for unit in LOST}

    def lose(self):
        self.set.break_sectors(self.lost_sectors(), mode="read")
        with DirectFile(self.set.image) as image:
            for unit in LOST:
                with self.assertRaises(OSError):
                    image.read(unit * UNIT, UNIT)
        self.assertEqual(self.set.lost(), self.lost_sectors())
        self.set.dust_on("clearbadblocks")

    def assert_image(self, lost):
        """Every byte but those of lost sectors, which answer errors."""
        with DirectFile(self.set.image) as image:
            for unit in LOST:
                for sector in range(unit * UNIT_SECTORS, (unit + 1) * UNIT_SECTORS):
                    if sector in lost:
                        with self.assertRaises(OSError):
                            image.read(sector * SECTOR, SECTOR)
                    else:
                        self.assertTrue(image.read(sector * SECTOR, SECTOR) == self.old[sector * SECTOR:][:SECTOR])
        for first, end in ((0, LOST.start), (LOST.stop, len(self.old) // UNIT)):
            self.assertTrue(read_at(self.set.image, first * UNIT_SECTORS, (end - first) * UNIT_SECTORS)
                            == self.old[first * UNIT:end * UNIT])

    def dmremap(self, *words):
        return subprocess.Popen([harness.program("dmremap"), *map(str, words), "--json"], env=self.workspace.env,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def salvaged(self):
        """Units that the salvage under way has done."""
        return self.set.control("salvaging")["result"]["done"]

    def test_a_salvage_of_a_slow_drive(self):
        self.lose()
        slow = LOST[QUICK:]
        self.set.delay_reads(slow.start * UNIT_SECTORS, len(slow) * UNIT_SECTORS, DELAY_MS)
        salvage = self.dmremap("salvage", "e2e", "all")
        while self.salvaged() < QUICK:
            self.assertIsNone(salvage.poll(), "the salvage is under way")
            time.sleep(0.02)
        behind = self.dmremap("unmap", "e2e", 8)  # waits for the salvage
        done = self.salvaged()
        self.set.stop(timeout=STOPPED)
        said = json.loads(salvage.communicate(timeout=30)[0])["error"]
        self.assertEqual((salvage.returncode, said["id"]), (1, "stopping"), said)
        self.assertIn("were not tried: the set is being closed", said["why"])
        behind.communicate(timeout=30)
        self.assertEqual(behind.returncode, 1)

        self.set.start()
        still = self.set.lost()
        back = self.lost_sectors() - still
        # Soon, told by the units, not by a clock that a busy machine stops: the one under way may end, and one more may
        # be done before the unmount is heard of.
        self.assertTrue(QUICK <= len(back) <= done + 2, (len(back), done))
        self.assertEqual(back, set(sorted(self.lost_sectors())[:len(back)]), "one after the other")
        self.assert_image(still)
        self.assertEqual(self.set.ask("salvage", "all")["recovered"], len(still))
        self.assert_image(set())
        self.set.stop()


class Detaching(harness.TestCase):
    def test_a_spare_that_takes_no_writes(self):
        w = self.workspace
        spare = w.sparse("spare.img", 16 * MIB)
        w.dmremap("create", "e2e", "--main", w.sparse("main.img", 8 * MIB), "--spare", f"dust:{spare}")
        attached = harness.Attached(w, "e2e")
        w.dmremap("remap", "e2e", 3 * UNIT_SECTORS)
        data = harness.pattern("unit", UNIT)
        write_at(attached.loop, 3 * UNIT_SECTORS, data)
        w.dmremap("sync", "e2e")
        w.dmremap("dust", "e2e", "spare0", "addbadblock", 0, "write", 16 * MIB // SECTOR)
        w.dmremap("dust", "e2e", "spare0", "enable")
        answer = attached.detach("--json", check=False)
        self.assertEqual(answer.returncode, 1, answer)
        said = json.loads(answer.stdout)["error"]
        self.assertEqual((said["id"], said["what"]), ("save-failed", "e2e"), said)
        self.assertIn("not everything is known to be on its devices", said["why"])
        attached.wait_end()
        attached.ended()
        again = harness.Attached(w, "e2e")  # in a new process the spare is well
        self.assertTrue(read_at(again.loop, 3 * UNIT_SECTORS, UNIT_SECTORS) == data)
        again.detach()


if __name__ == "__main__":
    harness.main()
