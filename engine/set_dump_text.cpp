// SPDX-License-Identifier: GPL-2.0-or-later
// Writing the text of a dump. set_dump_parse.cpp reads it.
#include "engine/set_dump.h"

#include <array>
#include <fmt/format.h>
#include <zlib.h>

namespace dmremap {
namespace {

constexpr std::size_t piece_bytes = 64 * 1024;
constexpr std::array<const char*, 5> kinds{"free", "remap", "explicit", "retired", "metadata"};

/// One line a field; booleans as yes and no, texts in quotes.
struct field_writer {
  std::string& out;
  void operator()(const char* name, bool v) const { line(name, v ? "yes" : "no"); }
  void operator()(const char* name, std::uint32_t v) const { line(name, fmt::to_string(v)); }
  void operator()(const char* name, std::uint64_t v) const { line(name, fmt::to_string(v)); }
  void operator()(const char* name, const std::string& v) const { line(name, '"' + escaped(v) + '"'); }
  void line(const char* name, const std::string& value) const {
    out += fmt::format("  {} {}\n", name, value);
  }
};

class text_writer {
public:
  explicit text_writer(const text_sink& put) : put_(put) {}

  std::uint32_t write(const set_dump& d) {
    const superblock& s = d.newest();
    buffer_ += "dmremap-dump 1\n";
    buffer_ += fmt::format("set \"{}\" {}\n", escaped(s.set_name), to_text(s.set_uuid));
    buffer_ += fmt::format("live {}\ncomplete {}\n", d.live ? "yes" : "no", d.complete ? "yes" : "no");
    for (const auto& one : d.spares)
      spare(one);
    pass_on(0);
    const auto checksum = static_cast<std::uint32_t>(crc_);
    put_(fmt::format("end {:08x}\n", checksum));
    return checksum;
  }

private:
  void spare(const dumped_spare& d) {
    const superblock& s = d.super;
    buffer_ += fmt::format("spare {} {}\n", s.spare_index, to_text(s.spare_uuid));
    const field_writer field{buffer_};
    field("member", d.member);
    buffer_ += d.away ? fmt::format("  map_from {}\n", d.map_on < 0 ? "memory" : fmt::to_string(d.map_on))
                      : "  map_from own\n";
    field("set_name", s.set_name);
    each_dump_field(field, s);
    std::vector<bool> supers(super_copies);
    for (unsigned c = 0; c < super_copies; ++c)
      supers[c] = (s.super_good >> c & 1) != 0;
    buffer_ += fmt::format("  session {:016x}\n", s.session);
    buffer_ += "  supers_good " + bits_text(supers) + "\n  samples";
    for (const auto sample : s.samples)
      buffer_ += fmt::format(" {:08x}", sample);
    buffer_ += '\n';
    for (unsigned r = 0; r < s.good.size(); ++r) {
      std::vector<bool> chunks(s.places.chunks());
      for (std::uint32_t c = 0; c < chunks.size(); ++c)
        chunks[c] = s.is_good(r, c);
      const auto start = r < own_replicas ? fmt::to_string(s.places.replica_start[r]) : std::string("-");
      buffer_ += fmt::format("  replica {} start {} good {}\n", r, start, bits_text(chunks));
    }
    for (unsigned i = 0; i < max_spares; ++i)
      if (const auto p = place_at(s, i); !p.empty())
        buffer_ += fmt::format("  place {} {} held {:016x} given {:016x} hosted {} blocks {} map_on {}\n", i,
                               to_text(p.uuid), p.sessions.held, p.sessions.given, p.hosted_start,
                               p.hosted_blocks, p.map_on == 0 ? "-" : fmt::to_string(p.map_on - 1));
    for (const auto& text : d.damage)
      field("damage", text);
    for (const auto& run : d.blocks) {
      buffer_ += fmt::format("  blocks {}+{} sequence {}\n", run.first, run.count, run.sequence);
      pass_on(piece_bytes);
    }
    for (const auto& one : d.slots) {
      const slot& v = one.value;
      buffer_ += fmt::format("  {} {} main {} lost {:02x} answers {:02x} sequence {}\n", name_of(v.kind()),
                             std::uint64_t{one.unit} * unit_sectors, first_sector(v.main()).value,
                             unsigned{v.lost()}, unsigned{v.main_may_answer()}, v.sequence());
      pass_on(piece_bytes);
    }
  }

  void pass_on(std::size_t from) {
    if (buffer_.size() < from)
      return;
    crc_ = ::crc32_z(crc_, reinterpret_cast<const Bytef*>(buffer_.data()), buffer_.size());
    put_(buffer_);
    buffer_.clear();
  }

  const text_sink& put_;
  std::string buffer_;
  uLong crc_ = 0;
};

} // namespace

const char* name_of(slot_kind kind) noexcept {
  const auto n = static_cast<std::size_t>(kind);
  return n < kinds.size() ? kinds[n] : "unknown";
}

std::optional<slot_kind> slot_kind_of(std::string_view name) noexcept {
  for (std::size_t n = 0; n < kinds.size(); ++n)
    if (name == kinds[n])
      return static_cast<slot_kind>(n);
  return std::nullopt;
}

std::string bits_text(const std::vector<bool>& bits) {
  std::string out;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    if (!bits[i])
      continue;
    std::size_t end = i;
    while (end + 1 < bits.size() && bits[end + 1])
      ++end;
    out += out.empty() ? "" : ",";
    out += end == i ? fmt::to_string(i) : fmt::format("{}-{}", i, end);
    i = end;
  }
  return out.empty() ? "-" : out;
}

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text)
    if (c >= ' ' && c <= '~' && c != '\\' && c != '"')
      out += c;
    else
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  return out;
}

std::uint32_t write_dump_text(const set_dump& d, const text_sink& put) {
  return text_writer(put).write(d);
}

std::string dump_text(const set_dump& d) {
  std::string out;
  write_dump_text(d, [&](std::string_view piece) { out += piece; });
  return out;
}

} // namespace dmremap
