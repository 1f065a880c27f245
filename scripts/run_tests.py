# SPDX-License-Identifier: GPL-2.0-or-later
"""Configures, builds and runs the tests for scripts/test; see there. Counts over all configurations."""

import argparse
import base64
import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IN_CI = os.environ.get("CI", "") not in ("", "0", "false")
TOKEN = "DMREMAP_TEST_RUN"  # in the environment of whatever a test starts: daemons that outlive it are found by it


def say(text):
    print(text, flush=True)


class Tally:
    """What passed and what failed, over all configurations."""

    def __init__(self):
        self.passed = 0
        self.failures = []
        self.skipped = []

    def require(self, name, good):
        """A step that is no test: it counts only where it fails."""
        if not good:
            self.failures.append(name)
        return good

    def add_junit(self, configuration, path):
        """Adds the results of one ctest run; returns how many tests it names."""
        try:
            cases = list(xml.etree.ElementTree.parse(path).getroot().iter("testcase"))
        except (OSError, xml.etree.ElementTree.ParseError):
            return 0
        for case in cases:
            name = f"{configuration}: {case.get('name')}"
            status = case.get("status")
            if status == "run" and case.find("failure") is None:
                self.passed += 1
            elif case.find("skipped") is not None and not IN_CI:
                self.skipped.append(name)
            else:  # failed, not run, disabled; skipped in CI
                self.failures.append(name)
        return len(cases)


# --- what a run leaves behind -----------------------------------------------------------------------------------


def loops():
    """{(device, backing file)} of all loop devices in use."""
    found = set()
    for name in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{name}/loop/backing_file", encoding="utf-8", errors="replace") as file:
                found.add((f"/dev/{name}", file.read().strip()))
        except OSError:
            pass
    return found


def mounts():
    """{(mount point, type)}"""
    found = set()
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            fields = line.split()
            found.add((fields[4], fields[fields.index("-") + 1]))
    return found


def processes(token):
    """{(pid, command line)} of processes that this run started and that still live; not this one."""
    found = set()
    mark = f"{TOKEN}={token}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    continue
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if line:  # a zombie has none
            found.add((pid, line))
    return found


class Leftovers:
    """Loop devices, mounts and processes that were not there before. Where others use the machine, too (not CI),
    loop devices and mounts count only where they lie in this run's temporary folder.

    In CI a container may show the loop devices of the whole machine: those of other jobs do not count. Ours lie in that
    folder, or where some tests want theirs: in memory, in /tmp, or where $DMREMAP_TEST_DIR says. What lies in a mount
    that was taken off lazily is shown as if that were the root."""

    def __init__(self, folder, token):
        self.folder = os.path.realpath(folder)
        self.token = token
        self.loops = loops()
        self.mounts = mounts()

    def _ours(self, path):
        return path.startswith(self.folder + "/")

    def _our_loop(self, path):
        chosen = os.environ.get("DMREMAP_TEST_DIR", "/dev/shm")
        elsewhere = ("/dev/shm/dmremap-", "/tmp/dmremap-test.", f"{os.path.realpath(chosen)}/dmremap-e2e.")
        return self._ours(path) or IN_CI and (os.path.dirname(path) == "/" or path.startswith(elsewhere))

    def find(self):
        left = [f"loop device {device} on {path}" for device, path in sorted(loops() - self.loops) if self._our_loop(path)]
        left += [f"mount of type {kind} on {point}" for point, kind in sorted(mounts() - self.mounts)
                 if IN_CI or self._ours(point)]
        left += [f"process {pid}: {line}" for pid, line in sorted(processes(self.token))]
        return left

    def find_settled(self, seconds=5):
        """Lazy ends (a daemon after its unmount, a loop device that is being released) get a moment."""
        deadline = time.monotonic() + seconds
        while (left := self.find()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def stop_all(token):
    """After an interruption: asks all that this run started to end; the tests clean up after themselves."""
    for pid, _ in processes(token):
        try:
            os.kill(int(pid), signal.SIGTERM)
        except OSError:
            pass


# --- building and running ---------------------------------------------------------------------------------------


def configure(preset):
    command = ["cmake", "--preset", preset, "-DDMREMAP_WERROR=ON"]
    if shutil.which("ccache"):
        command += ["-DCMAKE_C_COMPILER_LAUNCHER=ccache", "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        say(done.stdout)
    return done.returncode == 0


def build(preset, jobs, target="tests/all"):
    """Release: everything. Sanitizers: `target`, by default the test programs and what they are made of."""
    say(f"== {preset}: build")
    started = time.monotonic()
    command = ["cmake", "--build", "--preset", preset, "--parallel", str(jobs)]
    if preset != "release":
        command += ["--target", target]
    command += ["--", "--quiet"]
    good = configure(preset) and subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    say(f"== {preset}: {'built' if good else 'build FAILED'} in {time.monotonic() - started:.0f} s")
    return good


def fixed_addresses():
    """Sanitizers of GCC 12 do not start where the kernel randomises addresses by more than 28 bits."""
    prefix = ["setarch", os.uname().machine, "-R"]
    works = subprocess.run(prefix + ["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return prefix if works.returncode == 0 else []


def run_ctest(preset, label, jobs, tally, environment, folder):
    say(f"== {preset}: tests labelled {label}")
    junit = os.path.join(folder, "results.xml")
    command = ["ctest", "--test-dir", os.path.join("build", preset), "-L", f"^({label})$", "--output-on-failure",
               "--no-tests=error", "-j", str(jobs), "--output-junit", junit]
    if preset != "release":
        command = fixed_addresses() + command
    code = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode
    before = len(tally.failures)
    count = tally.add_junit(preset, junit)
    if count == 0 or (code != 0 and len(tally.failures) == before):
        tally.failures.append(f"{preset}: ctest -L {label} (exit {code}, {count} tests)")


# --- fuzzers ----------------------------------------------------------------------------------------------------

FUZZERS = ("set", "fsck", "codec", "text", "foreign")
# No stack of each allocation: half of the time of a run would go there.
FUZZ_ASAN = "allocator_release_to_os_interval_ms=-1:quarantine_size_mb=16:malloc_context_size=8"


def fuzz_seconds():
    text = os.environ.get("DMREMAP_FUZZ_SECONDS", "") or "60"
    if not text.isdigit():
        sys.exit(f"scripts/test: {text}: a number of seconds is wanted (DMREMAP_FUZZ_SECONDS)")
    return int(text)


def fuzz_one(name, seconds, seed, learned, folder, environment):
    """Runs one fuzzer; returns (what it found or "", what to print). seed 0: any."""
    prefix = os.path.join(folder, f"{name}-")
    own = os.path.join(learned, name)
    os.makedirs(own, exist_ok=True)
    kept = os.path.join(ROOT, "tests", "fuzz")
    command = fixed_addresses() + [
        os.path.join(ROOT, "build", "asan-ubsan", "tests", "fuzz", f"fuzz_{name}"), f"-max_total_time={seconds}", f"-seed={seed}",
        "-timeout=25", "-rss_limit_mb=2048", "-max_len=1024", "-print_final_stats=1", f"-artifact_prefix={prefix}",
        own, os.path.join(kept, "corpus", name), os.path.join(kept, "reproducers", name)]
    try:
        done = subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=seconds + 300, check=False)
        code, log = done.returncode, done.stdout.decode(errors="replace")
    except subprocess.TimeoutExpired as late:
        code, log = -1, (late.stdout or b"").decode(errors="replace")
    lines = log.splitlines()
    executed = [int(line.split()[-1]) for line in lines if line.startswith("stat::number_of_executed_units:")]
    if code == 0 and executed and executed[0] > 0:
        return "", f"== fuzz: {name}: {executed[0]} inputs in {seconds} s, nothing found"
    told = [line for line in lines if line.startswith(("VIOLATION:", "SUMMARY:")) or ": runtime error: " in line]
    text = [f"== fuzz: {name}: FAILED (exit {code})"] + [line for line in lines if line.startswith("INFO: Seed:")] + lines[-60:]
    for file in sorted(os.listdir(folder)):
        path = os.path.join(folder, file)
        if not path.startswith(prefix) or not os.path.isfile(path):
            continue
        with open(path, "rb") as reproducer:
            encoded = base64.b64encode(reproducer.read()).decode()
        text.append(f"reproducer: echo {encoded} | base64 -d >tests/fuzz/reproducers/{name}/{file[len(name) + 1:][:20]}")
    return told[0] if told else f"exit {code}", "\n".join(text)


def run_fuzzers(jobs, tally, environment, folder, learned, seed=0):
    seconds = fuzz_seconds()
    if seconds == 0:
        say("skipped: the fuzzers (DMREMAP_FUZZ_SECONDS=0)")
        return
    if not tally.require("fuzz: build", build("fuzz", jobs, "fuzzers")):
        return
    say(f"== fuzz: {', '.join(FUZZERS)}, {seconds} s each, {jobs} at once")
    environment = dict(environment)
    environment["ASAN_OPTIONS"] = FUZZ_ASAN
    with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
        tasks = [(name, pool.submit(fuzz_one, name, seconds, seed, learned, folder, environment)) for name in FUZZERS]
        for name, task in tasks:
            found, text = task.result()
            say(text)
            if tally.require(f"fuzz: {name}: {found}", not found):
                tally.passed += 1


def nightly_steps(minutes):
    """[(name, command, what is added to the environment)]: the long forms of what the other modes do in short."""
    tests = os.path.join(ROOT, "build", "release", "tests")
    e2e = [sys.executable, "-B"]
    seed = str(int(time.time()) // 86400)
    return [
        ("crash replay, more of each sequence", [f"{tests}/engine_tests", "[#replay_test]", "--filenames-as-tags"],
         {"DMREMAP_REPLAY": "nightly", "DMREMAP_REPLAY_MINUTES": str(minutes), "DMREMAP_REPLAY_SEED": seed}),
        ("models", [f"{tests}/engine_tests", "[#model_test],[#pool_model_test],[#model_threads_test],[#pool_threads_test]",
                    "--filenames-as-tags"], {"DMREMAP_MODEL_OPS": "20000000", "DMREMAP_MODEL_SEED": seed}),
        ("damaged sets", [f"{tests}/fsck_tests"], {"DMREMAP_REPLAY": "nightly"}),
        ("kill -9 at every write of changes of spares", [*e2e, "tests/e2e/test_kill_spares.py"], {"DMREMAP_KILL_POINTS": "all"}),
        ("kill -9 in 500 rounds", [*e2e, "tests/e2e/test_kill9.py"], {"DMREMAP_KILL_ROUNDS": "500"}),
        ("soak", [*e2e, "scripts/run_soak.py", "--minutes", "30"], {}),
    ]


def run_every_three(jobs, tally, environment):
    """The crash replay of every sequence of up to three operations, `jobs` starts at once."""
    program = [os.path.join(ROOT, "build", "release", "tests", "engine_tests"), "--filenames-as-tags"]
    listed = subprocess.run([*program, "[#replay_test]", "--list-test-names-only"], stdout=subprocess.PIPE, text=True,
                            check=False)  # its status is how many there are
    starts = [line.strip() for line in listed.stdout.splitlines() if line.strip().startswith("crashes in sequences")]
    tally.require("nightly: the starts of the crash replay", starts)

    def one(start):
        # A comma would part two names; and a name that fits none is no failure to Catch.
        done = subprocess.run([*program, start.replace(",", "\\,")], cwd=ROOT, env=dict(environment, DMREMAP_REPLAY="three"),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode == 0 and "All tests passed" in done.stdout, done.stdout

    say(f"== nightly: every sequence of up to three operations from {len(starts)} starts, {jobs} at once")
    with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
        for start, (good, text) in zip(starts, pool.map(one, starts)):
            say(text)
            if tally.require(f"nightly: {start}", good):
                tally.passed += 1


def run_nightly(minutes, jobs, tally, environment):
    """Each step to its end, whatever the others find."""
    environment = dict(environment, DMREMAP_BUILD=os.path.join(ROOT, "build", "release"), DMREMAP_REQUIRE="1")
    run_every_three(jobs, tally, environment)
    for name, command, more in nightly_steps(minutes):
        say(f"== nightly: {name}: {' '.join(f'{k}={v}' for k, v in more.items())}")
        done = subprocess.run(command, cwd=ROOT, env=dict(environment, **more), stdin=subprocess.DEVNULL, check=False)
        if tally.require(f"nightly: {name}", done.returncode == 0):
            tally.passed += 1


def plan_of(mode):
    """[(preset, regular expression of a label)] in the order of running."""
    if mode == "all":
        return [("release", "unit"), ("release", "e2e"), ("asan-ubsan", "unit"), ("tsan", "unit")]
    return [("release", {"quick": "unit", "error": "error|crash"}.get(mode, mode))]


def run(mode, jobs, tally, folder, token):
    environment = dict(os.environ)
    environment.update({
        "TMPDIR": folder,
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1 second_deadlock_stack=1",
    })
    if mode == "fuzz":
        run_fuzzers(jobs, tally, environment, folder, os.path.join(ROOT, "build", "learned"))
        return
    if mode == "nightly":
        if tally.require("release: build", build("release", jobs)):
            run_nightly(float(os.environ.get("DMREMAP_NIGHTLY_MINUTES", "240")), jobs, tally, environment)
        run_fuzzers(jobs, tally, environment, folder, os.path.join(ROOT, "build", "learned"))
        return
    # Always the same draws, as far as the time goes: what a run of the tests says must be repeatable. `nightly` explores.
    environment.setdefault("DMREMAP_SEED", "1")
    built = {}
    for preset, label in plan_of(mode):
        if preset not in built:
            built[preset] = tally.require(f"{preset}: build", build(preset, jobs))
        if not built[preset]:
            continue
        if label != "unit" and os.geteuid() != 0 and not IN_CI:
            say(f"== the tests labelled {label} need root and were not run; run: sudo scripts/test")
            tally.skipped.append(f"release: all tests labelled {label}")
            continue
        # More than two end-to-end tests at once would wait for each other's processor time, whatever the machine.
        run_ctest(preset, label, jobs if label == "unit" else min(jobs, 2), tally, environment, folder)
    if mode == "all":
        # The same for inputs; `fuzz` explores.
        run_fuzzers(jobs, tally, environment, folder, os.path.join(folder, "learned"), seed=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", default="all")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()

    tally = Tally()
    token = uuid.uuid4().hex
    os.environ[TOKEN] = token
    started = time.monotonic()
    folder = tempfile.mkdtemp(prefix="dmremap-test.")
    os.chmod(folder, 0o755)  # some tests do things as a user who is not root
    leftovers = Leftovers(folder, token)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _: sys.exit(128 + n))
    try:
        run(arguments.mode, arguments.jobs, tally, folder, token)
        left = leftovers.find_settled()
        for line in left:
            say(f"left behind: {line}")
        tally.require("nothing is left behind: mounts, loop devices, processes", not left)
    except BaseException:
        stop_all(token)
        leftovers.find_settled(30)
        raise
    finally:
        # Never follow a mount that a failed test left in there into somebody's data.
        if not any(point.startswith(os.path.realpath(folder) + "/") for point, _ in mounts()):
            shutil.rmtree(folder, ignore_errors=True)

    for name in tally.skipped:
        say(f"skipped: {name}")
    for name in tally.failures:
        say(f"FAILED: {name}")
    say(f"scripts/test took {time.monotonic() - started:.0f} s")
    say(f"{tally.passed} passed, {len(tally.failures)} failed")
    return 0 if tally.passed > 0 and not tally.failures else 1


if __name__ == "__main__":
    sys.exit(main())
