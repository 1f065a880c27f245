// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/program_context.h"

#include <exception>
#include <nlohmann/json.hpp>
#include <ostream>
#include <poll.h>
#include <string_view>
#include <unistd.h>

namespace dmremap {
namespace {

bool reader_went_away() {
  pollfd output{STDOUT_FILENO, 0, 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

} // namespace

void program_context::print(nlohmann::json value) const {
  nlohmann::ordered_json ordered;
  ordered["schema"] = json_schema;
  for (auto& [key, item] : value.items())
    if (key != "schema")
      ordered[key] = item;
  // Paths need not be UTF-8: what is not is shown replaced rather than not at all.
  out << ordered.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << '\n';
}

int program_context::report(const error& failure) const {
  if (json)
    print({{"error", {{"id", failure.id}, {"what", failure.what}, {"why", failure.why}}}});
  err << program << ": " << failure.text() << '\n';
  return static_cast<int>(failure.code);
}

void program_context::note(const std::string& text) const {
  err << program << ": " << text << '\n';
}

bool asks_for_json(int argc, const char* const* argv) {
  for (int i = 1; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    const std::string_view word = argv[i];
    if (word == "--json" || word == "--format=json" ||
        (word == "--format" && i + 1 < argc && std::string_view(argv[i + 1]) == "json"))
      return true;
  }
  return false;
}

int run_program_body(const program_context& c, const std::function<int()>& body) {
  int status = 0;
  try { // the libraries below report some failures by exceptions (no memory, a reply of an unknown shape)
    status = body();
  } catch (const std::exception& failure) {
    status =
        c.report(error{"internal", c.program, std::string("something unforeseen failed: ") + failure.what(),
                       exit_code::failed});
  }
  c.out.flush();
  if (!c.out && reader_went_away()) // `dmremap table NAME | head`: it has what it wanted
    return status != 0 ? status : static_cast<int>(exit_code::failed);
  if (!c.out && status == 0)
    return c.report(
        error{"output-failed", "standard output", "the report could not be written", exit_code::failed});
  return status;
}

} // namespace dmremap
