# SPDX-License-Identifier: GPL-2.0-or-later
"""The udev rule of a set, judged by udev itself: `udevadm test` with Debian's own rules on real loop devices. It runs in
a mount namespace with a /dev and a /run of its own, so neither a daemon is needed nor anything left behind."""

import json
import os
import subprocess
from pathlib import Path

import harness
from harness import MIB

# $1 rules, $2 device. Of a partition the disk is first, whose properties it takes over. Of /dev the disk and its
# partitions are there, and no other test's, which may go at any moment. The links are looked up: the property DEVLINKS
# keeps those that a rule took away, where none is left.
IN_NAMESPACE = r"""
set -e
mount -t tmpfs none /run
mkdir -p /run/udev/rules.d /run/udev/data /run/dev
disk=$(readlink -f "/sys/class/block/$2")
if [ -e "$disk/partition" ]; then disk=$(dirname "$disk"); fi
name=${disk##*/}
cp -a /dev/null /dev/zero "/dev/$name" /run/dev/
for part in "$disk/$name"p*; do
  if [ -e "$part" ]; then cp -a "/dev/${part##*/}" /run/dev/; fi
done
mount --bind /run/dev /dev
cp "$1"/*.rules /run/udev/rules.d/
if [ "$name" != "$2" ]; then udevadm test --action=change "$disk" >/dev/null 2>&1; fi
udevadm test --action=change "/sys/class/block/$2"
for folder in /dev/disk /dev/dmremap; do
  if [ -d $folder ]; then find $folder -lname "*/$2"; fi
done
"""


class Udev(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.rules = self.workspace.folder("udev")
        self.spare = self.workspace.sparse("spare.img", 32 * MIB)

    def udev(self, device, **extra_rules):
        """{property: value} of a device by the rules in the folder and those given (name: text) before and behind
        them; in "links" those that udev made. A rule that udev finds fault with fails."""
        rules = self.workspace.folder("rules")
        for old in rules.iterdir():
            old.unlink()
        for path in self.rules.iterdir():
            (rules / path.name).write_text(path.read_text())
        for name, text in extra_rules.items():
            (rules / f"{name.lstrip('r')}-test.rules").write_text(text)
        answer = self.workspace.run("unshare", "-m", "sh", "-c", IN_NAMESPACE, "sh", rules, Path(device).name)
        for line in answer.stderr.splitlines():
            self.assertFalse(line.startswith("/run/udev/rules.d"), line)
        lines = answer.stdout.splitlines()
        found = dict(line.split("=", 1) for line in lines if "=" in line)
        found["links"] = {line for line in lines if line.startswith("/dev/")}
        return found

    def kinds(self, found):
        """{"by-uuid", ...} of the links below /dev/disk."""
        return {link.split("/")[3] for link in found["links"] if link.startswith("/dev/disk/")}

    def partitioned(self, name="disk.img"):
        """A loop device with a GPT of two partitions, with file systems; the device."""
        image = self.workspace.sparse(name, 96 * MIB)
        self.workspace.run("sh", "-c", r'printf "label: gpt\nsize=40M,name=first\nsize=24M,name=second\n" | '
                           r'sfdisk -q "$0"', image)
        disk = self.workspace.loop(image, partitions=True)
        for number, label in ((1, "odd label'\""), (2, "other")):
            self.workspace.run("mkfs.ext4", "-q", "-L", label, disk.partition(number))
        return disk

    def create(self, main, *words, name="one"):
        return self.workspace.dmremap_json("create", name, "--main", main, "--spare", self.spare, *words)

    def create_knowing(self, disk, serial):
        """The same on a host whose udev knows a serial number of the disk."""
        database = f"/run/udev/data/b{(disk.sysfs / 'dev').read_text().strip()}"
        script = 'mount -t tmpfs none /run && mkdir -p /run/udev/data && echo "$2" >"$1" && shift 2 && exec "$@"'
        answer = self.workspace.run("unshare", "-m", "sh", "-c", script, "sh", database,
                                    f"E:ID_SERIAL_SHORT={serial}", harness.program("dmremap"), "create", "one",
                                    "--main", disk.path, "--spare", self.spare, "--json")
        return json.loads(answer.stdout)

    def tag(self, device, name):
        return self.workspace.run("blkid", "-p", "-o", "value", "-s", name, device).stdout.strip()

    def assert_hidden(self, found, kept):
        self.assertEqual((found.get("SYSTEMD_READY"), found.get("UDISKS_IGNORE")), ("0", "1"))
        self.assertNotIn("ID_FS_TYPE", found)
        self.assertEqual(self.kinds(found), kept)

    def assert_shown(self, found, uuid):
        self.assertNotIn("SYSTEMD_READY", found)
        self.assertNotIn("UDISKS_IGNORE", found)
        self.assertEqual(found["ID_FS_TYPE"], "ext4")
        self.assertIn(f"/dev/disk/by-uuid/{uuid}", found["links"])

    def test_partition(self):
        """From create to destroy, with the loop device of the set in between."""
        disk = self.partitioned()
        main, other = disk.partition(1), disk.partition(2)
        uuid, other_uuid = self.tag(main, "UUID"), self.tag(other, "UUID")
        partuuid = self.tag(main, "PART_ENTRY_UUID")
        self.workspace.folder("rules")
        before = self.udev(main, r10="# none of ours\n")
        self.assert_shown(before, uuid)
        self.assertEqual(self.kinds(before), {"by-uuid", "by-label", "by-partuuid", "by-partlabel"})
        planned = self.create(main, "--dry-run")
        self.assertEqual(list(self.rules.iterdir()), [])
        made = self.create(main)
        rule = self.rules / "62-dmremap-one.rules"
        self.assertEqual((made["udev_rule"], made["main_hidden"], made["warnings"]), (str(rule), True, []))
        self.assertEqual([planned[key] for key in ("udev_rule", "main_hidden")],
                         [made[key] for key in ("udev_rule", "main_hidden")])
        self.assertEqual(list(self.rules.iterdir()), [rule])
        # Main alone is hidden; it keeps the links that are its own, which may name it in the configuration.
        hidden = self.udev(main)
        self.assert_hidden(hidden, {"by-partuuid", "by-partlabel"})
        self.assertIn(f"/dev/disk/by-partuuid/{partuuid}", hidden["links"])
        self.assert_shown(self.udev(other), other_uuid)
        self.assertNotIn("SYSTEMD_READY", self.udev(disk.path))
        # The set's loop device has its link, and the links that main lost.
        attached = harness.Attached(self.workspace, "one")
        shown = self.udev(attached.loop)
        self.assert_shown(shown, uuid)
        self.assertIn("/dev/dmremap/one", shown["links"])
        self.assertNotIn("/dev/dmremap/one", self.udev(disk.path)["links"])
        # Renamed while it runs: the link has the new name, though the image lies where it lay.
        renamed = self.workspace.dmremap_json("rename", "one", "two")
        moved = self.rules / "62-dmremap-two.rules"
        self.assertEqual((renamed["udev_rule"], list(self.rules.iterdir())), (str(moved), [moved]))
        links = self.udev(attached.loop)["links"]
        self.assertEqual({link for link in links if "dmremap" in link}, {"/dev/dmremap/two"})
        self.assert_hidden(self.udev(main), {"by-partuuid", "by-partlabel"})
        attached.name = "two"
        attached.detach()
        # On a mount point of one's own choice, too, a folder or a file.
        place = self.workspace.path / "own.img"
        place.touch()
        for mountpoint in (self.workspace.folder("own"), place):
            attached = harness.Attached(self.workspace, "two", mountpoint)
            self.assertIn("/dev/dmremap/two", self.udev(attached.loop)["links"])
            attached.detach()
        self.assert_hidden(self.udev(main), {"by-partuuid", "by-partlabel"})
        # Gone with the set.
        planned = self.workspace.dmremap_json("destroy", "two", "--dry-run")
        self.assertEqual((planned["udev_rule"], moved.exists()), (str(moved), True))
        gone = self.workspace.dmremap_json("destroy", "two")
        self.assertEqual((gone["udev_rule"], list(self.rules.iterdir())), (str(moved), []))
        self.assert_shown(self.udev(main, r10="# none of ours\n"), uuid)

    def test_whole_disk(self):
        """By its serial number, with its partitions. A loop device has none: a rule that stands in front of Debian's
        gives it one, and udev's database tells create."""
        disk = self.partitioned()
        parts = {n: disk.partition(n) for n in (1, 2)}
        loop = Path(disk.path).name
        made = self.create(disk.path)
        self.assertEqual((made["main_hidden"], len(made["warnings"])), (False, 1))
        self.assertIn("serial number", made["warnings"][0])
        self.workspace.dmremap("destroy", "one")
        for hostile in ("*", "a|b*", 'x" , ENV{A}="1', "[0-9]"):
            made = self.create_knowing(disk, f"{hostile}12345")
            self.assertEqual((made["main_hidden"], len(made["warnings"])), (False, 1))
            self.assertNotIn("12345", (self.rules / "62-dmremap-one.rules").read_text())
            self.workspace.dmremap("destroy", "one")
        made = self.create_knowing(disk, "S3R 1AL.")
        self.assertEqual((made["outcome"], made["main_hidden"], made["warnings"]), ("created", True, []))
        serial = {"r10": f'KERNEL=="{loop}", ENV{{ID_SERIAL_SHORT}}="S3R 1AL."\n'}
        size = (disk.sysfs / "size").read_text().strip()
        rule = self.rules / "62-dmremap-one.rules"
        self.assertIn(f'"{size}"', rule.read_text())
        for number, part in parts.items():
            found = self.udev(part, **serial)
            self.assertEqual(found["ID_SERIAL_SHORT"], "S3R 1AL.")
            self.assert_hidden(found, set())
            self.assert_shown(self.udev(part), self.tag(part, "UUID"))  # without it, it is another disk
        other = {"r10": serial["r10"].replace("1AL", "1Al")}
        self.assert_shown(self.udev(parts[1], **other), self.tag(parts[1], "UUID"))
        rule_text = rule.read_text()
        rule.write_text(rule_text.replace(f'"{size}"', f'"{int(size) + 8}"'))
        self.assert_shown(self.udev(parts[1], **serial), self.tag(parts[1], "UUID"))
        rule.write_text(rule_text)
        found = self.udev(disk.path, **serial)
        self.assert_hidden(found, {"by-diskseq"})
        # The set's loop device shows the same partitions, under its own names.
        attached = harness.Attached(self.workspace, "one")
        self.workspace.run("partx", "-u", attached.loop, check=False)
        harness.wait_until(lambda: os.path.exists(f"{attached.loop}p2"), 5, "partitions")
        shown = self.udev(f"{attached.loop}p2", **serial)
        self.assert_shown(shown, self.tag(parts[2], "UUID"))
        self.assertIn("/dev/dmremap/one-part2", shown["links"])
        self.assertIn("/dev/dmremap/one", self.udev(attached.loop, **serial)["links"])
        self.workspace.run("partx", "-d", attached.loop, check=False)
        attached.detach()

    def test_mains_without_a_rule_of_their_own(self):
        """A file, a range and a copy hide nothing; each says why, but the file, which nobody looks at."""
        main = self.workspace.sparse("main.img", 48 * MIB)
        made = self.create(main)
        self.assertEqual((made["main_hidden"], made["warnings"]), (False, []))
        self.assertNotIn("SYSTEMD_READY", Path(made["udev_rule"]).read_text())
        attached = harness.Attached(self.workspace, "one")
        self.assertIn("/dev/dmremap/one", self.udev(attached.loop)["links"])
        attached.detach()
        self.workspace.dmremap("destroy", "one")
        disk = self.partitioned()
        made = self.create(f"{disk.partition(1)}@0+65536")
        self.assertIn("range", made["warnings"][0])
        self.assertFalse(made["main_hidden"])
        self.assert_shown(self.udev(disk.partition(1)), self.tag(disk.partition(1), "UUID"))
        self.workspace.dmremap("destroy", "one")
        self.workspace.run("cp", "--sparse=always", self.workspace.path / "disk.img", self.workspace.path / "copy.img")
        copy = self.workspace.loop(self.workspace.path / "copy.img", partitions=True)
        same = copy.partition(1)
        made = self.create(disk.partition(1))
        self.assertIn(same, made["warnings"][0])
        self.assertFalse(made["main_hidden"])
        self.workspace.run("partx", "-d", copy)
        copy.detach()
        made = self.create(disk.partition(1))  # once more, on what is a set already: the rule is made anew
        self.assertEqual((made["outcome"], made["main_hidden"], made["warnings"]), ("opened", True, []))
        self.assert_hidden(self.udev(disk.partition(1)), {"by-partuuid", "by-partlabel"})
        uuid = made["uuid"]
        self.spare.rename(self.spare.with_suffix(".away"))
        gone = self.workspace.dmremap_json("destroy", "one", "--abandon", uuid)
        self.assertEqual((gone["left_out"][0]["member"], list(self.rules.iterdir())), (str(self.spare), []))

    def test_switched_off(self):
        main = self.workspace.sparse("main.img", 48 * MIB)
        made = self.create(main, "--no-udev")
        self.assertEqual((made["udev_rule"], made["fstab"], list(self.rules.iterdir())), (None, [], []))
        renamed = self.workspace.dmremap_json("rename", "one", "two")
        self.assertEqual((renamed["udev_rule"], list(self.rules.iterdir())), (None, []))
        self.assertIsNone(self.workspace.dmremap_json("destroy", "two")["udev_rule"])
        made = self.create(main, "--no-persist")
        self.assertEqual((made["udev_rule"], list(self.rules.iterdir())), (None, []))
        # A folder that cannot be written: a warning, and the set is made.
        self.spare.unlink()
        self.spare = self.workspace.sparse("spare.img", 32 * MIB)
        self.rules.rmdir()
        self.rules.touch()
        made = self.create(main)
        self.assertEqual((made["outcome"], made["udev_rule"]), ("created", None))
        self.assertIn(str(self.rules), made["warnings"][0])

    def test_fstab(self):
        """Each way to name main, or a partition of it, and nothing else."""
        disk = self.partitioned()
        first, second = disk.partition(1), disk.partition(2)
        tags = {n: self.tag(first, n) for n in ("UUID", "LABEL", "PART_ENTRY_UUID", "PART_ENTRY_NAME")}
        link = self.workspace.path / "link"
        link.symlink_to(first)
        naming = [first, str(link), f"UUID={tags['UUID']}", f"UUID=\"{tags['UUID'].upper()}\"",
                  "LABEL=odd\\040label'\"", f"PARTUUID={tags['PART_ENTRY_UUID']}", "PARTLABEL=first",
                  f"/dev/disk/by-uuid/{tags['UUID']}", "/dev/disk/by-label/odd\\x20label\\x27\\x22",
                  f"/dev/disk/by-partuuid/{tags['PART_ENTRY_UUID']}", "/dev/disk/by-partlabel/first"]
        others = [second, disk.path, f"UUID={self.tag(second, 'UUID')}", "LABEL=other", "PARTLABEL=second",
                  "PARTLABEL=First", "UUID=", "LABEL", "/dev/disk/by-uuid/", "tmpfs", "proc", "server:/export"]
        fstab = self.workspace.path / "fstab"
        lines = ["# comment", "", f"#{first} /no ext4 defaults 0 0", *(f"{n}\t/mnt/{i} ext4 defaults 0 0"
                                                                       for i, n in enumerate(naming)),
                 *(f"{n} /srv ext4 defaults 0 0" for n in others), "broken"]
        fstab.write_text("\n".join(lines))
        made = self.create(first)
        self.assertEqual([(c["line"], c["source"], c["mount_point"], c["instead"]) for c in made["fstab"]],
                         [(4 + i, n, f"/mnt/{i}", "/dev/dmremap/one") for i, n in enumerate(naming)])
        text = self.workspace.dmremap("create", "one", "--main", first, "--spare", self.spare).stdout
        self.assertIn(f"line 4 of fstab has {first} on /mnt/0", text)
        self.assertEqual(text.count("/dev/dmremap/one there, with the option nofail"), len(naming))
        self.workspace.dmremap("destroy", "one")
        # The whole disk: its partitions are named by the number.
        fstab.write_text("\n".join(["LABEL=other /a ext4", f"{first} /b ext4", f"{disk.path} /c ext4", "/dev/null /d"]))
        made = self.create(disk.path)
        self.assertEqual([(c["line"], c["instead"]) for c in made["fstab"]],
                         [(1, "/dev/dmremap/one-part2"), (2, "/dev/dmremap/one-part1"), (3, "/dev/dmremap/one")])
        fstab.unlink()
        self.assertEqual(self.create(disk.path)["fstab"], [])

    def test_nothing_of_the_host(self):
        """Programs with folders of their own write no rule into the host's."""
        before = sorted(os.listdir("/etc/udev/rules.d"))
        main = self.workspace.sparse("main.img", 48 * MIB)
        environment = {k: v for k, v in self.workspace.env.items() if k != "DMREMAP_UDEV_DIR"}
        subprocess.run([harness.program("dmremap"), "create", "one", "--main", main, "--spare", self.spare],
                       env=environment, check=True, stdout=subprocess.DEVNULL)
        self.assertEqual((sorted(os.listdir("/etc/udev/rules.d")), list(self.rules.iterdir())), (before, []))


if __name__ == "__main__":
    harness.main()
