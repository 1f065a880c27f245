// SPDX-License-Identifier: GPL-2.0-or-later
#include "engine/file_store.h"

#include "engine/range_store.h"
#include "tests/support/loop_device.h"
#include "tests/support/store_contract.h"
#include "tests/support/temp_dir.h"

#include <atomic>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <functional>
#include <future>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>

namespace {

std::function<int()> instead_of_fdatasync; // set while no other thread runs

} // namespace

/// In the place of the C library's.
extern "C" int fdatasync(int fd) {
  return instead_of_fdatasync ? instead_of_fdatasync() : static_cast<int>(::syscall(SYS_fdatasync, fd));
}

using namespace dmremap;
using namespace dmremap::test;

namespace {

bool is(const io_result& r, io_error e) {
  return !r && r.error() == e;
}

} // namespace

TEST_CASE("the size is whole blocks", "[file_store]") {
  const temp_dir dir;
  const auto a = file_store::open(dir.file("a", 1000), {});
  REQUIRE(a);
  CHECK((*a)->size() == 512);
  CHECK(file_store::open(dir.file("b", 511), {}).error().id == "empty-member");
  CHECK(file_store::open(dir.file("c", 0), {}).error().id == "empty-member");
}

TEST_CASE("the rest of a file behind the last whole block is never touched", "[file_store]") {
  const temp_dir dir;
  const auto path = dir.text_file("a", std::string(1024, 'x') + "the tail");
  auto s = *file_store::open(path, {});
  REQUIRE(s->size() == 1024);
  shifted_buffer data(1024, 0);
  REQUIRE(s->write(data.span(), 0));
  REQUIRE(s->flush());
  CHECK(slurp(path) == std::string(1024, '\0') + "the tail");
}

TEST_CASE("a store opened for reading does not write", "[file_store]") {
  const temp_dir dir;
  const auto path = dir.text_file("a", std::string(8192, 'x'));
  auto s = *file_store::open(path, {.read_only = true});
  shifted_buffer data(4096, 0);
  CHECK(is(s->write(data.span(), 0), io_error::read_only));
  CHECK(is(s->zero(0, 4096), io_error::read_only));
  CHECK(s->flush());
  REQUIRE(s->read(data.span(), 4096));
  CHECK(data.span()[4095] == std::byte{'x'});
  CHECK(slurp(path) == std::string(8192, 'x'));
}

TEST_CASE("a file that was cut off is gone, not zeros", "[file_store]") {
  const temp_dir dir;
  const auto path = dir.file("a", 1 << 20);
  auto s = *file_store::open(path, {});
  boost::filesystem::resize_file(path, 16384 + 100);
  shifted_buffer data(8192, 0);
  CHECK(s->read(data.span(), 8192));
  CHECK(is(s->read(data.span(), 16384), io_error::gone));
  CHECK(is(s->read(data.span(), 12288), io_error::gone));
  CHECK(is(s->read(data.span(), 65536), io_error::gone));
}

TEST_CASE("a loop device that lost its file is gone for reads and writes", "[file_store][root]") {
  const temp_dir dir;
  auto loop = std::make_unique<loop_device>(dir.file("a", 1 << 20), loop_device::options{});
  const auto path = loop->path();
  const auto file = dir / "a";
  auto s = *file_store::open(path, {});
  boost::filesystem::resize_file(file, 64 << 10);
  REQUIRE(loop->set_capacity()); // as a drive does whose size drops to what still answers
  shifted_buffer data(4096, 0);
  CHECK(s->read(data.span(), 0));
  CHECK(is(s->read(data.span(), 128 << 10), io_error::gone));
  CHECK(is(s->write(data.span(), 128 << 10), io_error::gone));
}

TEST_CASE(
    "a device that calls good requests invalid is gone: its answer says nothing of the caller or the place",
    "[file_store][root]") {
  const temp_dir dir;
  const loop_device loop(dir.file("a", 1 << 20), loop_device::options{});
  auto s = *file_store::open(loop.path(), {});
  REQUIRE(s->block_size() == 512);
  REQUIRE(loop.set_block_size(4096)); // direct I/O of half a kilobyte: EINVAL
  shifted_buffer data(512, 0);
  CHECK(is(s->read(data.span(), 512), io_error::gone));
  CHECK(is(s->write(data.span(), 512), io_error::gone));
  CHECK(is(s->zero(512, 512), io_error::unsupported)); // whoever asks writes zeros then
}

TEST_CASE("zeroing a range of a file frees it", "[file_store]") {
  const temp_dir dir;
  const auto path = dir.text_file("a", std::string(1 << 20, 'x'));
  auto s = *file_store::open(path, {});
  const auto zeroed = s->zero(64 << 10, 512 << 10);
  if (!zeroed) {
    CHECK(zeroed.error() == io_error::unsupported);
    return;
  }
  struct stat st {};
  REQUIRE(::stat(path.c_str(), &st) == 0);
  CHECK(st.st_size == 1 << 20);
  CHECK(st.st_blocks * 512 <= 520 << 10);
}

TEST_CASE("a range does not leave its place", "[file_store]") {
  const temp_dir dir;
  const auto path = dir.text_file("a", std::string(1 << 20, 'x'));
  std::shared_ptr<store> below = *file_store::open(path, {});
  CHECK(range_store::make(below, 0, 0).error().id == "too-small-range");
  CHECK(range_store::make(below, 4, 8).error().id == "misaligned-range");
  CHECK(range_store::make(below, 8, 4).error().id == "misaligned-range");
  CHECK(range_store::make(below, 2048, 8).error().id == "range-beyond-end");
  CHECK(range_store::make(below, UINT64_MAX - 7, 16).error().id == "range-beyond-end");
  auto range = *range_store::make(below, 16, 16);
  CHECK(range->size() == 8192);
  CHECK(range->identity().path == path + "@16+16");
  shifted_buffer data(8192, 0);
  REQUIRE(range->write(data.span(), 0));
  CHECK(is(range->write(data.span(), 4096), io_error::invalid));
  CHECK(is(range->zero(8192, 4096), io_error::invalid));
  REQUIRE(range->flush());
  const std::string x(8192, 'x');
  CHECK(slurp(path) == x + std::string(8192, '\0') + std::string((1 << 20) - 16384, 'x'));
}

TEST_CASE("a flush does not pass while another one has the only report of a lost write", "[file_store]") {
  const temp_dir dir;
  auto s = *file_store::open(dir.file("a", 8192), {});
  std::promise<void> reported, go_on;
  std::atomic<unsigned> calls{0};
  instead_of_fdatasync = [&, on = go_on.get_future().share()] {
    if (calls++ != 0)
      return 0; // the kernel has said it, and says it once
    reported.set_value();
    on.wait();
    errno = EIO;
    return -1;
  };
  const std::uint64_t before = s->failed_flushes();
  auto first = std::async(std::launch::async, [&] { return s->flush(); });
  reported.get_future().wait();
  auto second = std::async(std::launch::async, [&] { return flush_since(*s, before); });
  // It has to wait for the first one; where it does not it is done at once. The time decides nothing but how
  // long the test takes.
  (void)second.wait_for(std::chrono::milliseconds(50));
  go_on.set_value();
  const io_result one = first.get(), other = second.get();
  instead_of_fdatasync = {};
  CHECK(is(one, io_error::medium));
  CHECK(is(other, io_error::medium));
  CHECK(s->failed_flushes() == before + 1);
  CHECK(s->flush());
}

TEST_CASE("flushes that come while one runs share the next", "[file_store]") {
  const temp_dir dir;
  auto s = *file_store::open(dir.file("a", 8192), {});
  const bool fails = GENERATE(false, true);
  std::promise<void> started, go_on;
  std::atomic<unsigned> calls{0};
  instead_of_fdatasync = [&, on = go_on.get_future().share()] {
    if (calls++ == 0) {
      started.set_value();
      on.wait();
      return 0;
    }
    // So long that threads that were held up on their way come together in the next one.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    errno = EIO;
    return fails ? -1 : 0;
  };
  auto first = std::async(std::launch::async, [&] { return s->flush(); });
  started.get_future().wait();
  std::atomic<unsigned> coming{0};
  std::vector<std::future<io_result>> others;
  for (unsigned n = 0; n < 16; ++n)
    others.push_back(std::async(std::launch::async, [&] {
      ++coming;
      coming.notify_all();
      return s->flush();
    }));
  for (unsigned n = coming; n < 16; n = coming)
    coming.wait(n);
  go_on.set_value();
  CHECK(first.get()); // began before any of the others was there
  for (auto& other : others)
    CHECK(other.get().has_value() == !fails);
  instead_of_fdatasync = {};
  CHECK(calls >= 2);
  CHECK(calls <= 9); // two, but for threads that had not got as far as the flush when the first one ended
  CHECK(s->failed_flushes() == (fails ? calls - 1 : 0));
}
