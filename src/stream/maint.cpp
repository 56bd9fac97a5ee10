#include "stream/maint.hpp"

#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"
#include "stream/rotate_events.hpp"
#include "stream/rotate_metadata.hpp"
#include "stream/tick.hpp"

namespace tasker::stream {

namespace {

// The first error of a round, in memory that outlives its transactions.
struct Failure
{
    int sqlstate = 0;
    const char *message = nullptr;

    void note(const pg::CaughtError &error, MemoryContext memory)
    {
        if (message != nullptr)
            return;
        sqlstate = error.sqlstate();
        message = pg::pg_call([&] { return MemoryContextStrdup(memory, error.message()); });
    }
};

} // namespace

// A queue that fails does not stop the others; the round fails at its end, with the first error.
void run_event_rotation_round(partition::Steps &steps)
{
    pg::ContextResource memory;
    pg::Vector<int32_t> queues(&memory);
    Failure failure;
    steps.transaction([&] { list_due_rotations(queues); });
    for (const int32_t queue_id : queues) {
        if (steps.should_stop())
            break;
        steps.transaction([&] {
            if (const std::optional<pg::CaughtError> error =
                    pg::try_in_subtransaction([&] { rotate_events(queue_id, Counting::when_new); }))
                failure.note(*error, memory.context());
        });
    }
    if (failure.message != nullptr)
        throw pg::Error(failure.sqlstate, "%s", failure.message);
}

void run_event_step2_round(partition::Steps &steps)
{
    pg::ContextResource memory;
    pg::Vector<int32_t> finished(&memory);
    steps.transaction([&] { finish_event_rotations(finished); });
    for (const int32_t queue_id : finished) {
        steps.transaction([&] {
            const std::optional<Queue> queue = queue_with_id(queue_id);
            if (!queue || queue->external_ticker || queue->ticker_paused)
                return;
            lock_ticks(queue_id);
            make_tick(*queue, sequence_value(queue->event_sequence));
        });
    }
}

void run_metadata_rotation_round(partition::Steps &steps)
{
    steps.transaction([] { rotate_metadata(Counting::when_new); });
}

void run_metadata_step2_round(partition::Steps &steps)
{
    steps.transaction([] { finish_metadata_rotation(); });
}

namespace {

constexpr const char *kStep1 = "tasker.maint_rotate_tables_step1";
constexpr const char *kStep2 = "tasker.maint_rotate_tables_step2";
constexpr const char *kMetadata = "tasker.maint_rotate_metadata";
constexpr const char *kMetadataStep2 = "tasker.maint_rotate_metadata_step2";
constexpr const char *kRetry = "tasker.maint_retry_events";
constexpr const char *kVacuum = "vacuum";

struct Operation
{
    const char *function;
    const char *argument; // or null
};
using Operations = pg::Vector<Operation>;

const char *text_of(const pg::Rows &rows, uint64 row, int column, MemoryContext memory)
{
    const std::string_view text = rows.text(row, column);
    return pg::pg_call([&] { return MemoryContextStrdup(memory, pnstrdup(text.data(), text.size())); });
}

// One operation for each row: a function and its argument, or the argument only.
void add_rows(Operations &operations, pg::Statement &query, const char *function, MemoryContext memory)
{
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    for (uint64 i = 0; i < rows.count(); i++) {
        const char *argument = text_of(rows, i, 1, memory);
        operations.push_back({function != nullptr ? function : text_of(rows, i, 2, memory), argument});
    }
}

bool has_rows(pg::Statement &query)
{
    return !pg::Spi().read_latest(query).empty();
}

pg::Statement tables_to_vacuum("select t from pg_catalog.unnest(array['tasker.consumer', 'tasker.queue', "
                               "'tasker.registration', 'tasker.metadata_rotation', 'tasker.retry_queue']) t "
                               "where pg_catalog.current_setting('autovacuum') <> 'on'",
                               {});

// PgQ's order: rotation, both steps, then what a queue has on top, and vacuum.
void list_operations(Operations &operations, MemoryContext memory)
{
    static pg::Statement due(
        "select queue_name from tasker.queue where queue_switch_step2 is not null and "
        "queue_switch_time + queue_rotation_period < pg_catalog.now() order by queue_name",
        {});
    static pg::Statement pending("select from tasker.queue where queue_switch_step2 is null limit 1", {});
    static pg::Statement metadata_pending(
        "select from tasker.metadata_rotation where last_step2_txid is null", {});
    static pg::Statement retries(
        "select from tasker.retry_queue where ev_retry_after <= pg_catalog.now() limit 1", {});
    static pg::Statement extra("select q.queue_name, f.name from tasker.queue q, "
                               "pg_catalog.unnest(q.queue_extra_maint) with ordinality f (name, position) "
                               "order by q.queue_name, f.position",
                               {});
    add_rows(operations, due, kStep1, memory);
    if (!operations.empty() || has_rows(pending))
        operations.push_back({kStep2, nullptr});
    const bool metadata = metadata_rotation_is_due();
    if (metadata)
        operations.push_back({kMetadata, nullptr});
    if (metadata || has_rows(metadata_pending))
        operations.push_back({kMetadataStep2, nullptr});
    if (has_rows(retries))
        operations.push_back({kRetry, nullptr});
    add_rows(operations, extra, nullptr, memory);
    add_rows(operations, tables_to_vacuum, kVacuum, memory);
}

// With the caller's rights: who may name a function for a queue must not get the extension's.
void run_function(const Operation &operation)
{
    static pg::Statement find("select p.oid::regproc::text from pg_catalog.pg_proc p "
                              "where p.oid = pg_catalog.to_regprocedure($1 || case when $2 then '(text)' "
                              "else '()' end)",
                              {TEXTOID, BOOLOID});
    const char *sql = nullptr;
    pg::Spi spi(pg::Spi::Identity::caller);
    const pg::Rows rows = spi.run(find, {operation.function, operation.argument != nullptr});
    if (rows.empty())
        throw pg::Error(ERRCODE_UNDEFINED_FUNCTION, "function %s(%s) does not exist", operation.function,
                        operation.argument != nullptr ? "text" : "");
    const char *name = text_of(rows, 0, 1, CurrentMemoryContext);
    sql = pg::pg_call([&] {
        return psprintf("select %s(%s)", name,
                        operation.argument != nullptr ? quote_literal_cstr(operation.argument) : "");
    });
    spi.run_text(sql);
}

bool is_step2(const Operation &operation)
{
    return operation.function == kStep2 || operation.function == kMetadataStep2;
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// maint_operations()
TASKER_FUNCTION(maint_operations)
{
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    Operations operations(&memory);
    list_operations(operations, memory.context());
    for (const Operation &operation : operations) {
        const pg::Param argument =
            operation.argument != nullptr ? pg::Param(operation.argument) : pg::Param::none();
        const Datum values[2] = {pg::Param(operation.function).value, argument.value};
        const bool nulls[2] = {false, argument.null};
        result.add(values, nulls);
    }
    return 0;
}

// maint_tables_to_vacuum()
TASKER_FUNCTION(maint_tables_to_vacuum)
{
    pg::ResultSet result(args.call());
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(tables_to_vacuum);
    for (uint64 i = 0; i < rows.count(); i++) {
        const Datum value = rows.datum(i, 1);
        const bool null = false;
        result.add(&value, &null);
    }
    return 0;
}

// maint(): runs all operations but those that need a transaction of their own, each apart from the others.
TASKER_FUNCTION(maint)
{
    pg::ContextResource memory;
    Operations operations(&memory);
    int32_t done = 0;
    list_operations(operations, memory.context());
    for (const Operation &operation : operations) {
        if (is_step2(operation) || operation.function == kVacuum)
            continue;
        if (const std::optional<pg::CaughtError> error =
                pg::try_in_subtransaction([&] { run_function(operation); }))
            error->emit(WARNING);
        else
            done++;
    }
    return args.result(done);
}
