#include "partition/move_source.hpp"

#include "partition/directory.hpp"
#include "partition/set_failure.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// Rows that one look by key finds; what is not reached in the time is looked for again.
constexpr int kKeysAtOnce = 5'000;

constexpr int kLockTries = 12;

AttrNumber control_column(Oid table, const SetConfig &config)
{
    return pg::pg_call([&] { return get_attnum(table, NameStr(config.control_name)); });
}

const char *quoted_table(Oid table)
{
    return pg::pg_call([&] {
        return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table));
    });
}

int64_t end_of_batch(const SetConfig &config, const Interval &interval, int64_t key)
{
    const ControlKind kind = config.control.kind;
    const int64_t us = std::max<int64_t>(pg::interval_us(interval), 1);
    const int64_t from = unix_us_of_key(kind, key);
    int64_t until = 0;
    if (__builtin_add_overflow(from, us, &until))
        return PG_INT64_MAX;
    return std::max(key_of_unix_us(kind, until), key + 1);
}

// The next rows in the order of their keys, up to the end of the range; a range without rows is passed over.
void look_by_key(Reader *reader, const SetConfig &config, Oid table)
{
    const char *control = pg::pg_call([&] { return quote_identifier(NameStr(config.control_name)); });
    const bool from_start = reader->at.key == PG_INT64_MIN;
    const char *from = from_start ? "" : bound_literal(config.control, reader->at.key);
    const char *sql = pg::pg_call([&] {
        return psprintf("select ctid, %s from only %s where %s %s%s order by 2 limit %d", control,
                        quoted_table(table), control, from_start ? "is not null" : ">= ", from, kKeysAtOnce);
    });
    if (reader->at.key == PG_INT64_MAX)
        return;
    MemoryContext memory = CurrentMemoryContext;
    pg::Spi spi(pg::Spi::Identity::caller);
    const pg::Rows rows = spi.read_text_under(sql, GetActiveSnapshot());
    reader->tids =
        static_cast<ItemPointer>(MemoryContextAlloc(memory, sizeof(ItemPointerData) * (rows.count() + 1)));
    reader->keys = static_cast<int64_t *>(MemoryContextAlloc(memory, sizeof(int64_t) * (rows.count() + 1)));
    for (uint64 i = 0; i < rows.count(); i++) {
        const int64_t key = key_of_datum(config.control.type, rows.datum(i, 2));
        if (i == 0 && key >= reader->at.range_end)
            reader->at.range_end = end_of_batch(config, reader->at.interval, key);
        if (key >= reader->at.range_end)
            break;
        reader->tids[reader->count] = *reinterpret_cast<ItemPointer>(DatumGetPointer(rows.datum(i, 1)));
        reader->keys[reader->count++] = key;
    }
}

bool read_by_key(Reader *reader)
{
    while (reader->index < reader->count) {
        if (table_tuple_fetch_row_version(reader->table, &reader->tids[reader->index], GetActiveSnapshot(),
                                          reader->row))
            return true;
        reader->index++;
    }
    return false;
}

// Rows of one key may be more than one look finds. Those of them that stay are left to a later pass.
void place_by_key(Reader *reader, ReaderPosition *position)
{
    if (reader->index < reader->count)
        position->key = reader->keys[reader->index];
    else if (reader->count < kKeysAtOnce)
        position->key = reader->at.range_end;
    else
        position->key =
            reader->keys[reader->count - 1] + (reader->keys[0] == reader->keys[reader->count - 1] ? 1 : 0);
    position->range_end = reader->at.range_end;
}

} // namespace

ReaderPosition first_position(const std::optional<Interval> &batch, int64_t block)
{
    ReaderPosition position{};
    position.block = static_cast<BlockNumber>(block);
    position.offset = FirstOffsetNumber;
    if (batch) {
        position.by_key = true;
        position.key = position.range_end = PG_INT64_MIN;
        position.interval = *batch;
    }
    return position;
}

Reader *open_reader(Oid table, const SetConfig &config, const ReaderPosition *position)
{
    Reader *reader = pg::pg_call([&] {
        auto *fresh = static_cast<Reader *>(palloc0(sizeof(Reader)));
        fresh->at = *position;
        fresh->table = table_open(table, RowExclusiveLock);
        fresh->row = table_slot_create(fresh->table, nullptr);
        if (!position->by_key) {
            ItemPointerData from;
            ItemPointerData to;
            ItemPointerSet(&from, position->block, position->offset);
            ItemPointerSet(&to, MaxBlockNumber, MaxOffsetNumber);
            fresh->scan = table_beginscan_tidrange(fresh->table, GetActiveSnapshot(), &from, &to);
        }
        return fresh;
    });
    if (position->by_key)
        look_by_key(reader, config, table);
    return reader;
}

bool read_row(Reader *reader)
{
    if (reader->at.by_key)
        return read_by_key(reader);
    if (!table_scan_getnextslot_tidrange(reader->scan, ForwardScanDirection, reader->row))
        return false;
    reader->at.block = ItemPointerGetBlockNumber(&reader->row->tts_tid);
    reader->at.offset = ItemPointerGetOffsetNumber(&reader->row->tts_tid);
    return true;
}

bool is_at_end(const Reader *reader)
{
    return !reader->at.by_key || reader->count == 0;
}

void pass_row(Reader *reader)
{
    if (reader->at.by_key)
        reader->index++;
    else
        reader->at.offset++;
}

void close_reader(Reader *reader, ReaderPosition *position)
{
    if (reader->at.by_key)
        place_by_key(reader, position);
    else
        *position = reader->at;
    if (reader->scan != nullptr)
        table_endscan(reader->scan);
    ExecDropSingleTupleTableSlot(reader->row);
    table_close(reader->table, NoLock);
}

Placement open_placement(const SetConfig &config, Oid source)
{
    Placement placement{};
    placement.partitioned = true;
    placement.parent = config.parent;
    placement.control = config.control;
    placement.column = control_column(source, config);
    placement.valid = valid_keys(config.control);
    placement.has_default = pg::pg_call([&] { return OidIsValid(get_default_partition_oid(config.parent)); });
    return placement;
}

Place place_row(const Placement *placement, TupleTableSlot *row, int64_t *key)
{
    if (!placement->partitioned)
        return Place::there;
    const Place elsewhere = placement->has_default ? Place::there : Place::none;
    bool null = false;
    Datum value = slot_getattr(row, placement->column, &null);
    if (null)
        return elsewhere;
    *key = key_of_datum(placement->control.type, value);
    if (OidIsValid(find_partition(placement->parent, *key)))
        return Place::there;
    return *key >= placement->valid.lower && *key < placement->valid.upper ? Place::missing : elsewhere;
}

// A partitioned source is read from its oldest partition on; what its DEFAULT partition has comes last.
void list_source_tables(Oid source, pg::Vector<SourceTable> &list)
{
    list.clear();
    const bool partitioned =
        pg::pg_call([&] { return get_rel_relkind(source) == RELKIND_PARTITIONED_TABLE; });
    if (partitioned) {
        for (const DirectoryEntry &entry : directory(source))
            list.push_back({entry.relid, 0});
        if (Oid rest = pg::pg_call([&] { return get_default_partition_oid(source); }); OidIsValid(rest))
            list.push_back({rest, 0});
    } else {
        list.push_back({source, 0});
    }
    for (SourceTable &table : list)
        table.blocks = pg::pg_call([&] {
            Relation relation = table_open(table.relid, AccessShareLock);
            if (relation->rd_rel->relkind != RELKIND_RELATION)
                ereport(
                    ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                    errmsg("partition \"%s\" is not an ordinary table", RelationGetRelationName(relation)));
            const BlockNumber blocks = RelationGetNumberOfBlocks(relation);
            table_close(relation, AccessShareLock);
            return static_cast<int64_t>(blocks);
        });
}

int64_t estimate_left(Oid table, int64_t found, int64_t done, int64_t left)
{
    if (done > 0 && found > 0)
        return static_cast<int64_t>(static_cast<double>(found) / static_cast<double>(done) *
                                    static_cast<double>(left));
    return pg::pg_call([&] {
        Relation relation = table_open(table, AccessShareLock);
        BlockNumber pages = 0;
        double tuples = 0;
        double visible = 0;
        table_relation_estimate_size(relation, nullptr, &pages, &tuples, &visible);
        table_close(relation, AccessShareLock);
        return pages == 0 ? 0 : static_cast<int64_t>(tuples / pages * static_cast<double>(left));
    });
}

void pause_move(int64_t us)
{
    for (TimestampTz until = GetCurrentTimestamp() + us; GetCurrentTimestamp() < until;) {
        pg::check_for_interrupts();
        const int64_t ms = (until - GetCurrentTimestamp() + 999) / 1000;
        (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
                        static_cast<long>(std::clamp<int64_t>(ms, 1, 10'000)), PG_WAIT_EXTENSION);
        ResetLatch(MyLatch);
    }
    pg::check_for_interrupts();
}

void retry_locks(Steps &steps, void (*body)(void *), void *object)
{
    for (int i = 0; i < kLockTries; i++) {
        std::optional<pg::CaughtError> error;
        LockTimeoutScope limit(patience_ms(i / 3));
        steps.transaction([&] { error = pg::try_in_subtransaction([&] { body(object); }); });
        if (!error)
            return;
        if (!is_lock_failure(*error))
            break;
        pause_move(10'000 << std::min(i, 7));
    }
    // Thrown as it comes.
    LockTimeoutScope limit(patience_ms(kLockTries / 3));
    steps.transaction([&] { body(object); });
}

bool BatchCount::add(int64_t rows, bool complete)
{
    in_batch_ += rows;
    if (in_batch_ < options_.batch_rows && !(complete && in_batch_ > 0))
        return true;
    in_batch_ = 0;
    if (options_.max_batches && ++batches_ >= *options_.max_batches)
        return false;
    if (options_.wait_us > 0)
        pause_move(options_.wait_us);
    return true;
}

} // namespace tasker::partition
