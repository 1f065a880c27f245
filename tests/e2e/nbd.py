# SPDX-License-Identifier: GPL-2.0-or-later
"""Members that fail without any help of ours: a file that nbdkit serves with bad sectors on a Unix socket and nbdfuse
shows as a file again. The EIO that the programs meet comes from the server, through a kernel's FUSE.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import harness
import tagged_load
from harness import MIB, SECTOR, UNIT_SECTORS, Failure

PLUGIN = Path(__file__).resolve().parent / "nbd_plugin.py"
ONE_PERCENT = 0.01
# read_retries where 3 % of all requests fail by chance, anew in each run: with three of them one sector in a million is
# lost, and the tests read thousands.
RETRIES = 9
TURNS = 9  # beside a slow member; a request of each thread
# Of one member while the other is waited for, against that alone, in turns in the same run. The threads of the test share
# one interpreter, which costs some of it (0.6 to 0.8 measured); a request that waits for one of the other: 0.01.
LEAST_SPEED = 0.25
SEED = int(os.environ.get("DMREMAP_SEED", "1"))  # the same bad sectors and the same load each time, but for this


def draw(seed, sectors, part=ONE_PERCENT):
    """That part of `sectors` (a range or a collection), the same for the same seed."""
    sectors = sorted(sectors)
    return set(random.Random(f"bad {seed}").sample(sectors, round(len(sectors) * part)))


def why_not():
    """What is missing for these tests; None where nothing is."""
    absent = [name for name in ("nbdkit", "nbdfuse") if not shutil.which(name)]
    return f"no {' and no '.join(absent)} (packages nbdkit, nbdkit-plugin-python, libnbd-bin)" if absent else None


class Export:
    """A file behind nbdkit and nbdfuse. `path` is what a set gets as a member, the same over every restart."""

    def __init__(self, workspace, name, backing):
        if missing := why_not():
            raise Failure(missing)
        self.workspace, self.name, self.backing = workspace, name, Path(backing)
        self.folder = workspace.folder(f"nbd-{name}")
        self.path = self.folder / "disk"
        self.bad = {"read": set(), "write": set()}
        self.filters, self.parameters = [], []  # parameters: of the filters and of the plugin
        self._server = self._client = None
        self._starts = 0

    def filter(self, name, *parameters):
        """One of nbdkit's filters in front of the drive, from the next start on."""
        self.filters.append(name)
        self.parameters += parameters
        return self

    def start(self):
        """Starts server and mount with the bad sectors of now."""
        self._starts += 1
        base = f"{self.workspace.path}/{self.name}{self._starts}"  # short: a socket's path has 107 bytes
        socket_path, served_path, mounted_path, bad_path, self._log_path = (
            Path(f"{base}.{what}") for what in ("sock", "served", "mounted", "bad", "log"))
        bad_path.write_text("".join(f"{kind} {first} {count}\n" for kind, sectors in self.bad.items()
                                    for first, count in harness.runs(sectors)))
        with open(self._log_path, "w") as log:
            self._server = self._spawn(
                log, "nbdkit", "--foreground", "--pidfile", served_path, "--unix", socket_path,
                *[f"--filter={f}" for f in self.filters], "python", PLUGIN, f"file={self.backing}", f"bad={bad_path}",
                *self.parameters)
            self.workspace.on_close(self, self.clear)
            self._wait(served_path, self._server)
            self._client = self._spawn(log, "nbdfuse", "-P", mounted_path, self.path, "--unix", socket_path)
            self._wait(mounted_path, self._client)
            harness.wait_until(self.path.exists, 20, f"{self.path} is there")
        return self

    def _spawn(self, log, *command):
        command = [str(word) for word in command]
        self.workspace.history.append((command, None, "", "", 0.0))
        return subprocess.Popen(command, env=self.workspace.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _wait(self, pid_path, process):
        def ready():
            if process.poll() is not None:
                raise Failure(f"{process.args[0]} ended with {process.returncode}: {self.log()}")
            return pid_path.exists() and pid_path.read_text().strip()

        harness.wait_until(ready, 20, f"{process.args[0]} serves {self.name}")

    def log(self):
        return "\n".join(self._log_path.read_text(errors="replace").splitlines()[-20:])

    def kill_server(self):
        """The drive is gone from one moment to the next: nbdkit is killed, what its file holds stays."""
        self._server.send_signal(signal.SIGKILL)
        self._server.wait(20)

    def stop(self):
        """Ends both. Nobody may use the member any more."""
        if harness.is_mounted(self.folder):
            self.workspace.run("umount", self.folder)
        self._client.wait(20)
        self._end_server()
        self.workspace.forget(self)

    def _end_server(self):
        if self._server.poll() is None:
            self._server.terminate()
            try:
                self._server.wait(20)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait(20)

    def clear(self):
        """Whatever the state: ends both."""
        if self._client and harness.is_mounted(self.folder):
            harness.force_unmount(self.workspace, self.folder)
        self._end_server()
        if self._client:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._client.wait(5)
            if self._client.poll() is None:
                self._client.kill()
                self._client.wait(20)

    def restart(self):
        self.stop()
        return self.start()


class NbdSet(harness.Set):
    """A set whose members are exports: main always, the spare where asked. Started exports, not yet created."""

    def __init__(self, workspace, name="e2e", main_size=64 * MIB, spare_size=32 * MIB, export_spare=False):
        super().__init__(workspace, name, main_size=main_size, spare_size=spare_size)
        self.main_sectors = main_size // SECTOR
        self.main_export = Export(workspace, "main", self.main)
        self.main_file, self.main = self.main, self.main_export.path
        self.spare_file, self.spare_export = self.spare, None
        if export_spare:
            self.spare_export = Export(workspace, "spare", self.spare)
            self.spare = self.spare_export.path

    @property
    def exports(self):
        return [e for e in (self.main_export, self.spare_export) if e]

    def start_exports(self):
        for export in self.exports:
            export.start()
        return self

    def restart_exports(self):
        for export in self.exports:
            export.restart()

    def spare_data_sectors(self):
        """Sectors of the spare that hold no metadata, as the format's page places it."""
        from metadata import Layout
        taken = Layout(self.spare_file).metadata_units()
        units = self.spare_file.stat().st_size // harness.UNIT
        return [u * UNIT_SECTORS + s for u in range(units) if u not in taken for s in range(UNIT_SECTORS)]


class NbdCase(harness.TestCase):
    """A test that has one NbdSet, `self.set`, open on a loop device with `self.device` on that."""

    def open(self, options=None):
        self.set.start(options)
        self.loop = self.set.loop()
        self.assertEqual(self.loop.dio, 1)
        self.device = harness.DirectFile(self.loop.path, write=True)
        self.workspace.on_close(self.device, self._close_device)

    def _close_device(self):
        os.close(self.device.fd)

    def status(self, code=0):
        """status --json, with the exit status expected: 4 where the set needs somebody."""
        answer = self.set.status("--json", check=False)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        self.assertEqual(self.set.status(check=False).returncode, code)
        return json.loads(answer.stdout)

    def check_slow_beside(self, quick, slow, held_ms):
        """Areas `slow` on a member whose every request takes so long, one request of each at a time: `quick`, on the
        other member, keeps its own speed."""
        alone, beside = tagged_load.rates_beside(quick, slow, TURNS)
        figures = tagged_load.total(slow)
        waited, seconds = figures["reads"] + figures["writes"], sum(rate.seconds for rate in beside)
        print(f"alone {[str(r) for r in alone]}; beside {waited} requests of the slow member {[str(r) for r in beside]}",
              flush=True)
        self.assertGreaterEqual(seconds * len(slow), waited * held_ms / 1000 * 0.9, "each was held up")
        # Of the turns the median one: a machine that stalls spoils the turn that it stalls in, not all of them.
        usual = statistics.median(rate.rate() for rate in beside)
        self.assertGreater(usual, 0)
        self.assertGreater(usual, statistics.median(rate.rate() for rate in alone) * LEAST_SPEED)

    def close(self, kill=False):
        """Ends the daemon, by kill -9 where asked; the exports go on."""
        self.workspace.forget(self.device)
        self._close_device()
        if kill:
            self.set.daemon.kill()
        self.loop.detach()
        if kill:
            self.set.kill()
        else:
            self.set.stop()


def main():
    """Entry of a test file: as harness.main, and a skip where nbdkit or nbdfuse is not installed."""
    if (missing := why_not()) and not harness.required():
        print(f"skipped: {missing}")
        sys.exit(77)
    harness.main()
