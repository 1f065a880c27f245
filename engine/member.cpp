// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/member.h"

#include "engine/claim.h"
#include "engine/device_identity.h"
#include "engine/device_use.h"
#include "engine/dust_store.h"
#include "engine/file_store.h"
#include "engine/range_store.h"
#include "engine/storage.h"
#include "engine/units.h"

#include <boost/filesystem.hpp>
#include <cerrno>
#include <charconv>
#include <climits>
#include <string_view>

namespace dmremap {
namespace {

/// How to leave the set open for reading only is the caller's to say; messages speak of the member.
tl::unexpected<error> bad_member(const std::string& text, const std::string& why) {
  return fail("bad-member", text, why, exit_code::usage);
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::optional<std::uint64_t> number(std::string_view digits) {
  std::uint64_t value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc{})
    return std::nullopt;
  return value;
}

struct range_text {
  std::string_view start, length;
  std::size_t at = 0; // of the '@'
};

/// The trailing "@digits+digits", if there is one.
std::optional<range_text> find_range(std::string_view text) {
  const auto at = text.rfind('@');
  if (at == std::string_view::npos)
    return std::nullopt;
  const auto plus = text.find('+', at);
  if (plus == std::string_view::npos)
    return std::nullopt;
  const range_text r{text.substr(at + 1, plus - at - 1), text.substr(plus + 1), at};
  return all_digits(r.start) && all_digits(r.length) ? std::optional(r) : std::nullopt;
}

} // namespace

std::string member_spec::text() const {
  std::string out = (dust ? "dust:" : "") + path;
  if (start && length)
    out += "@" + std::to_string(*start) + "+" + std::to_string(*length);
  return out;
}

result<member_spec> parse_member(const std::string& text) {
  member_spec spec;
  std::string_view rest = text;
  if (rest.starts_with("dust:")) {
    spec.dust = true;
    rest.remove_prefix(5);
  }
  if (const auto range = find_range(rest)) {
    const auto start = number(range->start);
    const auto length = number(range->length);
    const auto end = start && length ? checked_add(*start, *length) : std::nullopt;
    if (!end || *end > INT64_MAX / sector_bytes)
      return bad_member(text,
                        "the range is larger than any device; START and LENGTH count sectors of 512 bytes");
    if (*length == 0)
      return fail("too-small-range", text, "is empty; LENGTH counts sectors of 512 bytes", exit_code::usage);
    if (*start % unit_sectors != 0 || *length % unit_sectors != 0)
      return fail("misaligned-range", text, "START and LENGTH must be multiples of 8 sectors (4096 bytes)",
                  exit_code::usage);
    spec.start = start;
    spec.length = length;
    rest = rest.substr(0, range->at);
  }
  if (rest.empty() || rest.find('\0') != std::string_view::npos)
    return bad_member(text, "names no device or file; expected [dust:]PATH[@START+LENGTH]");
  spec.path = rest;
  if (spec.path.front() != '/') {
    boost::system::error_code ec;
    const auto here = boost::filesystem::current_path(ec);
    if (ec)
      return bad_member(text, "is relative, and the current folder is not known; give the whole path");
    while (spec.path.starts_with("./"))
      spec.path.erase(0, 2);
    spec.path = (here / spec.path).string();
  }
  return spec;
}

namespace {

/// A member looked at but not opened.
struct candidate {
  const member_spec* spec = nullptr;
  struct stat st {};
  claim_target target;
  byte_range range;                    // on the whole disk, or in the file
  storage bottom;                      // where that is below loop devices
  std::optional<loop_backing> backing; // where it is a loop device or a partition of one
};

tl::unexpected<error> stat_error(const std::string& path, int value) {
  if (value == EACCES)
    return fail("no-permission", path,
                "may not be reached by this user; run as root or change the folder's permissions");
  return fail("not-found", path,
              "there is no such file or device; check the path (lsblk lists block devices)");
}

result<void> check_range(const candidate& c, std::uint64_t member_bytes) {
  const auto& spec = *c.spec;
  const std::string what = spec.text();
  if (spec.start.has_value() != spec.length.has_value())
    return fail("misaligned-range", what, "a range needs both START and LENGTH");
  // A drive that has no size any more is dead: its ranges are gone like the whole of it, not wrong.
  if (member_bytes < unit_bytes)
    return fail("empty-member", what,
                "has no room for a single unit of 4096 bytes; give it a size (truncate -s SIZE) or check "
                "the drive");
  if (!spec.start)
    return {};
  if (*spec.length == 0)
    return fail("too-small-range", what, "is empty; LENGTH counts sectors of 512 bytes");
  if (*spec.start % unit_sectors != 0 || *spec.length % unit_sectors != 0)
    return fail("misaligned-range", what, "START and LENGTH must be multiples of 8 sectors (4096 bytes)");
  const auto end = checked_add(*spec.start, *spec.length);
  if (!end || *end > member_bytes / sector_bytes)
    return fail("range-beyond-end", what,
                "ends behind the last sector; " + spec.path + " has " +
                    std::to_string(member_bytes / sector_bytes) + " sectors");
  return {};
}

result<candidate> examine(const member_spec& spec) {
  candidate c;
  c.spec = &spec;
  if (::stat(spec.path.c_str(), &c.st) != 0)
    return stat_error(spec.path, errno);
  std::uint64_t base = 0;
  std::uint64_t bytes = 0;
  if (S_ISBLK(c.st.st_mode)) {
    const device_extent extent = extent_of(c.st.st_rdev);
    c.target = {true, extent.disk, 0};
    base = extent.start;
    bytes = extent.length;
    c.backing = find_loop_backing(extent.disk);
  } else if (S_ISREG(c.st.st_mode)) {
    c.target = {false, c.st.st_dev, c.st.st_ino};
    bytes = static_cast<std::uint64_t>(c.st.st_size);
  } else {
    return fail("not-a-device", spec.path,
                S_ISDIR(c.st.st_mode) ? "is a folder; name a block device or a regular file"
                                      : "is neither a block device nor a regular file");
  }
  CHECK_OK(check_range(c, bytes));
  if (spec.start)
    c.range = {base + *spec.start * sector_bytes, base + (*spec.start + *spec.length) * sector_bytes};
  else // a whole file stays claimed where it grows
    c.range = {base, c.target.block ? base + bytes : static_cast<std::uint64_t>(INT64_MAX)};
  c.bottom = at_bottom({c.target.block, c.target.device, c.target.inode, c.range, ""});
  return c;
}

/// The loop device `upper` stands on what `lower` uses.
bool stands_on(const candidate& upper, const candidate& lower) {
  if (!upper.backing)
    return false;
  if (!lower.target.block)
    return upper.backing->device == lower.st.st_dev && upper.backing->inode == lower.st.st_ino;
  if (upper.backing->block == 0)
    return false;
  const device_extent e = extent_of(upper.backing->block);
  return e.disk == lower.target.device && lower.range.overlaps({e.start, e.start + e.length});
}

result<void> check_overlaps(const std::vector<candidate>& all) {
  for (std::size_t i = 0; i < all.size(); ++i) {
    for (std::size_t j = i + 1; j < all.size(); ++j) {
      if (all[i].target == all[j].target && all[i].range.overlaps(all[j].range))
        return fail("members-overlap", all[j].spec->text(),
                    "lies on the same sectors as " + all[i].spec->text() +
                        " of the same set; give each member its own device or range");
      if (stands_on(all[i], all[j]) || stands_on(all[j], all[i]))
        return fail("members-overlap", all[j].spec->text(),
                    "and " + all[i].spec->text() +
                        " are the same storage: one is a loop device on the other");
      if (all[i].bottom.overlaps(all[j].bottom))
        return fail(
            "members-overlap", all[j].spec->text(),
            "lies on the same sectors as " + all[i].spec->text() +
                " of the same set below (losetup -l tells on what); give each member storage of its own");
    }
  }
  return {};
}

result<void> check_unused(const candidate& c) {
  const auto use = c.target.block ? find_disk_use(c.target.device, c.range) : find_file_use(c.st);
  if (use)
    return fail(use->id, c.spec->text(), use->why);
  return {};
}

/// One open of a device or file that holds several members.
struct opened {
  std::shared_ptr<file_store> io;
  std::shared_ptr<claim> held;
};

/// O_EXCL first. A range goes without where other ranges of the disk belong to sets (their claim is the
/// proof): two exclusive opens of one disk fail, and so does one of a disk whose partition is open so.
result<std::shared_ptr<file_store>> open_exclusive(const candidate& c, const claim& held) {
  auto io = file_store::open(c.spec->path, {.read_only = false, .exclusive = true});
  if (io || io.error().id != "in-use" || !held.others_write())
    return io;
  return file_store::open(c.spec->path, {.read_only = false, .exclusive = false});
}

/// What a loop device stands on, which others may reach without it: the file itself, or by loop devices more.
/// Ranges of it that do not overlap may belong to several sets.
result<std::shared_ptr<claim>> claim_below(const candidate& c, std::vector<byte_range> ranges,
                                           bool read_only) {
  const claim_target target{c.bottom.block, c.bottom.device, c.bottom.inode};
  for (auto& range : ranges) {
    range.start += c.bottom.bytes.start - c.range.start;
    range.end += c.bottom.bytes.start - c.range.start;
  }
  auto held = target.block
                  ? claim::take_disk(target.device, ranges, read_only, c.spec->text())
                  : claim::take_backing_file(c.bottom.file, target, ranges, read_only, c.spec->text());
  if (held || (held.error().id != "in-use" && held.error().id != "members-overlap"))
    return held;
  for (const auto& range : ranges)
    if (const auto owner = find_claim_owner(target, range))
      return fail("members-overlap", c.spec->text(),
                  "is a loop device on the same storage as " + owner->member + ", which is in use by " +
                      owner->text() + "; detach that set first, or use other storage");
  return fail("members-overlap", c.spec->text(),
              "is a loop device on storage that another process has in use" +
                  (c.bottom.file.empty() ? "" : " (fuser " + c.bottom.file + " may name it)") +
                  "; end that first, or use other storage");
}

result<opened> open_device(const candidate& c, const std::vector<byte_range>& ranges, bool read_only) {
  opened out;
  if (c.target.block) {
    out.held = TRY(claim::take_disk(c.target.device, ranges, read_only, c.spec->text()));
    if (c.target != claim_target{c.bottom.block, c.bottom.device, c.bottom.inode})
      out.held->hold(TRY(claim_below(c, ranges, read_only)));
    out.io = read_only ? TRY(file_store::open(c.spec->path, {.read_only = true}))
                       : TRY(open_exclusive(c, *out.held));
  } else {
    out.io = TRY(file_store::open(c.spec->path, {.read_only = read_only}));
    out.held = TRY(claim::take_file(out.io->descriptor(), c.target, ranges, read_only, c.spec->text()));
  }
  out.io->keep(out.held);
  return out;
}

bool same_device(const candidate& a, const candidate& b) {
  return a.target == b.target && a.st.st_rdev == b.st.st_rdev;
}

result<open_member> assemble(const candidate& c, const opened& device) {
  open_member out{*c.spec, device.io, nullptr, device.held};
  if (c.spec->start)
    out.io = TRY(range_store::make(out.io, *c.spec->start, *c.spec->length));
  if (c.spec->dust) {
    const auto dust = std::make_shared<dust_store>(out.io);
    CHECK_OK(dust->preload());
    out.dust = dust->control();
    out.io = dust;
  }
  return out;
}

} // namespace

result<std::vector<open_member>> open_members(const std::vector<std::pair<member_role, member_spec>>& specs,
                                              access_mode mode) {
  std::vector<candidate> candidates;
  for (const auto& [role, spec] : specs)
    candidates.push_back(TRY(examine(spec)));
  CHECK_OK(check_overlaps(candidates));
  for (const auto& c : candidates)
    CHECK_OK(check_unused(c));
  std::vector<opened> devices(candidates.size());
  std::vector<open_member> out;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    std::vector<byte_range> ranges;
    for (std::size_t j = 0; j < candidates.size(); ++j) {
      if (!same_device(candidates[i], candidates[j]))
        continue;
      if (j < i)
        devices[i] = devices[j];
      ranges.push_back(candidates[j].range);
    }
    if (!devices[i].io) {
      auto device = open_device(candidates[i], ranges, mode == access_mode::read_only);
      if (!device && device.error().id == "no-permission" && mode == access_mode::degraded &&
          specs[i].first == member_role::spare)
        device = open_device(candidates[i], ranges, true);
      devices[i] = TRY(std::move(device));
    }
    out.push_back(TRY(assemble(candidates[i], devices[i])));
  }
  return out;
}

void name_claims(const std::vector<open_member>& members, const std::string& set_name) {
  for (const auto& m : members)
    if (m.held)
      m.held->name(set_name);
}

} // namespace dmremap
