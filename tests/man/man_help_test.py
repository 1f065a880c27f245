# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds manual pages against the programs, in both directions.

Usage: man_help_test.py CHECK --man FOLDER --source FOLDER [--program NAME=PATH]...
  help    every long option and subcommand that --help shows is in the page; every one in the page's lists and
          synopsis is in --help; the same for each subcommand (a .Ss of COMMANDS)
  errors  every error identifier in the sources is in the page's ERROR IDENTIFIERS list (.It Li), and the other way round
  links   every .Xr to a page of ours leads to a page that exists
  words   no word of the text is taken for a macro, and so missing from the page: \&No, not No
"""

import argparse
import glob
import os
import re
import subprocess
import sys

LONG = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]*)")
EVERYWHERE = {"help", "version"}


class Page:
    """What a test wants to know of an mdoc source."""

    def __init__(self, path):
        self.options = {}  # section or subsection -> long options that its lists have
        self.terms = {}  # section or subsection -> literal words (.It Cm or .It Li) that its lists have
        self.commands = []  # subsections of COMMANDS
        self.synopsis = set()
        section = place = ""  # a subsection of ERROR IDENTIFIERS counts as the section itself
        with open(path, encoding="utf-8") as file:
            for line in file:
                line = line.rstrip("\n")
                heading = re.match(r"\.(Sh|Ss) (.*)", line)
                if heading:
                    place = heading.group(2).strip('"')
                    if heading.group(1) == "Sh":
                        section = place
                    elif section == "COMMANDS":
                        self.commands.append(place)
                    continue
                longs = set(re.findall(r"\bFl (?:Fl |-)([a-z][a-z0-9-]*)", line))
                if section == "SYNOPSIS":
                    self.synopsis |= longs
                if line.startswith(".It "):
                    self.options.setdefault(place, set()).update(longs)
                    where = section if section == "ERROR IDENTIFIERS" else place
                    self.terms.setdefault(where, set()).update(re.findall(r"\b(?:Cm|Li) ([\w-]+)", line))

    def all_options(self):
        return set().union(*self.options.values()) if self.options else set()


def help_of(program, *words):
    done = subprocess.run([program, *words, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          stdin=subprocess.DEVNULL, timeout=60, check=False)
    if done.returncode != 0 or done.stderr or not done.stdout:
        raise SystemExit(f"{program} {' '.join(words)} --help: exit {done.returncode}, stderr: {done.stderr}")
    return done.stdout


def subcommands(text):
    """Names under a heading "Subcommands:" of a help text."""
    found, inside = [], False
    for line in text.splitlines():
        if re.match(r"\S.*:\s*$", line) and not line.startswith("Usage"):
            inside = "ommand" in line
        elif inside:
            match = re.match(r"  ([a-z][a-z-]*)(?:\s{2,}|$)", line)
            if match:
                found.append(match.group(1))
    return found


def mount_options(text):
    """Names in the description of -o in fusedisk's help: "name: what; name=N: what; ..."."""
    match = re.search(r"^\s*-o\b.*?(?=^\s*-|\Z)", text, re.MULTILINE | re.DOTALL)
    flat = re.sub(r"\s+", " ", match.group(0)) if match else ""
    return set(re.findall(r"(?:;|\.\.\.) ([a-z_]+)(?:=[^;:]*)?(?=[:;]|$| $)", flat))


def differ(bad, where, in_help, in_page):
    for name in sorted(in_help - in_page):
        bad.append(f"{where}: '{name}' is in --help but not in the page")
    for name in sorted(in_page - in_help):
        bad.append(f"{where}: '{name}' is in the page but not in --help")


def check_program(name, path, page):
    bad = []
    text = help_of(path)
    commands = subcommands(text)
    own = set(LONG.findall(text))
    if not commands:
        differ(bad, name, own, page.all_options())
        named = mount_options(text)
        if named:
            differ(bad, f"{name} -o", named, page.terms.get("Mount options", set()))
        seen = own
    else:
        differ(bad, f"{name}: commands", set(commands), set(page.commands))
        general = page.options.get("OPTIONS", set())
        seen = set(own)
        for command in commands:
            help_text = help_of(path, command)
            shown = set(LONG.findall(help_text))
            for inner in subcommands(help_text):
                shown |= set(LONG.findall(help_of(path, command, inner)))
            seen |= shown
            listed = page.options.get(command, set())
            differ(bad, f"{name} {command}", shown - general - EVERYWHERE, listed - general)
        differ(bad, f"{name}: general options", own, own & general)
        differ(bad, f"{name}: general options", general & seen, general)
    for option in sorted(page.synopsis - seen):
        bad.append(f"{name}: '--{option}' is in the synopsis but not in --help")
    return bad


def check_help(arguments):
    bad = [] if arguments.program else ["no program is given: nothing was compared"]
    for pair in arguments.program:
        name, path = pair.split("=", 1)
        pages = glob.glob(os.path.join(arguments.man, name + ".[18]"))
        if not pages:
            bad.append(f"{name}: has no page")
            continue
        bad += check_program(name, path, Page(pages[0]))
    return bad


IDENTIFIER = re.compile(r'"([a-z][a-z0-9]*(?:-[a-z0-9]+)*)"')
# Where an identifier stands in the sources; it may be one of several in a ?: expression.
ERROR_PLACES = [
    re.compile(r"\bfail\(([^,]*),"),
    re.compile(r"\berror\{([^,}]*),"),
    re.compile(r"\brefuse\(\s*\w+,([^,]*),"),
    re.compile(r"\bid = ([^;]*);"),
    re.compile(r"\breturn \{\s*(\"[a-z]+(?:-[a-z0-9]+)+\"),"),  # of functions that return an error
    re.compile(r"\bmissing\([^;]*?(\"[a-z]+(?:-[a-z]+)+\")\)\)?;"),
    re.compile(r"\bdevice_use\b[^;]*?\{([^,}]*),"),
    re.compile(r"^  return \{([^,}]*),", re.MULTILINE),  # of functions that return a device_use
]


def check_errors(arguments):
    """An identifier is a literal with small letters and dashes, given to whatever makes an error."""
    used = {}
    for part in ("engine", "fusedisk", "admin", "fsck", "recover"):
        for path in glob.glob(os.path.join(arguments.source, part, "**", "*.cpp"), recursive=True):
            with open(path, encoding="utf-8") as file:
                text = re.sub(r"^\s*//.*$", "", file.read(), flags=re.MULTILINE)
            places = ERROR_PLACES if path.endswith("device_use.cpp") else ERROR_PLACES[:6]
            for place in places:
                for expression in place.findall(text):
                    for identifier in IDENTIFIER.findall(expression):
                        used.setdefault(identifier, os.path.relpath(path, arguments.source))
    page = Page(os.path.join(arguments.man, "dmremap.8"))
    listed = page.terms.get("ERROR IDENTIFIERS", set())
    bad = [f"{used[i]}: the error '{i}' is not in dmremap(8), ERROR IDENTIFIERS"
           for i in sorted(set(used) - listed)]
    return bad + [f"dmremap(8), ERROR IDENTIFIERS: '{i}' is in no source" for i in sorted(listed - set(used))]


def check_links(arguments):
    bad = []
    pages = {os.path.basename(p) for p in glob.glob(os.path.join(arguments.man, "*.[1-9]"))}
    for name in sorted(pages):
        with open(os.path.join(arguments.man, name), encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                for target, section in re.findall(r"\bXr ((?:dmremap|fusedisk)[\w-]*) (\d)", line):
                    if f"{target}.{section}" not in pages:
                        bad.append(f"{name}:{number}: {target}({section}) does not exist")
    return bad


# Macros that are words of the language as well, and that these pages use as macros nowhere behind another.
WORDS = {"Ad", "An", "At", "Do", "Es", "In", "It", "Ms", "Os", "So", "St"}
CALLING = re.compile(r"\.([A-Z][a-z0-9]{1,2})(?: (.*))?$")
MACRO = re.compile(r"[A-Z][a-z0-9]{1,2}$")


def words_taken_for_macros(line):
    """`No` is of use only behind what it ends: where nothing or only macros stand before it, it was meant as a word."""
    call = CALLING.match(line)
    if not call or call.group(1) in ("Bl", "Xr"):
        return []
    taken, before = [], [call.group(1)]
    for word in (call.group(2) or "").split():
        text_before = any(not MACRO.match(w) for w in before)
        if word in WORDS or (word == "No" and not text_before):
            taken.append(word)
        before.append(word)
    return taken


def check_words(arguments):
    bad = []
    for path in sorted(glob.glob(os.path.join(arguments.man, "*.[1-9]"))):
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                bad += [f"{os.path.basename(path)}:{number}: '{word}' is taken for a macro; write \\&{word}"
                        for word in words_taken_for_macros(line.rstrip("\n"))]
    return bad


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("check", choices=["help", "errors", "links", "words"])
    parser.add_argument("--man", required=True)
    parser.add_argument("--source", required=True)
    parser.add_argument("--program", action="append", default=[])
    arguments = parser.parse_args()
    bad = globals()["check_" + arguments.check](arguments)
    print("\n".join(bad + [f"{arguments.check}: {len(bad)} differences"]))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
