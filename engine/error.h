// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>
#include <utility>

namespace dmremap {

/// Exit status of every program but dmremap-fsck (see dmremap(8), EXIT STATUS).
enum class exit_code : int { ok = 0, failed = 1, usage = 2, damaged = 4 };

/// Why a request could not be carried out. `id` is stable: scripts depend on it; it never changes once released.
struct error {
  std::string id;                     ///< e.g. "main-mounted"
  std::string what;                   ///< the object: a device, a path, a set, a sector
  std::string why;                    ///< the reason and what to do next, one line
  exit_code code = exit_code::failed; ///< what a program exits with

  /// "what: why", to be printed behind "program: ".
  [[nodiscard]] std::string text() const { return what.empty() ? why : what + ": " + why; }
};

template <class T>
using result = tl::expected<T, error>;

[[nodiscard]] inline tl::unexpected<error> fail(std::string id, std::string what, std::string why,
                                                exit_code code = exit_code::failed) {
  return tl::unexpected<error>(error{std::move(id), std::move(what), std::move(why), code});
}

/// What a backing store or the disk says of one I/O. The class decides what the engine may conclude (engine.md).
enum class io_error : std::uint8_t {
  medium,    ///< EIO, ENODATA, EILSEQ, EREMOTEIO: this place is bad
  gone,      ///< ENODEV, ENXIO, ENOLINK, ETIMEDOUT, ENOTCONN, ESHUTDOWN and so on: the whole device does not
             ///< answer
  no_space,  ///< ENOSPC, EDQUOT, EFBIG: the host of a sparse member is full; condemns nothing
  transient, ///< ENOMEM, EAGAIN, EINTR: says nothing about the medium
  unsupported, ///< EOPNOTSUPP: this store cannot; nothing was changed
  read_only,   ///< EROFS, EACCES, EPERM: opened or switched to read-only
  invalid, ///< out of range or misaligned, seen before anything was asked of a member: an error of the caller
  absent,  ///< the unit lies on a spare that is not there
  host_full, ///< a spare said no_space: EIO to the caller, for whom the disk is as large as ever
  no_place,  ///< no spare has a unit that can be given out: EIO to the caller
  lost,      ///< the request touches a lost sector, or a unit whose change is in doubt: EIO to the caller
};

using io_result = tl::expected<void, io_error>;

[[nodiscard]] inline tl::unexpected<io_error> io_fail(io_error e) { return tl::unexpected<io_error>(e); }

/// Classifies the errno of a failed system call on a member, for a request that is aligned and in range. So
/// EINVAL is no error of the caller: a network member says it of requests that meet the end of its
/// connection. Unknown values count as medium errors.
[[nodiscard]] io_error classify_errno(int value) noexcept;
/// The errno that a FUSE reply carries for `e`; always positive.
[[nodiscard]] int to_errno(io_error e) noexcept;
[[nodiscard]] std::string_view name_of(io_error e) noexcept;

} // namespace dmremap

/// Early return of a failed result<T>; the value otherwise. g++ and clang statement expression.
#define TRY(expression)                                                                                      \
  ({                                                                                                         \
    auto try_result_ = (expression);                                                                         \
    if (!try_result_) [[unlikely]]                                                                           \
      return ::tl::make_unexpected(std::move(try_result_).error());                                          \
    std::move(try_result_).value();                                                                          \
  })

/// Early return of a failed result<void> or io_result.
#define CHECK_OK(expression)                                                                                 \
  do {                                                                                                       \
    auto check_result_ = (expression);                                                                       \
    if (!check_result_) [[unlikely]]                                                                         \
      return ::tl::make_unexpected(std::move(check_result_).error());                                        \
  } while (false)
