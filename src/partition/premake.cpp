#include "partition/premake.hpp"

#include "partition/bounds.hpp"
#include "partition/create.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr const char *kDuty = "premake";

// The first key ahead without a partition, when fewer than wanted follow the one of now. The bounds are
// followed: an interval that was changed does not matter.
std::optional<int64_t> missing_key(const SetConfig &config)
{
    const std::optional<int64_t> current = current_key(config);
    if (!current)
        return 0; // a set of numbers that has lost all its partitions begins anew
    int64_t key = *current;
    for (int i = 0; i <= config.premake; i++) {
        const std::optional<DirectoryEntry> entry = find_entry(config.parent, key);
        if (!entry)
            return key;
        if (entry->upper >= valid_keys(config.control).upper)
            return std::nullopt; // the end of the type
        key = entry->upper;
    }
    return std::nullopt;
}

} // namespace

void premake_set(Oid parent)
{
    const std::optional<SetConfig> config = read_set(parent);
    if (!config)
        return;
    while (const std::optional<int64_t> missing = missing_key(*config)) {
        create_partition_for(parent, *missing);
        pg::check_for_interrupts();
    }
    note_maintenance(parent);
}

namespace {

// A set whose settings cannot even be read is due too: its own transaction then finds and notes the error.
bool is_due(Oid parent)
{
    bool due = false;
    const auto error = pg::try_in_subtransaction([&] {
        const std::optional<SetConfig> config = read_set(parent);
        due = config && missing_key(*config).has_value();
    });
    return due || error.has_value();
}

} // namespace

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
            if (is_due(parent))
                due.push_back(parent);
        }
    });
    for (Oid parent : due) {
        if (steps.should_stop())
            return;
        steps.transaction([&] { isolate(steps, parent, kDuty, [&] { premake_set(parent); }); });
    }
}

} // namespace tasker::partition
