# SPDX-License-Identifier: GPL-2.0-or-later
"""What the end-to-end tests, the demo and the benchmark stand on: sets made of sparse files, loop devices, mounts.

Everything that is started belongs to a Workspace, which ends exactly that again, last first, when it is closed, when
the program exits and when it is told to stop, also in the middle of a failing test. Nothing is found by name.
"""

import array
import atexit
import contextlib
import fcntl
import hashlib
import json
import os
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

SECTOR = 512
UNIT = 4096
UNIT_SECTORS = UNIT // SECTOR
MIB = 1 << 20
REPOSITORY = Path(__file__).resolve().parents[2]


class Failure(AssertionError):
    """A command or a wait did not do what the caller relies on."""


def build_dir():
    """Where the programs are: $DMREMAP_BUILD, else the newest build folder of this tree."""
    if os.environ.get("DMREMAP_BUILD"):
        return Path(os.environ["DMREMAP_BUILD"])
    found = sorted(REPOSITORY.glob("build/*/fusedisk/fusedisk"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise Failure("no programs: build first, or set DMREMAP_BUILD")
    return found[-1].parents[1]


def program(name):
    """Path of one of our programs in the build folder."""
    folder = {"fusedisk": "fusedisk", "dmremap": "admin", "dmremap-fsck": "fsck"}.get(
        name, "recover" if name.startswith("dmremap-") else "bench")
    return str(build_dir() / folder / name)


# --- what belongs to a run, and its end ---------------------------------------------------------------------------

_open_workspaces = []


def _close_all():
    for workspace in list(reversed(_open_workspaces)):
        workspace.close()


def _stop_on_signal(number, _frame):
    # A second signal must not interrupt the cleaning up.
    for other in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    _close_all()
    os._exit(128 + number)


def clean_up_on_signals():
    """SIGTERM (ctest's timeout), SIGHUP and SIGINT end what was started before the program goes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop_on_signal)


atexit.register(_close_all)


class Workspace:
    """A temporary folder with the run, configuration and state folders of the programs, and everything started."""

    def __init__(self, parent=None, own_sessions=False):
        """own_sessions: what is run does not hear the terminal's Ctrl-C; the caller does and ends it in order."""
        self.own_sessions = own_sessions
        self.path = Path(tempfile.mkdtemp(prefix="dmremap-e2e.", dir=parent or os.environ.get("DMREMAP_TEST_DIR")))
        self.path.chmod(0o755)  # tests that run a program as nobody reach it
        self.history = []
        self._closers = []  # (key, function), last first
        self._daemons = []
        self.env = dict(os.environ, LC_ALL="C", LANG="C", DMREMAP_RUN_DIR=str(self.path / "run"),
                        DMREMAP_CONF_DIR=str(self.path / "conf"), DMREMAP_STATE_DIR=str(self.path / "state"),
                        DMREMAP_UDEV_DIR=str(self.path / "udev"), DMREMAP_FSTAB=str(self.path / "fstab"))
        _open_workspaces.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def on_close(self, key, function):
        """Calls function at the end, unless forget(key) came first."""
        self._closers.append((key, function))

    def forget(self, key):
        self._closers = [c for c in self._closers if c[0] != key]

    def close(self):
        """Ends everything that is still there, last started first. Never raises: says what it could not do."""
        while self._closers:
            key, function = self._closers.pop()
            try:
                function()
            except Exception as problem:  # the rest must still be ended
                print(f"cleaning up {key}: {problem}", file=sys.stderr)
        try:
            self._end_what_nobody_knows_of()
        except Exception as problem:
            print(f"cleaning up {self.path}: {problem}", file=sys.stderr)
        if self in _open_workspaces:
            _open_workspaces.remove(self)
        shutil.rmtree(self.path, ignore_errors=True)

    def _end_what_nobody_knows_of(self):
        """What a program started that was to refuse: file systems on loop devices, these, and the mounts below."""
        below = f"{os.path.realpath(self.path)}/"
        left = [m for m in mounts() if m[0].startswith(below)]
        for path, kind in reversed(left):
            if kind != "fuse.fusedisk":
                force_unmount(self, path)
        listed = self.run("losetup", "-l", "-n", "--raw", "-O", "NAME,BACK-FILE").stdout.splitlines()
        loops = [line.split(" ", 1)[0] for line in listed if line.partition(" ")[2].startswith(below)]
        for loop in loops:
            self.run("losetup", "-d", loop, check=False)
        for path, kind in reversed(left):
            force_unmount(self, path)
        for what in [*(path for path, _ in left), *loops]:
            print(f"cleaning up {what}: nobody had said that it was there", file=sys.stderr)

    def kill_daemons(self):
        """The last resort when something hangs on a daemon of ours."""
        for daemon in self._daemons:
            daemon.kill()

    # --- commands ---

    def run(self, *command, check=True, timeout=120, **options):
        """Runs a command; its output as text in the answer. check: an exit status other than 0 fails."""
        command = [str(word) for word in command]
        started = time.monotonic()
        answer = subprocess.run(command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                timeout=timeout, stdin=subprocess.DEVNULL,
                                start_new_session=self.own_sessions, **options)
        self.history.append((command, answer.returncode, answer.stdout[-2000:], answer.stderr[-2000:],
                             time.monotonic() - started))
        if check and answer.returncode != 0:
            raise Failure(f"{' '.join(command)}: exit {answer.returncode}\n{answer.stdout}{answer.stderr}")
        return answer

    def dmremap(self, *words, **options):
        return self.run(program("dmremap"), *words, **options)

    def fusedisk(self, *words, **options):
        return self.run(program("fusedisk"), *words, **options)

    def dmremap_json(self, *words):
        return json.loads(self.dmremap(*words, "--json").stdout)

    def status(self, name, *words, check=True):
        """dmremap status NAME WORDS, once the daemon itself answers, of the spares too what is so now; text or JSON.

        The command waits half a second for the daemon, then shows what it said last and ends with 4. A machine that
        stalls for so long says nothing of the set: so this asks again. For all tests but those of status itself."""
        answers = []

        def answered():
            answers.append(spares_of_now(lambda: self.dmremap("status", name, *words, check=False)))
            code, said = answers[-1].returncode, answers[-1].stdout
            if "dm" in words:  # which does not say it
                return not check or code != 4
            if "--json" in words and said:
                return json.loads(said).get("answers", True)
            return not re.search(r"the daemon (is at work but )?does not answer|(?m:^dmremap_up\S* 0$)", said)

        wait_until(answered, 60, f"the daemon of {name} answers")
        answer = answers[-1]
        if check and answer.returncode != 0:
            raise Failure(f"status {name}: exit {answer.returncode}\n{answer.stdout}{answer.stderr}")
        return answer

    def status_json(self, name, check=True):
        return json.loads(self.status(name, "--json", check=check).stdout)

    def spare_list(self, name):
        """The spares as `dmremap spare list NAME --json` shows them, of now."""
        return spares_of_now(lambda: self.dmremap_json("spare", "list", name))["spares"]

    def recent(self, count=25):
        """The last commands and answers, for a failure's report."""
        lines = []
        for command, code, out, err, seconds in self.history[-count:]:
            lines.append(f"$ {' '.join(command)}   -> {code} ({seconds:.2f} s)")
            lines += [f"    {line}" for line in (out + err).strip().splitlines()[-12:]]
        for daemon in self._daemons:
            lines += [f"[{daemon.set.name} {daemon.pid}] {line}" for line in daemon.log().splitlines()[-30:]]
        return "\n".join(lines)

    # --- files, loop devices, mounts ---

    def sparse(self, name, size):
        """A sparse file of that many bytes."""
        path = self.path / name
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def folder(self, name):
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def loop(self, path, direct=True, partitions=False):
        """Attaches a loop device; LoopDevice."""
        words = ["losetup", "-f", "--show", f"--direct-io={'on' if direct else 'off'}"]
        device = self.run(*words, *(["-P"] if partitions else []), path).stdout.strip()
        return LoopDevice(self, device)

    def mount(self, device, name="mnt", options=None, fs_type=None):
        """Mounts a file system; Mount."""
        folder = self.folder(name)
        words = (["-t", fs_type] if fs_type else []) + (["-o", options] if options else [])
        self.run("mount", *words, device, folder)
        return Mount(self, folder)


class LoopDevice:
    """An attached loop device."""

    def __init__(self, workspace, path):
        self.workspace, self.path = workspace, path
        self.image = self.backing_file()
        workspace.on_close(self, self.detach)

    def __str__(self):
        return self.path

    @property
    def sysfs(self):
        return Path("/sys/block") / Path(self.path).name

    def backing_file(self):
        """What the device is attached to now; None: to nothing."""
        try:
            return (self.sysfs / "loop/backing_file").read_text().strip().removesuffix(" (deleted)")
        except OSError:
            return None

    @property
    def dio(self):
        return int((self.sysfs / "loop/dio").read_text())

    def partition(self, number):
        """The path of a partition's device."""
        path = f"{self.path}p{number}"
        if not os.path.exists(path):  # a kernel that reads no GPT: partx reads it for us
            self.workspace.run("partx", "-a", "-n", number, self.path)
        wait_until(lambda: os.path.exists(path), 5, path)
        return path

    def detach(self):
        """Detaches now; fails where something still uses it, so that nothing lingers."""
        self.workspace.forget(self)
        answer = self.workspace.run("losetup", "-d", self.path, check=False)
        if answer.returncode != 0 and self.backing_file() == self.image:
            raise Failure(f"losetup -d {self.path}: {answer.stderr}")
        # Whoever attaches a loop device now may get this one.
        wait_until(lambda: self.backing_file() != self.image, 20, f"{self.path} detached")


class Mount:
    """A mounted file system."""

    def __init__(self, workspace, path):
        self.workspace, self.path = workspace, Path(path)
        workspace.on_close(self, self.force)

    def __truediv__(self, name):
        return self.path / name

    def unmount(self):
        self.workspace.run("umount", self.path)
        self.workspace.forget(self)

    def force(self):
        """Unmounts whatever the state: a daemon of ours that hangs is killed, a busy mount is taken off lazily."""
        self.workspace.forget(self)
        force_unmount(self.workspace, self.path)


def force_unmount(workspace, path):
    if not is_mounted(path):
        return
    try:
        answer = workspace.run("umount", path, check=False, timeout=60)
    except subprocess.TimeoutExpired:
        workspace.kill_daemons()
        answer = workspace.run("umount", path, check=False, timeout=60)
    if answer.returncode != 0 and is_mounted(path):
        workspace.run("umount", "-l", path, check=False, timeout=60)


def mounts():
    """[(path as mountinfo writes it, type of the file system)], in the order of mounting."""
    with open("/proc/self/mountinfo") as table:
        lines = [line.split() for line in table]
    return [(words[4], words[words.index("-") + 1]) for words in lines]


def is_mounted(path):
    target = os.path.realpath(path).replace("\\", "\\134").replace(" ", "\\040")
    return any(mounted == target for mounted, _ in mounts())


def wait_until(condition, seconds, what):
    """Waits for something that sends no event of its own."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds} s: {what}")
        time.sleep(0.005)


SPARES_PATIENCE = 0.5  # seconds that the daemon waits for the state of the spares


def spares_of_now(ask):
    """What ask() answers, once what it says of the spares is of after the question.

    The daemon waits so long for the spares' state, then tells the one that it knew before; an answer that took less is
    of now. A machine that stalls says nothing of the spares: so this asks again."""
    answers = []

    def quick():
        asked = time.monotonic()
        answers.append(ask())
        return time.monotonic() - asked < SPARES_PATIENCE

    wait_until(quick, 60, "the state of the spares is of now")
    return answers[-1]


def memory_folder(room):
    """A folder in memory with that much room that takes direct I/O, for tests that need no drive and many turns. None
    is the usual place, also where $DMREMAP_TEST_DIR says which one that is."""
    folder = "/dev/shm"
    try:
        space = os.statvfs(folder)
        if os.environ.get("DMREMAP_TEST_DIR") or space.f_bavail * space.f_frsize < room:
            return None
        with tempfile.NamedTemporaryFile(prefix="dmremap-e2e.", dir=folder) as file:
            os.close(os.open(file.name, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC))
        return folder
    except OSError:
        return None


def drop_caches():
    """Writes back and drops clean page cache, dentries and inodes: the next read goes to the device."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


# --- sets and their daemons ----------------------------------------------------------------------------------------

class Daemon:
    """A running fusedisk. Started in the foreground as a child of ours, so that its end is seen at once."""

    def __init__(self, owner, process, log_path, mountpoint, image):
        self.set, self.process, self.log_path = owner, process, log_path
        self.mountpoint, self.image = mountpoint, image
        self.pid = process.pid

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def running(self):
        return self.process.poll() is None

    def memory(self):
        """Bytes that it has written to and nobody shares: pages of programs come and go as the system likes."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(rollup.split("Private_Dirty:")[1].split()[0]) * 1024

    def descriptors(self):
        """The fewest of a few looks: a reply that was just given may still have its socket open."""
        counts = []
        for _ in range(5):
            counts.append(len(os.listdir(f"/proc/{self.pid}/fd")))
            time.sleep(0.05)
        return min(counts)

    def wait(self, timeout=60):
        """Waits for its end; the exit status (negative: the signal)."""
        return self.process.wait(timeout)

    def kill(self):
        """kill -9, and waits until it is gone with its locks. The dead mount stays, as in life."""
        if self.running():
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(60)

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=60):
        """Clean stop by umount; the exit status."""
        self.set.workspace.run("umount", self.mountpoint, timeout=timeout)
        return self.wait(timeout)

    def clear(self):
        """Whatever the state: ends it and takes the mount away."""
        if self.running():
            with contextlib.suppress(Exception):
                self.set.workspace.run("umount", self.mountpoint, check=False, timeout=30)
            try:
                self.process.wait(0.1 if is_mounted(self.mountpoint) else 30)
            except subprocess.TimeoutExpired:
                self.kill()
        force_unmount(self.set.workspace, self.mountpoint)


class Attached:
    """What `dmremap attach` started: a daemon in the background and a loop device."""

    def __init__(self, workspace, name, *mountpoint, loop=None):
        self.workspace, self.name = workspace, name
        self.loop = loop or workspace.dmremap("attach", name, *mountpoint).stdout.split()[0]
        info = json.loads((workspace.path / "run/.sets" / name / "info.json").read_text())
        self.pid, self.mountpoint, self.image = info["pid"], info["mountpoint"], info["image"]
        self._pidfd = os.pidfd_open(self.pid)
        workspace.on_close(self, self.clear)

    @classmethod
    def adopt(cls, workspace, name):
        """One of those that `dmremap attach --all` started."""
        return cls(workspace, name, loop=workspace.status_json(name)["loop"][0])

    @property
    def dio(self):
        return int(Path("/sys/block", Path(self.loop).name, "loop/dio").read_text())

    def wait_end(self, seconds=30):
        """Waits for the daemon's end."""
        if not poll_fd(self._pidfd, seconds):
            raise Failure(f"fusedisk {self.pid} still runs")

    def kill(self):
        """kill -9 of the daemon; waits for its end."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait_end()

    def detach(self, *words, **options):
        """dmremap detach; after that nothing of it may be left."""
        answer = self.workspace.dmremap("detach", self.name, *words, **options)
        if answer.returncode == 0:
            self.wait_end()
            self.ended()
        return answer

    def ended(self):
        """Fails where something is left; then there is nothing to clean up any more."""
        backing = Path("/sys/block", Path(self.loop).name, "loop/backing_file")
        if backing.exists() and backing.read_text().strip() == self.image:
            raise Failure(f"{self.loop} is still attached")
        if is_mounted(self.mountpoint):
            raise Failure(f"{self.mountpoint} is still mounted")
        self.workspace.forget(self)
        os.close(self._pidfd)

    def clear(self):
        """Whatever the state: ends it."""
        backing = Path("/sys/block", Path(self.loop).name, "loop/backing_file")
        if backing.exists() and backing.read_text().strip() == self.image:
            self.workspace.run("losetup", "-d", self.loop, check=False)
            with contextlib.suppress(Failure):
                wait_until(lambda: not backing.exists(), 20, self.loop)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.workspace.run("umount", self.mountpoint, check=False, timeout=30)
        if is_mounted(self.mountpoint) or not poll_fd(self._pidfd, 30):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            poll_fd(self._pidfd, 30)
            force_unmount(self.workspace, self.mountpoint)
        os.close(self._pidfd)


class Set:
    """A set made of two sparse files in a workspace."""

    def __init__(self, workspace, name="e2e", main_size=64 * MIB, spare_size=32 * MIB, dust=False, folder=None):
        base = Path(folder) if folder else workspace.path
        self.workspace, self.name, self.dust = workspace, name, dust
        self.main, self.spare = base / f"{name}-main.img", base / f"{name}-spare.img"
        for path, size in ((self.main, main_size), (self.spare, spare_size)):
            with open(path, "xb") as f:
                f.truncate(size)
            if folder:
                workspace.on_close(path, path.unlink)
        self.daemon = None
        self._starts = 0

    @property
    def main_member(self):
        return f"dust:{self.main}" if self.dust else str(self.main)

    @property
    def spare_member(self):
        return f"dust:{self.spare}" if self.dust else str(self.spare)

    @property
    def spare_members(self):
        """All that are given to fusedisk; more than one where a subclass says so."""
        return [self.spare_member]

    def create(self):
        self.workspace.dmremap("create", self.name, "--main", self.main_member, "--spare", self.spare_member)
        return self

    def what_to_serve(self):
        """The members, as fusedisk gets them; a subclass may name the set instead."""
        return [self.main_member, *self.spare_members]

    def start(self, options=None, on_file=False, wait=True, timeout=60):
        """Starts fusedisk in the foreground, on a folder or on a file; Daemon once the mount serves."""
        self._starts += 1
        mountpoint = self.workspace.path / f"{self.name}.{'img' if on_file else 'd'}"
        if not is_mounted(mountpoint):  # else what a killed daemon left
            mountpoint.touch() if on_file else mountpoint.mkdir(exist_ok=True)
        log_path = self.workspace.path / f"{self.name}.{self._starts}.log"
        command = [program("fusedisk"), "--foreground", *(["-o", options] if options else []),
                   *self.what_to_serve(), str(mountpoint)]
        with open(log_path, "w") as log:
            process = subprocess.Popen(command, env=self.workspace.env, stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=self.workspace.own_sessions)
        self.workspace.history.append((command, None, "", "", 0.0))
        image = mountpoint if on_file else mountpoint / "disk.img"
        self.daemon = Daemon(self, process, log_path, mountpoint, image)
        self.workspace._daemons.append(self.daemon)
        self.workspace.on_close(self.daemon, self.daemon.clear)
        if wait:
            self._wait_ready(timeout)
        return self.daemon

    def _wait_ready(self, timeout):
        """info.json is written once the mount serves; one of an earlier daemon has another pid."""
        daemon = self.daemon
        info = self.run_dir / "info.json"

        def ready():
            if not daemon.running():
                raise Failure(f"fusedisk ended with {daemon.process.returncode}: {daemon.log()}")
            try:
                return json.loads(info.read_text())["pid"] == daemon.pid
            except (OSError, ValueError):
                return False

        wait_until(ready, timeout, "fusedisk serves")

    @property
    def run_dir(self):
        return self.workspace.path / "run/.sets" / self.name

    def stop(self, timeout=60):
        """Unmounts; the daemon must end well."""
        code = self.daemon.stop(timeout)
        if code != 0:
            raise Failure(f"fusedisk ended with {code}: {self.daemon.log()}")
        self.workspace.forget(self.daemon)

    def kill(self):
        """kill -9 and the dead mount taken away; loop devices and file systems on it must be gone by then."""
        self.daemon.kill()
        force_unmount(self.workspace, self.daemon.mountpoint)
        self.workspace.forget(self.daemon)

    @property
    def image(self):
        return self.daemon.image

    def loop(self, **options):
        return self.workspace.loop(self.image, **options)

    def control(self, command, **arguments):
        """One request on the control socket, without the cost of a program; the reply, good or bad."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
            s.settimeout(60)
            s.connect(str(self.run_dir / "control"))
            s.sendall(json.dumps({"v": 1, "cmd": command, "args": arguments}).encode() + b"\n")
            with s.makefile("rb") as reply:
                return json.loads(reply.readline())

    # --- the administrator's command ---

    def status(self, *words, **options):
        """dmremap status, once the daemon itself answers."""
        return self.workspace.status(self.name, *words, **options)

    def status_json(self, **options):
        return self.workspace.status_json(self.name, **options)

    def do(self, verb, *words, **options):
        """dmremap VERB NAME WORDS..."""
        return self.workspace.dmremap(verb, self.name, *words, **options)

    def ask(self, verb, *words):
        """dmremap VERB NAME WORDS... --json"""
        return self.workspace.dmremap_json(verb, self.name, *words)

    def message(self, *words, **options):
        return self.workspace.dmremap("message", self.name, 0, *words, **options)

    def stats(self):
        """The counters of now, as the daemon itself tells them; see Workspace.status()."""
        told = []

        def answered():
            told.append(self.ask("stats"))
            return told[-1]["answers"]

        wait_until(answered, 60, f"the daemon of {self.name} answers")
        return told[-1]

    def spare_list(self):
        return self.workspace.spare_list(self.name)

    def status_of_now(self):
        """The daemon's own status, of now also in what it says of the spares."""
        return spares_of_now(lambda: self.control("status"))["result"]

    def remaps(self):
        """{main unit: entry of table --json}"""
        return {r["main_sector"] // UNIT_SECTORS: r for r in self.ask("table")["remaps"]}

    def lost(self):
        """The set of lost sectors."""
        return {s for r in self.ask("lost")["lost"] for s in range(r["sector"], r["sector"] + r["count"])}

    def dust_on(self, *words, store="main", **options):
        return self.workspace.dmremap("dust", self.name, store, *words, **options)

    def break_sectors(self, sectors, mode="both", store="main"):
        """Makes sectors fail; neighbours go in one command."""
        for first, count in runs(sectors):
            self.dust_on("addbadblock", first, mode, count, store=store)
        self.dust_on("enable", store=store)

    def delay_reads(self, first, count, milliseconds, store="main"):
        """Every read that touches these sectors takes that much longer. (The request's fields become the words of the
        dust store's command in this order.)"""
        reply = self.control("dust", store=store, op="delay", sector=first, mode=str(count), count=milliseconds)
        if not reply["ok"]:
            raise Failure(f"dust delay: {reply['error']}")

    def dust_failures(self, store="main"):
        """(failed reads, failed writes) as the dust store itself counted them."""
        text = self.control("dust", store=store, op="status")["text"]
        return tuple(int(text.split(f"failed {kind} ")[1].split(",")[0]) for kind in ("reads", "writes"))

    def hash_members(self):
        return {str(p): sha256_file(p) for p in (self.main, self.spare)}


def runs(numbers):
    """[(first, count)] of a collection of numbers."""
    out = []
    for n in sorted(set(numbers)):
        if out and out[-1][0] + out[-1][1] == n:
            out[-1][1] += 1
        else:
            out.append([n, 1])
    return [tuple(r) for r in out]


# --- data -------------------------------------------------------------------------------------------------------------

def sha256_file(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as f:
        while chunk := f.read(MIB):
            digest.update(chunk)
    return digest.hexdigest()


def read_at(path, sector, count):
    """Bytes of a file or device, from the medium where a device is meant: by direct I/O where it can be."""
    with open(path, "rb") as f:
        f.seek(sector * SECTOR)
        return f.read(count * SECTOR)


def write_at(path, sector, data):
    with open(path, "r+b") as f:
        f.seek(sector * SECTOR)
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


class DirectFile:
    """A file or device opened with O_DIRECT: what is read was read from it now, what is written went to it."""

    def __init__(self, path, write=False):
        self.fd = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.fd)

    def read(self, offset, length):
        """Raises OSError where any part cannot be read."""
        import mmap
        with mmap.mmap(-1, max(length, UNIT)) as room:
            view = memoryview(room)[:length]
            try:
                got = os.preadv(self.fd, [view], offset)
                if got != length:
                    raise Failure(f"short read: {got} of {length} at {offset}")
                return bytes(view)
            finally:
                view.release()

    def write(self, offset, data):
        import mmap
        with mmap.mmap(-1, max(len(data), UNIT)) as room:
            room[:len(data)] = data
            view = memoryview(room)[:len(data)]
            try:
                done = os.pwritev(self.fd, [view], offset)
                if done != len(data):
                    raise Failure(f"short write: {done} of {len(data)} at {offset}")
            finally:
                view.release()

    def sync(self):
        os.fsync(self.fd)


def pattern(seed, length):
    """Bytes that depend on the seed alone and repeat nowhere near."""
    return random.Random(seed).randbytes(length)


def make_tree(root, files, seed, smallest=1, largest=64 * 1024):
    """Files with random content in a few folders; {relative name: sha256}. All on the medium on return."""
    sums = make_tree_in(root, files, seed, smallest, largest)
    os.sync()
    return sums


def make_tree_in(root, files, seed, smallest=1, largest=64 * 1024):
    """The same, but nothing is waited for."""
    chance = random.Random(seed)
    sums = {}
    for i in range(files):
        name = f"dir{i % 7}/file{i:04}"
        path = Path(root) / name
        path.parent.mkdir(exist_ok=True)
        data = chance.randbytes(chance.randint(smallest, largest))
        path.write_bytes(data)
        sums[name] = hashlib.sha256(data).hexdigest()
    return sums


def check_tree(root, sums):
    """Names whose content differs or cannot be read: (different, unreadable)."""
    different, unreadable = [], []
    for name, digest in sums.items():
        try:
            if sha256_file(Path(root) / name) != digest:
                different.append(name)
        except OSError as problem:
            unreadable.append((name, problem.errno))
    return different, unreadable


_FIEMAP = 0xC020660B  # _IOWR('f', 11, struct fiemap)
_FIEMAP_SYNC = 1
_EXTENT_LAST = 1
_EXTENT_UNKNOWN_PLACE = 0x2 | 0x4 | 0x80 | 0x200 | 0x800  # unknown, delalloc, encoded, inline data, unwritten


def extents(path):
    """[(logical byte, physical byte, length)] of a file that lies in plain extents (FIEMAP)."""
    out, start = [], 0
    with open(path, "rb") as f:
        while True:
            buffer = array.array("B", struct.pack("=QQLLLL", start, (1 << 64) - 1 - start, _FIEMAP_SYNC, 0, 64, 0)
                                 + bytes(64 * 56))
            fcntl.ioctl(f.fileno(), _FIEMAP, buffer)
            mapped = struct.unpack_from("=QQLLLL", buffer, 0)[3]
            for i in range(mapped):
                logical, physical, length, _, _, flags = struct.unpack_from("=QQQQQL", buffer, 32 + 56 * i)
                if flags & _EXTENT_UNKNOWN_PLACE:
                    raise Failure(f"{path}: extent without a place of its own (flags {flags:#x})")
                out.append((logical, physical, length))
                start = logical + length
                if flags & _EXTENT_LAST:
                    return out
            if mapped == 0:
                return out


# --- the test case ----------------------------------------------------------------------------------------------------

def required():
    """Whether a missing privilege is a failure (CI) and not a skip."""
    return os.environ.get("CI", "") not in ("", "0", "false") or os.environ.get("DMREMAP_REQUIRE") == "1"


def why_not():
    """What is missing for tests that need root, FUSE and loop devices; None where nothing is."""
    if os.geteuid() != 0:
        return "not root"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not os.path.exists(path):
            return f"no {path}"
    return None


class TestCase(unittest.TestCase):
    """A test with a workspace of its own. Where CI is set, a missing privilege is a failure and not a skip."""

    parent = None  # the folder that the workspace is made in, where it is not the usual one

    @classmethod
    def setUpClass(cls):
        missing = why_not()
        if missing:
            raise Failure(f"end-to-end tests need root, FUSE and loop devices: {missing}")
        clean_up_on_signals()

    def setUp(self):
        self.workspace = Workspace(self.parent)
        self.addCleanup(self._finish)

    def _finish(self):
        if self._failed():
            print(f"--- {self.id()}: what was done last\n{self.workspace.recent()}\n---", file=sys.stderr)
        self.workspace.close()

    def _failed(self):
        result = self._outcome.result
        return any(test is self for test, _ in result.failures + result.errors) or \
            not getattr(self._outcome, "success", True)

    def make_set(self, name="e2e", **options):
        return Set(self.workspace, name, **options).create()

    def refused(self, answer, identifier=None, code=1, says=()):
        """An answer is the refusal expected: exit status, message form, words, identifier."""
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        text = answer.stderr + answer.stdout
        for word in says:
            self.assertIn(str(word), text)
        if identifier:
            self.assertIn(f'"{identifier}"', text)


def poll_fd(fd, seconds):
    """True when a descriptor has something to say within that time."""
    return bool(select.select([fd], [], [], seconds)[0])


def main():
    """Entry of a test file. ctest reads 77 as skipped."""
    if why_not() and not required():
        print(f"skipped: {why_not()}")
        sys.exit(77)
    unittest.main(verbosity=2, failfast=bool(os.environ.get("DMREMAP_FAILFAST")))
