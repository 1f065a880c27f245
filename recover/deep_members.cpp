// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/deep_members.h"

#include "engine/geometry.h"
#include "engine/units.h"

#include <algorithm>
#include <bit>
#include <fmt/format.h>

namespace dmremap::recover {
namespace {

unsigned copies_of(const deep_find& f) {
  return static_cast<unsigned>(std::popcount(f.supers & 0x3FFu));
}

constexpr std::uint64_t most_units = UINT32_MAX;

/// A find with a place on the device.
struct extent {
  const deep_find* find = nullptr;
  byte_range bytes;
  bool known = false;

  /// Superblocks of one spare lie far apart: two at their places are no coincidence, and no moved unit.
  [[nodiscard]] bool proper() const { return copies_of(*find) >= 2 || known; }
  [[nodiscard]] std::uint64_t length() const { return bytes.end - bytes.start; }
  [[nodiscard]] std::pair<unsigned, std::uint64_t> weight() const {
    return {copies_of(*find), find->table_blocks};
  }
  [[nodiscard]] bool holds(const extent& other) const {
    return bytes.start <= other.bytes.start && bytes.end >= other.bytes.end && length() > other.length();
  }
};

class sorter {
public:
  sorter(std::string path, std::uint64_t bytes,
         std::string carries) // NOLINT(bugprone-easily-swappable-parameters)
      : path_(std::move(path)), bytes_(bytes), carries_(std::move(carries)) {}

  void place(const deep_find& f, const std::vector<byte_range>& known) {
    if (!f.own_supers())
      return;
    if (f.units < min_spare_units || f.units > most_units)
      return pass(f, "no spare has the size that its superblock tells");
    const std::uint64_t length = f.units * unit_bytes;
    if (f.start < 0)
      return pass(f, "its spare would begin before the device: a piece of a spare");
    const auto start = static_cast<std::uint64_t>(f.start);
    if (start + length > bytes_ && start != 0)
      return pass(f, "its spare would end behind the device: a piece of a spare");
    const byte_range bytes{start, start + length};
    extents_.push_back(
        {&f, bytes, start == 0 || std::find(known.begin(), known.end(), bytes) != known.end()});
  }

  void judge() {
    for (const extent& e : extents_) {
      const std::string why = e.known ? "" : objection(e);
      if (!why.empty())
        pass(*e.find, why);
      else
        out_.members.push_back(spec_of(e));
    }
  }

  /// Table blocks without a superblock, and sixth replicas, that lie in no spare found.
  void rest(const deep_state& state) {
    for (const auto& found : state.finds) {
      const auto& f = found.second; // clang 14 lets no lambda capture a structured binding
      if (f.own_supers() || std::any_of(extents_.begin(), extents_.end(), [&](const extent& e) {
            return e.proper() && f.first >= e.bytes.start && f.last < e.bytes.end;
          }))
        continue;
      pass(f, f.hosted()      ? "the head of a sixth replica, without the spare that held it"
              : f.supers != 0 ? "a sixth replica, without the spare that held it"
                              : "table blocks without a superblock");
    }
  }

  deep_members take() { return std::move(out_); }

private:
  [[nodiscard]] std::string objection(const extent& e) const {
    for (const extent& other : extents_) {
      if (&other == &e || !other.proper() || !other.bytes.overlaps(e.bytes))
        continue;
      if (other.holds(e))
        return fmt::format("lies in the data area of spare {} of set {}: a backup image, or units that moved",
                           to_text(other.find->spare), other.find->set_name);
      if (!e.holds(other) && other.weight() > e.weight())
        return fmt::format("shares its place with spare {} of set {}, of which more is there",
                           to_text(other.find->spare), other.find->set_name);
    }
    if (!e.proper())
      return "a single superblock copy: a unit that moved, or all that is left of a spare";
    if (e.bytes.start % unit_bytes != 0)
      return "its spare begins in the middle of a unit of the device: on a partition that is not there now";
    if (!carries_.empty())
      return fmt::format("lies in {} on {}: a file there, or a range behind it; name it if it is a spare",
                         carries_, path_);
    return {};
  }

  [[nodiscard]] member_spec spec_of(const extent& e) const {
    member_spec spec;
    spec.path = path_;
    if (e.bytes.start != 0 || e.bytes.end < align_down(bytes_, unit_bytes)) {
      spec.start = e.bytes.start / sector_bytes;
      spec.length = std::min(e.bytes.end, align_down(bytes_, unit_bytes)) / sector_bytes - *spec.start;
    }
    return spec;
  }

  void pass(const deep_find& f, std::string why) { out_.passed.push_back({path_, f, std::move(why)}); }

  const std::string path_;
  const std::uint64_t bytes_;
  const std::string carries_;
  std::vector<extent> extents_;
  deep_members out_;
};

} // namespace

deep_members members_among(const std::string& path, std::uint64_t bytes, const deep_state& state,
                           const std::string& carries, const std::vector<byte_range>& known) {
  sorter s(path, bytes, carries);
  for (const auto& [key, f] : state.finds)
    s.place(f, known);
  s.judge();
  s.rest(state);
  return s.take();
}

} // namespace dmremap::recover
