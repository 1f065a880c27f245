// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>
#include <vector>

namespace dmremap {

/// Who uses the loop device `device` ("/dev/loop3") or one of its partitions, in words: "/dev/loop3 is
/// mounted on /mnt", "is swap", "is held by dm-0", "is opened by process 812 (fio)". Empty: nobody that can
/// be seen from here. Does no I/O on the device. Who has it open and no more than that is given a second to
/// close it: udev, and whoever looks through the devices of the machine, opens each of them for a moment.
[[nodiscard]] std::vector<std::string> loop_users(const std::string& device);

} // namespace dmremap
