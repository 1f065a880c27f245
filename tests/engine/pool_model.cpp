// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/engine/pool_model.h"

#include <catch2/catch.hpp>

namespace dmremap::test {

pool_model::tally& pool_model::tally::operator+=(const tally& other) {
  std::uint64_t* const mine = &vanished;
  const std::uint64_t* const its = &other.vanished;
  static_assert(sizeof(tally) % sizeof(std::uint64_t) == 0);
  for (std::size_t n = 0; n < sizeof(tally) / sizeof(std::uint64_t); ++n)
    mine[n] += its[n];
  return *this;
}

pool_model::pool_model(std::uint64_t seed, pool_faults faults) : faults_(faults), random_(seed) {
  main_ = std::make_shared<memory_store>(main_units * unit_bytes, pick(2) == 0 ? 512u : 4096u);
  std::vector<store*> all;
  const unsigned count = 2 + static_cast<unsigned>(pick(2));
  for (unsigned n = 0; n < count; ++n) {
    spare& s = spares_.emplace_back();
    s.io = make_store();
    s.index = n;
    all.push_back(s.io.get());
  }
  format_options options;
  options.name = "model";
  REQUIRE(disk::format(*main_, all, options).has_value());
  open_all();
}

pool_model::~pool_model() {
  context_.reset();
}

void pool_model::run(std::uint64_t operations) {
  for (done_ = 0; done_ < operations; ++done_)
    step();
  heal_all();
  compare_all();
  REQUIRE(set_->close().has_value());
  open_all();
  const auto info = set_->info();
  for (const std::string& n : info->notices)
    FAIL_CHECK(n);
  compare_all();
}

std::string pool_model::where() const {
  std::string text = "operation " + std::to_string(done_) + ", " + doing_;
  for (const spare& s : spares_) {
    text += "; spare " + std::to_string(s.index) + ":";
    text += s.state == health::well ? " well" : s.state == health::away ? " away" : " failing";
    text += s.dying ? s.io->dead() ? ", dead" : ", dying" : "";
    text += s.rejecting ? ", takes no writes" : "";
    text += s.draining ? ", draining" : "";
    text += !set_ || presence_of(s) == presence::present ? "" : ", given up";
  }
  return text;
}

void pool_model::step() {
  switch (pick(64)) {
  case 0:
    return reopen();
  case 1:
    return add_spare();
  case 2:
    return remove_spare();
  case 3:
    return evacuate();
  case 4:
  case 5:
    return break_main();
  case 6:
    return heal();
  case 7:
  case 8:
  case 9:
    return remap();
  case 10:
  case 11:
  case 12:
    return unmap(some_unit());
  case 13:
  case 14:
    return add_remap();
  case 15:
    return flush();
  case 16:
    return pick(2) == 0 ? sync() : flush_fails();
  case 17:
    return salvage();
  case 18:
  case 19:
  case 20:
  case 21:
    return step_spares();
  default:
    return (void)(pick(2) == 0 ? read(pick_range()) : write(pick_range(), pick(8) == 0));
  }
}

/// What only some of the models do.
void pool_model::step_spares() {
  if (faults_ == pool_faults::main_writes)
    return;
  if (faults_ == pool_faults::places)
    return break_spare_place();
  switch (pick(4)) {
  case 0:
    return kill_spare();
  case 1:
    return reject_writes();
  case 2:
    return forget();
  default:
    return break_spare_place();
  }
}

} // namespace dmremap::test
