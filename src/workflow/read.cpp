#include "workflow/read.hpp"

#include "pg/spi.hpp"

namespace tasker::workflow {
namespace {

// Names of the templates' steps. They belong to rows that never change, so nothing has to be dropped; when
// there are very many, all are forgotten and read again.
struct NamedStep
{
    core::Uuid uuid;
    text *name;
};
HTAB *named_steps = nullptr;
MemoryContext named_steps_memory = nullptr;
constexpr int64_t kMaxNamedSteps = 200'000;

void make_named_steps()
{
    if (named_steps != nullptr && hash_get_num_entries(named_steps) < kMaxNamedSteps)
        return;
    if (named_steps_memory != nullptr)
        MemoryContextReset(named_steps_memory);
    else
        named_steps_memory =
            AllocSetContextCreate(TopMemoryContext, "tasker names of steps", ALLOCSET_DEFAULT_SIZES);
    named_steps = nullptr; // it went with the memory
    HASHCTL control{};
    control.keysize = sizeof(core::Uuid);
    control.entrysize = sizeof(NamedStep);
    control.hcxt = named_steps_memory;
    named_steps = hash_create("tasker names of steps", 128, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void keep_name(const core::Uuid &uuid, Datum name)
{
    // The copy first: an entry whose name could not be copied must not stay.
    MemoryContext outer = MemoryContextSwitchTo(named_steps_memory);
    auto *copy = reinterpret_cast<text *>(DatumGetPointer(datumCopy(name, false, -1)));
    MemoryContextSwitchTo(outer);
    bool found = false;
    static_cast<NamedStep *>(hash_search(named_steps, &uuid, HASH_ENTER, &found))->name = copy;
}

// Reads the names of all steps of the template that this one belongs to.
void read_names(const core::Uuid &named_step_uuid)
{
    static pg::Statement names(
        "select s.named_step_uuid, s.name from tasker.named_steps o join tasker.named_steps s "
        "using (named_task_uuid) where o.named_step_uuid = $1",
        {UUIDOID});
    pg::Spi spi;
    pg::Rows rows = spi.run(names, {pg::Param::of_datum(key_datum(named_step_uuid))});
    pg::pg_call([&] {
        make_named_steps();
        for (uint64 i = 0; i < rows.count(); i++)
            keep_name(uuid_of(rows.datum(i, 1)), rows.datum(i, 2));
    });
}

NamedStep *find_name(const core::Uuid &uuid)
{
    if (named_steps == nullptr)
        return nullptr;
    return static_cast<NamedStep *>(hash_search(named_steps, &uuid, HASH_FIND, nullptr));
}

} // namespace

void begin_reading(Instances &instances)
{
    instances.mode = AccessShareLock;
    instances.now = GetCurrentTimestamp();
    PushActiveSnapshot(GetActiveSnapshot());
}

core::Uuid uuid_argument(const pg::Args &args, int i, const char *name)
{
    if (args.is_null(i))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be null", name);
    return uuid_of(args.datum(i));
}

std::span<core::Uuid> sorted_uuids(std::span<const Datum> values)
{
    auto *uuids = static_cast<core::Uuid *>(
        palloc_extended(sizeof(core::Uuid) * std::max<size_t>(values.size(), 1), MCXT_ALLOC_HUGE));
    for (size_t i = 0; i < values.size(); i++)
        uuids[i] = uuid_of(values[i]);
    std::sort(uuids, uuids + values.size());
    const core::Uuid *end = std::unique(uuids, uuids + values.size());
    return {uuids, static_cast<size_t>(end - uuids)};
}

Datum named_step_name(const core::Uuid &named_step_uuid)
{
    NamedStep *kept = find_name(named_step_uuid);
    if (kept == nullptr) {
        read_names(named_step_uuid);
        kept = find_name(named_step_uuid);
    }
    return kept == nullptr ? 0 : PointerGetDatum(kept->name);
}

Datum step_name(TupleTableSlot *slot)
{
    slot_getsomeattrs(slot, kStepName);
    if (!is_null(slot, kStepName))
        return value_of(slot, kStepName);
    return named_step_name(uuid_of(value_of(slot, kStepNamedStep)));
}

StepTally tally_steps(Instances &instances, const core::Uuid &task)
{
    StepTally tally{};
    for_each_step(instances, task, [&](TupleTableSlot *slot) {
        const StepHead step = step_head(slot);
        const int state = core::state_index(step.state);
        tally.total++;
        if (state >= 0)
            tally.by_state[state]++;
        else
            tally.unknown++;
        tally.ready += is_ready(step, instances.now) ? 1 : 0;
    });
    return tally;
}

} // namespace tasker::workflow
