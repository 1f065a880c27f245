// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/support/crash_replay.h"

#include <algorithm>
#include <bit>

namespace dmremap::test {

namespace {

std::uint64_t combine(std::uint64_t a, std::uint64_t b) {
  a = (std::rotl(a, 23) ^ b) * 0x9e3779b97f4a7c15ull;
  return a ^ (a >> 29);
}

unsigned sectors_of(const std::vector<write_piece>& pieces) {
  unsigned count = 0;
  for (const write_piece& piece : pieces)
    count += static_cast<unsigned>(std::popcount(piece.mask));
  return count;
}

void put(page_image& to, const std::vector<write_piece>& pieces) {
  for (const write_piece& piece : pieces)
    to.set_sectors(piece.page_number, piece.content, piece.mask);
}

/// Only the sectors whose place in the write has its bit set in `keep`.
void put_torn(page_image& to, const std::vector<write_piece>& pieces, const std::vector<bool>& keep) {
  std::size_t place = 0;
  for (const write_piece& piece : pieces) {
    unsigned mask = 0;
    for (unsigned i = 0; i < page_sectors; ++i)
      if ((piece.mask >> i & 1) != 0 && keep[place++])
        mask |= 1u << i;
    if (mask != 0)
      to.set_sectors(piece.page_number, piece.content, mask);
  }
}

} // namespace

/// Keeps one of each content.
class state_collector {
public:
  state_collector(std::vector<device_state>& into, std::uint64_t& generated)
      : into_(into), generated_(generated) {}
  void add(page_image content, std::string how) {
    ++generated_;
    const std::uint64_t hash = content.hash();
    if (seen_.insert(hash).second)
      into_.push_back({std::move(content), hash, std::move(how)});
  }

private:
  std::vector<device_state>& into_;
  std::uint64_t& generated_;
  std::unordered_set<std::uint64_t> seen_;
};

std::string crash_state::describe() const {
  std::string text = "crash after event " + std::to_string(point) + ", epoch " + std::to_string(epoch);
  for (std::size_t i = 0; i < devices.size(); ++i)
    text += "; device " + std::to_string(i) + ":" +
            (devices[i]->how.empty() ? " nothing pending" : devices[i]->how);
  return text;
}

crash_replay::crash_replay(const crash_log& log, replay_limits limits)
    : log_(log), limits_(limits), random_state_(limits.seed * 0x9e3779b97f4a7c15ull + 1) {
  for (const page_image& content : log.initial()) {
    devices_.emplace_back();
    devices_.back().durable = content;
  }
}

std::uint64_t crash_replay::random() { // splitmix64
  std::uint64_t z = (random_state_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

void crash_replay::take_write(std::size_t index, const log_event& event) {
  if (event.forgotten)
    return;
  device& to = devices_.at(event.device);
  to.pending.push_back({index, event.pieces, false});
  to.states.clear();
}

void crash_replay::take_flush(const log_event& event) {
  device& of = devices_.at(event.device);
  if (!event.flush_ok) {
    if (event.flush_loses)
      for (pending_write& write : of.pending)
        write.limbo = write.limbo || write.event < event.flush_started;
    return;
  }
  std::vector<pending_write> left;
  for (pending_write& write : of.pending) {
    if (write.limbo || write.event >= event.flush_started) {
      left.push_back(std::move(write));
      continue;
    }
    put(of.durable, write.pieces);
    // What stays pending from before must not come back over what is durable now.
    for (pending_write& older : left)
      for (write_piece& old_piece : older.pieces)
        for (const write_piece& piece : write.pieces)
          if (old_piece.page_number == piece.page_number)
            old_piece.mask &= ~piece.mask;
  }
  of.pending = std::move(left);
  of.states.clear();
}

void crash_replay::make_subsets(device& of, state_collector& into) {
  const std::size_t n = of.pending.size();
  const auto add = [&](const std::vector<bool>& chosen) {
    page_image content = of.durable;
    std::string how;
    for (std::size_t i = 0; i < n; ++i) {
      how += (chosen[i] ? " +" : " -") + std::to_string(of.pending[i].event);
      if (chosen[i])
        put(content, of.pending[i].pieces);
    }
    into.add(std::move(content), std::move(how));
  };
  std::vector<bool> chosen(n);
  if (n <= limits_.exhaustive) {
    for (std::uint64_t bits = 0; bits < (1ull << n); ++bits) {
      for (std::size_t i = 0; i < n; ++i)
        chosen[i] = (bits >> i & 1) != 0;
      add(chosen);
    }
    return;
  }
  of.sampled = true;
  for (std::size_t k = 0; k <= n; ++k) { // none, every prefix, all
    for (std::size_t i = 0; i < n; ++i)
      chosen[i] = i < k;
    add(chosen);
  }
  for (std::size_t k = 0; k < n; ++k) {
    for (std::size_t i = 0; i < n; ++i)
      chosen[i] = i != k;
    add(chosen);
    chosen.flip();
    add(chosen);
  }
  for (unsigned s = 0; s < limits_.samples; ++s) {
    for (std::size_t i = 0; i < n; ++i)
      chosen[i] = (random() & 1) != 0;
    add(chosen);
  }
}

void crash_replay::make_tears(device& of, state_collector& into) {
  const std::size_t n = of.pending.size();
  for (std::size_t torn = 0; torn < n; ++torn) {
    const unsigned sectors = sectors_of(of.pending[torn].pieces);
    if (sectors < 2)
      continue;
    // Long writes: cuts at about 16 places are enough to break anything that a cut can break.
    std::vector<std::vector<bool>> masks;
    const unsigned step = std::max(1u, sectors / 16);
    for (unsigned cut = 1; cut < sectors; cut += step) {
      std::vector<bool> keep(sectors);
      std::fill(keep.begin(), keep.begin() + cut, true);
      masks.push_back(keep);
      keep.flip();
      masks.push_back(std::move(keep));
    }
    for (unsigned r = 0; r < limits_.random_tears; ++r) {
      std::vector<bool> keep(sectors);
      for (unsigned i = 0; i < sectors; ++i)
        keep[i] = (random() & 1) != 0;
      masks.push_back(std::move(keep));
    }
    enum class others { none, earlier, all };
    for (const others company : {others::none, others::earlier, others::all}) {
      if ((company == others::earlier && torn == 0) || (company != others::none && n == 1))
        continue;
      page_image before = of.durable;
      if (company != others::none)
        for (std::size_t i = 0; i < torn; ++i)
          put(before, of.pending[i].pieces);
      for (const auto& keep : masks) {
        page_image content = before;
        put_torn(content, of.pending[torn].pieces, keep);
        if (company == others::all)
          for (std::size_t i = torn + 1; i < n; ++i)
            put(content, of.pending[i].pieces);
        std::string how = " ~" + std::to_string(of.pending[torn].event) + "/";
        for (const bool bit : keep)
          how += bit ? '1' : '0';
        how += company == others::none      ? " alone"
               : company == others::earlier ? " after the earlier"
                                            : " and the rest";
        into.add(std::move(content), std::move(how));
      }
    }
  }
}

void crash_replay::make_torn_together(device& of, state_collector& into) {
  if (of.pending.size() < 2)
    return;
  for (unsigned round = 0; round < 14 + limits_.torn_together; ++round) {
    page_image content = of.durable;
    std::string how = " all torn:";
    for (const pending_write& write : of.pending) {
      const unsigned sectors = sectors_of(write.pieces);
      std::vector<bool> keep(sectors);
      for (unsigned i = 0; i < sectors; ++i) {
        // First the same cut in each, from either side; then masks of their own.
        if (round < 7)
          keep[i] = i < round + 1;
        else if (round < 14)
          keep[i] = i >= round - 6;
        else
          keep[i] = (random() & 1) != 0;
      }
      put_torn(content, write.pieces, keep);
      how += " ~" + std::to_string(write.event) + "/";
      for (const bool bit : keep)
        how += bit ? '1' : '0';
    }
    into.add(std::move(content), std::move(how));
  }
}

void crash_replay::make_states(device& of) {
  if (!of.states.empty())
    return;
  of.sampled = false;
  state_collector into(of.states, counts_.generated);
  make_subsets(of, into);
  if (limits_.tears) {
    make_tears(of, into);
    make_torn_together(of, into);
  }
}

bool crash_replay::hand_out(crash_state& state, const checker& check) {
  state.hash = 0;
  for (const device_state* of : state.devices)
    state.hash = combine(state.hash, of->hash);
  state.fresh = images_.insert(state.hash).second;
  if (state.fresh)
    ++counts_.distinct_images;
  if (!checked_.insert(combine(state.hash, state.epoch + 1)).second)
    return true;
  ++counts_.checks;
  return check(state);
}

bool crash_replay::crash_at(std::size_t point, const checker& check) {
  ++counts_.points;
  std::size_t product = 1;
  bool sampled = false;
  for (device& of : devices_) {
    make_states(of);
    sampled = sampled || of.sampled;
    product = product > limits_.combinations ? product : product * of.states.size();
  }
  crash_state state;
  state.point = point;
  state.epoch = epoch_;
  state.devices.resize(devices_.size());
  const auto choose = [&](std::size_t of, std::size_t index) {
    state.devices[of] = &devices_[of].states[index];
  };
  if (product <= limits_.combinations) {
    counts_.sampled_points += sampled ? 1 : 0;
    for (std::size_t code = 0; code < product; ++code) {
      std::size_t rest = code;
      for (std::size_t d = 0; d < devices_.size(); ++d) {
        choose(d, rest % devices_[d].states.size());
        rest /= devices_[d].states.size();
      }
      if (!hand_out(state, check))
        return false;
    }
    return true;
  }
  // Too many together: every state of each device with nothing, and with all, of what the others have
  // pending; then random companions. (The first state is "none", and make_subsets puts "all" somewhere: apply
  // it here.)
  ++counts_.sampled_points;
  std::vector<device_state> everything;
  for (const device& of : devices_) {
    page_image content = of.durable;
    for (const pending_write& write : of.pending)
      put(content, write.pieces);
    const std::uint64_t hash = content.hash();
    everything.push_back({std::move(content), hash, " all"});
  }
  for (std::size_t d = 0; d < devices_.size(); ++d) {
    for (std::size_t index = 0; index < devices_[d].states.size(); ++index) {
      for (const bool full : {false, true}) {
        for (std::size_t other = 0; other < devices_.size(); ++other)
          state.devices[other] = full ? &everything[other] : &devices_[other].states[0];
        choose(d, index);
        if (!hand_out(state, check))
          return false;
      }
    }
  }
  for (std::size_t s = 0; s < limits_.combinations; ++s) {
    for (std::size_t d = 0; d < devices_.size(); ++d)
      choose(d, random() % devices_[d].states.size());
    if (!hand_out(state, check))
      return false;
  }
  return true;
}

bool crash_replay::run(const checker& check) {
  const auto& events = log_.events();
  const auto within = [&](std::size_t point) {
    return point >= limits_.first_event && point <= limits_.last_event;
  };
  bool crashed = false; // before anything happened counts, too
  for (std::size_t i = 0; i <= events.size(); ++i) {
    // A flush adds no state: what it leaves possible was possible before it. Writes and markers do.
    const bool interesting = i == 0 || events[i - 1].what != log_event::kind::flush || !crashed;
    crashed = interesting && within(i);
    if (crashed && !crash_at(i, check))
      return false;
    if (i == events.size())
      break;
    const log_event& event = events[i];
    if (event.what == log_event::kind::write)
      take_write(i, event);
    else if (event.what == log_event::kind::flush)
      take_flush(event);
    else
      ++epoch_;
  }
  return true;
}

} // namespace dmremap::test
