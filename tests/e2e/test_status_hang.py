# SPDX-License-Identifier: GPL-2.0-or-later
"""`dmremap status` answers within a second, whatever the daemon hangs in, and says how old its answer is."""

import json
import signal
import threading
import time

import harness
from harness import MIB, SECTOR, UNIT_SECTORS, DirectFile

LIMIT = 1.0
TRIES = 3  # a machine that stalls makes one answer late; one that waits for the daemon is late each time
NEWEST = slice(16, 24)  # of the file `stats`: which of its two places has the newest figures (engine/stats_segment.cpp)


class StatusHang(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.set = self.make_set(main_size=16 * MIB, spare_size=32 * MIB, dust=True)
        self.set.start()

    def in_time(self, limit, ask):
        """What ask() answers within that many seconds, at one of TRIES."""
        took = []
        while len(took) < TRIES:
            started = time.monotonic()
            answer = ask()
            took.append(time.monotonic() - started)
            if took[-1] < limit:
                return answer
        self.fail(f"each answer is late: {took}")

    def status(self, *words):
        """One `dmremap status`, which must be quick; (exit status, text)."""
        answer = self.in_time(LIMIT, lambda: self.set.do("status", *words, check=False, timeout=30))
        self.assertTrue(answer.stdout, answer.stderr)
        return answer.returncode, answer.stdout

    def status_json(self):
        return json.loads(self.status("--json")[1])

    def assert_old_but_there(self, least_age):
        """Asks until the answer is that old; each single time within the limit."""
        deadline = time.monotonic() + 20
        while (now := self.status_json())["age_seconds"] < least_age:
            self.assertLess(time.monotonic(), deadline, now)
        self.assertFalse(now["answers"])
        self.assertEqual((now["name"], now["running"], now["pid"]), ("e2e", True, self.set.daemon.pid))
        self.assertEqual(now["stats"]["remapped_units"], 3)
        self.assertTrue(now["hangs"])
        for words in ((), ("--format", "dm"), ("--format", "prometheus")):
            self.assertEqual(self.status(*words)[0], 4, words)
        self.assertIn(" health=0 ", self.status("--format", "dm")[1])
        self.assertRegex(self.status()[1], r"(?i)(not answer|no answer)", "it says so")
        self.assertRegex(self.status()[1], r"\d+(\.\d+)? ?(s|sec|seconds)\b", "and since when")
        return now

    def assert_answers(self):
        deadline = time.monotonic() + 20
        while not (now := self.status_json())["answers"] or " health=1 " not in self.status("--format", "dm")[1]:
            self.assertLess(time.monotonic(), deadline, now)
        self.assertLess(now["age_seconds"], 1)

    def make_remaps(self):
        for unit in (5, 6, 900):
            self.set.do("remap", unit * UNIT_SECTORS)
        # What a daemon that hangs left behind has them once it wrote its figures down twice from now on: it may have
        # been about to for the first time. It does so in two places by turns.
        for _ in range(2):
            before = self.newest_place()
            harness.wait_until(lambda: self.newest_place() != before, 60, "the daemon writes down its figures")

    def newest_place(self):
        return (self.set.run_dir / "stats").read_bytes()[NEWEST]

    def test_stopped(self):
        self.make_remaps()
        self.assert_answers()
        self.set.daemon.signal(signal.SIGSTOP)
        try:
            self.assert_old_but_there(2)
        finally:
            self.set.daemon.signal(signal.SIGCONT)
        self.assert_answers()
        self.set.stop()

    def test_list_while_stopped(self):
        self.make_remaps()
        self.set.daemon.signal(signal.SIGSTOP)
        try:
            listed = self.in_time(2 * LIMIT, lambda: self.workspace.dmremap("list", timeout=30))
            self.assertIn("e2e", listed.stdout)
        finally:
            self.set.daemon.signal(signal.SIGCONT)
        self.set.stop()

    def test_blocked_in_main(self):
        """More reads hang in the drive than the daemon has workers."""
        self.make_remaps()
        self.set.delay_reads(8000, 800, 6000)
        started = [threading.Event() for _ in range(48)]
        readers = [threading.Thread(target=self.read_slowly, args=(8000 + 8 * i, started[i])) for i in range(48)]
        for reader in readers:
            reader.start()
        for event in started:
            event.wait()
        begun = time.monotonic()
        while time.monotonic() - begun < 3:
            code, text = self.status("--json")
            now = json.loads(text)
            self.assertIn("age_seconds", now)
            self.assertEqual(now["stats"]["remapped_units"], 3)
        for reader in readers:
            reader.join(60)
            self.assertFalse(reader.is_alive())
        self.assert_answers()
        self.set.stop()

    def read_slowly(self, sector, started):
        with DirectFile(self.set.image) as image:
            started.set()
            image.read(sector * SECTOR, 8 * SECTOR)

    def test_blocked_in_the_spare(self):
        """The state of the spares is read from the spares: it gets old, and the answer says how old."""
        self.make_remaps()
        self.assert_answers()
        self.set.delay_reads(0, 32 * MIB // SECTOR, 4000, store="spare0")
        begun, old = time.monotonic(), False
        while time.monotonic() - begun < 2.5 or not old:
            now = self.status_json()
            self.assertEqual(now["stats"]["remapped_units"], 3)
            self.assertIn("age_seconds", now)
            old = old or now.get("spares_age_seconds", 0) > 1 or not now["answers"]
            self.assertLess(time.monotonic() - begun, 20, now)
        self.set.dust_on("clearbadblocks", store="spare0")
        self.assert_answers()
        self.set.stop()

    def test_killed(self):
        """A dead daemon is not one that hangs: status says that the set does not run."""
        self.make_remaps()
        self.set.daemon.kill()
        answer = self.in_time(LIMIT, lambda: self.set.do("status", "--json", check=False, timeout=30))
        self.assertNotEqual(answer.returncode, 0)


if __name__ == "__main__":
    harness.main()
