// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <boost/filesystem.hpp>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <stdlib.h>
#include <string>

namespace dmremap::test {

/// A folder of its own for one test, removed with all it holds. Throws where it cannot be made.
class temp_dir {
public:
  explicit temp_dir(const std::string& parent = default_parent()) : path_(parent + "/dmremap-test.XXXXXX") {
    if (::mkdtemp(path_.data()) == nullptr)
      throw std::runtime_error("mkdtemp " + path_);
  }
  ~temp_dir() {
    boost::system::error_code ec;
    boost::filesystem::remove_all(path_, ec);
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  /// A sparse file of `bytes` zeros; returns its path.
  [[nodiscard]] std::string file(const std::string& name, std::uint64_t bytes) const {
    std::ofstream(*this / name).flush();
    boost::filesystem::resize_file(*this / name, bytes);
    return *this / name;
  }
  [[nodiscard]] std::string text_file(const std::string& name, const std::string& text) const {
    std::ofstream(*this / name) << text;
    return *this / name;
  }

private:
  static std::string default_parent() {
    const char* dir = ::getenv("TMPDIR");
    return dir != nullptr && *dir != '\0' ? dir : "/tmp";
  }
  std::string path_;
};

[[nodiscard]] inline std::string slurp(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

/// Sets an environment variable while it lives.
class scoped_env {
public:
  scoped_env(std::string name, const std::string& value) : name_(std::move(name)) {
    if (const char* old = ::getenv(name_.c_str()))
      old_ = old, had_ = true;
    ::setenv(name_.c_str(), value.c_str(), 1);
  }
  ~scoped_env() {
    if (had_)
      ::setenv(name_.c_str(), old_.c_str(), 1);
    else
      ::unsetenv(name_.c_str());
  }
  scoped_env(const scoped_env&) = delete;
  scoped_env& operator=(const scoped_env&) = delete;

private:
  std::string name_, old_;
  bool had_ = false;
};

} // namespace dmremap::test
