// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/range_store.h"

#include "engine/units.h"

namespace dmremap {

result<std::shared_ptr<range_store>> range_store::make(std::shared_ptr<store> below, std::uint64_t start,
                                                       std::uint64_t length) {
  const std::string what =
      below->identity().path + "@" + std::to_string(start) + "+" + std::to_string(length);
  if (length == 0)
    return fail("too-small-range", what, "is empty; the length behind '+' counts sectors of 512 bytes");
  if (start % unit_sectors != 0 || length % unit_sectors != 0)
    return fail("misaligned-range", what, "start and length must be multiples of 8 sectors");
  const auto end = checked_add(start, length);
  if (!end || *end > below->size() / sector_bytes)
    return fail("range-beyond-end", what,
                "ends behind the last sector; the member has " +
                    std::to_string(below->size() / sector_bytes) + " sectors");
  return std::shared_ptr<range_store>(
      new range_store(std::move(below), start * sector_bytes, length * sector_bytes));
}

range_store::range_store(std::shared_ptr<store> below, std::uint64_t start, std::uint64_t length)
    : below_(std::move(below)), start_(start), length_(length), block_size_(below_->block_size()),
      identity_(below_->identity()) {
  identity_.path += "@" + std::to_string(start / sector_bytes) + "+" + std::to_string(length / sector_bytes);
}

io_result range_store::check(std::uint64_t length, std::uint64_t offset) const {
  // The store below checks alignment: starts are multiples of every block size.
  if (offset > length_ || length > length_ - offset) [[unlikely]]
    return io_fail(io_error::invalid);
  return {};
}

io_result range_store::read(std::span<std::byte> buffer, std::uint64_t offset) {
  CHECK_OK(check(buffer.size(), offset));
  return below_->read(buffer, start_ + offset);
}

io_result range_store::write(std::span<const std::byte> buffer, std::uint64_t offset) {
  CHECK_OK(check(buffer.size(), offset));
  return below_->write(buffer, start_ + offset);
}

io_result range_store::zero(std::uint64_t offset, std::uint64_t length) {
  CHECK_OK(check(length, offset));
  return below_->zero(start_ + offset, length);
}

} // namespace dmremap
