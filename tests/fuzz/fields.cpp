// SPDX-License-Identifier: GPL-2.0-or-later
// Offsets from the format's description, not from its header: a test that shares no code with the codec.
#include "tests/fuzz/fuzz.h"

#include <array>

namespace dmremap::fuzz {
namespace {

constexpr field super_fields[] = {
    {4, 4},    {8, 8},    {16, 8},   {32, 4},   {36, 4},   {40, 8},   {56, 8},   {112, 8},  {119, 1},
    {120, 4},  {124, 4},  {128, 4},  {132, 4},  {136, 4},  {140, 4},  {144, 8},  {152, 8},  {160, 4},
    {164, 4},  {168, 4},  {172, 4},  {176, 4},  {180, 4},  {184, 4},  {188, 4},  {192, 8},  {200, 8},
    {208, 8},  {216, 8},  {224, 8},  {232, 8},  {240, 8},  {464, 8},  {472, 8},  {480, 8},  {488, 8},
    {496, 8},  {720, 8},  {728, 4},  {732, 4},  {736, 4},  {740, 4},  {796, 4},  {800, 4},  {804, 4},
    {808, 4},  {812, 4},  {816, 8},  {880, 8},  {944, 8},  {984, 8},  {1024, 8}, {1040, 4}, {1044, 4},
    {1048, 4}, {1108, 4}, {1112, 8}, {1120, 8}, {1128, 8}, {1136, 8}, {1144, 8}, {1152, 8}, {1160, 8},
    {1168, 8}, {1280, 1}, {1281, 1}, {1282, 1}, {1408, 2}, {1536, 2}, {1664, 2}, {1792, 2}, {1920, 2},
    {2048, 8}, {4088, 8}};
constexpr field table_fields[] = {{4, 4},  {8, 8},  {16, 8}, {24, 4}, {28, 4}, {32, 8},   {38, 1},
                                  {39, 1}, {40, 8}, {46, 1}, {47, 1}, {48, 8}, {4088, 8}, {4095, 1}};

} // namespace

std::span<const field> superblock_fields() {
  return super_fields;
}

std::span<const field> table_block_fields() {
  return table_fields;
}

std::uint64_t interesting_value(std::minstd_rand& random) {
  const std::uint64_t any = std::uint64_t{random()} << 33U ^ std::uint64_t{random()} << 16U ^ random();
  switch (random() % 6) {
  case 0:
    return random() % 20;
  case 1:
    return (std::uint64_t{1} << random() % 64) - 1;
  case 2:
    return std::uint64_t{1} << random() % 64;
  case 3:
    return (std::uint64_t{1} << (8 * (1 + random() % 7))) - random() % 20;
  case 4:
    return random() % 4200;
  default:
    return any;
  }
}

} // namespace dmremap::fuzz
