# SPDX-License-Identifier: GPL-2.0-or-later
"""Spares that have no room, or not enough: refused as a whole, and told as what it is everywhere it is asked."""

import errno
import json
import os
import socket

import harness
from harness import MIB, UNIT, UNIT_SECTORS, Attached, DirectFile

MAIN_SIZE, SPARE_SIZE = 64 * MIB, 16 * MIB
HELD = range(200)  # units that the first spare holds
FILLER = 1000  # units from here on fill spares
FULL = "No spare capacity available"


def content(unit):
    return harness.pattern(f"new {unit}", UNIT)


class SpareRoom(harness.TestCase):
    def setUp(self):
        super().setUp()
        w = self.workspace
        self.main = w.sparse("main.img", MAIN_SIZE)
        self.first, self.second, self.third = (w.sparse(f"{n}.img", SPARE_SIZE) for n in ("first", "second", "third"))

    def create(self, *spares, dust=False):
        members = [word for spare in spares for word in ("--spare", spare)]
        self.workspace.dmremap("create", "pool", "--main", f"dust:{self.main}" if dust else self.main, *members)
        return Attached(self.workspace, "pool")

    def attach(self, *options):
        return Attached(self.workspace, "pool", *options)

    def ask(self, command, **arguments):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(300)
            s.connect(str(self.workspace.path / "run/.sets/pool/control"))
            s.sendall(json.dumps({"v": 1, "cmd": command, "args": arguments}).encode() + b"\n")
            with s.makefile("rb") as reply:
                return json.loads(reply.readline())

    def spares(self):
        return {os.path.basename(s["path"]).split(".")[0]: s for s in self.workspace.spare_list("pool")}

    def shown(self, *words):
        """What a command shows of the spares of now."""
        return harness.spares_of_now(lambda: self.workspace.dmremap(*words)).stdout

    def hold_on_first(self, attached):
        with DirectFile(attached.loop, write=True) as f:
            for unit in HELD:
                f.write(unit * UNIT, content(unit))
            f.sync()
        self.assertTrue(self.ask("remap", sector=0, sectors=len(HELD) * UNIT_SECTORS)["ok"])
        self.assertEqual(self.spares()["first"]["allocated_units"], len(HELD))

    def fill(self, spare, leave):
        """Remaps until the spare, to which all go now, has only so many units left."""
        count = self.spares()[spare]["free_units"] - leave
        self.assertGreater(count, 0)
        answer = self.ask("remap", sector=FILLER * UNIT_SECTORS, sectors=count * UNIT_SECTORS)
        self.assertTrue(answer["ok"], answer)
        now = self.spares()[spare]
        self.assertEqual(now["free_units"], leave)
        self.assertGreater(now["usable_units"] - now["allocated_units"], leave + 900, "its head is left alone")

    def refused_command(self, *words, identifier, says=()):
        self.refused(self.workspace.dmremap(*words, "--json", check=False), identifier, 1, says)

    def doctor(self):
        """{finding: the commands it names}, exit status"""
        answers = []

        def answered():  # see Workspace.status()
            answers.append(self.workspace.dmremap("doctor", "pool", "--json", check=False))
            found = json.loads(answers[-1].stdout)["sets"][0]["findings"]
            return "daemon-hangs" not in [f["id"] for f in found]

        harness.wait_until(answered, 60, "the daemon answers")
        found = json.loads(answers[-1].stdout)["sets"][0]["findings"]
        return {f["id"]: f["next"] for f in found}, answers[-1].returncode

    def check_held(self, attached):
        with DirectFile(attached.loop) as f:
            for unit in HELD:
                self.assertEqual(f.read(unit * UNIT, UNIT), content(unit), f"unit {unit}")

    def test_forget_without_room_loses_nothing(self):
        w = self.workspace
        attached = self.create(self.first, self.second)
        self.hold_on_first(attached)
        attached.detach()
        away = self.first.with_suffix(".away")
        self.first.rename(away)
        attached = self.attach("--degraded")
        self.fill("second", 150)
        for words in (["--dry-run"], ["--yes"]):
            self.refused_command("spare", "forget", "pool", self.first, *words, identifier="no-spare-capacity",
                                 says=("200 units must be marked lost", "50 units short"))
        self.assertEqual(w.dmremap_json("lost", "pool")["lost"], [])
        self.assertIn("(0 MiB free)", self.shown("spare", "list", "pool").splitlines()[0])
        attached.detach()
        away.rename(self.first)
        attached = self.attach()
        self.check_held(attached)  # what it holds was not given up
        attached.detach()
        self.first.rename(away)
        attached = self.attach("--degraded")
        w.dmremap("spare", "add", "pool", self.third)
        done = w.dmremap_json("spare", "forget", "pool", self.first, "--yes")
        self.assertEqual((done["units"], done["lost_sectors"]), (len(HELD), len(HELD) * UNIT_SECTORS))
        with DirectFile(attached.loop) as f:
            for unit in HELD:
                with self.assertRaises(OSError, msg=f"unit {unit} answers"):
                    f.read(unit * UNIT, UNIT)
        attached.detach()

    def test_an_evacuation_that_does_not_fit_moves_nothing(self):
        w = self.workspace
        attached = self.create(self.first, self.second)
        w.dmremap("spare", "evacuate", "pool", self.first)  # it holds nothing: all remaps go to the second
        self.fill("second", 150)
        w.dmremap("spare", "evacuate", "pool", self.first, "--cancel")
        self.hold_on_first(attached)
        for words in (["-n"], []):
            self.refused_command("spare", "evacuate", "pool", self.first, *words, identifier="no-spare-capacity",
                                 says=("holds 200 units", "have 150 free for remaps", "50 units short"))
        now = self.spares()["first"]
        self.assertEqual((now["state"], now["allocated_units"]), ("present", len(HELD)))
        self.assertNotIn("evacuation-failed", self.doctor()[0])
        self.check_held(attached)
        planned = w.dmremap_json("spare", "evacuate", "pool", self.first, "--partial", "-n")
        self.assertEqual((planned["all"], planned["dry_run"]), (150, True))
        self.refused_command("spare", "evacuate", "pool", self.first, "--partial", identifier="no-spare-capacity",
                             says=("150 units were moved, 50 are left", "50 units short"))
        self.assertEqual(self.spares()["first"]["allocated_units"], len(HELD) - 150)
        self.check_held(attached)
        w.dmremap("spare", "add", "pool", self.third)
        moved = w.dmremap_json("spare", "evacuate", "pool", self.first)
        self.assertEqual((moved["moved"], moved["lost_sectors"]), (len(HELD) - 150, 0))
        self.check_held(attached)
        attached.detach()

    def test_a_set_that_is_full_for_remaps_says_so_everywhere(self):
        w = self.workspace
        attached = self.create(self.first, dust=True)
        self.assertNotIn("no-capacity", self.doctor()[0])
        self.fill("first", 0)
        self.is_full()
        attached.detach()
        attached = self.attach()
        self.is_full()
        w.dmremap("dust", "pool", "main", "addbadblock", 0, "write", UNIT_SECTORS)
        w.dmremap("dust", "pool", "main", "enable")
        with DirectFile(attached.loop, write=True) as f:
            with self.assertRaises(OSError) as failed:
                f.write(0, content(0))
            self.assertEqual(failed.exception.errno, errno.EIO)
        answer = w.dmremap("doctor", "pool", check=False)
        self.assertNotIn("Nothing has to be done now", answer.stdout)
        w.dmremap("spare", "add", "pool", self.second)
        self.assertEqual(w.status_json("pool")["state"], "ok")
        self.assertNotIn("no-capacity", self.doctor()[0])
        with DirectFile(attached.loop, write=True) as f:
            f.write(0, content(0))
            f.sync()
        with DirectFile(attached.loop) as f:
            self.assertEqual(f.read(0, UNIT), content(0))
        self.assertEqual(self.spares()["second"]["allocated_units"], 1)
        attached.detach()

    def is_full(self):
        w = self.workspace
        self.assertEqual(w.status_json("pool")["state"], FULL)
        self.assertEqual(self.doctor(), ({"no-capacity": ["dmremap spare add pool /dev/NEW"]}, 4))
        for words in ([], ["-n"]):
            self.refused_command("remap", "pool", 0, *words, identifier="no-spare-capacity", says=(FULL,))
        listed = self.shown("spare", "list", "pool")
        self.assertIn("  full  ", listed)
        self.assertIn("(0 MiB free)", listed)
        stats = self.shown("message", "pool", 0, "spare_stats")
        self.assertIn("(0 available, 0 in-use, 1 full, 0 failed)", stats)
        self.assertIn(" MB allocated, 0 MB free\n", stats)
        metrics = w.status("pool", "--format", "prometheus").stdout
        for name, value in (("spare_full", 1), ("spare_free_units", 0)):
            self.assertRegex(metrics, rf'(?m)^dmremap_{name}{{[^}}]*}} {value}$')

    def test_the_only_spare_in_use_is_refused_with_the_line_that_scripts_know(self):
        w = self.workspace
        attached = self.create(self.first)
        self.assertTrue(self.ask("remap", sector=0, sectors=2 * UNIT_SECTORS)["ok"])
        answer = w.dmremap("message", "pool", 0, "spare_remove", self.first, check=False)
        self.assertEqual(answer.returncode, 1)
        self.assertIn(f"Error: Cannot remove spare {self.first}: 2 active allocations", answer.stderr)
        for words in ([], ["-n"]):
            self.refused_command("spare", "remove", "pool", self.first, *words, identifier="spare-in-use",
                                 says=("2 active allocations", "only spare of the set"))
        attached.detach()

    def test_a_list_is_not_planned_onto_a_spare_that_takes_nothing_new(self):
        w = self.workspace
        attached = self.create(self.first, self.second)
        w.dmremap("spare", "evacuate", "pool", self.first)
        room = self.spares()["second"]["free_units"]
        self.assertEqual(self.spares()["first"]["free_units"], 0)
        listed = w.path / "list"
        listed.write_text("".join(f"{unit * UNIT_SECTORS}\n" for unit in range(room + 1)))
        answer = w.run(harness.program("dmremap-import"), "-n", "--json", "--format", "sectors", "--offset", 0, "pool",
                       listed, check=False)
        self.refused(answer, "no-spare-capacity", 1, (f"needs {room + 1} units more, and {room} are free",))
        attached.detach()


if __name__ == "__main__":
    harness.main()
