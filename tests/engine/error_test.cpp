// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/error.h"

#include <catch2/catch.hpp>
#include <cerrno>

using namespace dmremap;

TEST_CASE("an errno says whether a place is bad, the whole device is gone, or neither") {
  for (const int value : {EIO, ENODATA, EILSEQ, EREMOTEIO})
    CHECK(classify_errno(value) == io_error::medium);
  // The last four: what a FUSE or network member says when its server ends in the midst of a request.
  for (const int value :
       {ENODEV, ENXIO, ENOLINK, ETIMEDOUT, ENOTCONN, ESHUTDOWN, ECONNABORTED, ECONNRESET, EPIPE, EINVAL})
    CHECK(classify_errno(value) == io_error::gone);
  for (const int value : {ENOMEM, EAGAIN, EINTR})
    CHECK(classify_errno(value) == io_error::transient);
  for (const int value : {ENOSPC, EDQUOT, EFBIG})
    CHECK(classify_errno(value) == io_error::no_space);
}
