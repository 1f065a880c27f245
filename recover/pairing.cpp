// SPDX-License-Identifier: GPL-2.0-or-later
#include "recover/pairing.h"

#include <fmt/format.h>

namespace dmremap::recover {

const char* name_of(pairing p) noexcept {
  switch (p) {
  case pairing::certain:
    return "certain";
  case pairing::accept:
    return "needs --accept-main";
  case pairing::refused:
    return "refused";
  }
  return "refused";
}

content content_of(const main_match& m) noexcept {
  if (!m.samples_valid)
    return content::silent;
  if (m.wrong != 0)
    return content::differs;
  return m.telling != 0 ? content::matches : content::silent;
}

pairing rate(main_match::identity device, content c, bool configured) noexcept {
  switch (device) {
  case main_match::identity::same: // written without the set where the content differs
    return c == content::differs ? pairing::accept : pairing::certain;
  case main_match::identity::unknown:
    if (c == content::differs)
      return pairing::refused;
    return c == content::matches || configured ? pairing::certain : pairing::accept;
  case main_match::identity::differs: // a copy on a new drive, at best
    return c == content::matches ? pairing::accept : pairing::refused;
  }
  return pairing::refused;
}

std::string evidence(const main_match& m, bool configured) {
  std::string text = "size fits";
  if (m.device == main_match::identity::same)
    text += ", same drive";
  else if (m.device == main_match::identity::differs)
    text += ", another drive: " + m.difference;
  if (!m.samples_valid)
    text += ", content proves nothing: the set was not closed cleanly";
  else if (m.wrong != 0)
    text += fmt::format(", content differs ({} of {} samples)", m.wrong, m.taken);
  else if (m.telling != 0)
    text += fmt::format(", content matches ({} samples)", m.taken);
  else
    text += m.taken == 0 ? ", content cannot be read" : ", content is blank";
  return text + (configured ? ", named by the configuration" : "");
}

} // namespace dmremap::recover
