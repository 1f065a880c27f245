// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/error.h"

#include <cerrno>

namespace dmremap {

io_error classify_errno(int value) noexcept {
  switch (value) {
  case ENODEV:
  case ENXIO:
  case ENOLINK:
  case ETIMEDOUT:
  case ENOTCONN:
  case ESHUTDOWN:
  case ECONNABORTED: // a FUSE or network member whose server ends while the request is with it
  case ECONNRESET:
  case EPIPE:
  case EINVAL: // a store checks alignment and range itself: whoever still answers this, it is not for the
               // request
    return io_error::gone;
  case ENOSPC:
  case EDQUOT:
  case EFBIG: // RLIMIT_FSIZE holds inside a file, too
    return io_error::no_space;
  case ENOMEM:
  case EAGAIN:
  case EINTR:
    return io_error::transient;
  case EOPNOTSUPP:
  case ENOSYS:
    return io_error::unsupported;
  case EROFS:
  case EACCES:
  case EPERM:
  case EBADF:
    return io_error::read_only;
  default: // EIO, ENODATA, EILSEQ, EREMOTEIO and what no list foresees
    return io_error::medium;
  }
}

int to_errno(io_error e) noexcept {
  switch (e) {
  case io_error::no_space:
    return ENOSPC;
  case io_error::transient:
    return EAGAIN;
  case io_error::unsupported:
    return EOPNOTSUPP;
  case io_error::read_only:
    return EROFS;
  case io_error::invalid:
    return EINVAL;
  case io_error::medium:
  case io_error::gone:
  case io_error::absent:
  case io_error::host_full:
  case io_error::no_place:
  case io_error::lost:
    return EIO;
  }
  return EIO;
}

std::string_view name_of(io_error e) noexcept {
  switch (e) {
  case io_error::medium:
    return "medium error";
  case io_error::gone:
    return "the device does not answer";
  case io_error::no_space:
    return "no space left on the host of the member";
  case io_error::transient:
    return "temporary failure";
  case io_error::unsupported:
    return "not supported";
  case io_error::read_only:
    return "read-only";
  case io_error::invalid:
    return "invalid request";
  case io_error::absent:
    return "its spare is absent";
  case io_error::host_full:
    return "no space left on the file system that the spare lies on";
  case io_error::no_place:
    return "no spare capacity";
  case io_error::lost:
    return "lost sector";
  }
  return "unknown";
}

} // namespace dmremap
