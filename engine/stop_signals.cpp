// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/stop_signals.h"

namespace dmremap {
namespace {

volatile std::sig_atomic_t stop_asked = 0;

void ask_to_stop(int) {
  stop_asked = 1;
}

} // namespace

stop_signals::stop_signals(again second) {
  forget();
  struct sigaction action {};
  action.sa_handler = ask_to_stop;
  action.sa_flags = second == again::noted ? 0 : static_cast<int>(SA_RESETHAND);
  ::sigaction(SIGINT, &action, &before_[0]);
  ::sigaction(SIGTERM, &action, &before_[1]);
}

stop_signals::~stop_signals() {
  ::sigaction(SIGINT, &before_[0], nullptr);
  ::sigaction(SIGTERM, &before_[1], nullptr);
}

bool stop_signals::asked() {
  return stop_asked != 0;
}

void stop_signals::forget() {
  stop_asked = 0;
}

} // namespace dmremap
