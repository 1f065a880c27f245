# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the spares of a running set lie, and what its configuration says of that: also of spares that are away, and of
places that are the set's own disk in the end."""

import os

import harness
from harness import MIB
from test_spares import SPARE_SIZE, Pool


class OwnDisk(Pool):
    """A spare on what the set serves, behind whatever."""

    def setUp(self):
        super().setUp()
        w = self.workspace
        self.main = w.sparse("big.img", 256 * MIB)
        self.create(self.first)
        self.attached = self.attach()

    def tearDown(self):
        self.assertEqual((self.configured(), [*self.spares()]), ([str(self.first)], ["first.img"]))
        self.attached.detach()

    def check_refused(self, member):
        for options in ([], ["--dry-run"]):
            self.refused_spare("add", member, *options, identifier="member-is-image")

    def spare_file(self, path):
        with open(path, "wb") as f:
            f.truncate(SPARE_SIZE)
        return path

    def test_file_of_a_btrfs(self):
        w = self.workspace
        w.run("mkfs.btrfs", "-q", "--mixed", self.attached.loop)
        mount = w.mount(self.attached.loop)
        w.run("btrfs", "subvolume", "create", mount / "sub")
        file = self.spare_file(mount / "sub/spare.img")
        self.check_refused(self.spare_file(mount / "spare.img"))
        self.check_refused(file)
        bound = w.folder("bound")
        w.run("mount", "--bind", mount / "sub", bound)
        again = harness.Mount(w, bound)
        self.check_refused(bound / "spare.img")
        device = w.loop(file)  # and one more step
        self.check_refused(str(device))
        device.detach()
        again.unmount()
        mount.unmount()

    def test_btrfs_with_another_device_in_front(self):
        w = self.workspace
        front = w.loop(w.sparse("front.img", 256 * MIB))
        w.run("mkfs.btrfs", "-q", "-m", "single", "-d", "single", str(front), self.attached.loop)
        w.run("btrfs", "device", "scan", str(front), self.attached.loop)
        mount = w.mount(str(front))
        self.check_refused(self.spare_file(mount / "spare.img"))
        mount.unmount()
        w.run("btrfs", "device", "scan", "--forget", check=False)
        front.detach()

    def test_file_of_a_file_system_on_a_file(self):
        w = self.workspace
        w.run("mkfs.ext4", "-q", self.attached.loop)
        mount = w.mount(self.attached.loop)
        inner = self.spare_file(mount / "inner.img")
        os.truncate(inner, 64 * MIB)
        device = w.loop(inner)
        w.run("mkfs.ext4", "-q", str(device))
        upper = w.mount(str(device), "upper")
        self.check_refused(self.spare_file(upper / "spare.img"))
        upper.unmount()
        device.detach()
        mount.unmount()

    def test_device_over_others(self):
        """As device mapper and RAID are shown in sysfs; not every kernel has them."""
        w = self.workspace
        device = w.loop(w.sparse("upper.img", 64 * MIB))
        slaves, own = w.folder("slaves"), device.sysfs.with_name(os.path.basename(self.attached.loop))
        w.folder("slaves/below")
        (slaves / "below/dev").write_text((own / "dev").read_text())
        shown = device.sysfs / "slaves"
        w.run("mount", "--bind", slaves, shown)
        shown = harness.Mount(w, shown)
        self.check_refused(str(device))
        w.run("mkfs.ext4", "-q", str(device))
        mount = w.mount(str(device))
        self.check_refused(self.spare_file(mount / "spare.img"))
        mount.unmount()
        shown.unmount()
        self.spare("add", str(device), "--wipe=ext4", "--dry-run")
        device.detach()


if __name__ == "__main__":
    harness.main()
