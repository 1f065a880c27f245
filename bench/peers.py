# SPDX-License-Identifier: GPL-2.0-or-later
"""What bench/run compares a set's image with: other programs that show a file as a file through FUSE. Each serves the
same bytes, has a `mountpoint` (a file), and ends with its workspace.
"""

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import harness


def installed(peer):
    """Whether its programs are there; says what is missing."""
    absent = [name for name in peer.PROGRAMS if not shutil.which(name)]
    if absent:
        print(f"note: left out: {', '.join(absent)} not installed (scripts/setup; package {peer.PACKAGES})", file=sys.stderr)
    return not absent


class Served:
    """A file shown at `mountpoint` by programs of ours."""

    def __init__(self, workspace, name):
        self.workspace, self.name = workspace, name
        self.mountpoint = workspace.path / f"{name}.img"
        self.mounted = self.mountpoint  # what to unmount
        self.processes = []
        workspace.on_close(self, self.close)

    def start(self, *command, **options):
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def wait(self, ready, what):
        def check():
            for process in self.processes:
                if process.poll() is not None:
                    raise harness.Failure(f"{process.args[0]} ended with {process.returncode}")
            return ready()

        harness.wait_until(check, 20, what)

    def close(self):
        """The mount first; who serves it ends by itself or is ended, the last started first."""
        harness.force_unmount(self.workspace, self.mounted)
        for process in reversed(self.processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()


class Passthrough(Served):
    """The bare pass-through."""

    def __init__(self, workspace, path, workers):
        super().__init__(workspace, "passthrough")
        self.mountpoint.touch()
        process = self.start(harness.program("bench_passthrough"), "--workers", workers, path, self.mountpoint,
                             stdout=subprocess.PIPE, text=True)
        if process.stdout.readline() != "ready\n":
            raise harness.Failure("bench_passthrough does not serve")

    def close(self):
        super().close()
        self.processes[0].stdout.close()


class Qemu(Served):
    """QEMU's storage daemon: FUSE export of the file with direct I/O by Linux AIO, its fastest."""
    PROGRAMS, PACKAGES = ("qemu-storage-daemon",), "qemu-system-common"

    def __init__(self, workspace, path):
        super().__init__(workspace, "qemu")
        self.mountpoint.touch()
        # locking=off: the set has the file open, too.
        self.start("qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={path},cache.direct=on,"
                   "aio=native,locking=off", "--export",
                   f"type=fuse,id=export,node-name=disk,mountpoint={self.mountpoint},writable=on")
        self.wait(lambda: harness.is_mounted(self.mountpoint), "qemu-storage-daemon serves")


class Nbdfuse(Served):
    """nbdfuse on nbdkit's file plugin; it goes through the page cache of the file."""
    PROGRAMS, PACKAGES = ("nbdkit", "nbdfuse"), "nbdkit, libnbd-bin"

    def __init__(self, workspace, path):
        super().__init__(workspace, "nbd")
        self.mounted = workspace.folder("nbd")
        self.mountpoint = self.mounted / "disk"
        socket = workspace.path / "nbd.sock"
        self.start("nbdkit", "--foreground", "--unix", socket, "file", path)
        self.wait(lambda: Path(socket).exists(), "nbdkit serves")
        self.start("nbdfuse", self.mountpoint, "--unix", socket)
        self.wait(lambda: harness.is_mounted(self.mounted) and self.mountpoint.exists(), "nbdfuse serves")
