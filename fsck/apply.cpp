// SPDX-License-Identifier: GPL-2.0-or-later
#include "fsck/apply.h"

#include <algorithm>
#include <cstring>
#include <fmt/format.h>
#include <map>
#include <set>
#include <utility>

namespace dmremap::fsck {
namespace {

using stores = std::vector<std::shared_ptr<store>>;

bool is_first(repair_step s) {
  return static_cast<unsigned>(s) % 2 == 1;
}

bool is_super(repair_step s) {
  return s >= repair_step::supers_first;
}

bool is_release(repair_step s) {
  return s == repair_step::release_first || s == repair_step::release_rest;
}

/// The writes of one step, with what they put there.
struct batch {
  std::vector<const block_write*> writes;
  bool backwards = false;

  [[nodiscard]] const block_bytes& content(const block_write& w) const {
    static const block_bytes gone{};
    return !backwards ? w.now : w.readable ? w.old : gone;
  }
};

class worker {
public:
  worker(const repair_plan& plan, const stores& members, const show_written& show)
      : plan_(plan), members_(members), show_(show) {}

  result<void> run(const batch& b) {
    std::map<unsigned, std::uint64_t> failed_flushes; // of each member touched
    std::vector<const block_write*> issued;
    for (const block_write* w : b.writes) {
      store& io = *members_[w->member];
      failed_flushes.try_emplace(w->member, io.failed_flushes());
      if (const auto wrote = io.write(b.content(*w).span(), w->unit * unit_bytes); wrote)
        issued.push_back(w);
      else if (wrote.error() == io_error::medium || wrote.error() == io_error::no_space)
        fail_write(*w, std::string(name_of(wrote.error())));
      else
        return fail("device-gone", plan_.members[w->member].path,
                    fmt::format("unit {} cannot be written ({}); the repair is incomplete: run it again",
                                w->unit, name_of(wrote.error())));
      if (show_)
        show_(++done_ * unit_bytes, plan_.writes.size() * unit_bytes);
    }
    for (const auto& [member, before] : failed_flushes)
      if (!flush_since(*members_[member], before))
        return fail("flush-failed", plan_.members[member].path,
                    "what was written cannot be made durable; the repair is incomplete: run it again");
    for (const block_write* w : issued) {
      block_bytes back;
      if (members_[w->member]->read(back.span(), w->unit * unit_bytes) && back.bytes == b.content(*w).bytes)
        ++outcome.written;
      else
        fail_write(*w, "does not read back as it was written");
    }
    return {};
  }

  [[nodiscard]] bool failed(unsigned group) const { return failed_groups_.contains(group); }

  apply_outcome outcome;

private:
  void fail_write(const block_write& w, const std::string& why) {
    failed_groups_.insert(w.group);
    outcome.failures.push_back(fmt::format("{}: unit {}: {}", plan_.members[w.member].path, w.unit, why));
  }

  const repair_plan& plan_;
  const stores& members_;
  const show_written& show_;
  std::uint64_t done_ = 0;
  std::set<unsigned> failed_groups_;
};

std::set<repair_step> steps_of(const repair_plan& plan) {
  std::set<repair_step> steps;
  for (const auto& w : plan.writes)
    steps.insert(w.step);
  return steps;
}

} // namespace

result<apply_outcome> apply_plan(const repair_plan& plan, const stores& members, const show_written& show) {
  worker work(plan, members, show);
  for (const repair_step step : steps_of(plan)) {
    if (!work.outcome.failures.empty() && (is_release(step) || (is_super(step) && plan.marks_chunks)))
      break;
    batch b;
    for (const auto& w : plan.writes)
      if (w.step == step && (is_first(step) || !work.failed(w.group)))
        b.writes.push_back(&w);
    CHECK_OK(work.run(b));
  }
  return std::move(work.outcome);
}

result<apply_outcome> undo_plan(const repair_plan& plan, const stores& members, const show_written& show) {
  worker work(plan, members, show);
  batch unreadable;
  unreadable.backwards = true;
  for (const auto& w : plan.writes)
    if (!w.readable)
      unreadable.writes.push_back(&w);
  CHECK_OK(work.run(unreadable));
  const auto failures = std::exchange(work.outcome.failures, {});
  std::vector<std::string> cleared;
  for (const block_write* w : unreadable.writes) {
    block_bytes there;
    const bool reads = members[w->member]->read(there.span(), w->unit * unit_bytes).has_value();
    if (reads && there.bytes != unreadable.content(*w).bytes) {
      work.outcome.failures = failures;
      return std::move(work.outcome);
    }
    if (reads) // else it is as it was
      cleared.push_back(fmt::format("{}: unit {}: could not be read before the repair: holds zeros now",
                                    plan.members[w->member].path, w->unit));
  }
  work.outcome.cleared = std::move(cleared);
  const auto steps = steps_of(plan);
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    batch b;
    b.backwards = true;
    for (const auto& w : plan.writes)
      if (w.step == *step && w.readable)
        b.writes.push_back(&w);
    CHECK_OK(work.run(b));
  }
  return std::move(work.outcome);
}

result<void> check_blocks(const repair_plan& plan, const stores& members) {
  for (const auto& w : plan.writes) {
    block_bytes there;
    if (byte_of(spare_unit(w.unit)) + unit_bytes > members[w.member]->size() ||
        !members[w.member]->read(there.span(), w.unit * unit_bytes)) {
      if (!w.readable)
        continue;
      return fail(
          "metadata-changed", plan.members[w.member].path,
          fmt::format("unit {} could be read when the file was made, and cannot now; nothing was written",
                      w.unit));
    }
    for (std::size_t at = 0; at < unit_bytes; at += sector_bytes) {
      const auto same = [&](const block_bytes& other) {
        return std::memcmp(there.bytes.data() + at, other.bytes.data() + at, sector_bytes) == 0;
      };
      if (same(w.now) || (w.readable && same(w.old)) || !w.readable)
        continue;
      return fail("metadata-changed", plan.members[w.member].path,
                  fmt::format("unit {} has changed since the file was made; nothing was written", w.unit));
    }
  }
  return {};
}

} // namespace dmremap::fsck
