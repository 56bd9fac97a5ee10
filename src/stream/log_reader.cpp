#include "stream/log_reader.hpp"

#include "stream/index.hpp"
#include "stream/restore.hpp"

extern "C" {
#include "catalog/pg_inherits.h"
}

namespace tasker::stream {

List *tables_of_log(Oid log)
{
    if (get_rel_relkind(log) != RELKIND_PARTITIONED_TABLE)
        return list_make1_oid(log);
    List *tables = NIL;
    List *children = find_inheritance_children_extended(log, false, NoLock, nullptr, nullptr);
    ListCell *cell = nullptr;
    foreach (cell, children)
        tables = list_concat(tables, tables_of_log(lfirst_oid(cell)));
    list_free(children);
    return tables;
}

AttrNumber txid_column_of(Relation table, const char *name)
{
    const AttrNumber column = get_attnum(RelationGetRelid(table), name);
    if (column == InvalidAttrNumber)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_COLUMN),
                errmsg("column \"%s\" of log \"%s\" does not exist", name, RelationGetRelationName(table)));
    if (TupleDescAttr(RelationGetDescr(table), column - 1)->atttypid != INT8OID)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("column \"%s\" of log \"%s\" must be of type bigint", name,
                       RelationGetRelationName(table)));
    return column;
}

int64_t last_log_id(Oid table, const char *txid_column)
{
    Relation heap = try_relation_open(table, AccessShareLock);
    if (heap == nullptr)
        return 0;
    const AttrNumber column = txid_column_of(heap, txid_column);
    Relation index = open_index_on(heap, column, AccessShareLock);
    Snapshot latest = RegisterSnapshot(GetLatestSnapshot());
    ScanKeyData key;
    int64_t last = 0;
    ScanKeyInit(&key, 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(kAfterRestore));
    TupleTableSlot *slot = table_slot_create(heap, nullptr);
    IndexScanDesc scan = tasker_index_beginscan(heap, index, latest, 1);
    index_rescan(scan, &key, 1, nullptr, 0);
    if (index_getnext_slot(scan, BackwardScanDirection, slot)) {
        bool null = false;
        last = DatumGetInt64(slot_getattr(slot, column, &null));
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    UnregisterSnapshot(latest);
    index_close(index, AccessShareLock);
    table_close(heap, AccessShareLock);
    return last;
}

struct LogReader::Open
{
    Relation heap; // null: it has gone
    TupleTableSlot *slot;
    TupleConversionMap *conversion;
};

namespace {

// A row of the batch.
struct Row
{
    int64_t txid;
    int64_t order;
    ItemPointerData tid;
    uint16 relation; // of LogReader::relations()
};

// Plain C: may ereport.
class Rows
{
  public:
    void add(const Row &row)
    {
        if (count_ == capacity_) {
            capacity_ = std::max<size_t>(2 * capacity_, 256);
            const Size bytes = sizeof(Row) * capacity_;
            rows_ = static_cast<Row *>(rows_ == nullptr ? palloc(bytes) : repalloc_huge(rows_, bytes));
        }
        rows_[count_++] = row;
    }
    std::span<Row> all() { return {rows_, count_}; }
    size_t count() const { return count_; }

  private:
    Row *rows_ = nullptr;
    size_t count_ = 0;
    size_t capacity_ = 0;
};

// Which transaction ids a batch looks for.
struct Wanted
{
    core::XidRange range;
    std::span<const uint64_t> single; // in descending order, before the range

    uint64_t lowest() const { return single.empty() ? range.from : single.back(); }
    bool nothing() const { return range.from >= range.to && single.empty(); }
};

// The index on the log ids of one table.
class IdScan
{
  public:
    IdScan(Relation heap, Relation index, Snapshot snapshot)
        : scan_(tasker_index_beginscan(heap, index, snapshot, 2))
    {
    }

    void look_for(core::XidRange range)
    {
        ScanKeyData keys[2];
        ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE,
                    Int64GetDatum(static_cast<int64_t>(range.from)));
        ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_INT8LT,
                    Int64GetDatum(static_cast<int64_t>(range.to)));
        index_rescan(scan_, keys, 2, nullptr, 0);
    }
    bool has_any() { return index_getnext_tid(scan_, ForwardScanDirection) != nullptr; }
    bool next(TupleTableSlot *slot) { return index_getnext_slot(scan_, ForwardScanDirection, slot); }
    void close() { index_endscan(scan_); }

  private:
    IndexScanDesc scan_;
};

const char *full_name(Oid table)
{
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table));
}

} // namespace

LogReader::LogReader(const Queue &queue, TimestampTz oldest)
    : queue_(queue), oldest_(oldest), logs_(logs_of(queue.queue_id)), mappings_(&memory_),
      relations_(&memory_), open_(&memory_)
{
    mappings_.resize(logs_.size(), nullptr);
    for (const LogTable &log : logs_) {
        const Oid owner = pg::pg_call([&] {
            HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(log.table));
            if (!HeapTupleIsValid(row))
                ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("a log of queue \"%s\" does not exist", queue.name),
                        errdetail("The table with OID %u was dropped.", log.table),
                        errhint("tasker.drop_queue() drops the queue."));
            const Oid found = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner;
            ReleaseSysCache(row);
            return found;
        });
        if (log.mapper == nullptr && !scope_)
            scope_.emplace(owner);
    }
}

// While an error unwinds, the abort that it leads to closes everything.
LogReader::~LogReader()
{
    if (std::uncaught_exceptions() > 0)
        return;
    for (Open *open : open_) {
        if (open == nullptr || open->heap == nullptr)
            continue;
        ExecDropSingleTupleTableSlot(open->slot);
        table_close(open->heap, NoLock); // rows that were returned may still be fetched from the TOAST table
    }
    if (event_ != nullptr)
        ExecDropSingleTupleTableSlot(event_);
    for (LogMapping *mapping : mappings_) {
        if (mapping != nullptr)
            mapping->close();
    }
}

LogMapping &LogReader::mapping(uint16 log)
{
    if (mappings_[log] == nullptr)
        mappings_[log] = new (palloc(sizeof(LogMapping))) LogMapping(logs_[log]);
    return *mappings_[log];
}

namespace {

// Finds the rows of a batch. Plain C: may ereport.
class Collector
{
  public:
    Collector(LogReader &reader, const BatchPlan &plan, const Wanted &wanted)
        : reader_(reader), plan_(plan), wanted_(wanted)
    {
    }

    // A table of a log, which stays locked only where it has something.
    void read(Oid table, uint16 log)
    {
        Relation heap = try_relation_open(table, AccessShareLock);
        if (heap == nullptr)
            return;
        const bool found = RelationGetNumberOfBlocks(heap) > 0 && read(heap, log);
        relation_close(heap, found ? NoLock : AccessShareLock);
    }

    std::span<Row> rows() { return rows_.all(); }

  private:
    bool read(Relation heap, uint16 log)
    {
        const AttrNumber column = txid_column_of(heap, reader_.log(log).txid_column);
        Relation index = open_index_on(heap, column, AccessShareLock);
        IdScan scan(heap, index, GetActiveSnapshot());
        const size_t before = rows_.count();
        scan.look_for({wanted_.lowest(), wanted_.range.to});
        if (scan.has_any())
            take_rows(heap, log, column, scan);
        scan.close();
        index_close(index, AccessShareLock);
        if (rows_.count() == before)
            return false;
        reader_.add_relation({RelationGetRelid(heap), heap->rd_rel->relfilenode, log});
        return true;
    }

    void take_rows(Relation heap, uint16 log, AttrNumber column, IdScan &scan)
    {
        LogMapping &mapping = reader_.mapping(log);
        TupleConversionMap *conversion = mapping.conversion_from(heap);
        TupleTableSlot *slot = table_slot_create(heap, nullptr);
        const auto relation = static_cast<uint16>(reader_.relations().size());
        const auto take = [&](core::XidRange range) {
            scan.look_for(range);
            while (scan.next(slot)) {
                CHECK_FOR_INTERRUPTS();
                bool null = false;
                const int64_t txid = DatumGetInt64(slot_getattr(slot, column, &null));
                if (core::is_between(plan_.previous, plan_.current, static_cast<uint64_t>(txid)))
                    rows_.add({txid, mapping.order(slot, conversion), slot->tts_tid, relation});
            }
        };
        take(wanted_.range);
        for (const uint64_t id : wanted_.single)
            take({id, id + 1});
        ExecDropSingleTupleTableSlot(slot);
    }

    LogReader &reader_;
    const BatchPlan &plan_;
    const Wanted &wanted_;
    Rows rows_;
};

// The order of relations: by the number of their log, then by name, which a restore keeps.
uint16 *rank(std::span<const LogRelation> relations)
{
    auto **names = static_cast<const char **>(palloc(sizeof(char *) * (relations.size() + 1)));
    auto *order = static_cast<uint16 *>(palloc(sizeof(uint16) * (relations.size() + 1)));
    auto *ranks = static_cast<uint16 *>(palloc(sizeof(uint16) * (relations.size() + 1)));
    for (size_t i = 0; i < relations.size(); i++) {
        names[i] = full_name(relations[i].table);
        order[i] = static_cast<uint16>(i);
    }
    std::sort(order, order + relations.size(), [&](uint16 a, uint16 b) {
        return relations[a].log != relations[b].log ? relations[a].log < relations[b].log
                                                    : strcmp(names[a], names[b]) < 0;
    });
    for (size_t i = 0; i < relations.size(); i++)
        ranks[order[i]] = static_cast<uint16>(i);
    return ranks;
}

// Gives rows their ids, in whose order they are then.
std::span<EventPlace> number_rows(const Queue &queue, std::span<Row> rows,
                                  std::span<const LogRelation> relations)
{
    const uint16 *ranks = rank(relations);
    auto *places = static_cast<EventPlace *>(
        palloc_extended(sizeof(EventPlace) * std::max<size_t>(rows.size(), 1), MCXT_ALLOC_HUGE));
    std::sort(rows.begin(), rows.end(), [&](const Row &a, const Row &b) {
        if (a.txid != b.txid)
            return a.txid < b.txid;
        if (a.order != b.order)
            return a.order < b.order;
        if (a.relation != b.relation)
            return ranks[a.relation] < ranks[b.relation];
        return ItemPointerCompare(const_cast<ItemPointer>(&a.tid), const_cast<ItemPointer>(&b.tid)) < 0;
    });
    int64_t place = 0;
    for (size_t i = 0; i < rows.size(); i++) {
        place = i > 0 && rows[i].txid == rows[i - 1].txid ? place + 1 : 1;
        if (place >= kLogPlaces)
            ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                    errmsg("transaction " INT64_FORMAT " has written more than " INT64_FORMAT
                           " rows into the logs of queue \"%s\"",
                           rows[i].txid, kLogPlaces - 1, queue.name),
                    errhint("tasker.register_consumer_at() puts a consumer behind it."));
        places[i] = {log_event_id(rows[i].txid, place), rows[i].tid,
                     static_cast<uint16>(kTables + rows[i].relation)};
    }
    return {places, rows.size()};
}

} // namespace

std::span<EventPlace> LogReader::collect(const BatchPlan &plan)
{
    pg::ContextResource memory;
    pg::Vector<uint64_t> single(&memory);
    const core::XidRange range = core::plan_batch(plan.previous, plan.current, kNear, single);
    const Wanted wanted{range, {single.data(), single.size()}};
    if (wanted.nothing())
        return {};
    return pg::pg_call([&] {
        Collector collector(*this, plan, wanted);
        PushActiveSnapshot(GetLatestSnapshot());
        for (size_t log = 0; log < logs_.size(); log++) {
            ListCell *cell = nullptr;
            List *tables = tables_of_log(logs_[log].table);
            foreach (cell, tables)
                collector.read(lfirst_oid(cell), static_cast<uint16>(log));
            list_free(tables);
        }
        PopActiveSnapshot();
        return number_rows(queue_, collector.rows(), relations());
    });
}

void LogReader::set_relations(std::span<const LogRelation> relations)
{
    relations_.assign(relations.begin(), relations.end());
}

LogReader::Open &LogReader::open(uint16 number)
{
    if (open_.size() < relations_.size())
        open_.resize(relations_.size(), nullptr);
    if (open_[number] != nullptr)
        return *open_[number];
    const LogRelation &relation = relations_[number];
    auto *open = static_cast<Open *>(palloc0(sizeof(Open)));
    open->heap = try_relation_open(relation.table, AccessShareLock);
    if (open->heap != nullptr) {
        open->slot = table_slot_create(open->heap, nullptr);
        open->conversion = mapping(relation.log).conversion_from(open->heap);
    }
    open_[number] = open;
    return *open;
}

bool LogReader::fetch(const EventPlace &place, EventSink &sink)
{
    const auto number = static_cast<uint16>(place.table - kTables);
    const Open &from = open(number);
    ItemPointerData tid = place.tid;
    if (from.heap == nullptr ||
        !table_tuple_fetch_row_version(from.heap, &tid, GetActiveSnapshot(), from.slot))
        return true; // somebody has removed it
    const LogEvent &event = mapping(relations_[number].log).map(from.slot, from.conversion);
    if (event.time < oldest_)
        return true;
    if (event_ == nullptr)
        event_ = event_slot();
    ExecClearTuple(event_);
    Datum *values = event_->tts_values;
    bool *nulls = event_->tts_isnull;
    values[kEvId - 1] = Int64GetDatum(place.ev_id);
    values[kEvTime - 1] = TimestampTzGetDatum(event.time);
    values[kEvTxid - 1] = Int64GetDatum(place.ev_id >> kPlaceBits);
    nulls[kEvId - 1] = nulls[kEvTime - 1] = nulls[kEvTxid - 1] = false;
    nulls[kEvOwner - 1] = nulls[kEvRetry - 1] = true;
    std::copy(std::begin(event.text), std::end(event.text), values + kEvType - 1);
    std::copy(std::begin(event.null), std::end(event.null), nulls + kEvType - 1);
    ExecStoreVirtualTuple(event_);
    event_->tts_tid = place.tid;
    return sink.take(event_);
}

TupleTableSlot *LogReader::event_slot()
{
    Relation table = table_open(queue_.tables[0], AccessShareLock);
    TupleDesc columns = CreateTupleDescCopy(RelationGetDescr(table));
    table_close(table, AccessShareLock);
    return MakeSingleTupleTableSlot(columns, &TTSOpsVirtual);
}

void LogReader::fetch(std::span<const EventPlace> places, EventSink &sink)
{
    if (places.empty())
        return;
    pg::pg_call([&] {
        PushActiveSnapshot(GetLatestSnapshot());
        for (const EventPlace &place : places) {
            CHECK_FOR_INTERRUPTS();
            if (!fetch(place, sink))
                break;
        }
        PopActiveSnapshot();
    });
}

} // namespace tasker::stream
