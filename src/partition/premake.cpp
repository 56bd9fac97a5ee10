#include "partition/premake.hpp"

#include "partition/bounds.hpp"
#include "partition/create.hpp"
#include "partition/retire_checks.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr const char *kDuty = "premake";

// A copy: what is done with the entries may refresh the directory.
pg::Vector<DirectoryEntry> entries_of(Oid parent, std::pmr::memory_resource *memory)
{
    pg::Vector<DirectoryEntry> entries(memory);
    for (const DirectoryEntry &entry : directory(parent))
        entries.push_back(entry);
    return entries;
}

} // namespace

// A set of numbers that has no partitions begins at 0.
void add_missing_keys(const SetConfig &config, std::optional<int64_t> now, pg::Vector<int64_t> &keys)
{
    pg::ContextResource memory;
    const pg::Vector<DirectoryEntry> entries = entries_of(config.parent, &memory);
    const std::span<const DirectoryEntry> occupied{entries.data(), entries.size()};
    const int64_t end = valid_keys(config.control).upper;
    int64_t key = now.value_or(0);
    for (int i = 0; i <= config.premake && key < end; i++) {
        const auto holder = std::find_if(entries.begin(), entries.end(), [&](const DirectoryEntry &entry) {
            return entry.lower <= key && key < entry.upper;
        });
        if (holder == entries.end())
            keys.push_back(key);
        key = holder != entries.end() ? holder->upper
                                      : fit_around(aligned_range(config, key), key, occupied).upper;
    }
}

namespace {

// A set whose settings cannot even be read is due too: its own transaction then finds and notes the error.
// So is one that was tried a moment ago, but not for the worker.
bool is_due(const Steps &steps, Oid parent, bool asked_for)
{
    bool due = false;
    const auto error = pg::try_in_subtransaction([&] {
        const std::optional<SetConfig> config = read_set(parent);
        if (!config || (may_be_under_restore(*config) && !asked_for))
            return;
        pg::ContextResource memory;
        pg::Vector<int64_t> keys(&memory);
        add_missing_keys(*config, current_key(*config), keys);
        due = !keys.empty();
    });
    if (!due && !error)
        return false;
    return !steps.may_run_top_level() || !failures_of(parent, kDuty).backing_off;
}

// One set. Each partition is made in a transaction of its own, so that one that cannot be made (the rows of
// its range are in a DEFAULT partition, say) does not undo those before it nor stop those after it. The first
// failure is noted.
class Premake
{
  public:
    Premake(Steps &steps, Oid parent) : steps_(steps), parent_(parent) {}

    void run()
    {
        int patience = 0;
        steps_.transaction([&] {
            patience = locks_others(parent_) ? polite_patience_ms()
                                             : patience_ms(failures_of(parent_, kDuty).in_a_row);
        });
        LockTimeoutScope timeout(patience);
        while (make_next()) {
            if (steps_.should_stop())
                return;
        }
        if (failed_)
            return;
        steps_.transaction([&] {
            note_success(parent_, kDuty);
            note_maintenance(parent_);
        });
    }

  private:
    // The next one that is missing: while the last one was waited for, others may have been attached. False
    // when there is none. What is current stays what it was when the round began, so that each step tries a
    // greater key.
    bool make_next()
    {
        std::optional<int64_t> next;
        guarded([&] {
            next = next_key();
            if (next)
                create_partition_for(parent_, *next);
        });
        tried_ = next;
        return next.has_value();
    }

    std::optional<int64_t> next_key()
    {
        const std::optional<SetConfig> config = read_set(parent_);
        if (!config)
            return std::nullopt;
        if (!now_)
            now_ = current_key(*config).value_or(0);
        pg::ContextResource memory;
        pg::Vector<int64_t> keys(&memory);
        add_missing_keys(*config, now_, keys);
        const auto next =
            std::find_if(keys.begin(), keys.end(), [this](int64_t key) { return !tried_ || key > *tried_; });
        return next != keys.end() ? std::optional(*next) : std::nullopt;
    }

    template <class Body> void guarded(Body &&body)
    {
        steps_.transaction([&] {
            const std::optional<pg::CaughtError> error = pg::try_in_subtransaction(body);
            if (error && !failed_)
                note_failure(parent_, kDuty, *error, !steps_.may_run_top_level());
            failed_ |= error.has_value();
        });
    }

    Steps &steps_;
    Oid parent_;
    std::optional<int64_t> now_;
    std::optional<int64_t> tried_;
    bool failed_ = false;
};

} // namespace

// Each partition is made in a transaction of its own. Many at once would take the lock table's room, keep
// those out who need a partition on demand, and send all sessions so many invalidations together that they
// have to forget everything they know of the catalogs.
void run_premake_round(Steps &steps, Oid only)
{
    pg::ContextResource memory;
    pg::Vector<Oid> due(&memory);
    LockTimeoutScope timeout(patience_ms(0));

    steps.transaction([&] {
        tidy_sets();
        pg::ContextResource transaction_memory;
        pg::Vector<Oid> sets(&transaction_memory);
        add_sets(sets, only);
        for (Oid parent : sets) {
            if (is_due(steps, parent, OidIsValid(only)))
                due.push_back(parent);
        }
    });
    for (Oid parent : due) {
        if (steps.should_stop())
            return;
        Premake(steps, parent).run();
    }
}

} // namespace tasker::partition
