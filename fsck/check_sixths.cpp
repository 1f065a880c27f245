// SPDX-License-Identifier: GPL-2.0-or-later
// Copies of tables on other spares: both sides must agree on them, and nothing else may use their places.
#include "fsck/inspect.h"

#include <algorithm>
#include <fmt/format.h>

namespace dmremap::fsck {
namespace {

spare_state* given_at(set_findings& f, unsigned index) {
  const int given = index < max_spares ? f.record->places[index].given : -1;
  return given < 0 ? nullptr : &f.spares[static_cast<std::size_t>(given)];
}

bool overlap(std::uint64_t a, std::uint64_t a_end, std::uint64_t b, std::uint64_t b_end) {
  return a < b_end && b < a_end;
}

/// Whether a guest's replica may lie where the host lists it.
bool place_free(const superblock& host, unsigned guest) {
  const std::uint64_t start = host.hosted_start[guest], end = start + host.hosted_blocks[guest] + 1;
  if (end > host.places.units)
    return false;
  for (unsigned copy = 0; copy < fixed_supers; ++copy)
    if (const std::uint64_t at = host.places.super_place(copy).value; at >= start && at < end)
      return false;
  for (const std::uint64_t own : host.places.replica_start)
    if (overlap(start, end, own, own + host.places.table_blocks + 1))
      return false;
  for (unsigned other = 0; other < max_spares; ++other)
    if (const std::uint64_t at = host.hosted_start[other];
        other != guest && at != 0 && overlap(start, end, at, at + host.hosted_blocks[other] + 1))
      return false;
  return true;
}

bool covers_table(const superblock& guest) {
  for (std::uint32_t c = 0; c < guest.places.chunks(); ++c)
    if (guest.good_replicas(c) != 0 && !guest.is_good(sixth_replica, c))
      return false;
  return true;
}

bool agreed(const superblock& host, const superblock& guest, unsigned index) {
  return host.hosted_start[index] == guest.sixth_start && guest.sixth_start != 0 &&
         host.hosted_blocks[index] == guest.places.table_blocks &&
         (host.hosted_protected >> index & 1) != 0 && place_free(host, index) && covers_table(guest);
}

class sixth_checker {
public:
  explicit sixth_checker(set_findings& f) : f_(f) {}

  void run() {
    unsigned listed = 0;
    for (unsigned i = 0; i < max_spares; ++i)
      listed += f_.record->places[i].listed ? 1u : 0u;
    for (unsigned i = 0; i < max_spares; ++i) {
      spare_state* s = given_at(f_, i);
      if (s == nullptr || !s->in_use)
        continue;
      guest(*s, i, listed);
      host(*s, i);
    }
  }

private:
  void guest(spare_state& s, unsigned index, unsigned listed) {
    const bool stands = s.sixth_host >= 0 && !s.sixth_doubtful && !s.sixth_short;
    const int who = f_.record->places[index].given;
    if (s.super->sixth_host != no_host && !stands) {
      const bool host_away = s.super->sixth_host < max_spares && s.super->sixth_host != index &&
                             f_.record->places[s.super->sixth_host].listed &&
                             f_.record->places[s.super->sixth_host].given < 0;
      if (host_away)
        return; // cannot be judged
      say(s, who,
          fmt::format("says that spare {} has a copy of its table, which is not so{}", s.super->sixth_host,
                      s.sixth_doubtful ? ": that place serves main"
                      : s.sixth_short  ? ": it lacks a part"
                                       : ""));
      f_.fixes.push_back({damage_kind::sixth_listing, who, [](superblock& one) {
                            one.sixth_host = no_host;
                            one.sixth_start = 0;
                            one.good[sixth_replica] = {};
                          }});
    } else if (!stands && listed > 1) {
      f_.found.push_back({damage_kind::unprotected, s.path, who, 0, 0,
                          fmt::format("the set is not protected against the loss of spare {}", index)});
    }
  }

  void host(spare_state& s, unsigned index) {
    const int who = f_.record->places[index].given;
    for (unsigned g = 0; g < max_spares; ++g) {
      const bool any = s.super->hosted_start[g] != 0 || s.super->hosted_blocks[g] != 0 ||
                       (s.super->hosted_protected >> g & 1) != 0;
      if (!any)
        continue;
      const auto& p = f_.record->places[g];
      if (p.listed && g != index && (p.given < 0 || p.returned))
        continue; // the map of one that is away: not touched
      const spare_state* guest = given_at(f_, g);
      const bool stands = p.listed && guest != nullptr && guest->sixth_host == who &&
                          !guest->sixth_doubtful && !guest->sixth_short;
      if (stands)
        continue;
      say(s, who, fmt::format("lists a copy of the table of spare {}, which is not one", g));
      f_.fixes.push_back({damage_kind::sixth_listing, who, [g](superblock& one) {
                            one.hosted_start[g] = one.hosted_blocks[g] = 0;
                            one.hosted_protected &= ~(1u << g);
                          }});
    }
  }

  void say(const spare_state& s, int who, std::string text) {
    f_.found.push_back({damage_kind::sixth_listing, s.path, who, 0, 0, std::move(text)});
  }

  set_findings& f_;
};

} // namespace

void attach_sixths(set_findings& f) {
  for (unsigned g = 0; g < max_spares; ++g) {
    spare_state* guest = given_at(f, g);
    if (guest == nullptr || !guest->in_use)
      continue;
    const std::uint32_t h = guest->super->sixth_host;
    const spare_state* host = h == g ? nullptr : given_at(f, h);
    if (host == nullptr || !host->in_use || !agreed(*host->super, *guest->super, g))
      continue;
    guest->sixth_host = f.record->places[h].given;
    guest->sixth_start = guest->super->sixth_start;
  }
}

void check_sixths(set_findings& f) {
  sixth_checker(f).run();
}

} // namespace dmremap::fsck
