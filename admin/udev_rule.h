// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/member.h"

#include <cstdint>
#include <string>
#include <sys/types.h>
#include <tl/expected.hpp>
#include <vector>

/// The udev rule of a set. Main shows the same file systems as the set's disk, so the rule hides it, and it
/// names the loop device /dev/dmremap/NAME. Best effort all of it: a set works without its rule.
namespace dmremap::admin {

/// What udev may know a device by.
struct device_marks {
  bool partition = false;
  std::uint64_t sectors = 0;
  std::string partuuid;             ///< of a partition
  std::string wwn, serial;          ///< of the whole disk, as store_identity has them
  std::string udev_key, udev_value; ///< of the whole disk, from udev's database: what names this disk alone
};
[[nodiscard]] device_marks marks_of(dev_t device);

/// Conditions in udev's language, of which any one holds for this device, and for its partitions if it is a
/// whole disk. Or why there are none: nothing names it, or the name has characters that would make the rule
/// mean something else.
[[nodiscard]] tl::expected<std::vector<std::string>, std::string> udev_match(const device_marks& marks);

struct udev_rule {
  std::string path; ///< empty: this host keeps none
  std::string text;
  bool hides_main = false;
  std::vector<std::string> warnings; ///< what is not as a reader would expect
};

/// The folder of the rules: $DMREMAP_UDEV_DIR, else /etc/udev/rules.d where that exists, for root whose
/// configuration is not moved by DMREMAP_CONF_DIR. Else empty: none are kept.
[[nodiscard]] std::string udev_rule_dir();
[[nodiscard]] std::string udev_rule_path(const std::string& name);

/// The text of a rules file. `conditions`: those of udev_match, or none to hide nothing. `images`: paths that
/// the loop device may stand on; one with odd characters is left out.
[[nodiscard]] std::string udev_rule_text(const std::string& name, const std::vector<std::string>& conditions,
                                         bool partition, const std::vector<std::string>& images);

/// Looks at main and writes nothing.
[[nodiscard]] udev_rule plan_udev_rule(const std::string& name, const member_spec& main);
/// Durable on return; udev then looks at main again. The error: why it could not be written, in words.
[[nodiscard]] tl::expected<void, std::string> write_udev_rule(const udev_rule& rule, const member_spec& main);
/// The path of the rule that went or, where `dry_run`, would go; empty: there was none. `main` shows itself
/// again.
[[nodiscard]] tl::expected<std::string, std::string> remove_udev_rule(const std::string& name,
                                                                      const std::string& main, bool dry_run);
/// The rule of a set that has a new name; `image`: where it is served now, or empty. The path of the new one;
/// empty: there was none.
[[nodiscard]] tl::expected<std::string, std::string>
move_udev_rule(const std::string& name, const std::string& new_name, const std::string& image);
/// The rule of a set, where it has one, names the loop device on `image`, too, wherever that is.
[[nodiscard]] tl::expected<void, std::string>
show_image_to_udev(const std::string& name, const std::string& image, const std::string& loop);

} // namespace dmremap::admin
