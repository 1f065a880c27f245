# SPDX-License-Identifier: GPL-2.0-or-later
"""Spares of every kind take data, give it back and are removed; and none of them changes the sectors of the disk."""

import os
import stat

import harness
from harness import MIB, SECTOR, UNIT, DirectFile
from test_spares import MAIN_SIZE, NEW, OLD, SPARE_SIZE, Pool


class SpareKind(Pool):
    UNITS = range(512, 532)
    PART = 3  # this sector of a unit is written alone

    def add_takes_data_and_removal_frees(self, member, place=None):
        """`place`: what another set can have afterwards."""
        w = self.workspace
        self.create(self.first)
        attached = self.attach()
        w.run("sh", "-c", f"printf 'label: gpt\\nsize=40M\\nsize=40M\\n' | sfdisk -q {attached.loop}")
        table = self.partitions(attached)
        self.assertEqual(len(table), 2)
        self.remap(self.UNITS)
        self.write_units(attached.loop, self.UNITS, OLD)

        self.spare("add", member)
        name = self.name_of(member)
        self.assertEqual(w.dmremap_json("spare", "evacuate", self.name, self.first)["lost_sectors"], 0)
        self.assertEqual(self.spares()[name]["allocated_units"], len(self.UNITS))
        self.spare("remove", self.first)
        self.check_units(attached.loop, self.UNITS, OLD)
        self.write_units(attached.loop, self.UNITS[::2], NEW)
        self.write_part(attached.loop, self.UNITS[1])

        attached.detach()
        attached = self.attach()
        self.assertEqual((self.sector_size(attached), self.partitions(attached)), (SECTOR, table))
        self.check_all(attached)
        attached.kill()  # without an orderly end
        self.workspace.forget(attached)
        attached.clear()
        attached = self.attach()
        self.check_all(attached)

        self.spare("add", self.second)
        self.refused_spare("remove", member, identifier="spare-in-use")
        self.assertEqual(w.dmremap_json("spare", "evacuate", self.name, member)["lost_sectors"], 0)
        self.spare("remove", member)
        self.assertEqual(list(self.spares()), ["second.img"])
        self.assertEqual((self.sector_size(attached), self.partitions(attached)), (SECTOR, table))
        self.check_all(attached)
        w.dmremap("create", "other", "--main", w.sparse("other.img", 8 * MIB), "--spare", place or member, "--dry-run")
        attached.detach()
        attached = self.attach()
        self.check_all(attached)
        attached.detach()

    def check_all(self, attached):
        self.check_units(attached.loop, self.UNITS[::2], NEW)
        self.check_units(attached.loop, self.UNITS[3::2], OLD)
        want = bytearray(self.content(OLD, self.UNITS[1]))
        want[self.PART * SECTOR:(self.PART + 1) * SECTOR] = self.content(NEW, self.UNITS[1])[:SECTOR]
        with DirectFile(attached.loop) as f:
            self.assertEqual(f.read(self.UNITS[1] * UNIT, UNIT), bytes(want))

    def write_part(self, device, unit):
        with DirectFile(device, write=True) as f:
            f.write(unit * UNIT + self.PART * SECTOR, self.content(NEW, unit)[:SECTOR])
            f.sync()

    def name_of(self, member):
        names = set(self.spares()) - {"first.img", "second.img"}
        self.assertEqual(len(names), 1, member)
        return names.pop()

    def sector_size(self, attached):
        return int(self.workspace.run("blockdev", "--getss", attached.loop).stdout)

    def partitions(self, attached):
        return self.workspace.run("partx", "--show", "-g", "-o", "NR,START,SECTORS", attached.loop).stdout.splitlines()

    def device(self, size, *options):
        w = self.workspace
        return harness.LoopDevice(w, w.run("losetup", "-f", "--show", *options, w.sparse("device.img", size)).stdout.strip())

    def test_file(self):
        self.add_takes_data_and_removal_frees(self.workspace.sparse("file.img", SPARE_SIZE))

    def test_disk_of_512_byte_sectors(self):
        device = self.device(SPARE_SIZE)
        self.add_takes_data_and_removal_frees(str(device))
        device.detach()

    def test_disk_of_4096_byte_sectors(self):
        device = self.device(SPARE_SIZE, "-b", "4096")
        self.add_takes_data_and_removal_frees(str(device))
        device.detach()

    def test_partition(self):
        device = self.device(2 * SPARE_SIZE)
        self.workspace.run("sh", "-c", f"printf 'label: gpt\\nsize=8M\\nsize=32M\\n' | sfdisk -q {device}")
        self.add_takes_data_and_removal_frees(device.partition(2))
        self.workspace.run("partx", "-d", str(device))
        device.detach()

    def test_range_of_a_disk(self):
        device = self.device(2 * SPARE_SIZE)
        around = (b"\xA5" * UNIT, b"\x5A" * UNIT)
        first, count = 8 * MIB // SECTOR, 32 * MIB // SECTOR
        with DirectFile(str(device), write=True) as f:
            f.write(first * SECTOR - UNIT, around[0])
            f.write((first + count) * SECTOR, around[1])
        self.add_takes_data_and_removal_frees(f"{device}@{first}+{count}")
        with DirectFile(str(device)) as f:
            self.assertEqual((f.read(first * SECTOR - UNIT, UNIT), f.read((first + count) * SECTOR, UNIT)), around)
        device.detach()

    def test_main_of_4096_byte_sectors_decides_for_the_disk(self):
        device = self.device(MAIN_SIZE, "-b", "4096")
        self.main = str(device)
        self.create(self.first)
        for _ in range(2):
            attached = self.attach()
            self.assertEqual(self.sector_size(attached), 4096)
            attached.detach()
        device.detach()

    def test_loop_device_anew_where_nobody_but_the_daemon_has_main_any_more(self):
        """As a drive that is about to go: its daemon has it, and no other program can open it."""
        w = self.workspace
        device = self.device(MAIN_SIZE, "-b", "4096")
        self.main = w.path / "main.node"
        os.mknod(self.main, stat.S_IFBLK | 0o600, os.stat(str(device)).st_rdev)
        self.create(self.first)
        attached = self.attach()
        self.write_units(attached.loop, self.UNITS, OLD)
        w.run("losetup", "-d", attached.loop)
        os.rename(self.main, w.path / "gone.node")
        attached.loop = w.dmremap("attach", self.name).stdout.split()[0]
        self.assertEqual(self.sector_size(attached), 4096)
        self.check_units(attached.loop, self.UNITS, OLD)
        attached.detach()
        device.detach()


if __name__ == "__main__":
    harness.main()
