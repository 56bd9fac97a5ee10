#include "queue/flow.hpp"

#include "pg/function.hpp"
#include "pg/named_rows.hpp"
#include "pg/settings.hpp"
#include "pg/spi.hpp"
#include "queue/shared_state.hpp"

namespace tasker::queue {
namespace {

pg::NamedRows<Flow, &Flow::flow_id> flows("flow");

#define SELECT_FLOW                                                                                          \
    "select flow_id, flow_name, max_attempts, lease, backoff_base, backoff_max, backoff_jitter, "            \
    "coalesce(max_in_flight, 0), coalesce(rate_limit, 0), retention, paused, notify from tasker.flow "

Flow flow_of_row(const pg::Rows &rows)
{
    Flow flow{};
    std::string_view name = rows.text(0, 2);
    flow.flow_id = rows.i32(0, 1);
    memcpy(flow.name, name.data(), std::min<size_t>(name.size(), kMaxFlowNameBytes));
    flow.max_attempts = rows.i32(0, 3);
    flow.lease_us = pg::interval_us(*DatumGetIntervalP(rows.datum(0, 4)));
    flow.backoff = {pg::interval_us(*DatumGetIntervalP(rows.datum(0, 5))),
                    pg::interval_us(*DatumGetIntervalP(rows.datum(0, 6))), DatumGetFloat8(rows.datum(0, 7))};
    flow.max_in_flight = rows.i32(0, 8);
    flow.rate_limit = DatumGetFloat8(rows.datum(0, 9));
    flow.retention_us = pg::interval_us(*DatumGetIntervalP(rows.datum(0, 10)));
    flow.paused = rows.boolean(0, 11);
    flow.notify = rows.boolean(0, 12);
    return flow;
}

std::optional<Flow> cached(std::string_view name)
{
    const Flow *flow = flows.find(name);
    return flow != nullptr ? std::optional(*flow) : std::nullopt;
}

std::optional<Flow> read_flow(std::string_view name)
{
    static pg::Statement by_flow_name(SELECT_FLOW "where flow_name = $1", {TEXTOID});
    flows.begin();
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(by_flow_name, {name});
    if (rows.empty())
        return std::nullopt;
    Flow flow = flow_of_row(rows);
    flows.keep(flow);
    return flow;
}

[[noreturn]] void unknown_flow(std::string_view name)
{
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "flow \"%.*s\" does not exist", static_cast<int>(name.size()),
                    name.data())
        .hint("Create it with tasker.create_flow().");
}

// Whoever adds records to a flow shares a lock with the others who do, to the end of the transaction; who
// drops it takes the lock alone. Else a record could be added to a flow that is being dropped, by a
// transaction that does not see the other one yet, and nothing would ever reach it. One lock serves several
// flows: a transaction that adds to thousands of flows must not fill the lock table.
constexpr int32_t kFlowLocks = 64;

void lock_flow(int32_t flow_id, LOCKMODE mode)
{
    pg::pg_call([&] {
        LOCKTAG tag;
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, flows.watch().oid(), static_cast<Oid>(flow_id % kFlowLocks), 0);
        (void)LockAcquire(&tag, mode, false, false);
    });
}

Flow find_or_create(std::string_view name)
{
    static pg::Statement create("insert into tasker.flow (flow_name) values ($1) on conflict do nothing",
                                {TEXTOID});

    if (auto flow = cached(name))
        return *flow;
    if (auto flow = read_flow(name))
        return *flow;
    if (!pg::settings::auto_create_flows)
        unknown_flow(name);
    {
        pg::Spi spi;
        spi.run(create, {name});
    }
    if (auto flow = read_flow(name))
        return *flow;
    unknown_flow(name);
}

} // namespace

Flow flow_named(std::string_view name)
{
    if (auto flow = cached(name))
        return *flow;
    if (auto flow = read_flow(name))
        return *flow;
    unknown_flow(name);
}

void forget_cached_flows()
{
    flows.watch().forget();
}

Flow flow_for_enqueue(std::string_view name)
{
    for (;;) {
        const Flow flow = find_or_create(name);
        lock_flow(flow.flow_id, AccessShareLock);
        // Where the lock had to be waited for, the flow may be gone.
        const Flow held = find_or_create(name);
        if (held.flow_id == flow.flow_id)
            return held;
    }
}

Flow flow_for_enqueue(int32_t flow_id)
{
    if (flow_with_id(flow_id)) {
        lock_flow(flow_id, AccessShareLock);
        // Where the lock had to be waited for, the flow may be gone.
        if (std::optional<Flow> flow = flow_with_id(flow_id))
            return *flow;
    }
    throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "flow %d does not exist", flow_id)
        .hint("It was dropped, and the handlers of its steps with it.");
}

Flow flow_for_drop(std::string_view name)
{
    for (;;) {
        const Flow flow = flow_named(name);
        lock_flow(flow.flow_id, AccessExclusiveLock);
        const Flow held = flow_named(name);
        if (held.flow_id == flow.flow_id)
            return held;
    }
}

std::optional<Flow> flow_with_id(int32_t flow_id)
{
    static pg::Statement by_flow_id(SELECT_FLOW "where flow_id = $1", {INT4OID});
    if (const Flow *flow = flows.find(flow_id))
        return *flow;
    flows.begin();
    pg::Spi spi;
    pg::Rows rows = spi.read_latest(by_flow_id, {flow_id});
    if (rows.empty())
        return std::nullopt;
    Flow flow = flow_of_row(rows);
    flows.keep(flow);
    return flow;
}

} // namespace tasker::queue
