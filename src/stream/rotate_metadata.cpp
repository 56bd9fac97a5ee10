#include "stream/rotate_metadata.hpp"

#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/empty_table.hpp"
#include "stream/event.hpp"
#include "stream/restore.hpp"
#include "stream/slots.hpp"

namespace tasker::stream {
namespace {

// The row of tasker.metadata_rotation.
struct State
{
    int32_t tables[2]; // the active ones
    int64_t rows[2];   // what the last rotation has kept in them
    int64_t deferrals[2];
    const char *held_by;
    bool is_due;
    int64_t period_us;
};

enum Kind
{
    kSubscriptions,
    kTicks
};

// Is there a row beyond those that the last rotation has kept?
#define APPENDED(table)                                                                                      \
    "select from tasker." table " offset $1 limit 1",                                                        \
    {                                                                                                        \
        INT8OID                                                                                              \
    }

pg::Statement appended[2][kTables] = {
    {{APPENDED("subscription_0")}, {APPENDED("subscription_1")}, {APPENDED("subscription_2")}},
    {{APPENDED("tick_0")}, {APPENDED("tick_1")}, {APPENDED("tick_2")}},
};

// Newest versions that are in table a: an index look-up or three for each registration.
#define NEWEST_VERSION(t)                                                                                    \
    "(select * from tasker.subscription_" t " s where s.sub_key = r.sub_key " LAST_VERSION ")"
#define LAST_VERSION "order by s.sub_version desc limit 1"
#define VERSION_IN(t)                                                                                        \
    "coalesce((select s.sub_version from tasker.subscription_" t                                             \
    " s where s.sub_key = r.sub_key " LAST_VERSION "), -1)"
#define WANTED_VERSIONS(a, b, c)                                                                             \
    "select v.* from tasker.registration r cross join lateral " NEWEST_VERSION(                              \
        a) " v "                                                                                             \
           "where v.sub_version > " VERSION_IN(b) " and v.sub_version > " VERSION_IN(c)

// Newest ticks that are in table a.
#define LAST_TICK "order by t.tick_id desc limit 1"
#define NEWEST_TICK(t) "(select * from tasker.tick_" t " t where t.tick_queue = q.queue_id " LAST_TICK ")"
#define TICK_IN(t)                                                                                           \
    "coalesce((select t.tick_id from tasker.tick_" t " t where t.tick_queue = q.queue_id " LAST_TICK "), "   \
    "-1)"
#define WANTED_TICKS(a, b, c)                                                                                \
    "select n.* from tasker.queue q cross join lateral " NEWEST_TICK(                                        \
        a) " n "                                                                                             \
           "where n.tick_id > " TICK_IN(b) " and n.tick_id > " TICK_IN(c)

#define QUERY(text)                                                                                          \
    {                                                                                                        \
        text, {}                                                                                             \
    }

pg::Statement wanted[2][kTables] = {
    {QUERY(WANTED_VERSIONS("0", "1", "2")), QUERY(WANTED_VERSIONS("1", "2", "0")),
     QUERY(WANTED_VERSIONS("2", "0", "1"))},
    {QUERY(WANTED_TICKS("0", "1", "2")), QUERY(WANTED_TICKS("1", "2", "0")),
     QUERY(WANTED_TICKS("2", "0", "1"))},
};

// Moves what is wanted of table a to the one before it, c. What somebody else is deleting stays.
#define MOVE(table, key, a, c, rows)                                                                         \
    QUERY("with wanted as (" rows "), "                                                                      \
          "held as (select t.ctid from tasker." table a " t join wanted using (" key ") "                    \
          "  for no key update of t skip locked), "                                                          \
          "gone as (delete from tasker." table a " t using held where t.ctid = held.ctid returning t.*) "    \
          "insert into tasker." table c " select * from gone")
#define MOVE_VERSIONS(a, b, c) MOVE("subscription_", "sub_key, sub_version", a, c, WANTED_VERSIONS(a, b, c))
#define MOVE_TICKS(a, b, c) MOVE("tick_", "tick_queue, tick_id", a, c, WANTED_TICKS(a, b, c))

pg::Statement move_ahead[2][kTables] = {
    {MOVE_VERSIONS("0", "1", "2"), MOVE_VERSIONS("1", "2", "0"), MOVE_VERSIONS("2", "0", "1")},
    {MOVE_TICKS("0", "1", "2"), MOVE_TICKS("1", "2", "0"), MOVE_TICKS("2", "0", "1")},
};

// A consumer that needs a tick of table a other than those that are kept.
#define NEEDING(a, b, c)                                                                                     \
    "select pg_catalog.format('consumer \"%s\" of queue \"%s\"', co.co_name, q.queue_name) "                 \
    "from tasker.queue q cross join lateral " NEWEST_TICK(                                                   \
        a) " n "                                                                                             \
           "join tasker.subscription s on s.sub_queue = q.queue_id "                                         \
           "join tasker.consumer co on co.co_id = s.sub_consumer "                                           \
           "where s.sub_last_tick < n.tick_id or (s.sub_last_tick = n.tick_id and "                          \
           "  greatest(" TICK_IN(b) ", " TICK_IN(c) ") > n.tick_id) order by s.sub_active limit 1",          \
    {                                                                                                        \
    }

pg::Statement needing[kTables] = {
    {NEEDING("0", "1", "2")}, {NEEDING("1", "2", "0")}, {NEEDING("2", "0", "1")}};

const char *both(const char *first, const char *second)
{
    return pg::pg_call([&] { return psprintf("%s; %s", first, second); });
}

// The lock of both steps.
bool lock_rotation()
{
    return pg::pg_call([] {
        LOCKTAG tag;
        const Oid table = get_relname_relid("metadata_rotation", get_namespace_oid("tasker", false));
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, table, 0, 0);
        return LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
    });
}

std::optional<State> read_state()
{
    static pg::Statement query(
        "select rotation_subscription_table, rotation_tick_table, rotation_subscription_rows, "
        "rotation_tick_rows, rotation_subscription_deferrals, rotation_tick_deferrals, rotation_held_by, "
        "last_step2_txid is not null and rotation_switch_time + period < pg_catalog.now(), period "
        "from tasker.metadata_rotation, "
        "(select pg_catalog.min(queue_metadata_rotation_period) from tasker.queue) q (period) "
        "where period is not null",
        {});
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query);
    if (rows.empty())
        return std::nullopt;
    const std::string_view held_by = rows.text(0, 7);
    return State{
        {rows.i32(0, 1), rows.i32(0, 2)},
        {rows.i64(0, 3), rows.i64(0, 4)},
        {rows.i64(0, 5), rows.i64(0, 6)},
        pg::pg_call([&] { return MemoryContextStrdup(memory, pnstrdup(held_by.data(), held_by.size())); }),
        rows.boolean(0, 8),
        pg::interval_us(*DatumGetIntervalP(rows.datum(0, 9)))};
}

bool is_written_to(const State &state, Kind kind)
{
    pg::Spi spi;
    return !spi.read_latest(appended[kind][state.tables[kind]], {state.rows[kind]}).empty();
}

bool is_needed(const State &state)
{
    return state.is_due && (is_written_to(state, kSubscriptions) || is_written_to(state, kTicks));
}

const char *consumer_that_needs(int32_t tick_table)
{
    const MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(needing[tick_table]);
    if (rows.empty())
        return nullptr;
    const std::string_view name = rows.text(0, 1);
    return pg::pg_call([&] { return MemoryContextStrdup(memory, pnstrdup(name.data(), name.size())); });
}

// A row in memory of its own: what it has in the TOAST table goes with the table.
SlotRow copy_of(const pg::Rows &rows, uint64 row, Kind kind)
{
    constexpr int kColumnsOf[] = {8, 5};
    constexpr int kSnapshot = 3; // of a tick; the only column that is not a plain number
    SlotRow copy{};
    for (int i = 0; i < kSlotColumns; i++) {
        copy.nulls[i] = i >= kColumnsOf[kind] || rows.is_null(row, i + 1);
        if (!copy.nulls[i])
            copy.values[i] = rows.datum(row, i + 1);
    }
    if (kind == kTicks)
        copy.values[kSnapshot] =
            pg::pg_call([&] { return PointerGetDatum(PG_DETOAST_DATUM_COPY(copy.values[kSnapshot])); });
    return copy;
}

// Keeps in memory what is wanted of the locked table, empties it, and puts that back. Returns how many rows.
int64_t empty_but_wanted(Kind kind, int32_t number, Oid table)
{
    pg::ContextResource memory;
    pg::Vector<SlotRow> kept(&memory);
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(wanted[kind][number]);
        const pg::MemoryContextScope scope(memory.context());
        for (uint64 i = 0; i < rows.count(); i++)
            kept.push_back(copy_of(rows, i, kind));
    }
    empty_locked(table);
    for (const SlotRow &row : kept)
        append_row(table, row.values, row.nulls);
    return static_cast<int64_t>(kept.size());
}

// Moves what is wanted of the table to the one before it. Returns how many rows; none when somebody has
// locked the table against writers, who is not waited for.
int64_t move_wanted(Kind kind, int32_t number, Oid table)
{
    if (!pg::pg_call([&] { return ConditionalLockRelationOid(table, RowExclusiveLock); }))
        return 0;
    return static_cast<int64_t>(pg::Spi().run_latest(move_ahead[kind][number]).count());
}

// Locks the target; returns who is in the way, if anybody is.
const char *take_target(const Slots &slots, Kind kind, int32_t target)
{
    // Asked without the lock first: who waits for it makes others wait.
    if (kind == kTicks) {
        pin_subscriptions();
        pin_ticks();
        if (const char *consumer = consumer_that_needs(target))
            return consumer;
    }
    const Oid table = kind == kTicks ? slots.ticks[target] : slots.subscriptions[target];
    if (const char *holder = lock_to_empty(table, Patience::brief))
        return in_words("lock of %s", holder);
    return kind == kTicks ? consumer_that_needs(target) : nullptr;
}

// Rotates one kind and notes it in `state`; returns who is in the way, if anybody is.
const char *rotate(State &state, Kind kind)
{
    const Slots slots = current_slots();
    const int32_t target = (state.tables[kind] + 1) % kTables;
    if (const char *holder = take_target(slots, kind, target)) {
        state.deferrals[kind]++;
        return in_words(kind == kTicks ? "ticks: %s" : "subscriptions: %s", holder);
    }
    const Oid(&tables)[kTables] = kind == kTicks ? slots.ticks : slots.subscriptions;
    state.rows[kind] = empty_but_wanted(kind, target, tables[target]);
    state.rows[kind] += move_wanted(kind, (target + 1) % kTables, tables[(target + 1) % kTables]);
    state.tables[kind] = target;
    state.deferrals[kind] = 0;
    return nullptr;
}

void write_state(const State &state, bool rotated, const char *held_by)
{
    static pg::Statement update(
        "update tasker.metadata_rotation set rotation_subscription_table = $1, rotation_tick_table = $2, "
        "rotation_subscription_rows = $3, rotation_tick_rows = $4, rotation_subscription_deferrals = $5, "
        "rotation_tick_deferrals = $6, rotation_held_by = $7, "
        "rotation_switch_time = case when $8 then pg_catalog.now() else rotation_switch_time end, "
        "last_step2_txid = case when $8 then null else last_step2_txid end, "
        "rotation_txid = case when $8 then $9 else rotation_txid end",
        {INT4OID, INT4OID, INT8OID, INT8OID, INT8OID, INT8OID, TEXTOID, BOOLOID, INT8OID});
    pg::Spi().run_latest(
        update, {state.tables[kSubscriptions], state.tables[kTicks], state.rows[kSubscriptions],
                 state.rows[kTicks], state.deferrals[kSubscriptions], state.deferrals[kTicks],
                 held_by == nullptr ? pg::Param::none() : pg::Param(held_by), rotated, current_txid()});
}

// When this process last wrote a deferral, so that it need not write a row to know it.
TimestampTz counted_at = 0;

bool is_news(const State &state, const State &before, const char *held_by)
{
    const int64_t since = GetCurrentTimestamp() - counted_at;
    const bool is_first = (state.deferrals[kSubscriptions] > 0 && before.deferrals[kSubscriptions] == 0) ||
                          (state.deferrals[kTicks] > 0 && before.deferrals[kTicks] == 0);
    return is_first || since >= before.period_us ||
           (strcmp(held_by, before.held_by) != 0 && since >= kHoldersUs);
}

} // namespace

Rotation rotate_metadata(Counting counting)
{
    std::optional<State> state = read_state();
    if (!state || awaits_restore() || !is_needed(*state) || !lock_rotation())
        return Rotation::not_due;
    state = read_state(); // another one may have rotated before the lock was to be had
    if (!state || !is_needed(*state))
        return Rotation::not_due;
    const State before = *state;
    const char *held_by = nullptr;
    for (const Kind kind : {kSubscriptions, kTicks}) {
        if (!is_written_to(before, kind))
            continue;
        if (const char *holder = rotate(*state, kind))
            held_by = held_by == nullptr ? holder : both(held_by, holder);
    }
    const bool rotated = !std::equal(std::begin(before.tables), std::end(before.tables), state->tables);
    if (!rotated && counting == Counting::when_new && !is_news(*state, before, held_by))
        return Rotation::deferred;
    write_state(*state, rotated, held_by);
    counted_at = GetCurrentTimestamp();
    return rotated ? Rotation::done : Rotation::deferred;
}

bool metadata_rotation_is_due()
{
    const std::optional<State> state = read_state();
    return state && is_needed(*state);
}

bool finish_metadata_rotation()
{
    static pg::Statement query("select from tasker.metadata_rotation where last_step2_txid is null", {});
    static pg::Statement update("update tasker.metadata_rotation set last_step2_txid = $1 "
                                "where last_step2_txid is null and rotation_txid <> $2",
                                {INT8OID, INT8OID});
    if (awaits_restore() || pg::Spi().read_latest(query).empty() || !lock_rotation())
        return false;
    const int64_t own = pg::pg_call(
        [] { return static_cast<int64_t>(U64FromFullTransactionId(GetTopFullTransactionIdIfAny())); });
    const auto last = static_cast<int64_t>(U64FromFullTransactionId(ReadNextFullTransactionId())) - 1;
    return pg::Spi().run_latest(update, {last, own}).count() == 1;
}

} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// maint_rotate_metadata(): 1 when something was rotated.
TASKER_FUNCTION(maint_rotate_metadata)
{
    PreventCommandIfReadOnly("tasker.maint_rotate_metadata()");
    return args.result(int32_t{rotate_metadata(Counting::always) == Rotation::done});
}

// maint_rotate_metadata_step2(): 1 when a rotation was waiting for it.
TASKER_FUNCTION(maint_rotate_metadata_step2)
{
    PreventCommandIfReadOnly("tasker.maint_rotate_metadata_step2()");
    return args.result(int32_t{finish_metadata_rotation()});
}
