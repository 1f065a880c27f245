// SPDX-License-Identifier: GPL-2.0-or-later
// Offsets are written out from the format's description instead of taken from its header: a mistake there
// shows here.
#include "tests/support/spare_check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <map>
#include <zlib.h>

namespace dmremap::test {

namespace {

constexpr std::array<std::uint64_t, 5> fixed_super_units{0, 128, 256, 512, 1024};
constexpr std::uint32_t super_magic = 0x01534D44, table_magic = 0x01544D44;
constexpr unsigned replicas = 5, super_copies = 10, slots_per_block = 254, most_spares = 16;
constexpr unsigned sixth = 5, sixth_super = 10;
constexpr std::uint32_t no_host = 0xFFFFFFFF;
enum kind : unsigned { kind_free, kind_remap, kind_explicit, kind_retired, kind_metadata };

std::uint32_t u32(const page& from, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 4; i-- > 0;)
    value = value << 8 | std::to_integer<std::uint32_t>(from.data[at + i]);
  return value;
}

std::uint64_t u64(const page& from, std::size_t at) {
  return u32(from, at) | static_cast<std::uint64_t>(u32(from, at + 4)) << 32;
}

// superblock
std::uint64_t replica_start(const page& super, unsigned replica) {
  return u32(super, 168 + 4 * replica);
}
std::uint64_t spare_units(const page& super) {
  return u64(super, 152);
}
std::uint32_t table_blocks(const page& super) {
  return u32(super, 160);
}
std::uint32_t chunk_blocks(const page& super) {
  return u32(super, 164);
}
bool chunk_good(const page& super, unsigned replica, std::uint32_t chunk) {
  return (std::to_integer<unsigned>(super.data[1280 + replica * 128 + chunk / 8]) >> (chunk % 8) & 1) != 0;
}

std::uint64_t hosted_start(const page& super, unsigned guest) {
  return u32(super, 736 + 4 * guest);
}
std::uint32_t hosted_blocks(const page& super, unsigned guest) {
  return u32(super, 1168 + 4 * guest);
}

std::uint64_t super_place(const page& super, unsigned copy) {
  return copy < 5 ? fixed_super_units[copy] : replica_start(super, copy - 5);
}

bool is_super(const page* held, unsigned copy, std::uint64_t unit) {
  return held != nullptr && u32(*held, 4) == super_magic && u32(*held, 32) == copy && u32(*held, 36) == unit;
}

bool is_metadata(const page& super, std::uint64_t unit) {
  for (const std::uint64_t fixed : fixed_super_units)
    if (unit == fixed)
      return true;
  for (unsigned r = 0; r < replicas; ++r)
    if (unit >= replica_start(super, r) && unit <= replica_start(super, r) + table_blocks(super))
      return true;
  return unit >= spare_units(super);
}

/// Four lanes, so that the multiplications overlap; `length` is a multiple of 4.
std::uint64_t hash_bytes(const std::byte* bytes, std::size_t length, std::uint64_t hash) {
  std::array<std::uint64_t, 4> lanes{hash, 2, 3, 4};
  const auto take = [](std::uint64_t lane, std::uint64_t word) {
    return std::rotl((lane ^ word) * 0x9e3779b97f4a7c15ull, 29);
  };
  std::size_t at = 0;
  for (; at + 32 <= length; at += 32) {
    std::array<std::uint64_t, 4> words{};
    std::memcpy(words.data(), bytes + at, sizeof words);
    for (std::size_t i = 0; i < 4; ++i)
      lanes[i] = take(lanes[i], words[i]);
  }
  for (; at < length; at += 4) {
    std::uint32_t word = 0;
    std::memcpy(&word, bytes + at, 4);
    lanes[0] = take(lanes[0], word);
  }
  for (const std::uint64_t lane : lanes)
    hash = take(hash ^ hash >> 31, lane);
  return hash ^ hash >> 29;
}

} // namespace

const spare_checker::page_facts& spare_checker::facts(const page& of, bool super) {
  const std::uint64_t key = of.hash() ^ (super ? 0x5555555555555555ull : 0);
  const auto found = known_.find(key);
  if (found != known_.end())
    return found->second;
  // Copies differ in the CRC, in their place and, superblocks, in their number; all that is behind is alike.
  const std::size_t own = super ? 32 : 28, rest = super ? 40 : 32, length = page_bytes - rest;
  const auto* bytes = reinterpret_cast<const Bytef*>(of.data.data());
  const std::uint64_t alike = hash_bytes(of.data.data() + rest, length, rest);
  auto tail = tails_.find(alike);
  if (tail == tails_.end())
    tail = tails_.emplace(alike, crc32(0, bytes + rest, static_cast<uInt>(length))).first;
  const uLong head = crc32(0, bytes + 4, static_cast<uInt>(rest - 4));
  page_facts made;
  made.crc_right = crc32_combine(head, tail->second, static_cast<z_off_t>(length)) == u32(of, 0);
  made.body = hash_bytes(of.data.data() + 4, own - 4, alike);
  return known_.emplace(key, made).first->second;
}

/// The newest valid copy at a fixed place rules; where none is, nothing else is looked at.
const page* spare_checker::newest_super(const page_image& spare) {
  const page* newest = nullptr;
  for (unsigned copy = 0; copy < 5; ++copy) {
    const page* held = spare.at(fixed_super_units[copy]);
    if (is_super(held, copy, fixed_super_units[copy]) && facts(*held, true).crc_right &&
        (newest == nullptr || u64(*held, 8) > u64(*newest, 8)))
      newest = held;
  }
  return newest;
}

void spare_checker::check_supers(const page_image& spare, spare_report& report) {
  super_ = newest_super(spare);
  if (super_ == nullptr) {
    report.damage.push_back("no superblock at a fixed place is valid");
    return;
  }
  report.sequence = u64(*super_, 8);
  report.flags = u32(*super_, 140);
  report.main_sectors = u64(*super_, 144);
  report.super_good = u32(*super_, 188);
  report.sequence_next = u64(*super_, 192);
  report.sequence_end = u64(*super_, 200);
  report.session = u64(*super_, 208);
  report.index = u32(*super_, 132);
  for (unsigned guest = 0; guest < most_spares; ++guest)
    if (hosted_start(*super_, guest) != 0 && (u32(*super_, 800) >> guest & 1) != 0)
      report.guests_listed |= 1u << guest;
  report.largest_sequence = report.sequence;
  for (unsigned copy = 0; copy < super_copies; ++copy) {
    if ((report.super_good >> copy & 1) == 0)
      continue;
    const std::string name = "superblock copy " + std::to_string(copy);
    const std::uint64_t unit = super_place(*super_, copy);
    const page* held = unit < spare.pages() ? spare.at(unit) : nullptr;
    if (!is_super(held, copy, unit))
      report.damage.push_back(name + " is not there");
    else if (!facts(*held, true).crc_right)
      report.damage.push_back(name + " has a wrong CRC");
    else if (facts(*held, true).body != facts(*super_, true).body)
      report.damage.push_back(name + " differs (sequence " + std::to_string(u64(*held, 8)) + ", newest " +
                              std::to_string(report.sequence) + ")");
  }
}

void spare_checker::check_slots(const page& block, std::uint32_t number, spare_report& report) {
  for (unsigned i = 0; i < slots_per_block; ++i) {
    const std::uint64_t where = u64(block, 32 + 16 * i), stamp = u64(block, 40 + 16 * i);
    const decoded_slot slot{std::uint64_t{number} * slots_per_block + i,
                            where & 0xFFFFFFFFFFFFull,
                            stamp & 0xFFFFFFFFFFFFull,
                            static_cast<unsigned>(stamp >> 48 & 0xFF),
                            static_cast<unsigned>(where >> 48 & 0xFF),
                            static_cast<unsigned>(where >> 56)};
    report.largest_sequence = std::max(report.largest_sequence, slot.sequence);
    const std::string name = "slot of spare unit " + std::to_string(slot.spare_unit);
    if (slot.kind > kind_metadata || stamp >> 56 != 0)
      report.damage.push_back(name + " is of no known kind");
    if (slot.kind != kind_remap && slot.kind != kind_explicit)
      continue;
    if (is_metadata(*super_, slot.spare_unit))
      report.damage.push_back(name + " lies in metadata");
    if (slot.main_unit * 8 >= report.main_sectors)
      report.damage.push_back(name + " is for main unit " + std::to_string(slot.main_unit) + ", beyond main");
    if ((slot.may_answer & ~slot.lost) != 0)
      report.damage.push_back(name + " lets main answer for a sector that is not lost");
    report.slots.push_back(slot);
  }
}

void spare_checker::check_block(const page_image& spare, std::uint32_t number, unsigned good,
                                spare_report& report) {
  const page* first = nullptr;
  for (unsigned r = 0; r < replicas; ++r) {
    if ((good >> r & 1) == 0)
      continue;
    const std::string name = "block " + std::to_string(number) + " in replica " + std::to_string(r);
    const std::uint64_t unit = replica_start(*super_, r) + 1 + number;
    const page* held = unit < spare.pages() ? spare.at(unit) : nullptr;
    if (held == nullptr || u32(*held, 4) != table_magic || u32(*held, 24) != number ||
        u32(*held, 28) != unit) {
      report.damage.push_back(name + " is not there");
      continue;
    }
    if (!facts(*held, false).crc_right) {
      report.damage.push_back(name + " has a wrong CRC");
      continue;
    }
    if (u64(*held, 16) != u64(*super_, 16))
      report.damage.push_back(name + " is of another spare");
    if (first == nullptr)
      first = held;
    else if (facts(*first, false).body != facts(*held, false).body)
      report.damage.push_back(name + " differs from another copy");
  }
  if (first == nullptr)
    return;
  report.largest_sequence = std::max(report.largest_sequence, u64(*first, 8));
  check_slots(*first, number, report);
}

void spare_checker::check_slot_set(spare_report& report) {
  using numbered = std::pair<std::uint64_t, std::uint64_t>; // sequence, spare unit
  std::map<std::uint64_t, std::vector<numbered>> by_main_unit;
  for (const decoded_slot& slot : report.slots)
    by_main_unit[slot.main_unit].emplace_back(slot.sequence, slot.spare_unit);
  const auto given_up = [&](std::uint64_t unit) { // fewer than two copies: the chunk changes no more
    const auto chunk = static_cast<std::uint32_t>(unit / slots_per_block / chunk_blocks(*super_));
    unsigned good = 0;
    for (unsigned r = 0; r < replicas; ++r)
      good += chunk_good(*super_, r, chunk) ? 1 : 0;
    return good < 2;
  };
  for (auto& [unit, all] : by_main_unit) {
    std::sort(all.begin(), all.end());
    for (std::size_t i = 1; i < all.size(); ++i) // the lower unit counts, the other should have been released
      if (all[i].first == all[i - 1].first && !given_up(all[i].second))
        report.damage.push_back("two slots for main unit " + std::to_string(unit) + " have one sequence");
  }
  if (report.largest_sequence >= report.sequence_end)
    report.damage.push_back("sequence " + std::to_string(report.largest_sequence) +
                            " is in use but not reserved: the range ends at " +
                            std::to_string(report.sequence_end));
}

/// One guest's sixth replica, which its host says is whole.
void spare_checker::check_sixth(const page_image& guest_image, const page& guest,
                                const page_image& host_image, const page& host,
                                std::vector<std::string>& wrong) {
  const unsigned g = u32(guest, 132), h = u32(host, 132);
  const std::string name =
      "the sixth replica of spare " + std::to_string(g) + " on spare " + std::to_string(h);
  const std::uint64_t start = hosted_start(host, g);
  if (u32(guest, 728) != h || u32(guest, 732) != start || hosted_blocks(host, g) != table_blocks(guest)) {
    wrong.push_back(name + " is listed there, but not by the guest");
    return;
  }
  const page* head = start < host_image.pages() ? host_image.at(start) : nullptr;
  if (!is_super(head, sixth_super, start) || !facts(*head, true).crc_right)
    wrong.push_back(name + " has no head");
  else if (facts(*head, true).body != facts(guest, true).body)
    wrong.push_back(name + " has another superblock than the guest");
  for (std::uint32_t number = 0; number < table_blocks(guest); ++number) {
    const std::uint32_t chunk = number / chunk_blocks(guest);
    unsigned own = 0;
    while (own < replicas && !chunk_good(guest, own, chunk))
      ++own;
    if (own == replicas)
      continue;
    const std::string block = "block " + std::to_string(number) + " of " + name;
    const std::uint64_t unit = start + 1 + number;
    const page* held = unit < host_image.pages() ? host_image.at(unit) : nullptr;
    const page* original = guest_image.at(replica_start(guest, own) + 1 + number);
    if (!chunk_good(guest, sixth, chunk))
      wrong.push_back(block + " is not marked good");
    else if (held == nullptr || u32(*held, 4) != table_magic || u32(*held, 24) != number ||
             u32(*held, 28) != unit || u64(*held, 16) != u64(guest, 16) || !facts(*held, false).crc_right)
      wrong.push_back(block + " is not there");
    else if (original != nullptr && facts(*held, false).body != facts(*original, false).body)
      wrong.push_back(block + " differs from the guest's own");
  }
}

std::vector<std::string> spare_checker::check_sixths(const std::vector<const page_image*>& spares,
                                                     bool expect_all) {
  std::vector<std::string> wrong;
  std::vector<const page*> supers;
  for (const page_image* each : spares)
    supers.push_back(newest_super(*each));
  for (std::size_t g = 0; g < spares.size(); ++g) {
    if (supers[g] == nullptr)
      continue;
    const page& guest = *supers[g];
    bool stands = false;
    for (std::size_t h = 0; h < spares.size(); ++h) {
      if (h == g || supers[h] == nullptr)
        continue;
      const bool listed = hosted_start(*supers[h], u32(guest, 132)) != 0 &&
                          (u32(*supers[h], 800) >> u32(guest, 132) & 1) != 0;
      if (listed)
        check_sixth(*spares[g], guest, *spares[h], *supers[h], wrong);
      stands = stands || (listed && u32(guest, 728) == u32(*supers[h], 132));
    }
    if (!stands && (expect_all || u32(guest, 728) != no_host))
      wrong.push_back("spare " + std::to_string(u32(guest, 132)) +
                      (expect_all ? " is not protected" : " relies on a host that does not list it"));
  }
  return wrong;
}

bool spare_checker::sixth_readable(const page_image& host_image, const page& host, unsigned guest) {
  const std::uint64_t start = hosted_start(host, guest);
  const page* head = start < host_image.pages() ? host_image.at(start) : nullptr;
  if (!is_super(head, sixth_super, start) || !facts(*head, true).crc_right)
    return false;
  for (std::uint32_t number = 0; number < table_blocks(*head); ++number) {
    if (!chunk_good(*head, sixth, number / chunk_blocks(*head)))
      continue;
    const std::uint64_t unit = start + 1 + number;
    const page* held = unit < host_image.pages() ? host_image.at(unit) : nullptr;
    if (held == nullptr || u32(*held, 4) != table_magic || !facts(*held, false).crc_right)
      return false;
  }
  return true;
}

const page* spare_checker::newest_record(const std::vector<const page_image*>& spares) {
  const page* record = nullptr;
  for (const page_image* each : spares)
    if (const page* super = newest_super(*each);
        super != nullptr && (record == nullptr || u64(*super, 8) > u64(*record, 8)))
      record = super;
  return record;
}

bool spare_checker::some_stale(const std::vector<const page_image*>& all,
                               const std::vector<const page_image*>& present) {
  const page* record = newest_record(all);
  if (record == nullptr)
    return false;
  const auto held = [&](const page* super) { return u64(*record, 216 + 16 * u32(*super, 132)); };
  return std::any_of(present.begin(), present.end(), [&](const page_image* each) {
    const page* super = newest_super(*each);
    if (super == nullptr)
      return false;
    if (u64(*record, 216 + 16 * u32(*super, 132) + 8) != u64(*record, 208))
      return true;
    // One that is just being taken back: it has not got the new session, and held another before than the
    // one that gives it.
    return u64(*super, 208) != u64(*record, 208) && held(super) != held(record);
  });
}

bool spare_checker::lacks_a_map(const std::vector<const page_image*>& present) {
  const page* record = newest_record(present);
  std::set<unsigned> there;
  for (const page_image* each : present)
    if (const page* super = newest_super(*each))
      there.insert(u32(*super, 132));
  return std::any_of(there.begin(), there.end(), [&](unsigned index) {
    const unsigned told = std::to_integer<unsigned>(record->data[1232 + index]);
    return u64(*record, 216 + 16 * index + 8) != u64(*record, 208) && told != 0 && !there.contains(told - 1);
  });
}

bool spare_checker::map_is_known(const std::vector<const page_image*>& present, unsigned absent) {
  const page* record = newest_record(present);
  if (record == nullptr)
    return false;
  std::vector<const page*> supers;
  for (const page_image* each : present)
    supers.push_back(newest_super(*each));
  const std::uint64_t session = u64(*record, 208);
  const auto given = [&](unsigned spare) { return u64(*record, 216 + 16 * spare + 8); };
  const unsigned told = std::to_integer<unsigned>(record->data[1232 + absent]);
  if (told == 0 && given(absent) != session)
    return false; // it went, and nobody had its map
  for (std::size_t n = 0; n < present.size(); ++n) {
    if (supers[n] == nullptr || (told != 0 && u32(*supers[n], 132) != told - 1))
      continue;
    const page& host = *supers[n];
    if (given(u32(host, 132)) == session && hosted_start(host, absent) != 0 &&
        (u32(host, 800) >> absent & 1) != 0 && sixth_readable(*present[n], host, absent))
      return true;
  }
  return false;
}

bool spare_checker::maps_are_known(const std::vector<const page_image*>& present,
                                   const std::vector<unsigned>& absent) {
  return !lacks_a_map(present) && std::all_of(absent.begin(), absent.end(),
                                              [&](unsigned each) { return map_is_known(present, each); });
}

void spare_checker::add_named(const page_image& from, std::uint64_t first, std::uint32_t blocks,
                              std::set<std::uint64_t>& units) {
  for (std::uint64_t unit = first; unit < first + blocks && unit < from.pages(); ++unit) {
    const page* held = from.at(unit);
    if (held == nullptr || u32(*held, 4) != table_magic || !facts(*held, false).crc_right)
      continue;
    for (unsigned i = 0; i < slots_per_block; ++i) {
      const auto kind = static_cast<unsigned>(u64(*held, 40 + 16 * i) >> 48 & 0xFF);
      if (kind == kind_remap || kind == kind_explicit)
        units.insert(u64(*held, 32 + 16 * i) & 0xFFFFFFFFFFFFull);
    }
  }
}

std::set<std::uint64_t> spare_checker::named_units(const page_image& spare,
                                                   const std::vector<const page_image*>& others) {
  std::set<std::uint64_t> units;
  const page* super = newest_super(spare);
  if (super == nullptr)
    return units;
  for (unsigned r = 0; r < replicas; ++r)
    add_named(spare, replica_start(*super, r) + 1, table_blocks(*super), units);
  for (const page_image* each : others)
    if (const page* host = newest_super(*each))
      if (const std::uint64_t start = hosted_start(*host, u32(*super, 132)); start != 0)
        add_named(*each, start + 1, table_blocks(*super), units);
  return units;
}

namespace {

const page* any_super(const page_image& spare) {
  for (unsigned copy = 0; copy < 5; ++copy)
    if (const page* held = spare.at(fixed_super_units[copy]); is_super(held, copy, fixed_super_units[copy]))
      return held;
  return nullptr;
}

} // namespace

bool is_metadata_unit(const page_image& spare, std::uint64_t unit) {
  const page* super = any_super(spare);
  return super != nullptr && is_metadata(*super, unit);
}

std::uint64_t unit_of_super(const page_image& spare, unsigned copy) {
  return super_place(*any_super(spare), copy);
}

std::uint64_t unit_of_block(const page_image& spare, unsigned replica, std::uint32_t number) {
  return replica_start(*any_super(spare), replica) + 1 + number;
}

spare_report spare_checker::check(const page_image& spare) {
  spare_report report;
  super_ = nullptr;
  check_supers(spare, report);
  if (super_ == nullptr)
    return report;
  report.weakest_chunk = replicas;
  const std::uint32_t blocks = table_blocks(*super_);
  if (blocks != (spare_units(*super_) + slots_per_block - 1) / slots_per_block ||
      chunk_blocks(*super_) == 0 || spare_units(*super_) > spare.pages()) {
    report.damage.push_back("the geometry is wrong");
    return report;
  }
  for (std::uint32_t number = 0; number < blocks; ++number) {
    unsigned good = 0, count = 0;
    for (unsigned r = 0; r < replicas; ++r) {
      if (!chunk_good(*super_, r, number / chunk_blocks(*super_)))
        continue;
      good |= 1u << r;
      ++count;
    }
    if (good == 0)
      continue; // not initialised: nothing there is a remap
    report.weakest_chunk = std::min(report.weakest_chunk, count);
    check_block(spare, number, good, report);
  }
  check_slot_set(report);
  return report;
}

} // namespace dmremap::test
