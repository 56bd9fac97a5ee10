// Premake: the partitions of now and of the near future exist before anybody needs them.
#include "partition/create.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr const char *kDuty = "premake";

int64_t key_of_now()
{
    return core::record_id_floor(pg::unix_us_of_timestamp(GetCurrentTimestamp()));
}

// Counts the partitions from now on, up to `wanted`, by following the bounds: an interval that was changed
// does not matter. `missing` is the first key without one, when there are fewer.
int count_ahead(Oid parent, int wanted, int64_t *missing)
{
    int64_t key = key_of_now();
    for (int i = 0; i < wanted; i++) {
        const std::optional<DirectoryEntry> entry = find_entry(parent, key);
        if (!entry) {
            *missing = key;
            return i;
        }
        if (entry->upper == core::kInt64Max)
            return wanted; // the end of time
        key = entry->upper;
    }
    return wanted;
}

void premake_set(Oid parent)
{
    const std::optional<SetConfig> config = read_set(parent);
    if (!config)
        return;
    int64_t missing = 0;
    while (count_ahead(parent, config->premake + 1, &missing) <= config->premake) {
        create_partition_for(parent, missing);
        pg::check_for_interrupts();
    }
    note_maintenance(parent);
}

// A set whose settings cannot even be read is due too: its own transaction then finds and notes the error.
bool is_due(Oid parent)
{
    int64_t missing = 0;
    bool due = false;
    const auto error = pg::try_in_subtransaction([&] {
        const std::optional<SetConfig> config = read_set(parent);
        due = config && count_ahead(parent, config->premake + 1, &missing) <= config->premake;
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
