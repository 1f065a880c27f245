// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <string>

/// Texts that the programs of recover/ read, and what a host keeps of a set. Each throws `violation` where
/// what was read is not what stands there. Where it says "edits", the text changes a sound one, line by line:
/// "POINTER VALUE" puts a JSON value where the JSON pointer says, or takes away what is there; a text that
/// begins with '{' stands for itself.
namespace dmremap::fuzz {

void ddrescue_map(const std::string& text);
/// The first line: log2 of the size of a block over 512, and whether counts may follow (1).
void block_list(const std::string& text);
void smartctl_log(const std::string& text); ///< edits
/// The first line: sectors of main, offset. The others: first byte and end of a bad place.
void import_plan_of(const std::string& text);
/// Lines "=BEGIN|NEW" replace the first line that begins so, "~BEGIN|NEW" the last one; "+BEGIN|NEW" stands
/// before the first one. A text that begins with "dmremap-dump" stands for itself.
void dump_lines(const std::string& text);
void dump_fields(const std::string& text);  ///< edits of the dump's JSON
void resume_state(const std::string& text); ///< edits
void host_record(const std::string& text);  ///< edits

} // namespace dmremap::fuzz
