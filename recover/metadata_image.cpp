// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/metadata_image.h"

#include "engine/durable_file.h"
#include "engine/unique_fd.h"
#include "recover/in_use.h"
#include "recover/spare_view.h"

#include <algorithm>
#include <boost/filesystem.hpp>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace dmremap::recover {
namespace {

tl::unexpected<error> cannot(const std::string& path, const std::string& what, int number) {
  return fail("output-failed", path,
              number == EEXIST ? "is there already, and is not overwritten; name another folder"
                               : what + ": " + std::strerror(number));
}

using show_copied = std::function<void(std::uint64_t done, std::uint64_t all)>;

class copier {
public:
  /// `all`: units that it will be asked for.
  copier(store& from, int to, metadata_image& out, std::uint64_t all, const show_copied& show)
      : from_(from), to_(to), out_(out), all_(all), show_(show) {}

  result<void> units(std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t u = first; u < first + count && (u + 1) * unit_bytes <= from_.size(); ++u) {
      block_bytes block;
      if (read(u, block))
        CHECK_OK(put(u, block));
    }
    return {};
  }

  /// A sound superblock says of the file that it is an image; a damaged one is shown as it is.
  result<void> super(std::uint64_t unit, unsigned copy) {
    block_bytes block;
    if ((unit + 1) * unit_bytes > from_.size() || !read(unit, block))
      return {};
    if (decode_superblock(block, copy, spare_unit(unit)))
      add_incompat(block, image_incompat);
    return put(unit, block);
  }

private:
  bool read(std::uint64_t unit, block_bytes& block) {
    constexpr std::uint64_t step = 256;
    if (++done_; show_ && (done_ % step == 0 || done_ == all_))
      show_(done_ * unit_bytes, all_ * unit_bytes);
    const bool well = from_.read(block.span(), unit * unit_bytes).has_value();
    out_.unreadable += well ? 0 : 1;
    return well;
  }

  result<void> put(std::uint64_t unit, const block_bytes& block) {
    if (std::all_of(block.bytes.begin(), block.bytes.end(), [](std::byte b) { return b == std::byte{0}; }))
      return {};
    if (::pwrite(to_, block.bytes.data(), unit_bytes, static_cast<off_t>(unit * unit_bytes)) !=
        static_cast<ssize_t>(unit_bytes))
      return cannot(out_.path, "cannot be written", errno);
    out_.bytes += unit_bytes;
    return {};
  }

  store& from_;
  const int to_;
  metadata_image& out_;
  const std::uint64_t all_;
  const show_copied& show_;
  std::uint64_t done_ = 0;
};

/// What copy_metadata() reads.
std::uint64_t metadata_units(const geometry& g, const superblock* super) {
  std::uint64_t units = super_copies;
  for (std::uint32_t chunk = 0; chunk < g.chunks(); ++chunk)
    if (super == nullptr || super->good_replicas(chunk) != 0)
      units += own_replicas * std::uint64_t{g.chunk_end(chunk) - g.chunk_first(chunk)};
  for (unsigned guest = 0; super != nullptr && guest < max_spares; ++guest)
    if (super->hosted_start[guest] != 0)
      units += std::uint64_t{super->hosted_blocks[guest]} + 1;
  return units;
}

/// `super`: null where no superblock is sound; then all that could be a table is taken. Superblocks come
/// last, their own ones after those of guests: a damaged list of guests may name places of theirs, and what
/// is copied there as a block of a table would not say that it is an image.
result<void> copy_metadata(copier& copy, const geometry& g, const superblock* super) {
  for (std::uint32_t chunk = 0; chunk < g.chunks(); ++chunk) {
    if (super != nullptr && super->good_replicas(chunk) == 0)
      continue; // never initialised
    for (unsigned r = 0; r < own_replicas; ++r)
      CHECK_OK(copy.units(g.block_place(r, g.chunk_first(chunk)).value,
                          g.chunk_end(chunk) - g.chunk_first(chunk)));
  }
  for (unsigned guest = 0; super != nullptr && guest < max_spares; ++guest)
    if (const std::uint64_t start = super->hosted_start[guest]; start != 0)
      CHECK_OK(copy.units(start + 1, super->hosted_blocks[guest]));
  for (unsigned guest = 0; super != nullptr && guest < max_spares; ++guest)
    if (const std::uint64_t start = super->hosted_start[guest]; start != 0)
      CHECK_OK(copy.super(start, sixth_super_copy));
  for (unsigned c = 0; c < super_copies; ++c)
    CHECK_OK(copy.super(g.super_place(c).value, c));
  return {};
}

} // namespace

result<metadata_image> write_metadata_image(const member_spec& spare, const std::string& folder,
                                            unsigned number, const show_copied& show) {
  CHECK_OK(check_not_served(spare));
  const auto io = TRY(open_to_read(spare));
  const auto view = view_spare(spare, io);
  const auto computed = TRY(make_geometry(io->size()).map_error([&](error e) {
    e.what = spare.text();
    return e;
  }));
  metadata_image out;
  out.path = fmt::format("{}/{}.img", folder, number);
  boost::system::error_code failed;
  boost::filesystem::create_directories(folder, failed);
  if (failed)
    return cannot(folder, "cannot be made", failed.value());
  const unique_fd file(::open(out.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file)
    return cannot(out.path, "cannot be made", errno);
  const std::uint64_t size = view ? view->io->size() : io->size();
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0)
    return cannot(out.path, "cannot be made that large", errno);
  const superblock* const super = view ? &view->super() : nullptr;
  const geometry& places = super != nullptr ? super->places : computed;
  copier copy(*io, file.get(), out, metadata_units(places, super), show);
  CHECK_OK(copy_metadata(copy, places, super));
  if (::fsync(file.get()) != 0)
    return cannot(out.path, "cannot be synced", errno);
  if (const auto synced = sync_folder(folder); !synced)
    return cannot(folder, "cannot be synced", synced.error().number);
  return out;
}

} // namespace dmremap::recover
