# SPDX-License-Identifier: GPL-2.0-or-later
"""Checks of the source tree itself. Usage: check.py CHECK [--build FOLDER] [--cxx COMPILER] [--cc COMPILER]

Each check prints every violation as FILE:LINE: what is wrong, and exits 1 if there is one."""

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SKIPPED_FOLDERS = {"build", ".git", ".cache", "__pycache__", "node_modules"}
PROGRAMS = ("fusedisk", "admin", "fsck", "recover")
CODE = (".cpp", ".h", ".c")


def files():
    """All files of the project, relative, sorted; also in a tree that is no git clone."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if f not in SKIPPED_FOLDERS)
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path) and os.path.isfile(path) and name != ".git":
                found.append(os.path.relpath(path, ROOT))
    return sorted(found)


def read_lines(path):
    """Lines of a text file; None where it is binary."""
    with open(os.path.join(ROOT, path), "rb") as file:
        data = file.read()
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        return None


def includes(path):
    """[(line number, included name)]"""
    pattern = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')
    found = []
    for number, line in enumerate(read_lines(path) or [], 1):
        match = pattern.match(line)
        if match:
            found.append((number, match.group(1)))
    return found


def top(path):
    return path.split(os.sep, 1)[0]


# --- checks: each returns a list of violations ----------------------------------------------------------------


def layering(_):
    """Who may include what: CONTRIBUTING.md, "Layers"."""
    bad = []
    for path in (p for p in files() if p.endswith(CODE)):
        where = top(path)
        for number, name in includes(path):
            place = f"{path}:{number}"
            if os.path.basename(name) in ("fuse_lowlevel.h", "fuse.h"):
                # bench/ has the bare pass-through that fusedisk is measured against
                if where not in ("fusedisk", "bench") and not path.startswith("tests/fusedisk/"):
                    bad.append(f"{place}: only fusedisk/ talks to FUSE")
            if name == "engine/layout.h":
                allowed = (re.match(r"engine/(codec|probe)\w*\.(h|cpp)$", path) or where == "kmod"
                           or path.startswith(("tests/kmod_layout/", "tests/hygiene/")))
                if not allowed:
                    bad.append(f"{place}: layout.h is for the codec and the kernel module; use engine/codec.h")
            if where in PROGRAMS + ("engine", "bench"):
                target = name.split("/", 1)[0]
                if target in PROGRAMS and target != where:
                    bad.append(f"{place}: {where}/ must not include {target}/")
            if where in PROGRAMS + ("engine",) and name.split("/", 1)[0] in ("tests", "bench"):
                bad.append(f"{place}: programs and engine do not include tests or benchmarks")
            if name.startswith("boost/interprocess") and os.path.basename(path) not in (
                    "stats_segment.h", "stats_segment.cpp"):
                bad.append(f"{place}: Boost.Interprocess throws and stays behind stats_segment")
            if name.startswith("boost/filesystem") and path.endswith(".h") and where != "tests":
                bad.append(f"{place}: Boost.Filesystem in a header makes every includer heavy")
    return bad


def tests_listed(arguments):
    """Every *_test.cpp is compiled, and every test script of tests/ is run by ctest."""
    with open(os.path.join(arguments.build, "compile_commands.json"), encoding="utf-8") as file:
        compiled = {os.path.realpath(entry["file"]) for entry in json.load(file)}
    shown = subprocess.run(["ctest", "--test-dir", arguments.build, "--show-only=json-v1"], check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    tests = json.loads(shown)["tests"]
    names = [test["name"] for test in tests]
    commands = " ".join(word for test in tests for word in test.get("command", []))
    bad = []
    for path in files():
        if top(path) != "tests":
            continue
        name = os.path.basename(path)
        if name.endswith("_test.cpp"):
            if os.path.realpath(os.path.join(ROOT, path)) not in compiled:
                bad.append(f"{path}:1: no target compiles this test")
            stem = name[: -len(".cpp")]
            if not any(n == stem or n.endswith("." + stem) for n in names):
                bad.append(f"{path}:1: ctest runs no test called ...{stem}")
        elif re.search(r"(^test_\w+|_test)\.(py|sh)$", name) and path not in commands:
            bad.append(f"{path}:1: no ctest test runs this script")
    labels = {"unit", "e2e", "perf"}
    for test in tests:
        properties = {p["name"]: p["value"] for p in test.get("properties", [])}
        if not labels & set(properties.get("LABELS", [])):
            bad.append(f"{test['name']}: has none of the labels {', '.join(sorted(labels))}, so nothing runs it")
    return bad


def spdx(_):
    """An SPDX line among the first three of each source file, script, build file and manual page."""
    patterns = re.compile(r"(\.(cpp|h|c|py|sh|cmake|[578])$)|(^|/)(CMakeLists\.txt|Kbuild|\.clang-tidy)$|^scripts/|^\.ci/")
    kernel = ("engine/layout.h", "kmod/", "tests/kmod_layout/Kbuild", "tests/kmod_layout/layout_check.c")
    bad = []
    for path in files():
        if not patterns.search(path):
            continue
        lines = read_lines(path)
        if lines is None:
            continue
        found = re.search(r"SPDX-License-Identifier: (.*)", "\n".join(lines[:3]))
        if not found:
            bad.append(f"{path}:1: no SPDX-License-Identifier in the first three lines")
            continue
        wanted = "GPL-2.0-only OR MIT" if path.startswith(kernel) else "GPL-2.0-or-later"
        if found.group(1).removesuffix("*/").strip() != wanted:
            bad.append(f"{path}:1: the licence should be {wanted}")
    return bad


def clean_text(_):
    """Trailing blanks, CRLF, missing last newline, conflict marks, overlong lines; what merges leave behind."""
    bad = [f"{path}: left by a merge" for path in files() if path.endswith((".orig", ".rej"))]
    for path in files():
        # what a fuzzer is fed with is not meant to be tidy
        if path.startswith(("LICENSE", "tests/fuzz/corpus/", "tests/fuzz/reproducers/")):
            continue
        lines = read_lines(path)
        if lines is None or lines == [""]:
            continue
        if lines[-1] != "":
            bad.append(f"{path}:{len(lines)}: no newline at the end")
        if len(lines) > 1 and lines[-2].strip() == "":
            bad.append(f"{path}:{len(lines) - 1}: empty line at the end")
        for number, line in enumerate(lines, 1):
            if line.endswith("\r"):
                bad.append(f"{path}:{number}: CRLF")
            elif line != line.rstrip():
                bad.append(f"{path}:{number}: blanks at the end")
            if re.match(r"(<{7}|>{7}|\|{7}) ", line):
                bad.append(f"{path}:{number}: conflict mark")
            if "\t" in line and path.endswith((".cpp", ".h", ".py")) and path != "engine/layout.h" \
                    and top(path) != "kmod":
                bad.append(f"{path}:{number}: tab")
            if len(line) > 140 and path.endswith(CODE + (".py", "CMakeLists.txt")):
                bad.append(f"{path}:{number}: {len(line)} columns")
    return bad


def no_machine_paths(_):
    """Nothing that holds on one machine only: the place of this clone, home folders."""
    own = os.path.realpath(ROOT)
    pattern = re.compile(r"(^|[\s\"'(=:])/(home|Users|root|work)/\w")
    bad = []
    for path in files():
        for number, line in enumerate(read_lines(path) or [], 1):
            if len(own) > 4 and re.search(re.escape(own) + r"\b", line) or pattern.search(line):
                bad.append(f"{path}:{number}: a path of one machine")
    return bad


def headers_alone(arguments):
    """Every header compiles as the only include of a file: as the first one of its own source, which the build does, or here."""
    pkg = subprocess.run(["pkg-config", "--cflags", "fuse3", "blkid", "libudev"], check=True, stdout=subprocess.PIPE,
                         text=True).stdout
    common = ["-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-D_FILE_OFFSET_BITS=64", "-D_GNU_SOURCE",
              '-DDMREMAP_VERSION="0"', "-fsyntax-only", f"-I{ROOT}"] + shlex.split(pkg)
    jobs, bad = [], []
    for path in (p for p in files() if p.endswith(".h")):
        if path != "engine/layout.h" and "#pragma once" not in (read_lines(path) or []):
            bad.append(f"{path}:1: no #pragma once")
        own = includes(path[:-2] + ".cpp") if os.path.isfile(os.path.join(ROOT, path[:-2] + ".cpp")) else []
        if own and own[0][1] == path:
            continue
        source = f'#include "{path}"\n#include "{path}"\n'  # twice: the guard works
        jobs.append((path, shlex.split(arguments.cxx) + common + ["-std=c++20", "-x", "c++", "-"], source))
        if path == "engine/layout.h":
            c_flags = [f for f in common if f != "-D_GNU_SOURCE"] + ["-std=c11", "-pedantic", "-x", "c", "-"]
            jobs.append((path + " as C", shlex.split(arguments.cc) + c_flags, source))

    def compile_one(job):
        name, command, source = job
        done = subprocess.run(command, input=source, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              check=False)
        return [] if done.returncode == 0 else [f"{name}:1: does not compile alone\n{done.stdout}"]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return bad + [line for lines in pool.map(compile_one, jobs) for line in lines]


CHECKS = {check.__name__: check
          for check in (layering, tests_listed, spdx, clean_text, no_machine_paths, headers_alone)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("check", choices=sorted(CHECKS))
    parser.add_argument("--build", default=os.path.join(ROOT, "build", "release"))
    parser.add_argument("--cxx", default="g++")
    parser.add_argument("--cc", default="gcc")
    arguments = parser.parse_args()
    bad = CHECKS[arguments.check](arguments)
    for line in bad:
        print(line)
    print(f"{arguments.check}: {len(bad)} violations")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
