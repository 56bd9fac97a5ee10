#include "partition/parent.hpp"

#include "partition/bounds.hpp"
#include "partition/create.hpp"
#include "partition/locks.hpp"
#include "partition/premake.hpp"
#include "partition/retirement.hpp"
#include "partition/sets.hpp"
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "pg/subtransaction.hpp"

extern "C" {
#include "access/tableam.h"
#include "catalog/dependency.h"
#include "commands/defrem.h"
#include "utils/partcache.h"
}

namespace tasker::partition {
namespace {

// Partitions that one call makes. Each keeps its locks to the end of the transaction, and the parent's bounds
// are read anew for each, so that time and memory grow with the square of their number.
constexpr int kMostAtOnce = 2'000;
constexpr int kGapsNamed = 3;

// What the catalogs say about a table that shall become a set.
struct ParentFacts
{
    NameData name;
    char kind;
    char persistence;
    bool of_extension; // it is a plane's own
    char strategy;     // of partitioning
    int columns;       // of the partition key
    AttrNumber column; // 0 for an expression
    NameData column_name;
    Oid column_type;
    bool default_order; // the key sorts as its type does
    Oid default_partition;
    Oid partitioned_child;  // a partition that is partitioned itself
    bool bounds_in_one_key; // two bounds that differ have the same key
    bool has_pending;       // a detach that is not complete
};

// Plain C inside: may ereport.
void read_key(Relation relation, ParentFacts *facts)
{
    PartitionKey key = RelationGetPartitionKey(relation);
    facts->strategy = get_partition_strategy(key);
    facts->columns = get_partition_natts(key);
    facts->column = get_partition_col_attnum(key, 0);
    facts->column_type = get_partition_col_typid(key, 0);
    if (facts->column > 0)
        facts->column_name = TupleDescAttr(RelationGetDescr(relation), facts->column - 1)->attname;
    facts->default_order =
        key->partopfamily[0] ==
        get_opclass_family(GetDefaultOpClass(getBaseType(facts->column_type), BTREE_AM_OID));
}

// Plain C inside: may ereport.
void read_partitions(Relation relation, ParentFacts *facts)
{
    PartitionDesc descriptor = RelationGetPartitionDesc(relation, false);
    PartitionBoundInfo bounds = descriptor->boundinfo;

    facts->default_partition = get_default_oid_from_partdesc(descriptor);
    facts->has_pending = descriptor->detached_exist;
    for (int i = 0; i < descriptor->nparts; i++) {
        if (!descriptor->is_leaf[i])
            facts->partitioned_child = descriptor->oids[i];
    }
    if (descriptor->nparts == 0 || getBaseType(facts->column_type) != UUIDOID)
        return;
    for (int i = 1; i < bounds->ndatums; i++) {
        if (bounds->kind[i - 1][0] == PARTITION_RANGE_DATUM_VALUE &&
            bounds->kind[i][0] == PARTITION_RANGE_DATUM_VALUE &&
            key_of_datum(UUIDOID, bounds->datums[i - 1][0]) == key_of_datum(UUIDOID, bounds->datums[i][0]))
            facts->bounds_in_one_key = true;
    }
}

// Locks the table against being dropped or changed to the end of the transaction. Plain C inside: may
// ereport.
ParentFacts read_facts(Oid parent)
{
    ParentFacts facts{};
    Relation relation = relation_open(parent, AccessShareLock);
    facts.name = relation->rd_rel->relname;
    facts.kind = relation->rd_rel->relkind;
    facts.persistence = relation->rd_rel->relpersistence;
    facts.of_extension =
        getExtensionOfObject(RelationRelationId, parent) == get_extension_oid("tasker", false);
    if (facts.kind == RELKIND_PARTITIONED_TABLE) {
        read_key(relation, &facts);
        if (facts.strategy == PARTITION_STRATEGY_RANGE && facts.columns == 1)
            read_partitions(relation, &facts);
    }
    relation_close(relation, NoLock);
    return facts;
}

[[noreturn]] void refuse(const ParentFacts &facts, const char *why)
{
    throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "table \"%s\" cannot be a partition set",
                    NameStr(facts.name))
        .detail("%s", why);
}

void check_table(const ParentFacts &facts)
{
    if (facts.kind != RELKIND_PARTITIONED_TABLE)
        throw pg::Error(ERRCODE_WRONG_OBJECT_TYPE, "table \"%s\" is not partitioned", NameStr(facts.name))
            .hint("tasker.create_partitioned_table_like() makes a partitioned table of the same shape.");
    if (facts.of_extension)
        refuse(facts, "It belongs to Tasker, which opens its own sets by their first use.");
    if (facts.persistence == RELPERSISTENCE_TEMP)
        refuse(facts, "It is temporary: nobody else can maintain it.");
    if (facts.strategy != PARTITION_STRATEGY_RANGE)
        refuse(facts, "It is not partitioned by range.");
    if (facts.columns != 1)
        refuse(facts, "It is partitioned by more than one column.");
    if (facts.column <= 0)
        refuse(facts, "It is partitioned by an expression; a set is partitioned by a column itself.");
    if (!is_control_type(facts.column_type))
        refuse(facts,
               "A set is partitioned by a smallint, integer, bigint, date, timestamp, timestamptz or uuid.");
    if (!facts.default_order)
        refuse(facts, "Its partition key does not sort as the column's type does.");
    if (OidIsValid(facts.partitioned_child))
        refuse(facts, "Its partitions are partitioned themselves. Manage those as sets of their own.");
    if (facts.bounds_in_one_key)
        refuse(facts, "Two bounds of its partitions lie within the same millisecond.");
}

void check_control(const ParentFacts &facts, std::string_view control)
{
    if (control == NameStr(facts.column_name))
        return;
    throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "table \"%s\" is partitioned by \"%s\", not by \"%.*s\"",
                    NameStr(facts.name), NameStr(facts.column_name), static_cast<int>(control.size()),
                    control.data());
}

void check_request(const ParentRequest &request, ControlKind kind)
{
    NameData schema;
    if (has_time(kind))
        check_interval(kind, parse_partition_interval(request.interval));
    else
        (void)parse_partition_step(request.interval);
    if (request.premake < 0 || request.premake > 1000)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "premake must be from 0 to 1000, not %d",
                        request.premake);
    if (request.retention && !is_retention(*request.retention))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE,
                        "retention must not be negative, nor longer than 4,000 years");
    if (request.retention && !has_time(kind))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "a set of numbers has no retention by time")
            .hint("tasker.alter_parent(parent, 'retention', '1000000') keeps that many numbers behind the "
                  "current partition.");
    (void)parse_retention_action(request.retention_action, &schema);
    (void)parse_timezone(request.timezone);
}

void insert_set(const ParentRequest &request, ControlKind kind)
{
    static pg::Statement insert(
        "insert into tasker.part_config (parent, control, control_kind, partition_interval, premake, "
        "retention, retention_action, timezone, opened_in) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
        "on conflict do nothing",
        {OIDOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, INTERVALOID, TEXTOID, TEXTOID, TEXTOID});
    Interval retention = request.retention.value_or(Interval{});
    const pg::Param retention_param =
        request.retention ? pg::Param(IntervalPGetDatum(&retention), false, INTERVALOID) : pg::Param::none();
    uint64 inserted = 0;
    {
        pg::Spi spi;
        inserted = spi.run(insert, {request.parent, request.control, name_of(kind), request.interval,
                                    static_cast<int32_t>(request.premake), retention_param,
                                    request.retention_action, request.timezone, here()})
                       .count();
    }
    if (inserted == 0)
        throw pg::Error(ERRCODE_DUPLICATE_OBJECT, "table \"%s\" is a partition set already",
                        pg::pg_call([&] { return get_rel_name(request.parent); }))
            .hint("tasker.alter_parent() changes its settings.");
}

// Counted before the first one is made.
void check_count(const SetConfig &config, int64_t from, int64_t current)
{
    int64_t key = from;
    for (int count = 0; key <= current; count++) {
        if (count == kMostAtOnce)
            throw pg::Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "more than %d partitions from \"%s\" on",
                            kMostAtOnce, key_text(config.control, from))
                .hint("Choose a longer interval or a later start.");
        key = aligned_range(config, key).upper;
    }
}

// What making one partition allocates is freed before the next: there may be thousands of them.
void make_one(const SetConfig &config, int64_t key)
{
    pg::OwnedContext memory("tasker partition");
    pg::MemoryContextScope scope(memory.get());
    create_partition_for(config.parent, key);
}

// Makes what is missing from `from` up to the current partition.
void make_from(const SetConfig &config, int64_t from)
{
    const std::optional<int64_t> current = current_key(config);
    check_count(config, from, current.value_or(from));
    int64_t key = from;
    while (!current || key <= *current) {
        if (!find_entry(config.parent, key))
            make_one(config, key);
        const std::optional<DirectoryEntry> entry = find_entry(config.parent, key);
        if (!current || !entry || entry->upper >= valid_keys(config.control).upper)
            return;
        key = entry->upper;
        pg::check_for_interrupts();
    }
}

// What a partition needs may be out of reach for now: rows of its range are in the DEFAULT partition, or the
// detach of a partition with that range is not complete.
bool may_be_made_later(const pg::CaughtError &error)
{
    return error.sqlstate() == ERRCODE_CHECK_VIOLATION || error.sqlstate() == ERRCODE_OBJECT_IN_USE;
}

void note_unmade(const SetConfig &config, int64_t key, const pg::CaughtError &error)
{
    if (!may_be_made_later(error)) {
        pg::Error again(error.sqlstate(), "%s", error.message());
        if (error.detail() != nullptr)
            again.detail("%s", error.detail());
        if (error.hint() != nullptr)
            again.hint("%s", error.hint());
        throw again;
    }
    const char *text = key_text(config.control, key);
    pg::pg_call([&] {
        ereport(WARNING,
                errmsg("the partition of \"%s\" that holds %s cannot be made yet",
                       NameStr(config.parent_name), text),
                errdetail_internal("%s", error.message()), errhint("Maintenance tries again."));
    });
}

// Makes the partitions of now and ahead; one that has to wait is left to maintenance.
void make_ahead(const SetConfig &config, const ParentFacts &facts)
{
    pg::ContextResource memory;
    pg::Vector<int64_t> keys(&memory);
    add_missing_keys(config, current_key(config), keys);
    for (const int64_t key : keys) {
        pg::check_for_interrupts();
        if (!facts.has_pending && !OidIsValid(facts.default_partition)) {
            make_one(config, key);
            continue;
        }
        const auto error = pg::try_in_subtransaction([&] { make_one(config, key); });
        if (error)
            note_unmade(config, key, *error);
    }
    note_maintenance(config.parent);
}

// What lies ahead of now is filled as time goes on.
void warn_of_gaps(const SetConfig &config)
{
    int gaps = 0;
    std::optional<int64_t> end;
    pg::ContextResource memory;
    pg::Vector<core::NumberRange> named(&memory);
    const int64_t current = current_key(config).value_or(core::kInt64Max);
    for (const DirectoryEntry &entry : directory(config.parent)) {
        if (end && *end < entry.lower && *end < current && gaps++ < kGapsNamed)
            named.push_back({*end, entry.lower});
        end = entry.upper;
    }
    for (const core::NumberRange &gap : named) {
        const char *lower = key_text(config.control, gap.lower);
        const char *upper = key_text(config.control, gap.upper);
        pg::pg_call([&] {
            ereport(WARNING,
                    errmsg("partitioned table \"%s\" has a gap from %s to %s", NameStr(config.parent_name),
                           lower, upper),
                    errhint("tasker.create_partition() fills it."));
        });
    }
    if (gaps > kGapsNamed)
        pg::pg_call([&] {
            ereport(WARNING,
                    errmsg("partitioned table \"%s\" has %d gaps in all", NameStr(config.parent_name), gaps));
        });
}

// The rows themselves are looked at, not a query's result: nobody's policies, rules or functions run with our
// rights. Of a foreign table we do not know. Plain C inside: may ereport.
bool has_rows(Oid relid)
{
    Relation relation = table_open(relid, AccessShareLock);
    bool found = false;
    if (relation->rd_rel->relkind == RELKIND_RELATION) {
        Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
        TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
        TupleTableSlot *slot = table_slot_create(relation, nullptr);
        found = table_scan_getnextslot(scan, ForwardScanDirection, slot);
        ExecDropSingleTupleTableSlot(slot);
        table_endscan(scan);
        UnregisterSnapshot(snapshot);
    }
    table_close(relation, AccessShareLock);
    return found;
}

void warn_of_default(const SetConfig &config, Oid default_partition)
{
    if (!OidIsValid(default_partition))
        return;
    const bool rows = pg::pg_call([&] { return has_rows(default_partition); });
    pg::pg_call([&] {
        ereport(
            WARNING,
            errmsg("partitioned table \"%s\" has a DEFAULT partition%s", NameStr(config.parent_name),
                   rows ? " with rows in it" : ""),
            errdetail(
                "While it is there, partitions cannot be detached concurrently, and each new one has to "
                "scan it."),
            errhint("tasker.check_default() counts its rows; tasker.partition_data_proc() moves them out."));
    });
}

// Does a row of pg_partman's configuration name the table? It names tables as schema.table, without quotes.
// Read like has_rows(). Plain C inside: may ereport.
bool partman_manages(Oid config_table, const char *table)
{
    const AttrNumber column = get_attnum(config_table, "parent_table");
    if (column <= 0 || get_atttype(config_table, column) != TEXTOID)
        return false;
    Relation relation = table_open(config_table, AccessShareLock);
    Snapshot snapshot = RegisterSnapshot(GetLatestSnapshot());
    TableScanDesc scan = table_beginscan(relation, snapshot, 0, nullptr);
    TupleTableSlot *slot = table_slot_create(relation, nullptr);
    bool found = false;
    while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot)) {
        bool null = false;
        const Datum value = slot_getattr(slot, column, &null);
        found = !null && strcmp(TextDatumGetCString(value), table) == 0;
    }
    ExecDropSingleTupleTableSlot(slot);
    table_endscan(scan);
    UnregisterSnapshot(snapshot);
    table_close(relation, AccessShareLock);
    return found;
}

// Two managers would make the same partitions, and each drop what the other keeps.
void warn_of_partman(const SetConfig &config)
{
    static pg::Statement find(
        "select k.oid, pg_catalog.format('%I.part_config', n.nspname) from pg_catalog.pg_extension e "
        "join pg_catalog.pg_namespace n on n.oid = e.extnamespace "
        "join pg_catalog.pg_class k on k.relnamespace = n.oid and k.relname = 'part_config' "
        "where e.extname = 'pg_partman' and k.relkind = 'r'",
        {});
    pg::Spi spi;
    const pg::Rows rows = spi.run(find);
    if (rows.empty())
        return;
    const Oid config_table = rows.oid(0, 1);
    const std::string_view config_name = rows.text(0, 2);
    if (!pg::pg_call([&] {
            return partman_manages(config_table, psprintf("%s.%s", get_namespace_name(config.schema),
                                                          NameStr(config.parent_name)));
        }))
        return;
    pg::pg_call([&] {
        ereport(
            WARNING, errmsg("pg_partman manages partitioned table \"%s\" too", NameStr(config.parent_name)),
            errhint("Delete its row from %.*s.", static_cast<int>(config_name.size()), config_name.data()));
    });
}

} // namespace

void check_ownership(Oid relid)
{
    pg::pg_call([&] {
        if (get_rel_name(relid) == nullptr)
            ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE),
                    errmsg("relation with OID %u does not exist", relid));
        if (!tasker_is_owner(RelationRelationId, relid, GetUserId()))
            aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)),
                           get_rel_name(relid));
    });
}

void read_request(const pg::Args &args, int first, ParentRequest *request)
{
    if (args.is_null(first))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"control\" must not be null");
    request->control = NameStr(*DatumGetName(args.datum(first)));
    request->interval = args.text(first + 1, "partition_interval");
    request->premake = args.i32(first + 2, "premake");
    if (!args.is_null(first + 3))
        request->retention = *DatumGetIntervalP(args.datum(first + 3));
    request->retention_action = args.text(first + 4, "retention_action");
    request->start_at = args.optional_text(first + 5);
    request->timezone = args.text(first + 6, "timezone");
}

void manage_parent(const ParentRequest &request)
{
    check_ownership(request.parent);
    const ParentFacts facts = pg::pg_call([&] { return read_facts(request.parent); });
    check_table(facts);
    check_control(facts, request.control);
    // A bigint holds record ids when the interval is one of time.
    const ControlKind kind =
        pg::pg_call([&] { return kind_of_type(facts.column_type, !is_number(request.interval)); });
    check_request(request, kind);

    pg::pg_call([&] { lock_for_transaction(request.parent, LockKind::creation, ExclusiveLock); });
    insert_set(request, kind);
    const SetConfig config = describe_set(request.parent);
    warn_of_partman(config);
    warn_of_default(config, facts.default_partition);
    if (request.start_at) {
        const int64_t start = parse_key(config.control, *request.start_at);
        check_key(config, start);
        make_from(config, start);
    }
    make_ahead(config, facts);
    warn_of_gaps(config);
}

namespace {

// What a retirement has begun and nobody will finish. It is the owner's from now on.
void warn_of_unfinished(const SetConfig &config)
{
    static pg::Statement pending("select inhrelid::regclass::text from pg_catalog.pg_inherits "
                                 "where inhparent = $1 and inhdetachpending",
                                 {OIDOID});
    pg::ContextResource memory;
    pg::Vector<DirectoryEntry> detached(&memory);
    add_detached_tables(config.parent, detached);
    for (const DirectoryEntry &table : detached) {
        const char *name = quoted_partition(table.relid);
        pg::pg_call([&] { ereport(NOTICE, errmsg("table %s has been detached, and stays", name)); });
    }
    pg::Spi spi;
    const pg::Rows rows = spi.run(pending, {config.parent});
    for (uint64 i = 0; i < rows.count(); i++) {
        const std::string_view name = rows.text(i, 1);
        pg::pg_call([&] {
            ereport(WARNING,
                    errmsg("the detach of partition %.*s is not complete", static_cast<int>(name.size()),
                           name.data()),
                    errhint("ALTER TABLE ... DETACH PARTITION ... FINALIZE completes it."));
        });
    }
}

} // namespace

void end_management(Oid set)
{
    static pg::Statement remove("delete from tasker.part_config where parent = $1", {OIDOID});
    static pg::Statement forget("delete from tasker.part_retirement where parent = $1", {OIDOID});
    static pg::Statement absolve("delete from tasker.part_failure where parent = $1", {OIDOID});
    pg::Spi spi;
    spi.run(remove, {set});
    spi.run(forget, {set});
    spi.run(absolve, {set});
}

} // namespace tasker::partition

using namespace tasker;

// create_parent(parent_table regclass, control name, partition_interval text, premake int = 4,
//     retention interval = null, retention_action text = 'drop', start_at text = null, timezone text = 'UTC')
TASKER_FUNCTION(create_parent)
{
    partition::ParentRequest request{};
    request.parent = args.oid(0, "parent_table");
    partition::read_request(args, 1, &request);
    partition::manage_parent(request);
    return 0;
}

// drop_partition_set(parent regclass)
//
// What a killed retirement has left is the user's from now on: the book knows it no more.
TASKER_FUNCTION(drop_partition_set)
{
    const Oid parent = args.oid(0, "parent");
    const partition::SetConfig config = partition::describe_set(parent);
    if (config.owner_set)
        throw pg::Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "partition set \"%s\" belongs to Tasker",
                        NameStr(config.parent_name))
            .hint("It goes with DROP EXTENSION tasker.");
    partition::check_ownership(parent);
    partition::warn_of_unfinished(config);
    partition::end_management(parent);
    return 0;
}
