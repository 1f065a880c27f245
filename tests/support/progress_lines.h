// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "tests/support/temp_dir.h"

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace dmremap::test {

/// A descriptor for --progress FD, and the lines "DONE ALL" that were written to it.
class progress_lines {
public:
  progress_lines() : file_(std::tmpfile()) {
    if (file_ == nullptr)
      throw std::runtime_error("tmpfile");
  }
  ~progress_lines() { std::fclose(file_); }
  progress_lines(const progress_lines&) = delete;
  progress_lines& operator=(const progress_lines&) = delete;

  [[nodiscard]] std::string fd() const { return std::to_string(::fileno(file_)); }
  [[nodiscard]] std::vector<std::pair<std::uint64_t, std::uint64_t>> lines() const {
    std::rewind(file_);
    std::vector<std::pair<std::uint64_t, std::uint64_t>> all;
    for (unsigned long long done = 0, of = 0; std::fscanf(file_, "%llu %llu", &done, &of) == 2;)
      all.emplace_back(done, of);
    return all;
  }

private:
  std::FILE* file_;
};

} // namespace dmremap::test
