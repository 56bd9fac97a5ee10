// What the ticker does, and how often it may.
#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/wake_area.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace {

constexpr int kColumns = 7;

struct QueueTicks
{
    int32_t queue_id;
    bool dirty;
    bool wanted;
    uint32 waiting;
    uint64 ticks;
    uint64 last_tick_us;
    uint64 failures;
};

QueueTicks read(QueueWake &queue)
{
    return {queue.key.queue_id,
            pg_atomic_read_u32(&queue.dirty) != static_cast<uint32>(Dirty::clean),
            pg_atomic_read_u32(&queue.wanted) != 0,
            pg_atomic_read_u32(&queue.waiting),
            pg_atomic_read_u64(&queue.ticks),
            pg_atomic_read_u64(&queue.last_tick_us),
            pg_atomic_read_u64(&queue.failures)};
}

} // namespace

// _queue_ticks()
TASKER_FUNCTION(queue_ticks)
{
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    pg::Vector<QueueTicks> queues(&memory);
    visit_queues([&](QueueWake &queue) { queues.push_back(read(queue)); });
    for (const QueueTicks &queue : queues) {
        const auto last = static_cast<int64_t>(queue.last_tick_us);
        const Datum values[kColumns] = {Int32GetDatum(queue.queue_id),
                                        BoolGetDatum(queue.dirty),
                                        BoolGetDatum(queue.wanted),
                                        Int32GetDatum(static_cast<int32>(queue.waiting)),
                                        Int64GetDatum(static_cast<int64>(queue.ticks)),
                                        TimestampTzGetDatum(pg::timestamp_of_unix_us(last)),
                                        Int64GetDatum(static_cast<int64>(queue.failures))};
        const bool nulls[kColumns] = {false, false, false, false, false, last == 0, false};
        result.add(values, nulls);
    }
    return args.null();
}

// set_tick_period_ms(ms): what it is from now on. A trigger of the table tells the ticker.
TASKER_FUNCTION(set_tick_period_ms)
{
    static pg::Statement set("insert into tasker.ticker_config (tick_period_ms) values ($1) "
                             "on conflict (config_id) do update set tick_period_ms = excluded.tick_period_ms",
                             {INT4OID});
    static pg::Statement reset("delete from tasker.ticker_config", {});
    constexpr int32_t kLongest = 3'600'000;
    const std::optional<int32_t> period = args.optional_i32(0);
    pg::Spi spi;
    if (!period) {
        spi.run_latest(reset);
        return args.null();
    }
    if (*period < 1 || *period > kLongest)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "a tick period of %d milliseconds is out of range",
                        *period)
            .hint("It is between 1 and %d.", kLongest);
    spi.run_latest(set, {*period});
    return args.result(*period);
}
