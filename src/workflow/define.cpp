// Defining tasks.
//
// Definitions of one namespace are written one after the other, under a lock to the end of the transaction; a
// definition that is there already needs no lock. Everything is read as it is committed right now, also in a
// REPEATABLE READ transaction, so whoever had to wait finds what the other has written.
#include "pg/function.hpp"
#include "pg/spi.hpp"
#include "workflow/ids.hpp"
#include "workflow/template.hpp"
#include "workflow/template_compile.hpp"

extern "C" {
#include "common/hashfn.h"
#include "utils/uuid.h"
}

namespace tasker::workflow {
namespace {

struct Request
{
    std::string_view namespace_name;
    std::string_view name;
    std::string_view version;
    Jsonb *definition;
};

// The task of that name and version, if it has the same definition. Errors: duplicate_object where it has
// another.
std::optional<core::Uuid> find_defined(const Request &request)
{
    static pg::Statement same("select t.named_task_uuid, t.configuration = $4 from tasker.named_tasks t "
                              "join tasker.task_namespaces n using (task_namespace_uuid) "
                              "where n.name = $1 and t.name = $2 and t.version = $3",
                              {TEXTOID, TEXTOID, TEXTOID, JSONBOID});
    pg::Spi spi;
    const pg::Rows row = spi.read_latest(same, {request.namespace_name, request.name, request.version,
                                                pg::Param::of_datum(JsonbPGetDatum(request.definition))});
    if (row.empty())
        return std::nullopt;
    if (!row.boolean(0, 2))
        throw pg::Error(ERRCODE_DUPLICATE_OBJECT,
                        "version \"%.*s\" of task \"%.*s/%.*s\" is already defined otherwise",
                        static_cast<int>(request.version.size()), request.version.data(),
                        static_cast<int>(request.namespace_name.size()), request.namespace_name.data(),
                        static_cast<int>(request.name.size()), request.name.data())
            .detail("Tasks may be running by that definition; a definition never changes.")
            .hint("Define it as another version.");
    return uuid_of(row.datum(0, 1));
}

// To the end of the transaction.
void lock_namespace(std::string_view name)
{
    pg::pg_call([&] {
        const Oid table = get_relname_relid("task_namespaces", get_namespace_oid("tasker", false));
        const uint32 hash =
            hash_bytes(reinterpret_cast<const unsigned char *>(name.data()), static_cast<int>(name.size()));
        LOCKTAG tag;
        SET_LOCKTAG_OBJECT(tag, MyDatabaseId, table, static_cast<Oid>(hash), 0);
        (void)LockAcquire(&tag, ExclusiveLock, false, false);
    });
}

pg::Param uuid_param(const core::Uuid &uuid)
{
    return pg::Param::of_datum(datum_of(uuid));
}

core::Uuid find_or_make_namespace(pg::Spi &spi, std::string_view name)
{
    static pg::Statement make(
        "insert into tasker.task_namespaces (task_namespace_uuid, name) values ($1, $2) "
        "on conflict (name) do nothing",
        {UUIDOID, TEXTOID});
    static pg::Statement find("select task_namespace_uuid from tasker.task_namespaces where name = $1",
                              {TEXTOID});
    spi.run_latest(make, {uuid_param(new_task_uuid()), name});
    return uuid_of(spi.read_latest(find, {name}).datum(0, 1));
}

// One value of each step, as an array.
template <class Value> pg::Param column_of(const Template &compiled, Oid type, int length, Value value)
{
    return pg::Param::of_datum(pg::pg_call([&] {
        const auto count = static_cast<size_t>(compiled.step_count);
        auto *values = static_cast<Datum *>(palloc(count * sizeof(Datum)));
        for (size_t i = 0; i < count; i++)
            values[i] = value(compiled.steps[i]);
        const char alignment = type == UUIDOID ? TYPALIGN_CHAR : TYPALIGN_INT;
        return PointerGetDatum(construct_array(values, compiled.step_count, type, length, false, alignment));
    }));
}

// Makes the flows of those handlers that have none. Their steps say how often they are tried, so the flow
// never gives up by itself.
void make_flows(pg::Spi &spi, const core::Uuid &task_namespace, std::string_view name,
                const pg::Param &handlers)
{
    static pg::Statement make(
        "with missing as materialized ("
        "    select distinct h.handler from unnest($3) h (handler) where not exists ("
        "        select from tasker.step_flow s where s.task_namespace_uuid = $1 and s.handler = "
        "h.handler)), "
        "made as ("
        "    insert into tasker.flow (flow_name, max_attempts) "
        "    select $2 || '/' || handler, 2147483647 from missing order by handler "
        "    on conflict (flow_name) do nothing returning flow_id, flow_name), "
        "tied as ("
        "    insert into tasker.step_flow (flow_id, task_namespace_uuid, handler) "
        "    select flow_id, $1, substr(flow_name, length($2) + 2) from made) "
        "select handler from missing except select substr(flow_name, length($2) + 2) from made "
        "order by 1 limit 1",
        {UUIDOID, TEXTOID, TEXTARRAYOID});
    const pg::Rows taken = spi.run_latest(make, {uuid_param(task_namespace), name, handlers});
    if (taken.empty())
        return;
    const std::string_view handler = taken.text(0, 1);
    throw pg::Error(ERRCODE_DUPLICATE_OBJECT, "flow \"%.*s/%.*s\" already exists and is not one for steps",
                    static_cast<int>(name.size()), name.data(), static_cast<int>(handler.size()),
                    handler.data())
        .detail("It would carry the steps of handler \"%.*s\" in namespace \"%.*s\".",
                static_cast<int>(handler.size()), handler.data(), static_cast<int>(name.size()), name.data())
        .hint("Drop the flow, or name the handler otherwise.");
}

void write_task(pg::Spi &spi, const Request &request, const core::Uuid &task,
                const core::Uuid &task_namespace, const Template &compiled)
{
    static pg::Statement insert("insert into tasker.named_tasks (named_task_uuid, task_namespace_uuid, name, "
                                "version, description, configuration) values ($1, $2, $3, $4, $5, $6)",
                                {UUIDOID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID});
    std::optional<std::string_view> description;
    if (compiled.description != nullptr)
        description = compiled.description;
    spi.run_latest(insert, {uuid_param(task), uuid_param(task_namespace), request.name, request.version,
                            pg::Param(description), pg::Param::of_datum(JsonbPGetDatum(request.definition))});
}

void write_steps(pg::Spi &spi, const core::Uuid &task, const core::Uuid &task_namespace,
                 const Template &compiled)
{
    static pg::Statement insert(
        "insert into tasker.named_steps (named_step_uuid, named_task_uuid, step_order, name, handler, "
        "step_type, flow_id) "
        "select g.uuid, $1, g.step_order, g.name, g.handler, g.step_type, s.flow_id "
        "from unnest($3, $4, $5, $6) with ordinality g (uuid, name, handler, step_type, step_order) "
        "join tasker.step_flow s on s.task_namespace_uuid = $2 and s.handler = g.handler",
        {UUIDOID, UUIDOID, UUIDARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID});
    const StepTemplate *first = compiled.steps;
    const pg::Param uuids = column_of(compiled, UUIDOID, sizeof(pg_uuid_t), [&](const StepTemplate &step) {
        return datum_of(core::step_uuid(task, static_cast<uint32_t>(&step - first) + 1));
    });
    const pg::Param names = column_of(
        compiled, TEXTOID, -1, [](const StepTemplate &step) { return CStringGetTextDatum(step.name); });
    const pg::Param handlers = column_of(
        compiled, TEXTOID, -1, [](const StepTemplate &step) { return CStringGetTextDatum(step.handler); });
    const pg::Param types = column_of(compiled, TEXTOID, -1, [](const StepTemplate &step) {
        return CStringGetTextDatum(word_of(step.kind));
    });
    const pg::Rows rows =
        spi.run_latest(insert, {uuid_param(task), uuid_param(task_namespace), uuids, names, handlers, types});
    if (rows.count() != static_cast<uint64>(compiled.step_count))
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "%llu of %d steps were written",
                        static_cast<unsigned long long>(rows.count()), compiled.step_count);
}

core::Uuid write_definition(const Request &request, const Template &compiled)
{
    pg::Spi spi;
    const core::Uuid task = new_task_uuid();
    const core::Uuid task_namespace = find_or_make_namespace(spi, request.namespace_name);
    const pg::Param handlers = column_of(
        compiled, TEXTOID, -1, [](const StepTemplate &step) { return CStringGetTextDatum(step.handler); });
    make_flows(spi, task_namespace, request.namespace_name, handlers);
    write_task(spi, request, task, task_namespace, compiled);
    write_steps(spi, task, task_namespace, compiled);
    return task;
}

TriggerData *trigger_data(FunctionCallInfo call, const char *function)
{
    if (!CALLED_AS_TRIGGER(call))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function %s can only be called as a trigger", function);
    return reinterpret_cast<TriggerData *>(call->context);
}

core::Uuid define(const Request &request)
{
    if (const auto defined = find_defined(request))
        return *defined;
    pg::pg_call([] { PreventCommandIfReadOnly("tasker.define_task()"); });
    const Template *compiled = pg::pg_call([&] {
        return compile_template(request.definition, request.namespace_name, request.name, request.version,
                                CurrentMemoryContext);
    });
    lock_namespace(request.namespace_name);
    if (const auto defined = find_defined(request))
        return *defined;
    return write_definition(request, *compiled);
}

} // namespace

TASKER_FUNCTION(define_task)
{
    Request request{};
    request.namespace_name = args.name(0, "namespace");
    request.name = args.name(1, "name");
    request.version = args.name(3, "version");
    if (args.is_null(2))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"definition\" must not be null");
    request.definition = pg::pg_call([&] { return DatumGetJsonbP(args.datum(2)); });
    return datum_of(define(request));
}

TASKER_FUNCTION(get_task_template)
{
    static pg::Statement definition("select configuration from tasker.named_tasks where named_task_uuid = $1",
                                    {UUIDOID});
    const Template &found =
        template_named(args.name(0, "namespace"), args.name(1, "name"), args.optional_name(2, "version"));
    Datum result = 0;
    {
        pg::Spi spi;
        const pg::Rows row = spi.read_latest(definition, {uuid_param(found.named_task_uuid)});
        if (row.empty())
            throw pg::Error(ERRCODE_UNDEFINED_OBJECT, "task \"%s/%s\" does not exist", found.namespace_name,
                            found.name);
        result = pg::pg_call([&] { return SPI_datumTransfer(row.datum(0, 1), false, -1); });
    }
    return result;
}

// Makes every session look again what is defined, once the change has committed.
TASKER_FUNCTION(account_template_change)
{
    CacheInvalidateRelcache(trigger_data(args.call(), "account_template_change")->tg_relation);
    return PointerGetDatum(nullptr);
}

// Before a flow is deleted, or gets another name or number.
TASKER_FUNCTION(keep_step_flow)
{
    TriggerData *trigger = trigger_data(args.call(), "keep_step_flow");
    HeapTuple row = trigger->tg_trigtuple;
    TupleDesc descriptor = RelationGetDescr(trigger->tg_relation);
    bool null = false;
    const int32_t flow_id =
        DatumGetInt32(SPI_getbinval(row, descriptor, SPI_fnumber(descriptor, "flow_id"), &null));
    if (carries_steps(flow_id))
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "flow \"%s\" carries steps of tasks",
                        SPI_getvalue(row, descriptor, SPI_fnumber(descriptor, "flow_name")))
            .detail("Steps of defined tasks are handed out through it.")
            .hint("Stop it with tasker.pause_flow().");
    return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : row);
}

} // namespace tasker::workflow
