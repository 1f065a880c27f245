// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/erase_set.h"

#include "engine/codec.h"

#include <set>

namespace dmremap {
namespace {

/// Where copies may lie: where the spare's size puts them, and where a superblock that is there says they are
/// (it was made for another size where the device grew since).
std::set<std::uint64_t> places_of(store& spare, const geometry& from_size) {
  std::set<std::uint64_t> places;
  const auto add_all = [&](const geometry& g) {
    for (unsigned copy = 0; copy < super_copies; ++copy)
      places.insert(g.super_place(copy).value);
  };
  add_all(from_size);
  block_bytes block;
  for (unsigned copy = 0; copy < super_copies; ++copy) {
    const auto place = from_size.super_place(copy);
    if (!spare.read(block.span(), byte_of(place)))
      continue;
    if (const auto super = decode_superblock(block, copy, place);
        super && plausible(super->places, spare.size()))
      add_all(super->places);
  }
  return places;
}

bool is_image(store& spare, const geometry& from_size) {
  block_bytes block;
  for (unsigned copy = 0; copy < super_copies; ++copy) {
    const auto place = from_size.super_place(copy);
    if (!spare.read(block.span(), byte_of(place)))
      continue;
    if (const auto super = decode_superblock(block, copy, place))
      return (super->feature_incompat & image_incompat) != 0;
  }
  return false;
}

/// Ours, intact or not: a block of the data area that only lies at such a place keeps its bytes.
bool carries_magic(const block_bytes& block) {
  return block.bytes[4] == std::byte{'D'} && block.bytes[5] == std::byte{'M'} &&
         block.bytes[6] == std::byte{'S'};
}

} // namespace

result<void> check_unused_since(store& spare, std::uint64_t seen) {
  const auto from_size = TRY(make_geometry(spare.size()));
  block_bytes block;
  for (const auto unit : places_of(spare, from_size))
    for (unsigned copy = 0; copy < super_copies; ++copy)
      if (const spare_unit place(unit);
          byte_of(place) + unit_bytes <= spare.size() && spare.read(block.span(), byte_of(place)))
        if (const auto super = decode_superblock(block, copy, place); super && super->sequence_end > seen)
          return fail("set-changed", spare.identity().path,
                      "somebody else used the set meanwhile; nothing was erased. Look again");
  return {};
}

bool any_super_reads(store& spare) {
  block_bytes block;
  const auto reads = [&](std::uint64_t place) {
    return byte_of(spare_unit(place + 1)) <= spare.size() &&
           spare.read(block.span(), byte_of(spare_unit(place))).has_value();
  };
  const auto places = make_geometry(spare.size());
  if (!places)
    return reads(0);
  for (unsigned copy = 0; copy < super_copies; ++copy)
    if (reads(places->super_place(copy).value))
      return true;
  return false;
}

result<unsigned> erase_set(store& spare, const commit_rules& rules) {
  const auto failed = [&](io_error why) {
    return fail("erase-failed", spare.identity().path,
                "a superblock cannot be overwritten: " + std::string(name_of(why)));
  };
  const auto from_size = TRY(make_geometry(spare.size()));
  if (is_image(spare, from_size))
    return fail("metadata-image", spare.identity().path, holds_no_data);
  unsigned erased = 0;
  block_bytes block;
  const block_bytes zeros{};
  for (const auto place : places_of(spare, from_size)) {
    const auto at = byte_of(spare_unit(place));
    if (at + unit_bytes > spare.size())
      continue;
    const bool readable = spare.read(block.span(), at).has_value();
    if (readable && !carries_magic(block))
      continue;
    // One that cannot be read may be readable tomorrow: it is overwritten, too, where the drive takes it.
    if (const auto wrote = spare.write(zeros.span(), at); !wrote && readable)
      return failed(wrote.error());
    ++erased;
  }
  if (const auto flushed = rules.flush_erased_set ? spare.flush() : io_result{}; !flushed)
    return failed(flushed.error());
  return erased;
}

} // namespace dmremap
