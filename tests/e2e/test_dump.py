# SPDX-License-Identifier: GPL-2.0-or-later
"""dmremap-dump of running and stopped sets, the backups that are kept by themselves, and dmremap-restore."""

import json
import os
import re

import harness
from harness import MIB, UNIT, UNIT_SECTORS, Attached
from test_scan import Scan

SPARE_SIZE = 32 * MIB


class Dump(Scan):
    def dump(self, *words, code=0):
        answer = self.workspace.run(harness.program("dmremap-dump"), *words, check=False)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return answer.stdout

    def restore(self, *words, code=0):
        answer = self.workspace.run(harness.program("dmremap-restore"), "--json", *words, check=False)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        return json.loads(answer.stdout)

    @staticmethod
    def slots(text):
        return [line for line in text.splitlines() if re.match(r"  (remap|explicit|retired|free) ", line)]


class Dumps(Dump):
    def test_a_running_set_is_dumped_by_its_daemon_and_what_is_there_after_a_kill_is_the_same(self):
        w = self.workspace
        main, spares = self.make("data")
        attached = self.use("data")
        live = self.dump("data")
        self.assertIn("\nlive yes\n", live)
        self.assertEqual(len(self.slots(live)), 3)
        self.assertEqual(json.loads(self.dump("--json", "data"))["checksum"], live.split()[-1])
        answer = w.run(harness.program("dmremap-dump"), *spares, check=False)
        self.assertEqual(answer.returncode, 1)
        self.assertIn("is in use by set 'data'", answer.stderr)
        attached.kill()
        w.dmremap("detach", "data")
        killed = self.dump(*spares)
        self.assertIn("\nlive no\n", killed)
        self.assertEqual(killed.split("\nlive no\n")[1].rsplit("end ", 1)[0],
                         live.split("\nlive yes\n")[1].rsplit("end ", 1)[0])
        self.assertEqual(self.dump("data"), killed)  # by the configuration

    def test_nothing_is_opened_for_writing(self):
        main, spares = self.make("data")
        self.use("data").detach()
        before = [harness.sha256_file(p) for p in (main, *spares)]
        dump = harness.program("dmremap-dump")
        loop = self.workspace.loop(spares[0])
        for words in (spares, ["--json", *spares], ["--best-effort", loop, spares[1]], ["data"]):
            self.assertEqual(self.opened_for_writing(dump, *words), set(), words)
        self.assertEqual([harness.sha256_file(p) for p in (main, *spares)], before)

    def test_a_backup_is_kept_by_create_and_by_a_clean_stop(self):
        w = self.workspace
        main, spares = self.make("data", spares=1)
        uuid = json.loads(w.dmremap("list", "--all", "--json").stdout)["sets"][0]["uuid"]
        kept = w.path / f"state/backup/{uuid}.dump"
        first = kept.read_text()
        self.assertEqual(first, self.dump(*spares))
        self.use("data").detach()
        self.assertEqual(kept.read_text(), self.dump(*spares))
        self.assertEqual(kept.with_name(kept.name + ".1").read_text(), first)
        self.assertEqual(len(self.slots(kept.read_text())), 3)


class Images(Dump):
    def test_an_image_of_the_metadata_is_small_and_is_read_like_the_spares(self):
        w = self.workspace
        main, spares = self.make("data")
        self.use("data").detach()
        folder = w.path / "support"
        self.dump("--metadata-image", folder, "data")
        images = sorted(folder.iterdir())
        self.assertEqual([p.stat().st_size for p in images], [SPARE_SIZE] * 2)
        self.assertLess(sum(p.stat().st_blocks * 512 for p in images), 2 * MIB)
        self.assertEqual(self.one_set(self.scan(*images, code=4), "data")["state"], "image")
        found, original = (self.one_set(self.scan(*paths, code=4), "data")["spares"] for paths in (images, spares))
        for one, other in zip(found, original):
            self.assertEqual(one["members"][0]["superblocks"], other["members"][0]["superblocks"])
        fsck = harness.program("dmremap-fsck")
        for paths in (spares, images):
            self.assertEqual(w.run(fsck, "-n", *paths, check=False).returncode, 0)
        with open(images[0], "r+b") as f:
            f.write(os.urandom(UNIT))
        self.assertEqual(w.run(fsck, "-n", *images, check=False).returncode, 4)


class Restores(Dump):
    def test_a_spare_that_was_overwritten_at_the_front_comes_back_from_the_backup(self):
        """A partition table and a file system's first blocks over it; what lies behind them is whole."""
        w = self.workspace
        main, spares = self.make("data", spares=1)
        attached = Attached(w, "data")
        w.run("mkfs.ext4", "-q", "-b", "4096", attached.loop)
        mount = w.mount(attached.loop)
        sums = harness.make_tree(mount.path, 20, seed="data")
        for path in list(sums)[:6]:
            for _, place, length in harness.extents(mount / path):
                for unit in range(place // UNIT, (place + length + UNIT - 1) // UNIT):
                    w.dmremap("remap", "data", unit * UNIT_SECTORS)
        mount.unmount()
        remaps = len(w.dmremap_json("table", "data")["remaps"])
        self.assertGreater(remaps, 6)
        attached.detach()
        uuid = json.loads(w.dmremap("list", "--all", "--json").stdout)["sets"][0]["uuid"]
        kept = w.path / f"state/backup/{uuid}.dump"
        whole = harness.sha256_file(spares[0])
        with open(spares[0], "r+b") as f:
            data = f.read()
            for start in re.finditer(b"DM[ST]\x01", data):  # every block of metadata, wherever it is
                if start.start() % UNIT == 4:
                    f.seek(start.start() - 4)
                    f.write(os.urandom(UNIT))
        w.dmremap("attach", "data", check=False)
        self.assertEqual(w.dmremap_json("list")["sets"], [])
        self.assertEqual(self.restore(kept, spares[0], code=1)["error"]["id"], "spare-unknown")
        done = self.restore("--data-in-place", kept, spares[0])
        self.assertEqual((done["spares"][0]["remapped_units"], done["copies_failed"]), (remaps, 0))
        self.assertEqual(harness.sha256_file(spares[0]), whole)
        attached = Attached(w, "data")
        mount = w.mount(attached.loop, name="back", options="ro")
        self.assertEqual(harness.check_tree(mount.path, sums), ([], []))
        mount.unmount()
        attached.detach()

    def test_a_set_in_use_is_refused_whatever_is_said(self):
        w = self.workspace
        main, spares = self.make("data", spares=1)
        attached = self.use("data")
        kept = w.path / "kept"
        kept.write_text(self.dump("data"))
        before = self.slots(self.dump("data"))
        refused = self.restore("--accept-older", "--data-in-place", "--wipe", "dmremap", "--no-keep", kept, spares[0],
                               code=1)
        self.assertEqual(refused["error"]["id"], "set-running")
        self.assertEqual(self.slots(self.dump("data")), before)
        attached.detach()
        loop = w.loop(spares[0])
        w.run("mkfs.ext4", "-q", loop)
        mount = w.mount(loop)
        self.assertEqual(self.restore("--accept-older", "--data-in-place", kept, loop, code=1)["error"]["id"],
                         "mounted")
        mount.unmount()
        answer = self.restore("--accept-older", "--data-in-place", kept, loop, code=1)
        self.assertEqual(answer["error"]["id"], "spare-has-signature")


if __name__ == "__main__":
    harness.main()
