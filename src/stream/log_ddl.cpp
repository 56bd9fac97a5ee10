#include "stream/log_ddl.hpp"

#include "pg/function.hpp"
#include "pg/memory.hpp"
#include "pg/spi.hpp"
#include "stream/index.hpp"
#include "stream/log_reader.hpp"
#include "stream/restore.hpp"

namespace tasker::stream {

void lock_out_writers_of(Oid table)
{
    pg::Spi spi;
    spi.run_text(pg::pg_call([&] {
        return psprintf(
            "lock table %s in share row exclusive mode",
            quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), get_rel_name(table)));
    }));
}

int64_t last_id_of_log(const LogTable &log)
{
    return pg::pg_call([&] {
        int64_t last = 0;
        ListCell *cell = nullptr;
        List *tables = tables_of_log(log.table);
        foreach (cell, tables)
            last = std::max(last, last_log_id(lfirst_oid(cell), log.txid_column));
        return last;
    });
}

void set_log_offset(int64_t offset)
{
    static pg::Statement update("update tasker.stream_origin set log_offset = $1", {INT8OID});
    pg::Spi().run_latest(update, {offset});
}

namespace {

int64_t last_id_of(std::span<const LogTable> logs)
{
    int64_t last = 0;
    for (const LogTable &log : logs)
        last = std::max(last, last_id_of_log(log));
    return last;
}

int64_t log_offset()
{
    static pg::Statement query("select coalesce((select log_offset from tasker.stream_origin), 0)", {});
    pg::Spi spi;
    return spi.read_latest(query).i64(0, 1);
}

// Those of all queues: logs first, as their writers come to the queue afterwards.
void lock_out_all_writers()
{
    static pg::Statement query(
        "select log_table::oid from (select log_table, 1 from tasker.queue_log union select "
        "q.queue_data_pfx::regclass, 2 from tasker.queue q where exists (select from tasker.queue_log l "
        "where "
        "l.queue_id = q.queue_id)) tables (log_table, kind) order by kind, log_table",
        {});
    pg::ContextResource memory;
    pg::Vector<Oid> tables(&memory);
    {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(query);
        for (uint64 i = 0; i < rows.count(); i++)
            tables.push_back(rows.oid(i, 1));
    }
    for (const Oid table : tables)
        lock_out_writers_of(table);
}

} // namespace

void raise_log_offset(std::span<const LogTable> logs)
{
    require_restored();
    const auto next = static_cast<int64_t>(U64FromFullTransactionId(ReadNextFullTransactionId()));
    if (last_id_of(logs) < next + log_offset())
        return;
    lock_out_all_writers();
    for (const LogTable &log : logs)
        lock_out_writers_of(log.table);
    set_log_offset(last_id_of(logs) + 1);
}

void add_logs(int32_t queue_id, std::span<const LogTable> logs)
{
    static pg::Statement insert(
        "insert into tasker.queue_log (queue_id, log_number, log_table, log_txid, log_mapper, log_order, "
        "log_ev_time, log_ev_type, log_ev_data, log_ev_extra1, log_ev_extra2, log_ev_extra3, log_ev_extra4) "
        "values ($1, $2, $3::regclass, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        {INT4OID, INT4OID, OIDOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
         TEXTOID, TEXTOID});
    static pg::Statement raise("update tasker.queue set queue_switch_step1 = queue_switch_step1 + $2, "
                               "queue_switch_step2 = queue_switch_step2 + $2 where queue_id = $1",
                               {INT4OID, INT8OID});
    const auto text = [](const char *value) {
        return value != nullptr ? pg::Param(value) : pg::Param::none();
    };
    pg::Spi spi;
    int32_t number = 0;
    for (const LogTable &log : logs) {
        const auto &e = log.expressions;
        spi.run_latest(insert,
                       {queue_id, ++number, log.table, log.txid_column,
                        text(log.mapper != nullptr ? log.mapper->log : nullptr), text(e[0]), text(e[1]),
                        text(e[2]), text(e[3]), text(e[4]), text(e[5]), text(e[6]), text(e[7])});
    }
    if (!logs.empty())
        spi.run_latest(raise, {queue_id, log_offset()});
}

namespace {

// Errors: what is wrong with a table that shall be a log.
void check_log(Oid table, const char *txid_column)
{
    static pg::Statement query(
        "select c.relkind::text, c.relpersistence = 't', c.oid::regclass::text, a.attname is null, "
        "a.atttypid = "
        "'bigint'::regtype, pg_catalog.pg_get_expr(d.adbin, d.adrelid) = 'tasker.log_txid()' "
        "from pg_catalog.pg_class c left join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname "
        "= $2 "
        "and a.attnum > 0 and not a.attisdropped left join pg_catalog.pg_attrdef d on d.adrelid = c.oid "
        "and d.adnum = a.attnum where c.oid = $1",
        {OIDOID, TEXTOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(query, {table, txid_column});
    if (rows.empty())
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "a log with OID %u does not exist", table);
    const std::string_view kind = rows.text(0, 1);
    const char *name = pg::pg_call([&] { return pstrdup(get_rel_name(table)); });
    if ((kind != "r" && kind != "p") || rows.boolean(0, 2))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "\"%s\" cannot be a log", name)
            .detail("A log is a table, partitioned or not, and no temporary one.");
    if (rows.boolean(0, 4))
        throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "column \"%s\" of log \"%s\" does not exist", txid_column,
                        name);
    if (!rows.boolean(0, 5))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "column \"%s\" of log \"%s\" must be of type bigint", txid_column, name);
    if (rows.is_null(0, 6) || !rows.boolean(0, 6))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "column \"%s\" of log \"%s\" does not have the default tasker.log_txid()",
                        txid_column, name)
            .detail("The server's own transaction ids mean nothing after a restore.")
            .hint("ALTER TABLE ... ALTER COLUMN ... SET DEFAULT tasker.log_txid();");
}

void check_indexes(const LogTable &log)
{
    pg::pg_call([&] {
        ListCell *cell = nullptr;
        List *tables = tables_of_log(log.table);
        foreach (cell, tables) {
            Relation heap = table_open(lfirst_oid(cell), AccessShareLock);
            Relation index = open_index_on(heap, txid_column_of(heap, log.txid_column), AccessShareLock);
            index_close(index, AccessShareLock);
            table_close(heap, AccessShareLock);
        }
    });
}

// Each of them is compiled, and forgotten again.
void check_expressions(const LogTable &log, Oid owner)
{
    const pg::AsOwner as_owner(owner);
    pg::pg_call([&] {
        LogMapping mapping(log);
        mapping.close();
    });
}

void check_keys(Datum mapping)
{
    static pg::Statement unknown("select key from pg_catalog.jsonb_object_keys($1) key where key not in "
                                 "('ev_order', 'ev_time', 'ev_type', "
                                 "'ev_data', 'ev_extra1', 'ev_extra2', 'ev_extra3', 'ev_extra4') limit 1",
                                 {JSONBOID});
    pg::Spi spi;
    const pg::Rows rows = spi.read_latest(unknown, {pg::Param(mapping, false, JSONBOID)});
    if (!rows.empty()) {
        const std::string_view key = rows.text(0, 1);
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown key \"%.*s\" in argument \"mapping\"",
                        static_cast<int>(key.size()), key.data())
            .hint("Keys are ev_order, ev_time, ev_type, ev_data, and ev_extra1 to ev_extra4.");
    }
}

// What the mapping says; what it leaves out is made of the table.
void read_expressions(LogTable &log, Datum mapping)
{
    static pg::Statement value("select $1 ->> $2", {JSONBOID, TEXTOID});
    static pg::Statement has_created_at(
        "select from pg_catalog.pg_attribute where attrelid = $1 and attname = "
        "'created_at' and atttypid = 'timestamptz'::regtype and not attisdropped",
        {OIDOID});
    const MemoryContext memory = CurrentMemoryContext;
    for (int i = 0; i < kLogExpressions; i++) {
        pg::Spi spi;
        const pg::Rows rows = spi.read_latest(
            value, {pg::Param(mapping, false, JSONBOID), name_of(static_cast<LogExpression>(i))});
        const std::string_view text = rows.text(0, 1);
        const pg::MemoryContextScope scope(memory);
        if (!rows.is_null(0, 1))
            log.expressions[i] = pg::pg_call([&] { return pnstrdup(text.data(), text.size()); });
    }
    if (log.expressions[kLogTime] == nullptr) {
        if (pg::Spi().read_latest(has_created_at, {log.table}).empty())
            throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "the mapping of log \"%s\" has no \"ev_time\"",
                            get_rel_name(log.table))
                .hint("Only where the log has a column created_at of type timestamptz it can be left out.");
        log.expressions[kLogTime] = "created_at";
    }
    if (log.expressions[kLogText] == nullptr)
        log.expressions[kLogText] = pg::pg_call([&] { return quote_literal_cstr(get_rel_name(log.table)); });
    if (log.expressions[kLogText + 1] == nullptr)
        log.expressions[kLogText + 1] = "pg_catalog.row_to_json(log.*)";
}

Oid owner_of(Oid table)
{
    return pg::pg_call([&] {
        if (!tasker_is_owner(RelationRelationId, table, GetUserId()))
            aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(table));
        Relation relation = relation_open(table, AccessShareLock);
        const Oid owner = relation->rd_rel->relowner;
        relation_close(relation, NoLock); // it stays as it was checked
        return owner;
    });
}

} // namespace
} // namespace tasker::stream

using namespace tasker;
using namespace tasker::stream;

// create_log_queue(queue, log, txid_column, mapping): 1 when it was made, 0 when it was there.
TASKER_FUNCTION(create_log_queue)
{
    const std::string_view name = args.name(0, "queue");
    const std::span<Datum> tables = args.array(1, "log", REGCLASSOID);
    if (tables.empty())
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"log\" names no table");
    if (args.is_null(2) || args.is_null(3))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"%s\" must not be null",
                        args.is_null(2) ? "txid_column" : "mapping");
    if (find_queue(name))
        return args.result(int32_t{0});
    if (is_registered_queue(name))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "queue name \"%.*s\" is reserved",
                        static_cast<int>(name.size()), name.data())
            .detail("It reads logs of the extension, and is made by itself.");
    check_keys(args.datum(3));
    pg::ContextResource memory;
    pg::Vector<LogTable> logs(&memory);
    for (const Datum table : tables) {
        LogTable log{DatumGetObjectId(table), NameStr(*DatumGetName(args.datum(2))), nullptr, {}};
        check_log(log.table, log.txid_column);
        const Oid owner = owner_of(log.table);
        check_indexes(log);
        read_expressions(log, args.datum(3));
        check_expressions(log, owner);
        logs.push_back(log);
    }
    return args.result(create_queue(name, {logs.data(), logs.size()}) ? int32_t{1} : int32_t{0});
}
