// SPDX-License-Identifier: GPL-2.0-or-later
#include "admin/create_checks.h"

#include "engine/config.h"
#include "engine/control_client.h"
#include "engine/geometry.h"
#include "engine/paths.h"
#include "engine/unique_fd.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

namespace dmremap::admin {
namespace {

constexpr const char* upstream = "dm-remap-v4";

result<member_measure> measure_open(int fd, const struct stat& facts, const std::string& path) {
  member_measure measure;
  if (S_ISREG(facts.st_mode)) {
    measure.sectors = static_cast<std::uint64_t>(facts.st_size) / sector_bytes;
    return measure;
  }
  std::uint64_t bytes = 0;
  int logical = 0;
  unsigned physical = 0;
  if (::ioctl(fd, BLKGETSIZE64, &bytes) != 0 || ::ioctl(fd, BLKSSZGET, &logical) != 0 ||
      ::ioctl(fd, BLKPBSZGET, &physical) != 0)
    return fail("open-failed", path, fmt::format("cannot ask for its size: {}", std::strerror(errno)));
  measure.sectors = bytes / sector_bytes;
  measure.logical_bytes = static_cast<std::uint32_t>(logical);
  measure.physical_bytes = std::max(static_cast<std::uint32_t>(logical), physical);
  return measure;
}

/// What two names of one device or file have in common; nothing where it cannot be told.
std::string identity_of(const std::string& path) {
  struct stat facts {};
  if (::stat(path.c_str(), &facts) != 0)
    return "";
  return S_ISBLK(facts.st_mode) ? fmt::format("b{}", facts.st_rdev)
                                : fmt::format("f{}:{}", facts.st_dev, facts.st_ino);
}

} // namespace

result<member_measure> measure_member(const member_spec& spec) {
  // Non-blocking, because a named pipe would wait for a writer.
  const unique_fd fd(::open(spec.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat facts {};
  if (!fd || ::fstat(fd.get(), &facts) != 0) {
    const int why = errno;
    const char* id = why == ENOENT                   ? "not-found"
                     : why == EACCES || why == EPERM ? "no-permission"
                                                     : "open-failed";
    return fail(id, spec.path, fmt::format("cannot open: {}", std::strerror(why)));
  }
  if (!S_ISREG(facts.st_mode) && !S_ISBLK(facts.st_mode))
    return fail("not-a-device", spec.path, "is neither a block device nor a regular file");
  auto measure = TRY(measure_open(fd.get(), facts, spec.path));
  if (spec.start) {
    const auto end = checked_add(*spec.start, *spec.length);
    if (!end || *end > measure.sectors)
      return fail("range-beyond-end", spec.text(),
                  fmt::format("the device has {} sectors only", measure.sectors));
    measure.sectors = *spec.length;
  }
  return measure;
}

result<void> check_name(const std::string& name, bool persist) {
  if (!valid_new_set_name(name))
    return fail("bad-name", name, std::string("is no name for a set: ") + set_name_rule, exit_code::usage);
  if (const auto set = find_running_set(name); set && set->alive)
    return fail("name-taken", name, "a set of this name is running; choose another name");
  if (!persist)
    return {};
  const auto configured = load_set_config(name);
  if (configured || configured.error().id != "no-such-set")
    return fail("name-taken", name,
                "is configured already in " + set_conf_path(name) +
                    "; choose another name, or `dmremap destroy " + name + "` first");
  return {};
}

result<void> check_different(const std::vector<member_spec>& members) {
  for (std::size_t i = 0; i < members.size(); ++i)
    for (std::size_t j = i + 1; j < members.size(); ++j) {
      const auto first = identity_of(members[i].path);
      const bool parted = members[i].start && members[j].start; // overlaps are judged where they are opened
      if (!first.empty() && first == identity_of(members[j].path) && !parted)
        return fail("same-device", members[j].text(),
                    "is the same device or file as " + members[i].text() +
                        "; give two devices, or two ranges PATH@START+LENGTH that do not overlap");
    }
  return {};
}

bool is_made_of(const running_set& set, const std::vector<member_spec>& members) {
  const auto same = [](const std::string& text, const member_spec& member) {
    const auto spec = parse_member(text);
    const auto identity = spec ? identity_of(spec->path) : "";
    return !identity.empty() && identity == identity_of(member.path) && spec->start == member.start &&
           spec->length == member.length;
  };
  return !members.empty() && set.spares.size() + 1 == members.size() && same(set.main, members.front()) &&
         std::all_of(members.begin() + 1, members.end(), [&](const member_spec& member) {
           return std::any_of(set.spares.begin(), set.spares.end(),
                              [&](const std::string& spare) { return same(spare, member); });
         });
}

result<void> check_main(store& main) {
  // Not all signatures: main may have bad sectors where libblkid would have to read.
  for (const auto& one : probe_set_signatures(main))
    if (one.type == "dmremap" || one.type == upstream)
      return fail("main-is-spare", main.identity().path,
                  one.type == upstream
                      ? "carries the metadata of upstream's dm-remap v4, which lies on a spare; are main and "
                        "spare swapped?"
                      : "is the spare of the set " + one.detail + " (" + one.set_uuid +
                            "); are main and spare swapped? `dmremap destroy` frees a spare");
  return {};
}

} // namespace dmremap::admin
