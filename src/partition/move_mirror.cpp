// A change of a row is mirrored by making the target's row, under the key F (see move.hpp), what the source
// has under that key now. For an insert or an update that is the row that the trigger is called for, if it is
// still the newest: a trigger of the user's may have changed it again in the middle of the statement, and
// that change has been mirrored before. For a delete, or for an update that changed F, it is the row that is
// found in the source, mostly none.
#include "partition/move_mirror.hpp"

#include "partition/move_sink.hpp"
#include "partition/move_source.hpp"
#include "partition/owned_set.hpp"
#include "pg/function.hpp"
#include "pg/invalidation.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

// What this backend knows of a source. Kept for good and read again after an invalidation: making and
// dropping the triggers sends one, in the transaction that writes and strikes the book.
struct Mirror
{
    Oid source; // first: the hash table finds it here
    bool valid;
    bool active;
    Oid target;
    Oid owner;           // of the target
    Placement placement; // in the target
    MoveKey key;
};

HTAB *mirrors = nullptr;

void invalidate(Oid relid)
{
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, mirrors);
    while (auto *mirror = static_cast<Mirror *>(hash_seq_search(&scan))) {
        if (relid == InvalidOid || relid == mirror->source || relid == mirror->target)
            mirror->valid = false;
    }
}

pg::RelcacheListener listener(invalidate);

Mirror *find_mirror(Oid source)
{
    if (mirrors == nullptr) {
        HASHCTL control{};
        control.keysize = sizeof(Oid);
        control.entrysize = sizeof(Mirror);
        control.hcxt = TopMemoryContext;
        mirrors = hash_create("tasker mirrors", 8, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
        listener.listen();
    }
    bool found = false;
    auto *mirror = static_cast<Mirror *>(hash_search(mirrors, &source, HASH_ENTER, &found));
    if (!found)
        mirror->valid = mirror->active = false;
    return mirror;
}

// The flag is set first: an invalidation that comes from here on must not be lost.
void load_mirror(Mirror *mirror)
{
    mirror->valid = true;
    try {
        const std::optional<MoveBook> book = read_move(mirror->source);
        mirror->active = book && book->swap;
        if (!mirror->active)
            return;
        mirror->target = book->target;
        mirror->key = choose_key(mirror->source, mirror->target);
        mirror->placement = {};
        const bool partitioned = pg::pg_call([&] {
            HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(mirror->target));
            if (!HeapTupleIsValid(tuple))
                elog(ERROR, "cache lookup failed for relation %u", mirror->target);
            const auto *form = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple));
            const bool result = form->relkind == RELKIND_PARTITIONED_TABLE;
            mirror->owner = form->relowner;
            ReleaseSysCache(tuple);
            return result;
        });
        if (partitioned)
            mirror->placement = open_placement(describe_set(mirror->target), mirror->source);
    } catch (...) {
        mirror->valid = false;
        throw;
    }
}

// The mirror of a table or of the partitioned table that it belongs to; null when there is none.
const Mirror *mirror_of(Relation table)
{
    const Oid source = pg::pg_call([&] {
        return table->rd_rel->relispartition ? llast_oid(get_partition_ancestors(RelationGetRelid(table)))
                                             : RelationGetRelid(table);
    });
    Mirror *mirror = pg::pg_call([&] { return find_mirror(source); });
    if (!mirror->valid)
        load_mirror(mirror);
    return mirror->active ? mirror : nullptr;
}

// Are the rows the same in these columns?
bool same_key(Relation table, const MoveKey &key, TupleTableSlot *a, TupleTableSlot *b)
{
    for (int i = 0; i < key.count; i++) {
        const AttrNumber column = get_attnum(RelationGetRelid(table), NameStr(key.columns[i]));
        const Form_pg_attribute form = TupleDescAttr(RelationGetDescr(table), column - 1);
        bool null_a = false;
        bool null_b = false;
        Datum value_a = slot_getattr(a, column, &null_a);
        Datum value_b = slot_getattr(b, column, &null_b);
        if (null_a || null_b)
            return null_a && null_b;
        if (datumIsEqual(value_a, value_b, form->attbyval, form->attlen))
            continue;
        TypeCacheEntry *type = lookup_type_cache(form->atttypid, TYPECACHE_EQ_OPR_FINFO);
        if (!DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, form->attcollation, value_a, value_b)))
            return false;
    }
    return true;
}

// One change. Plain C but for what makes partitions.
class Change
{
  public:
    Change(const Mirror *mirror, TriggerData *trigger)
        : mirror_(mirror), table_(trigger->tg_relation), updated_(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
    {
        if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event)) {
            new_ = trigger->tg_trigslot;
        } else {
            old_ = trigger->tg_trigslot;
            new_ = updated_ ? trigger->tg_newslot : nullptr;
        }
    }

    // The partition for the new row. Made by the worker, or with this transaction.
    void make_place()
    {
        int64_t key = 0;
        if (new_ != nullptr && place_row(&mirror_->placement, new_, &key) == Place::missing)
            (void)ensure_partition(mirror_->target, key);
    }

    // A row for which there is no partition has no copy.
    void apply()
    {
        Sink *sink = open_sink(mirror_->target, table_, &mirror_->key);
        found_ = table_slot_create(table_, nullptr);
        if (old_ != nullptr && !(updated_ && same_key(table_, mirror_->key, old_, new_)))
            make_equal(sink, old_, look_up(old_));
        if (new_ != nullptr)
            make_equal(sink, new_, is_newest(new_) ? new_ : look_up(new_));
        close_sink(sink);
        ExecDropSingleTupleTableSlot(found_);
        CommandCounterIncrement();
    }

  private:
    bool is_newest(TupleTableSlot *row)
    {
        return table_tuple_fetch_row_version(table_, &row->tts_tid, SnapshotSelf, found_);
    }

    // The row that the source has under the key of `row`.
    TupleTableSlot *look_up(TupleTableSlot *row)
    {
        KeyProbe probe{};
        open_probe(&probe, table_, mirror_->key.source_columns, mirror_->key.source_count);
        TupleTableSlot *result = nullptr;
        if (probe_key(&probe, row) && same_key(table_, mirror_->key, row, probe.found))
            result = ExecCopySlot(found_, probe.found);
        close_probe(&probe);
        return result;
    }

    void make_equal(Sink *sink, TupleTableSlot *key, TupleTableSlot *row)
    {
        int64_t ignored = 0;
        if (row != nullptr)
            put_into_sink(sink, row);
        else if (place_row(&mirror_->placement, key, &ignored) == Place::there)
            remove_from_sink(sink, key);
        else
            return;
        CommandCounterIncrement();
    }

    const Mirror *mirror_;
    Relation table_;
    bool updated_;
    TupleTableSlot *old_ = nullptr;
    TupleTableSlot *new_ = nullptr;
    TupleTableSlot *found_ = nullptr;
};

TriggerData *trigger_data(const pg::Args &args, const char *function, bool row)
{
    const FunctionCallInfo fcinfo = args.call();
    if (!CALLED_AS_TRIGGER(fcinfo))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function %s can only be called as a trigger", function);
    auto *trigger = reinterpret_cast<TriggerData *>(fcinfo->context);
    if (!TRIGGER_FIRED_AFTER(trigger->tg_event) || (TRIGGER_FIRED_FOR_ROW(trigger->tg_event) != 0) != row)
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function %s must be fired AFTER, for each %s", function, row ? "row" : "statement");
    return trigger;
}

void run_on(Oid source, const char *format, const char *trigger)
{
    const char *text = pg::pg_call([&] {
        return psprintf(
            format, quote_identifier(trigger),
            quote_qualified_identifier(get_namespace_name(get_rel_namespace(source)), get_rel_name(source)));
    });
    pg::Spi().run_text(text);
}

} // namespace

// The triggers fire for what a subscription applies, too, and go with the extension.
void create_mirror(Oid source)
{
    run_on(source,
           "create trigger %s after insert or update or delete on %s for each row "
           "execute function tasker._mirror_row()",
           kMirrorTrigger);
    run_on(source,
           "create trigger %s after truncate on %s for each statement "
           "execute function tasker._mirror_truncate()",
           kMirrorTruncateTrigger);
    for (const char *trigger : {kMirrorTrigger, kMirrorTruncateTrigger}) {
        const char *text = pg::pg_call([&] {
            return psprintf("alter table %s enable always trigger %s", quoted_partition(source),
                            quote_identifier(trigger));
        });
        pg::Spi().run_text(text);
        run_on(source, "alter trigger %s on %s depends on extension tasker", trigger);
    }
}

void drop_mirror(Oid source)
{
    run_on(source, "drop trigger if exists %s on %s", kMirrorTrigger);
    run_on(source, "drop trigger if exists %s on %s", kMirrorTruncateTrigger);
}

bool has_mirror(Oid source)
{
    return pg::pg_call([&] { return OidIsValid(get_trigger_oid(source, kMirrorTrigger, true)); });
}

void empty_copy(Oid target, Oid owner)
{
    pg::AsOwner as_owner(owner);
    const char *statement =
        pg::pg_call([&] { return psprintf("truncate table %s", quoted_partition(target)); });
    pg::Spi(pg::Spi::Identity::caller).run_text(statement);
}

} // namespace tasker::partition

using namespace tasker;

TASKER_FUNCTION(mirror_row)
{
    TriggerData *trigger = partition::trigger_data(args, "tasker._mirror_row()", true);
    const partition::Mirror *mirror = partition::mirror_of(trigger->tg_relation);
    if (mirror == nullptr)
        return PointerGetDatum(nullptr);
    partition::Change change(mirror, trigger);
    change.make_place();
    {
        pg::AsOwner owner(mirror->owner);
        pg::pg_call([&] { change.apply(); });
    }
    return PointerGetDatum(nullptr);
}

TASKER_FUNCTION(mirror_truncate)
{
    TriggerData *trigger = partition::trigger_data(args, "tasker._mirror_truncate()", false);
    const partition::Mirror *mirror = partition::mirror_of(trigger->tg_relation);
    if (mirror == nullptr)
        return PointerGetDatum(nullptr);
    partition::empty_copy(mirror->target, mirror->owner);
    return PointerGetDatum(nullptr);
}
