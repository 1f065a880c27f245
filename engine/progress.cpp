// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/progress.h"

#include <fmt/format.h>
#include <ostream>
#include <unistd.h>

namespace dmremap {

progress::progress(std::ostream& err, std::string label, int fd, std::string counted)
    : err_(err), label_(std::move(label)), counted_(std::move(counted)), fd_(fd),
      terminal_(::isatty(STDERR_FILENO) == 1) {}

progress::~progress() {
  if (drawn_)
    err_ << '\n' << std::flush;
}

void progress::show(std::uint64_t done, std::uint64_t all) {
  const auto line = fmt::format("{} {}\n", done, all);
  if (fd_ >= 0 && line != last_line_) // a reader that went away is its own affair: the work goes on
      [[maybe_unused]]
    const auto written = ::write(fd_, line.data(), line.size());
  last_line_ = line;
  if (!terminal_ || std::chrono::steady_clock::now() - begun_ < std::chrono::seconds(1))
    return;
  constexpr std::uint64_t width = 40;
  const auto full = all == 0 ? width : std::min(width, done * width / all);
  err_ << fmt::format("\r{} [{:<40}] {} of {} {}", label_, std::string(full, '#'), done, all, counted_)
       << std::flush;
  drawn_ = true;
}

} // namespace dmremap
