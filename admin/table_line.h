// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/error.h"
#include "engine/member.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// The table lines that earlier versions of dm-remap took, for `dmremap create --table`.
namespace dmremap::admin {

/// As written; all numbers are sectors.
struct table_line {
  std::uint64_t length = 0; ///< of the disk
  std::string main, spare;
  std::optional<std::uint64_t> main_start, spare_start, spare_length;
};

/// "0 LEN remap MAIN SPARE START LEN", "0 LEN remap MAIN MSTART SPARE SSTART SLEN", "0 LEN remap-v4 MAIN
/// SPARE", "0 LEN dm-remap-v4 MAIN SPARE". Errors: "bad-table" (usage; why says which word).
[[nodiscard]] result<table_line> parse_table_line(const std::string& text);

/// What of a member matters here.
struct member_measure {
  std::uint64_t sectors = 0;
  std::uint32_t logical_bytes = 512, physical_bytes = 512;
};

struct table_members {
  member_spec main, spare;
  std::vector<std::string> adjustments; ///< one sentence for each value that was not legal as given
};

/// Turns the line into members. A spare's place is moved inwards to whole units and whole physical sectors,
/// and cut at the device's end; the disk's length is cut to whole units. What the disk shows where is never
/// moved. Errors: "table-too-long" (LEN beyond main), "table-misaligned" (MSTART), "table-outside" (a start
/// beyond the device), "bad-table", "bad-member". Pure: reads no device.
[[nodiscard]] result<table_members> apply_table_line(const table_line& line, const member_measure& main,
                                                     const member_measure& spare);

} // namespace dmremap::admin
