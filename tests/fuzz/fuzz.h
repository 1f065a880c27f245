// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

/// The fuzz targets: each takes bytes that anybody may have written, and throws `violation` where a property
/// does not hold. The fuzzers (built by the preset `fuzz`) feed them with what libFuzzer makes up; the unit
/// test feeds them with the corpus and with the reproducers of all that was ever found. Not thread-safe.
namespace dmremap::fuzz {

using input_bytes = std::span<const std::uint8_t>;

struct violation : std::logic_error {
  using std::logic_error::logic_error;
};

inline void require(bool holds, const char* property) {
  if (!holds)
    throw violation(property);
}
inline void require(bool holds, const std::string& property) {
  require(holds, property.c_str());
}

/// Takes an input apart. What is missing at its end reads as zero.
class input {
public:
  explicit input(input_bytes bytes) : rest_(bytes) {}
  [[nodiscard]] bool empty() const { return rest_.empty(); }
  [[nodiscard]] std::uint8_t byte() { return static_cast<std::uint8_t>(number(1)); }
  [[nodiscard]] std::uint16_t half() { return static_cast<std::uint16_t>(number(2)); }
  /// Little-endian, of `size` bytes (8 at most).
  [[nodiscard]] std::uint64_t number(unsigned size) {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < size && !rest_.empty(); ++i) {
      value |= std::uint64_t{rest_.front()} << (8 * i);
      rest_ = rest_.subspan(1);
    }
    return value;
  }
  /// At most `count` bytes.
  [[nodiscard]] input_bytes take(std::size_t count) {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  [[nodiscard]] std::string text() {
    const auto all = take(rest_.size());
    return {all.begin(), all.end()};
  }

private:
  input_bytes rest_;
};

/// A field of a block: where it lies, in bytes.
struct field {
  std::uint16_t offset;
  std::uint8_t size;
};
/// The fields of a superblock and of a table block (the first slot for all), from dmremap-format(5).
[[nodiscard]] std::span<const field> superblock_fields();
[[nodiscard]] std::span<const field> table_block_fields();
/// A value at which decoders tend to err: a limit, one beside it, or any.
[[nodiscard]] std::uint64_t interesting_value(std::minstd_rand& random);

void run_codec(input_bytes bytes);
void run_set(input_bytes bytes);
void run_fsck(input_bytes bytes); ///< takes what run_set takes
void run_text(input_bytes bytes);
void run_foreign(input_bytes bytes);

/// Change an input in a way that keeps its structure: records are added, doubled, removed or get another
/// value. What they make is a legal input of the target above of the same name.
void mutate_codec(std::vector<std::uint8_t>& bytes, std::minstd_rand& random);
void mutate_set(std::vector<std::uint8_t>& bytes, std::minstd_rand& random);

} // namespace dmremap::fuzz
