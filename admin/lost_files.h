// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "admin/context.h"
#include "admin/file_owners.h"
#include "admin/image_layout.h"
#include "admin/table_format.h"

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

/// `dmremap lost NAME --files`.
namespace dmremap::admin {

struct lost_files_task {
  std::string name, image;
  std::vector<sector_range> lost; ///< ascending
  bool for_rsync = false;
  int progress = -1; ///< descriptor that gets lines "DONE ALL"
};

/// What is known of the lost sectors in one area of the image; or of those outside all areas.
struct lost_area {
  std::optional<image_area> area;
  std::uint64_t lost_sectors = 0;
  bool mounted = false;
  owners found;        ///< places count from the area's first byte (the image's, where there is no area)
  std::string problem; ///< why it could not be looked into; empty: it was
};

/// Looks at every area that has lost sectors. Errors: "image-failed"; of a single area they are in its
/// problem.
[[nodiscard]] result<std::vector<lost_area>>
look_for_files(const std::string& image, const std::vector<sector_range>& lost, const show_progress& show);

[[nodiscard]] std::string lost_files_text(const std::vector<lost_area>& areas);
[[nodiscard]] nlohmann::json lost_files_json(const std::vector<lost_area>& areas);
/// Each file once, ended by a zero byte: for rsync --from0 --files-from. Error "not-mounted": names of two
/// file systems, and one has no mount point that would tell them apart.
[[nodiscard]] result<std::string> rsync_list(const std::vector<lost_area>& areas);

/// Exit 0 where every area could be looked into, 4 else.
[[nodiscard]] result<exit_code> lost_files(context& c, const lost_files_task& task);

} // namespace dmremap::admin
