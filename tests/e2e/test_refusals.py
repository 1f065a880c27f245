# SPDX-License-Identifier: GPL-2.0-or-later
"""Whatever does not fit is refused: its own identifier, a message that says what to do, and nothing is written."""

import json
import os
import struct

import harness
from harness import MIB, SECTOR, Attached, write_at

MAIN_SIZE, SPARE_SIZE = 16 * MIB, 32 * MIB


class Refusals(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.set = harness.Set(self.workspace, "e2e", main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        write_at(self.set.main, 0, harness.pattern("main", MAIN_SIZE))
        self.files = [self.set.main, self.set.spare]

    def file(self, name, size, data=b""):
        path = self.workspace.sparse(name, size)
        if data:
            write_at(path, 0, data)
        self.files.append(path)
        return path

    def contents(self):
        files = {str(p): (harness.sha256_file(p), os.stat(p).st_mtime_ns) for p in self.files}
        conf = self.workspace.path / "conf"
        return files, sorted(str(p) for p in conf.rglob("*")) if conf.exists() else []

    def check_refused(self, words, identifier, code=1, says=(), before=()):
        """A command of dmremap is refused; nothing on any member, nothing in the configuration changes."""
        held = self.contents()
        answer = self.workspace.run(*before, harness.program("dmremap"), *words, "--json", check=False)
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        error = json.loads(answer.stdout)["error"]
        self.assertEqual(error["id"], identifier, answer.stdout)
        self.check_message(answer.stderr, "dmremap", says)
        self.assertEqual(self.contents(), held, "nothing is written")
        return error

    def check_fusedisk(self, words, code=1, says=(), before=(), identifier=None):
        """The same for fusedisk itself, which leaves no mount, process or run folder behind."""
        held = self.contents()
        mountpoint = self.workspace.folder("refused")
        answer = self.workspace.run(*before, harness.program("fusedisk"), "--json", *words, mountpoint,
                                    check=False)
        mounted = harness.is_mounted(mountpoint)
        if mounted:
            harness.force_unmount(self.workspace, mountpoint)
        self.assertFalse(mounted, "no mount")
        self.assertEqual(answer.returncode, code, answer.stdout + answer.stderr)
        self.check_message(answer.stderr, "fusedisk", says)
        if identifier:
            self.assertEqual(json.loads(answer.stdout)["error"]["id"], identifier)
        self.assertEqual(self.contents(), held, "nothing is written")

    def check_message(self, text, who, says):
        """program: what: why, on one line, naming what it is about."""
        lines = [line for line in text.splitlines() if line.startswith(f"{who}: ")]
        self.assertTrue(lines, text)
        self.assertRegex(lines[-1], rf"^{who}: .+: .{{10,}}")
        for word in says:
            self.assertIn(str(word), text)

    def create_words(self, main=None, spare=None, name="new"):
        return "create", name, "--main", main or self.set.main, "--spare", spare or self.set.spare


class Create(Refusals):
    """`dmremap create` formats nothing by guess."""

    def test_signatures_on_the_spare(self):
        for fs_type, make in (("ext4", ["mkfs.ext4", "-q"]), ("btrfs", ["mkfs.btrfs", "-q"]), ("swap", ["mkswap", "-q"])):
            with self.subTest(fs_type):
                spare = self.file(f"{fs_type}.img", 160 * MIB if fs_type == "btrfs" else SPARE_SIZE)
                self.workspace.run(*make, spare)
                self.check_refused(self.create_words(spare=spare), "spare-has-signature",
                                   says=(spare, fs_type, f"--wipe={fs_type}"))
                self.check_refused((*self.create_words(spare=spare), "--wipe=xfs"), "spare-has-signature")

    def test_luks_on_the_spare(self):
        spare = self.file("luks.img", SPARE_SIZE, luks2_header())
        self.check_refused(self.create_words(spare=spare), "spare-has-signature", says=("crypto_LUKS",))

    def test_partition_table_on_the_spare(self):
        spare = self.file("gpt.img", SPARE_SIZE)
        self.workspace.run("sh", "-c", f"printf 'label: gpt\\nsize=8M\\n' | sfdisk -q {spare}")
        self.check_refused(self.create_words(spare=spare), "spare-has-signature", says=("gpt",))

    def test_another_set_on_the_spare(self):
        self.set.create()
        other = self.file("other.img", MAIN_SIZE)
        error = self.check_refused(self.create_words(main=other), "spare-in-set", says=("e2e", "--destroy-set"))
        self.check_refused((*self.create_words(main=other), "--wipe=dmremap"), "spare-in-set")
        wrong = "00000000-0000-4000-8000-000000000000"
        self.check_refused((*self.create_words(main=other), "--destroy-set", wrong), "spare-in-set")
        # One copy of the superblock is enough to be known.
        from metadata import Layout, write_units
        for unit in Layout(self.set.spare).super_units[:9]:
            write_units(self.set.spare, unit, bytes(4096))
        self.check_refused(self.create_words(main=other), "spare-in-set")
        uuid = error["why"].split("--destroy-set ")[1].split()[0]
        self.workspace.dmremap(*self.create_words(main=other), "--destroy-set", uuid)

    def test_upstream_v4_on_the_spare(self):
        for sector in (0, 256, 1024):  # its copies lie at 0, 256, 512, 768, 1024
            with self.subTest(sector=sector):
                spare = self.file(f"v4-{sector}.img", SPARE_SIZE)
                write_at(spare, sector, struct.pack("<L", 0x444D5234) + b"\1\0\0\0" * 100)
                self.check_refused(self.create_words(spare=spare), "spare-upstream-v4", says=("v4",))

    def test_main_and_spare_swapped(self):
        self.set.create()
        fresh = self.file("fresh.img", SPARE_SIZE)
        self.check_refused(self.create_words(main=self.set.spare, spare=fresh), "main-is-spare", says=("swapped",))

    def test_sizes_and_kinds(self):
        small = self.file("small.img", 8 * MIB)
        self.check_refused(self.create_words(spare=small), "spare-too-small", says=("16 MiB",))
        empty = self.file("empty.img", 0)
        self.check_refused(self.create_words(main=empty), "empty-member")
        self.check_refused(self.create_words(spare=empty), "empty-member")
        self.check_refused(self.create_words(main="/no/such/file"), "not-found", says=("/no/such/file",))
        self.check_refused(self.create_words(spare="/dev/null"), "not-a-device")
        self.check_refused(self.create_words(main=self.workspace.path), "not-a-device")
        self.check_refused(self.create_words(spare=self.set.main), "same-device")
        hard = self.workspace.path / "hard.img"
        os.link(self.set.main, hard)
        self.check_refused(self.create_words(spare=hard), "same-device")

    def test_ranges(self):
        spare, sectors = self.set.spare, SPARE_SIZE // SECTOR
        for text, identifier, code in ((f"{spare}@8+{sectors}", "range-beyond-end", 1),
                                       (f"{spare}@{sectors}+32768", "range-beyond-end", 1),
                                       (f"{spare}@4+32768", "misaligned-range", 2),
                                       (f"{spare}@0+32769", "misaligned-range", 2),
                                       (f"{spare}@0+0", "too-small-range", 2)):
            with self.subTest(text):
                self.check_refused(self.create_words(spare=text), identifier, code)
        one = self.file("one.img", 64 * MIB)
        self.check_refused(self.create_words(main=f"{one}@0+65536", spare=f"{one}@65528+32768"), "members-overlap")

    def test_names(self):
        for name in ("", "-x", "a/b", "a b", ".hidden", "x" * 64, "ü", "11111111-2222-4333-8444-555555555555"):
            with self.subTest(name):
                if name == "-x":
                    self.assertEqual(self.workspace.dmremap(*self.create_words(name=name), check=False).returncode, 2)
                else:
                    self.check_refused(self.create_words(name=name), "bad-name", 2)
        self.set.create()
        main, spare = self.file("m.img", MAIN_SIZE), self.file("s.img", SPARE_SIZE)
        self.check_refused(self.create_words(main, spare, name="e2e"), "name-taken")

    def test_worn_main_is_accepted(self):
        """Bad sectors where signatures would lie are no reason to refuse main: that is what the set is for."""
        with open(f"{self.set.main}.dust", "w", encoding="ascii") as drill:
            drill.write(f"0 read 8\n{MAIN_SIZE // SECTOR - 8} read 8\n")
        self.workspace.dmremap(*self.create_words(main=f"dust:{self.set.main}"))

    def test_worn_spare_is_not(self):
        with open(f"{self.set.spare}.dust", "w", encoding="ascii") as drill:
            drill.write("8 read\n")
        self.check_refused(self.create_words(spare=f"dust:{self.set.spare}"), "probe-failed")

    def test_in_use(self):
        self.set.create().start()
        free = self.file("free.img", SPARE_SIZE)
        self.check_live(self.create_words(spare=free), ("in-use", "members-overlap"))
        self.check_live((*self.create_words(main=free),), ("in-use", "members-overlap"))
        self.check_live((*self.create_words(main=free), "--wipe=dmremap"), ("in-use", "members-overlap"))
        self.set.stop()

    def check_live(self, words, identifiers, says=""):
        """As check_refused, but the daemon may write its own members meanwhile: nothing else does here."""
        held = self.contents()
        answer = self.workspace.dmremap(*words, "--json", check=False)
        self.assertEqual(answer.returncode, 1, answer.stdout + answer.stderr)
        self.assertIn(json.loads(answer.stdout)["error"]["id"], identifiers)
        self.assertIn(says, json.loads(answer.stdout)["error"]["why"])
        self.assertEqual(self.contents(), held)

    def test_mounted_and_loop(self):
        self.workspace.run("mkfs.ext4", "-q", "-F", self.set.main)
        loop = self.workspace.loop(self.set.main)
        self.check_refused(self.create_words(), "loop-backed", says=(loop.path,))
        self.check_refused(self.create_words(main=loop.path, spare=self.set.main), "members-overlap")
        mnt = self.workspace.mount(loop)
        os.sync()
        self.check_refused(self.create_words(main=loop.path), "mounted", says=(mnt.path,))
        self.check_refused(self.create_words(main=self.file("other", MAIN_SIZE), spare=loop.path), "mounted")
        mnt.unmount()
        loop.detach()

    def test_overlap_with_another_set(self):
        disk = self.file("disk.img", 96 * MIB)
        self.workspace.dmremap("create", "first", "--main", self.set.main, "--spare", f"{disk}@0+65536")
        attached = Attached(self.workspace, "first")
        other = self.file("other.img", MAIN_SIZE)
        self.check_live(self.create_words(other, f"{disk}@32768+65536"), ("members-overlap",), says="set 'first'")
        self.check_live(self.create_words(other, disk), ("members-overlap", "in-use"), says="set 'first'")
        self.workspace.dmremap("create", "second", "--main", other, "--spare", f"{disk}@65536+65536")  # beside it
        beside = Attached(self.workspace, "second")
        beside.detach()
        attached.detach()

    def test_usage(self):
        for words in (("create", "x"), ("create", "x", "--main", self.set.main), ("create", "x", "--table", "0 1 linear a 0"),
                      ("create", "x", "--table", "nonsense")):
            with self.subTest(words):
                held = self.contents()
                self.assertEqual(self.workspace.dmremap(*words, check=False).returncode, 2)
                self.assertEqual(self.contents(), held)


class Open(Refusals):
    """fusedisk and `dmremap attach` take no members that do not belong together."""

    def setUp(self):
        super().setUp()
        self.set.create()
        attached = Attached(self.workspace, "e2e")  # used once, closed cleanly
        for sector in (80, 8000, 16000):
            self.set.do("remap", sector)
        attached.detach()

    def attach_with(self, identifier, main=None, spare=None, code=1, says=(), options=(), same=True, attach_code=None,
                    attach_says=()):
        """Both ways: fusedisk with these members, and attach by a configuration that names them."""
        main, spare = main or self.set.main, spare or self.set.spare
        self.check_fusedisk((*options, main, spare), code, says, identifier=identifier if same else None)
        conf = self.workspace.path / "conf/sets.d/e2e.conf"
        kept = conf.read_text()
        marked = kept.replace(str(self.set.main), "@main@").replace(str(self.set.spare), "@spare@")
        conf.write_text(marked.replace("@main@", str(main)).replace("@spare@", str(spare)))
        try:
            self.check_refused(("attach", "e2e"), identifier, attach_code or code, attach_says or says)
        finally:
            conf.write_text(kept)

    def test_wrong_main(self):
        other = self.file("other.img", MAIN_SIZE, harness.pattern("another disk", MAIN_SIZE))
        self.attach_with("main-mismatch", main=other, says=(other, "-o accept_main"), attach_says=("with --accept-main",))

    def test_wrong_size(self):
        for size in (MAIN_SIZE // 2, MAIN_SIZE * 2, MAIN_SIZE - 4096):
            with self.subTest(size=size):
                other = self.file(f"size{size}.img", size, harness.pattern("main", MAIN_SIZE)[:size])
                self.attach_with("main-wrong-size", main=other, says=(other,))

    def test_foreign_spare(self):
        other = harness.Set(self.workspace, "foreign", main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        write_at(other.main, 0, harness.pattern("foreign", MAIN_SIZE))
        self.files += [other.main, other.spare]
        other.create().start()
        other.stop()
        self.check_fusedisk((self.set.main, other.spare), says=(self.set.main,), identifier="main-mismatch")
        self.attach_with("wrong-set", spare=other.spare, says=("foreign",), same=False)

    def test_a_configuration_that_names_another_set(self):
        """All members belong together, but are not the set that is meant: that other set is left as it is."""
        other = harness.Set(self.workspace, "foreign", main_size=MAIN_SIZE, spare_size=SPARE_SIZE)
        self.files += [other.main, other.spare]
        other.create().start()
        other.kill()  # there would be something to mend
        conf = self.workspace.path / "conf/sets.d/e2e.conf"
        kept = conf.read_text()
        conf.write_text(kept.replace(str(self.set.main), str(other.main)).replace(str(self.set.spare), str(other.spare)))
        seen = self.workspace.path / "state/sets"
        states = {p: p.read_bytes() for p in seen.iterdir()}
        self.check_fusedisk(("--name", "e2e"), says=("foreign",), identifier="wrong-set")
        self.check_fusedisk(("-o", "accept_older,degraded", "--name", "e2e"), identifier="wrong-set")
        self.assertEqual({p: p.read_bytes() for p in seen.iterdir()}, states)
        conf.write_text(kept)

    def test_a_name_that_is_served(self):
        """Another set of the same name runs already: this one is left as it is."""
        elsewhere = self.workspace.folder("elsewhere")
        other = harness.Set(self.workspace, "e2e", main_size=MAIN_SIZE, spare_size=SPARE_SIZE, folder=elsewhere)
        self.workspace.dmremap("create", "e2e", "--main", other.main, "--spare", other.spare, "--no-persist")
        attached = Attached(self.workspace, "e2e")
        self.files = [other.main, other.spare]  # the others are in use
        self.check_fusedisk((other.main, other.spare), says=("e2e",), identifier="in-use")
        attached.detach()

    def test_no_spare_at_all(self):
        blank = self.file("blank.img", SPARE_SIZE)
        self.attach_with("no-superblock", spare=blank, says=(blank,), attach_code=4)
        ext4 = self.file("ext4.img", SPARE_SIZE)
        self.workspace.run("mkfs.ext4", "-q", ext4)
        self.attach_with("no-superblock", spare=ext4, attach_code=4)
        v4 = self.file("v4.img", SPARE_SIZE, struct.pack("<L", 0x444D5234) + b"\1" * 500)
        self.attach_with("upstream-v4", spare=v4, says=("v4",))
        self.attach_with("not-found", main=self.workspace.path / "away.img", attach_code=4)

    def test_swapped(self):
        self.check_fusedisk((self.set.spare, self.set.main), says=(self.set.spare, "swapped"), identifier="main-is-spare")
        other = self.file("other.img", MAIN_SIZE)
        self.attach_with("main-is-spare", main=self.set.spare, spare=other, says=("swapped",))

    def test_a_spare_that_was_cut(self):
        cut = self.file("cut.img", SPARE_SIZE)
        with open(self.set.spare, "rb") as f:
            write_at(cut, 0, f.read())
        os.truncate(cut, SPARE_SIZE - 4096)
        self.attach_with("wrong-size", spare=cut, code=4, says=(cut,))

    def test_main_mounted(self):
        self.workspace.run("mkfs.ext4", "-q", "-F", self.set.main)
        loop = self.workspace.loop(self.set.main)
        mnt = self.workspace.mount(loop)
        os.sync()
        self.attach_with("mounted", main=loop.path, says=(mnt.path,))
        self.attach_with("loop-backed", says=(loop.path,))
        mnt.unmount()
        loop.detach()

    def test_in_use(self):
        attached = Attached(self.workspace, "e2e")
        for words in ((), ("-o", "ro"), ("-o", "accept_main,accept_older,degraded")):
            self.check_fusedisk((*words, self.set.main, self.set.spare), says=("e2e",), identifier="in-use")
        self.check_fusedisk(("--name", "e2e"), says=("e2e",), identifier="in-use")
        attached.detach()

    def test_nothing_is_taken_while_a_configuration_may_name_it(self):
        """That of a stopped set cannot be read: whether its main, which may hold anything, is the spare, nobody knows."""
        conf = self.workspace.path / "conf/sets.d/e2e.conf"
        text = conf.read_text()
        conf.write_text(text.replace("main = ", "mian = "))
        main, spare = self.file("new-main.img", 16 * MIB), self.file("raw.img", 32 * MIB)
        self.check_refused(self.create_words(main, spare), "bad-config", says=(conf, "may name"))
        conf.write_text(text)
        self.workspace.dmremap(*self.create_words(main, spare))

    def test_no_permission(self):
        for path in self.files:
            path.chmod(0o600)
        # nobody has no business in root's run folder: one of its own, so that only the members stand in the way
        run = self.workspace.folder("nobody")
        os.chown(run, 65534, 65534)
        build_reachable = [p for p in (harness.build_dir(), *harness.build_dir().parents) if not p.stat().st_mode & 0o001]
        if build_reachable:
            raise harness.Failure(f"nobody cannot reach the programs: {build_reachable}")
        as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"DMREMAP_RUN_DIR={run}/run",
                     f"DMREMAP_STATE_DIR={run}/state", f"DMREMAP_CONF_DIR={run}/conf")
        self.workspace.folder("refused").chmod(0o777)
        self.check_fusedisk((self.set.main, self.set.spare), says=("permission",), before=as_nobody, identifier="no-permission")
        self.check_refused(self.create_words(), "no-permission", before=as_nobody)
        attached = Attached(self.workspace, "e2e")
        answer = self.workspace.run(*as_nobody[:4], harness.program("dmremap"), "remap", "e2e", 8, check=False)
        self.assertEqual(answer.returncode, 1, "a running set's socket is for root and the owner only")
        self.assertEqual(len(self.workspace.dmremap_json("table", "e2e")["remaps"]), 3)
        attached.detach()

    def test_no_fuse(self):
        """In a mount namespace whose /dev/fuse is not there, or may not be opened."""
        without = self.workspace.folder("dev")
        script = f'mount -t tmpfs none {without} && for d in null zero urandom loop-control; do ' \
                 f'cp -a /dev/$d {without}/; done && mount --bind {without} /dev && exec "$@"'
        before = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
        self.check_fusedisk((self.set.main, self.set.spare), says=("/dev/fuse",), before=before, identifier="no-fuse")
        self.check_refused(("attach", "e2e"), "no-fuse", says=("/dev/fuse",), before=before)

    def test_bad_options(self):
        members = (self.set.main, self.set.spare)
        for option in ("nonsense", "workers=0", "workers=x", "read_retries=-1", "log_level=loud", "auto_remap=2", "ro=1", "workers"):
            with self.subTest(option):
                self.check_fusedisk(("-o", option, *members), 2, (option.split("=")[0],), identifier="bad-option")
        self.check_fusedisk(("--nonsense", *members), 2, identifier="bad-usage")
        self.check_fusedisk((f"{self.set.main}@1+8", self.set.spare), 2, identifier="misaligned-range")
        self.check_fusedisk(("--name", "unknown"), 1, says=("unknown",), identifier="no-such-set")

    def test_bad_mountpoint(self):
        held = self.contents()
        link = self.workspace.path / "link"
        link.symlink_to(self.set.spare)
        for place, identifier in (("/no/such/folder", "mountpoint-not-found"), ("/dev/null", "bad-mountpoint"),
                                  (self.set.main, "bad-mountpoint"), (link, "bad-mountpoint")):
            answer = self.workspace.fusedisk("--json", self.set.main, self.set.spare, place, check=False)
            self.assertEqual(answer.returncode, 1)
            self.check_message(answer.stderr, "fusedisk", (os.path.realpath(place),))
            self.assertEqual(json.loads(answer.stdout)["error"]["id"], identifier)
        self.assertEqual(self.contents(), held)


def luks2_header():
    """Both magics and the fields that libblkid looks at, of an empty LUKS2 header."""
    def binary(magic, offset):
        head = struct.pack(">6sHQQ48s32s64s40s48sQ184s64s", magic, 2, 16384, 1, b"", b"sha256", bytes(64),
                           b"6fd0b4a6-4a29-4b1b-9c5c-1d6d6b1b7b0a", b"", offset, b"", b"")
        return head.ljust(4096, b"\0") + b"{}".ljust(16384 - 4096, b"\0")
    return binary(b"LUKS\xba\xbe", 0) + binary(b"SKUL\xba\xbe", 16384)


if __name__ == "__main__":
    harness.main()
