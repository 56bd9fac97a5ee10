#include "stream/batch_places.hpp"

#include "pg/memory.hpp"

namespace tasker::stream {
namespace {

constexpr size_t kMostKept = 1 << 22; // events, 16 bytes each
constexpr size_t kFirstCapacity = 256;

// What this backend has noted last.
struct Kept
{
    int64_t batch_id;
    Oid files[kTables]; // which files the tables were, as a VACUUM FULL moves rows
    EventPlace *places;
    size_t count;
    LogRelation *logs;
    size_t log_count;
};

Kept kept{};
MemoryContext kept_memory = nullptr;

void read_files(const Queue &queue, Oid (&files)[kTables])
{
    pg::pg_call([&] {
        for (int i = 0; i < kTables; i++) {
            Relation heap = try_relation_open(queue.tables[i], AccessShareLock);
            files[i] = heap != nullptr ? heap->rd_rel->relfilenode : InvalidOid;
            if (heap != nullptr)
                relation_close(heap, NoLock);
        }
    });
}

bool are_unmoved(std::span<const LogRelation> logs)
{
    return pg::pg_call([&] {
        return std::all_of(logs.begin(), logs.end(), [](const LogRelation &log) {
            Relation heap = try_relation_open(log.table, AccessShareLock);
            const bool unmoved = heap != nullptr && heap->rd_rel->relfilenode == log.file;
            if (heap != nullptr)
                relation_close(heap, NoLock);
            return unmoved;
        });
    });
}

class PlaceCollector final : public EventSink
{
  public:
    explicit PlaceCollector(const Queue &queue) : queue_(queue) {}

    bool take(TupleTableSlot *slot) override
    {
        if (count_ == capacity_)
            grow();
        uint16 table = 0;
        while (table < kTables - 1 && queue_.tables[table] != slot->tts_tableOid)
            table++;
        places_[count_++] = {DatumGetInt64(slot->tts_values[kEvId - 1]), slot->tts_tid, table};
        return true;
    }

    std::span<EventPlace> places() { return {places_, count_}; }

    void add(std::span<const EventPlace> more)
    {
        while (count_ + more.size() > capacity_)
            grow();
        std::copy(more.begin(), more.end(), places_ + count_);
        count_ += more.size();
    }

  private:
    void grow()
    {
        capacity_ = std::max(2 * capacity_, kFirstCapacity);
        const Size bytes = sizeof(EventPlace) * capacity_;
        places_ =
            static_cast<EventPlace *>(places_ == nullptr ? palloc(bytes) : repalloc_huge(places_, bytes));
    }

    const Queue &queue_;
    EventPlace *places_ = nullptr;
    size_t count_ = 0;
    size_t capacity_ = 0;
};

bool is_before(const EventPlace &a, const EventPlace &b)
{
    if (a.ev_id != b.ev_id)
        return a.ev_id < b.ev_id;
    if (a.table != b.table)
        return a.table < b.table;
    return ItemPointerCompare(const_cast<ItemPointer>(&a.tid), const_cast<ItemPointer>(&b.tid)) < 0;
}

bool has_smaller_id(const EventPlace &place, int64_t id)
{
    return place.ev_id < id;
}

void keep(int64_t batch_id, const Oid (&files)[kTables], std::span<const EventPlace> places,
          std::span<const LogRelation> logs)
{
    kept.batch_id = 0;
    pg::pg_call([&] {
        if (kept_memory == nullptr)
            kept_memory =
                AllocSetContextCreate(TopMemoryContext, "tasker batch places", ALLOCSET_DEFAULT_SIZES);
        else
            MemoryContextReset(kept_memory);
        kept.places = static_cast<EventPlace *>(
            MemoryContextAllocHuge(kept_memory, sizeof(EventPlace) * std::max<size_t>(places.size(), 1)));
        kept.logs = static_cast<LogRelation *>(
            MemoryContextAlloc(kept_memory, sizeof(LogRelation) * std::max<size_t>(logs.size(), 1)));
    });
    std::copy(places.begin(), places.end(), kept.places);
    std::copy(logs.begin(), logs.end(), kept.logs);
    std::copy(std::begin(files), std::end(files), kept.files);
    kept.count = places.size();
    kept.log_count = logs.size();
    kept.batch_id = batch_id;
}

// Plain C inside: may ereport.
class Fetcher
{
  public:
    Fetcher(const Queue &queue, LogReader *logs) : queue_(queue), logs_(logs) {}

    bool fetch(const EventPlace &place, EventSink &sink)
    {
        if (place.table >= kTables)
            return logs_->fetch(place, sink);
        if (heaps_[place.table] == nullptr)
            open(place.table);
        TupleTableSlot *slot = slots_[place.table];
        ItemPointerData tid = place.tid;
        if (!table_tuple_fetch_row_version(heaps_[place.table], &tid, GetActiveSnapshot(), slot))
            return true; // somebody has deleted it
        slot_getsomeattrs(slot, kEvColumns);
        return DatumGetInt64(slot->tts_values[kEvId - 1]) != place.ev_id || sink.take(slot);
    }

    void close()
    {
        for (int i = 0; i < kTables; i++) {
            if (heaps_[i] == nullptr)
                continue;
            ExecDropSingleTupleTableSlot(slots_[i]);
            table_close(heaps_[i], NoLock);
        }
    }

  private:
    void open(int table)
    {
        heaps_[table] = table_open(queue_.tables[table], AccessShareLock);
        slots_[table] = table_slot_create(heaps_[table], nullptr);
    }

    const Queue &queue_;
    LogReader *logs_;
    Relation heaps_[kTables] = {};
    TupleTableSlot *slots_[kTables] = {};
};

} // namespace

namespace {

// What a LogReader has found, in memory that outlives it.
std::span<const LogRelation> copy(std::span<const LogRelation> logs)
{
    auto *copied = static_cast<LogRelation *>(
        pg::pg_call([&] { return palloc(sizeof(LogRelation) * (logs.size() + 1)); }));
    std::copy(logs.begin(), logs.end(), copied);
    return {copied, logs.size()};
}

std::span<const LogRelation> collect_logs(const BatchPlan &plan, PlaceCollector &collector)
{
    LogReader reader(plan.queue);
    const std::span<const EventPlace> found = reader.collect(plan);
    pg::pg_call([&] { collector.add(found); });
    return copy(reader.relations());
}

} // namespace

BatchPlaces::BatchPlaces(const Subscription &batch) : plan_(plan_of(batch))
{
    Oid files[kTables];
    read_files(plan_.queue, files);
    if (kept.batch_id == *batch.batch && std::equal(std::begin(files), std::end(files), kept.files) &&
        are_unmoved({kept.logs, kept.log_count})) {
        all_ = {kept.places, kept.count};
        logs_ = {kept.logs, kept.log_count};
        return;
    }
    BatchPlan everything = plan_;
    everything.queue.ttl_us = 0;
    PlaceCollector collector(plan_.queue);
    read_event_tables(everything, collector);
    if (plan_.queue.has_log)
        logs_ = collect_logs(plan_, collector);
    const std::span<EventPlace> places = collector.places();
    std::sort(places.begin(), places.end(), is_before);
    all_ = places;
    if (places.size() <= kMostKept) {
        keep(*batch.batch, files, places, logs_);
        all_ = {kept.places, kept.count};
        logs_ = {kept.logs, kept.log_count};
    }
}

size_t BatchPlaces::after(int64_t id) const
{
    const auto first = std::upper_bound(all_.begin(), all_.end(), id,
                                        [](int64_t i, const EventPlace &place) { return i < place.ev_id; });
    return static_cast<size_t>(first - all_.begin());
}

std::span<const EventPlace> BatchPlaces::with_id(int64_t id) const
{
    const auto first = std::lower_bound(all_.begin(), all_.end(), id, has_smaller_id);
    const auto begin = static_cast<size_t>(first - all_.begin());
    return all_.subspan(begin, after(id) - begin);
}

void BatchPlaces::fetch(std::span<const EventPlace> places, EventSink &sink) const
{
    std::optional<LogReader> logs;
    if (std::any_of(places.begin(), places.end(), [](const EventPlace &p) { return p.table >= kTables; })) {
        logs.emplace(plan_.queue);
        logs->set_relations(logs_);
    }
    pg::pg_call([&] {
        Fetcher fetcher(plan_.queue, logs ? &*logs : nullptr);
        PushActiveSnapshot(GetLatestSnapshot());
        for (const EventPlace &place : places) {
            CHECK_FOR_INTERRUPTS();
            if (!fetcher.fetch(place, sink))
                break;
        }
        fetcher.close();
        PopActiveSnapshot();
    });
}

NewEvent copy_event(TupleTableSlot *slot, AttrNumber first_column)
{
    const int offset = first_column - kEvId;
    slot_getsomeattrs(slot, kEvColumns + offset);
    const Datum *values = slot->tts_values + offset;
    const bool *nulls = slot->tts_isnull + offset;
    NewEvent event{};
    event.id = DatumGetInt64(values[kEvId - 1]);
    event.time = DatumGetTimestampTz(values[kEvTime - 1]);
    event.txid = DatumGetInt64(values[kEvTxid - 1]);
    if (!nulls[kEvOwner - 1])
        event.owner = DatumGetInt32(values[kEvOwner - 1]);
    if (!nulls[kEvRetry - 1])
        event.retry = DatumGetInt32(values[kEvRetry - 1]);
    for (int i = 0; i < kTextColumns; i++) {
        event.null[i] = nulls[kEvType - 1 + i];
        if (!event.null[i]) // also out of the TOAST table
            event.text[i] = PointerGetDatum(PG_DETOAST_DATUM_COPY(values[kEvType - 1 + i]));
    }
    return event;
}

} // namespace tasker::stream
