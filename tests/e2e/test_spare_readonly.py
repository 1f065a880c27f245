# SPDX-License-Identifier: GPL-2.0-or-later
"""A spare that is switched to read-only while the set is in use, as a flash drive is at the end of its life."""

import harness
from harness import MIB, UNIT, UNIT_SECTORS, Attached, DirectFile

HELD = range(100, 108)   # units on the spare that will take no writes
MOVED = range(200, 204)  # moved by hand afterwards
BAD = range(300, 304)    # main cannot write them afterwards


class ReadOnlySpare(harness.TestCase):
    def content(self, age, unit):
        return harness.pattern(f"{age} {unit}", UNIT)

    def write(self, path, units, age):
        with DirectFile(path, write=True) as f:
            for unit in units:
                f.write(unit * UNIT, self.content(age, unit))
            f.sync()

    def check(self, path, expected):
        with DirectFile(path) as f:
            for units, age in expected.items():
                for unit in units:
                    self.assertEqual(f.read(unit * UNIT, UNIT), self.content(age, unit), f"unit {unit} is not {age}")

    def spare_on(self, uuid):
        found = [s for s in self.workspace.spare_list("worn") if s["uuid"] == uuid]
        return found[0] if found else None

    def places(self, units):
        """The spares, by UUID, that the units lie on."""
        remaps = {r["main_sector"] // UNIT_SECTORS: r for r in self.workspace.dmremap_json("table", "worn")["remaps"]}
        return {remaps[unit]["spare"] for unit in units}

    def test_nothing_is_held_up_and_nothing_is_lost(self):
        w = self.workspace
        main, backing, other = (w.sparse(n, s) for n, s in (
            ("main.img", 32 * MIB), ("backing.img", 32 * MIB), ("other.img", 32 * MIB)))
        disk = w.loop(backing)
        w.dmremap("create", "worn", "--main", f"dust:{main}", "--spare", disk)
        attached = Attached(w, "worn")
        everything = (HELD, MOVED, BAD)
        for units in everything:
            self.write(attached.image, units, "old")
        w.dmremap("remap", "worn", HELD[0] * UNIT_SECTORS)
        worn = w.spare_list("worn")[0]["uuid"]
        for unit in HELD[1:]:
            w.dmremap("remap", "worn", unit * UNIT_SECTORS)
        w.dmremap("spare", "add", "worn", other)
        self.assertEqual(self.places(HELD), {worn})

        w.on_close("read-only", lambda: w.run("blockdev", "--setrw", disk))  # whoever gets this loop device next
        w.run("blockdev", "--setro", disk)
        for unit in MOVED:
            w.dmremap("remap", "worn", unit * UNIT_SECTORS)
        w.dmremap("dust", "worn", "main", "addbadblock", BAD[0] * UNIT_SECTORS, "write", len(BAD) * UNIT_SECTORS)
        w.dmremap("dust", "worn", "main", "enable")
        self.write(attached.image, BAD, "new")
        self.write(attached.image, HELD[:2], "new")
        now = {HELD[:2]: "new", HELD[2:]: "old", MOVED: "old", BAD: "new"}
        self.check(attached.image, now)
        self.assertEqual(len(self.places([*MOVED, *BAD, *HELD[:2]])), 1, "what is new is on the other one")
        self.assertEqual(self.places(HELD[2:]), {worn})
        self.assertEqual(self.spare_on(worn)["state"], "unwritable")
        attached.detach(check=False)

        refused = w.dmremap("attach", "worn", "--json", check=False)
        self.refused(refused, "no-permission", code=refused.returncode, says=[disk.path])
        self.assertNotEqual(refused.returncode, 0)
        attached = Attached(w, "worn", "--degraded")
        self.check(attached.image, now)
        self.write(attached.image, HELD[2:4], "newest")
        now = {HELD[:2]: "new", HELD[2:4]: "newest", HELD[4:]: "old", MOVED: "old", BAD: "new"}
        w.dmremap("spare", "evacuate", "worn", worn)
        w.dmremap("spare", "forget", "worn", worn, "--yes")
        self.check(attached.image, now)
        attached.detach()
        attached = Attached(w, "worn")
        self.check(attached.image, now)
        self.assertIsNone(self.spare_on(worn))
        self.assertEqual(w.dmremap_json("lost", "worn")["lost"], [])
        attached.detach()


if __name__ == "__main__":
    harness.main()
