// What the views over the instances need besides the tables: words for states, times and ids, and where a log
// ends.
#include "workflow/read.hpp"

namespace tasker::workflow {

TASKER_FUNCTION(task_state_word)
{
    return state_word(static_cast<core::TaskState>(DatumGetChar(args.datum(0))));
}

TASKER_FUNCTION(step_state_word)
{
    return state_word(static_cast<core::StepState>(DatumGetChar(args.datum(0))));
}

TASKER_FUNCTION(uuid_time)
{
    const int64_t unix_us = core::unix_ms_of(uuid_of(args.datum(0))) * 1000;
    return TimestampTzGetDatum(pg::timestamp_of_unix_us(unix_us));
}

// Times that no uuid can carry become the lowest and the highest uuid, so that a comparison is right for
// them, too.
TASKER_FUNCTION(uuid_at)
{
    const int64_t unix_us = pg::unix_us_of_timestamp(DatumGetTimestampTz(args.datum(0)));
    core::Uuid uuid{};
    if (unix_us / 1000 > core::kMaxUnixMs)
        uuid.bytes.fill(0xff);
    else if (unix_us > 0) {
        const int64_t unix_ms = unix_us / 1000;
        for (unsigned i = 0; i < 6; i++)
            uuid.bytes[i] = static_cast<uint8_t>(unix_ms >> (40 - 8 * i));
    }
    return datum_of(uuid);
}

TASKER_FUNCTION(last_task_transition)
{
    Instances instances;
    begin_reading(instances);
    pg::DirectTable *table = find_task(instances, uuid_of(args.datum(0)));
    const Datum last =
        table == nullptr ? args.null() : Int32GetDatum(task_head(table->read_slot).last_transition);
    end_instances(instances);
    return last;
}

TASKER_FUNCTION(last_step_transition)
{
    Instances instances;
    begin_reading(instances);
    pg::DirectTable *table = find_step(instances, uuid_of(args.datum(0)));
    const Datum last =
        table == nullptr ? args.null() : Int32GetDatum(step_head(table->read_slot).last_transition);
    end_instances(instances);
    return last;
}

} // namespace tasker::workflow
