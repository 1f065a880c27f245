// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

// The model of a set with several spares that pool_model_test.cpp runs random operations against. It shares
// no code with the engine and never asks it what is right. It asks it where a unit lies and which spares it
// has given up, to know what a broken place or a spare that is away affects, and judges that answer, too: a
// unit moves, a sector becomes lost and a spare is given up for a reason, or the test fails.
#include "engine/disk.h"
#include "engine/units.h"
#include "tests/engine/sector_versions.h"
#include "tests/support/mortal_store.h"

#include <array>
#include <atomic>
#include <bitset>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace dmremap::test {

/// What fails while the operations run.
enum class pool_faults {
  main_writes, ///< main fails writes, and reads only as often as the engine reads again: no read may fail
  places,      ///< sectors of main and places on spares: every outcome is known
  spares,      ///< further, spares vanish in the middle of anything, take no writes, stay away and return
};

class pool_model {
public:
  pool_model(std::uint64_t seed, pool_faults faults);
  ~pool_model();

  /// Runs the operations, then compares everything. Anything wrong is a FAIL of Catch2.
  void run(std::uint64_t operations);

  /// How often the interesting things happened: a model that meets none of them proves nothing.
  struct tally {
    std::uint64_t vanished = 0, rejecting = 0, degraded = 0, refused_opens = 0, returned = 0, added = 0,
                  removed = 0, evacuated = 0, moved = 0, forgotten = 0, remaps = 0, unmaps = 0, by_hand = 0,
                  lost = 0, salvaged = 0, failed_reads = 0, failed_writes = 0, failed_flushes = 0,
                  refused_changes = 0, read_from_unwritable = 0, sure_opens = 0;
    tally& operator+=(const tally& other);
  };
  [[nodiscard]] const tally& counts() const { return counts_; }

private:
  static constexpr std::uint64_t main_units = 48, sectors = main_units * unit_sectors;
  using unit_set = std::bitset<main_units>;
  using sector_set = std::bitset<sectors>;

  enum class health {
    well,
    failing, ///< it died, may die any moment or took no writes since the open: what it must do may fail
    away,    ///< not given at the open
  };
  enum class presence { present, readable, absent }; ///< to the engine
  struct spare {
    std::shared_ptr<mortal_store> io;
    unsigned index = 0; ///< in the set's list
    health state = health::well;
    bool dying = false, rejecting = false, draining = false;
    bool untold = false;                ///< it failed, and no flush has said so since
    std::optional<std::uint64_t> dirty; ///< good flushes that it had had before the last write answered
  };
  struct place {
    unsigned spare = 0;
    std::uint64_t unit = 0;
    bool operator==(const place&) const = default;
  };
  struct picture {
    std::array<std::optional<place>, main_units> at; ///< nothing: on main
    sector_set lost;
  };
  /// What an operation may change; anything else that changes fails the test.
  struct effect {
    unit_set touched;       ///< units that it reads, writes or moves
    sector_set cured;       ///< sectors that may be lost no more
    bool to_spare = false;  ///< moves units of main to spares on purpose,
    bool elsewhere = false; ///< units of spares to other spares,
    bool to_main = false;   ///< units back to main
    bool gives_up = false;  ///< makes units lost on purpose
  };
  /// What an outcome may be.
  struct verdict {
    std::string must_fail, may_fail; ///< why; empty: it must not
    void must(const std::string& why) { must_fail = must_fail.empty() ? why : must_fail; }
    void may(const std::string& why) { may_fail = may_fail.empty() ? why : may_fail; }
  };

  [[nodiscard]] std::uint64_t pick(std::uint64_t below) { return random_() % below; }
  [[nodiscard]] std::uint64_t some_unit();
  void step();
  /// The operation that runs and the state of the spares, for a message.
  [[nodiscard]] std::string where() const;
  void step_spares();

  // pool_model_oracle.cpp: what is, what may become of it
  [[nodiscard]] picture look() const;
  void begin(const effect& e);
  void follow(const effect& e, bool failed);
  void follow_place(std::uint64_t unit, const std::optional<place>& now, const effect& e);
  void follow_lost(const sector_set& now, const effect& e);
  [[nodiscard]] static std::uint8_t bad_sectors(const fault_table& faults, std::uint64_t first,
                                                std::uint32_t block, bool writing, bool surely);
  [[nodiscard]] std::uint8_t bad_here(std::uint64_t unit, bool writing, bool surely) const;
  [[nodiscard]] std::uint8_t main_bad(std::uint64_t unit, bool writing, bool surely) const;
  [[nodiscard]] std::uint8_t lost_here(std::uint64_t unit) const;
  [[nodiscard]] std::uint8_t may_answer_here(std::uint64_t unit) const;
  [[nodiscard]] std::uint32_t block_of(std::uint64_t unit) const;
  [[nodiscard]] spare* at_index(unsigned index);
  [[nodiscard]] const spare* at_index(unsigned index) const;
  [[nodiscard]] const spare* spare_of(std::uint64_t unit) const;
  [[nodiscard]] presence presence_of(const spare& s) const;
  [[nodiscard]] bool any_failing() const;
  [[nodiscard]] bool settled() const;
  [[nodiscard]] bool room(const spare* without = nullptr) const;
  [[nodiscard]] unsigned present_spares() const;
  [[nodiscard]] unit_set units_on(unsigned index) const;
  void judge_read(verdict& v, std::uint64_t unit, std::uint8_t wanted) const;
  void judge_write(verdict& v, std::uint64_t unit, std::uint8_t wanted) const;
  void judge_move(verdict& v) const;
  void judge_outcome(const verdict& v, const io_result& done) const;
  /// As judge_outcome, for an operation that says what is wrong: where it fails, by one of `ids`.
  template <class T>
  void judge_refusal(const result<T>& r, bool may_succeed, std::initializer_list<const char*> ids) const {
    judge_id(r ? std::string() : r.error().id, r ? std::string() : r.error().text(), may_succeed, ids);
  }
  void judge_id(const std::string& id, const std::string& text, bool may_succeed,
                std::initializer_list<const char*> ids) const;

  // pool_model_io.cpp: reading, writing, flushing
  struct range {
    std::uint64_t first = 0, count = 0; ///< sectors
  };
  [[nodiscard]] range pick_range();
  [[nodiscard]] static std::uint8_t part(range r, std::uint64_t unit);
  bool read(range r);
  bool write(range r, bool zeros);
  void each_unit(range r, const std::function<void(std::uint64_t unit, std::uint8_t wanted)>& visit) const;
  using flush_marks = std::array<std::uint64_t, 17>; ///< good flushes so far: of the spares by index, of main
  [[nodiscard]] flush_marks marks() const;
  void note_dirty(range r, const picture& before, const flush_marks& marked);
  void read_again(range r);
  void flush();
  void flush_fails();
  [[nodiscard]] bool meet_failed_flush(std::uint64_t unit, memory_store& member);
  void sync();
  void compare_all();

  // pool_model_admin.cpp: changes by hand
  void remap();
  void unmap(std::uint64_t unit);
  void add_remap();
  void make_known(std::uint64_t unit);
  void salvage();

  // pool_model_spares.cpp: spares that come, go and fail
  std::shared_ptr<mortal_store> make_store();
  [[nodiscard]] std::optional<unsigned> some_index();
  void drop(unsigned index);
  void add_spare();
  void remove_spare();
  void evacuate();
  void refill(spare& s);
  [[nodiscard]] bool drains(unsigned index) const; ///< what the engine says
  void forget();
  void break_main();
  void break_spare_place();
  void heal();
  void kill_spare();
  void reject_writes();
  void fails_from_now(spare& s);
  [[nodiscard]] unsigned well_spares() const;
  void reopen();
  [[nodiscard]] bool reopen_without(const std::vector<bool>& stays_away);
  [[nodiscard]] result<void> try_open(const std::vector<bool>& stays_away, bool degraded);
  void opened(const std::vector<bool>& stays_away);
  void open_all();
  void heal_all();
  [[nodiscard]] bool must_open(const std::vector<bool>& stays_away);

  const pool_faults faults_;
  std::mt19937_64 random_;
  std::shared_ptr<memory_store> main_;
  std::optional<std::uint64_t> main_dirty_;
  std::vector<spare> spares_;
  unsigned made_ = 0;
  std::unique_ptr<disk> set_;
  std::unique_ptr<io_context> context_;

  sector_versions versions_{sectors};
  picture was_;             ///< after the last operation
  sector_set may_answer_;   ///< of lost sectors: main still has what they held
  sector_set could_lose_;   ///< by the operation that runs
  unit_set could_leave_;    ///< units whose place fails
  fault_table main_faults_; ///< when the operation that runs began
  /// Units of an operation that failed along with a spare: what became of them is not known.
  unit_set doubtful_;
  unit_set tainted_;                                   ///< the same, until the next open with everything
  sector_set doubtful_lost_, doubtful_cured_;          ///< what may come out of that
  sector_set unsure_answer_;                           ///< lost so: whether main may answer is not known
  std::array<std::set<unsigned>, main_units> held_by_; ///< spares that may have an old place of the unit
  std::atomic<std::uint64_t> last_seen_{0}; ///< what a host keeps of the set: disk_info::sequence_end
  bool flush_owed_ = false;                 ///< a spare left with writes that no flush covers
  std::uint64_t version_ = 0, done_ = 0;
  std::string doing_;
  tally counts_;
};

} // namespace dmremap::test
