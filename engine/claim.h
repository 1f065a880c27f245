// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include "engine/device_use.h"
#include "engine/error.h"
#include "engine/unique_fd.h"

#include <iosfwd>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dmremap {

/// The physical thing that ranges are claimed on: a whole disk, or a regular file.
struct claim_target {
  bool block = false;
  dev_t device = 0;                      ///< the whole disk; of a file: its file system
  ino_t inode = 0;                       ///< of a file
  [[nodiscard]] std::string key() const; ///< "b8:16", "f8:1:1234"
  friend bool operator==(const claim_target&, const claim_target&) = default;
};

/// Who holds a claim, as its owner record says.
struct claim_owner {
  int pid = 0;
  std::string set; ///< empty: not named (yet)
  std::string member;
  byte_range range;
  bool writing = false;
  [[nodiscard]] std::string text() const; ///< "set 'demo' (process 12)"
};

/// Claims on ranges of one disk or file, held against all other processes and all other claims of this one,
/// until the object is gone. Open-file-description locks, so that nothing stays behind after a kill: on the
/// file itself, or for a disk on claims_dir()/MAJOR:MINOR at the ranges' whole-disk offsets and, where this
/// process may read it, on the disk's own node in /dev, which processes with another claims_dir() share.
/// A loop device is claimed twice, on its own number and on what it stands on: other loop devices may stand
/// there, too. Beside them a text record says who it is. Where others only read, a claim for writing waits
/// for up to two seconds.
class claim {
public:
  /// Claims `ranges` of a disk. Errors: members-overlap, in-use (the same range), claim-failed.
  [[nodiscard]] static result<std::shared_ptr<claim>>
  take_disk(dev_t disk, const std::vector<byte_range>& ranges, bool shared, const std::string& path);
  /// Claims `ranges` of a regular file through the descriptor `fd` that it is used by; released with that
  /// descriptor, which must be open for writing unless `shared`.
  [[nodiscard]] static result<std::shared_ptr<claim>> take_file(int fd, const claim_target& target,
                                                                const std::vector<byte_range>& ranges,
                                                                bool shared, const std::string& path);
  /// Claims `ranges` of a file that a loop device stands on, named `file` by the kernel, by a descriptor of
  /// its own. Where it cannot be opened so, or lies on a FUSE file system (one that hangs would hang this,
  /// and one that stops waits for who has its files open), only owner records count.
  [[nodiscard]] static result<std::shared_ptr<claim>> take_backing_file(const std::string& file,
                                                                        const claim_target& target,
                                                                        const std::vector<byte_range>& ranges,
                                                                        bool shared, const std::string& path);
  ~claim();
  claim(const claim&) = delete;
  claim& operator=(const claim&) = delete;

  /// Writes the set's name and this process's id into the owner record. Best effort: for messages only. Not
  /// thread-safe.
  void name(const std::string& set);
  /// Of a loop device: `below` is released with this one and gets the same name.
  void hold(std::shared_ptr<claim> below) { below_ = std::move(below); }
  /// For a disk: whether another claim for writing exists anywhere on it, as far as both can be seen.
  [[nodiscard]] bool others_write() const;

private:
  claim() = default;
  /// Of nothing yet.
  [[nodiscard]] static std::shared_ptr<claim> blank(const claim_target& target,
                                                    const std::vector<byte_range>& ranges, bool shared,
                                                    const std::string& path);
  [[nodiscard]] result<void> lock_all(int fd, const std::string& path);
  [[nodiscard]] result<void> lock_node();
  void write_record();

  claim_target target_;
  std::vector<byte_range> ranges_;
  bool shared_ = false;
  std::string path_, set_;
  unique_fd lock_;   // of disks and of files below loop devices
  unique_fd node_;   // of disks; not where this process may not read the whole disk
  unique_fd record_; // locked while the claim lives
  std::string record_path_;
  std::shared_ptr<claim> below_;
};

/// What one owner record says of a claim on `key` that overlaps `range`; lines that it does not know are
/// passed over.
[[nodiscard]] std::optional<claim_owner> read_claim_record(std::istream& record, const std::string& key,
                                                           byte_range range);

/// The living owner of a claim that overlaps `range`, from the owner records; nothing where none is known.
[[nodiscard]] std::optional<claim_owner> find_claim_owner(const claim_target& target, byte_range range);

} // namespace dmremap
