#include "stream/triga.hpp"

#include "pg/function.hpp"

using namespace tasker;
using namespace tasker::stream;

namespace tasker::stream::triga {
namespace {

constexpr const char *kFunctions[] = {"jsontriga", "logutriga", "sqltriga"};

// One firing of a trigger.
struct Firing
{
    const TriggerData &call;
    Format format;
    Operation operation;
};

const TriggerData &trigger_data(const pg::Args &args, Format format)
{
    if (!CALLED_AS_TRIGGER(args.call()))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
                        "function \"%s\" was not called by a trigger", kFunctions[static_cast<int>(format)]);
    return *reinterpret_cast<const TriggerData *>(args.call()->context);
}

Operation operation_of(TriggerEvent event)
{
    if (TRIGGER_FIRED_BY_INSERT(event))
        return kInsert;
    if (TRIGGER_FIRED_BY_UPDATE(event))
        return kUpdate;
    return TRIGGER_FIRED_BY_DELETE(event) ? kDelete : kTruncate;
}

void check_definition(const Firing &firing)
{
    const Trigger &definition = *firing.call.tg_trigger;
    if (firing.operation != kTruncate && !TRIGGER_FIRED_FOR_ROW(firing.call.tg_event))
        throw pg::Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED, "trigger \"%s\" must be one FOR EACH ROW",
                        definition.tgname)
            .detail("FOR EACH STATEMENT is for TRUNCATE only.");
    if (definition.tgnargs < 1)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "trigger \"%s\" has no argument", definition.tgname)
            .hint("The first argument is the name of the queue.");
}

void check_allowed(const Firing &firing, const TriggerInfo &trigger)
{
    const char *name = firing.call.tg_trigger->tgname;
    if ((firing.operation == kUpdate || firing.operation == kDelete) && trigger.key[0] == '\0')
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                        "update or delete on \"%s\", which has no primary key", trigger.table)
            .detail("Whoever reads the event of trigger \"%s\" would not find the row.", name)
            .hint("Add a primary key, or name other columns with the argument pkey=.");
    if (trigger.options.skip && TRIGGER_FIRED_AFTER(firing.call.tg_event))
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "SKIP does not work in AFTER trigger \"%s\"", name)
            .hint("Make it a BEFORE trigger.");
    if (trigger.options.deny) {
        static constexpr const char *kWords[kOperations] = {"INSERT", "UPDATE", "DELETE", "TRUNCATE"};
        throw pg::Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "change of \"%s\" not allowed (%s)",
                        trigger.table, kWords[firing.operation])
            .detail("Trigger \"%s\" of queue \"%s\" denies it.", name, firing.call.tg_trigger->tgargs[0]);
    }
}

// Plain C from here on: may ereport.

void set_text(NewEvent *event, int column, Datum text)
{
    event->text[column] = text;
    event->null[column] = false;
}

void begin_event(const Firing &firing, const TriggerInfo &trigger, NewEvent *event)
{
    *event = NewEvent{};
    event->time = GetCurrentTransactionStartTimestamp();
    std::fill(std::begin(event->null), std::end(event->null), true);
    set_text(event, kType, trigger.type_text[firing.operation]);
    set_text(event, kExtra1, trigger.table_text);
}

// What has the row that the event is about, and for an update the one before it.
struct Rows
{
    Row row;
    Row before;
};

Rows rows_of(const Firing &firing, const TriggerInfo &trigger)
{
    const TriggerData &call = firing.call;
    TupleDesc descriptor = RelationGetDescr(call.tg_relation);
    Rows rows{};
    rows.row = take_apart(trigger, call.tg_trigtuple, descriptor);
    if (firing.operation == kUpdate) {
        rows.before = rows.row;
        rows.row = take_apart(trigger, call.tg_newtuple, descriptor);
    }
    return rows;
}

// Is the change one to be written? An update as SQL is known by its text, which is kept.
bool change_counts(const Firing &firing, const TriggerInfo &trigger, const Rows &rows, NewEvent *event)
{
    if (firing.operation != kUpdate)
        return true;
    if (firing.format != Format::sql)
        return update_counts(trigger, rows.before, rows.row);
    Datum data = 0;
    if (!sql_of_update(trigger, rows.before, rows.row, &data))
        return false;
    set_text(event, kData, data);
    return true;
}

void add_data(const Firing &firing, const TriggerInfo &trigger, const Row &row, NewEvent *event)
{
    if (firing.format == Format::json)
        set_text(event, kData, json_of_row(trigger, row));
    else if (firing.format == Format::url)
        set_text(event, kData, url_of_row(trigger, row));
    else if (firing.operation == kInsert)
        set_text(event, kData, sql_of_insert(trigger, row));
    else if (firing.operation == kDelete)
        set_text(event, kData, sql_of_delete(trigger, row));
}

void add_magic(const TriggerInfo &trigger, const Row &row, NewEvent *event)
{
    for (int i = 0; i < trigger.columns; i++) {
        const Column &column = trigger.column[i];
        if (column.magic == kUnknownMagic)
            throw pg::Error(ERRCODE_INVALID_COLUMN_DEFINITION, "\"%s\" has an unknown magic column \"%s\"",
                            trigger.table, column.name)
                .hint("Names that begin with \"_pgq_ev_\" stand for columns of the event: "
                      "_pgq_ev_type, _pgq_ev_data, _pgq_ev_extra1 to _pgq_ev_extra4.");
        if (column.magic == kNotMagic)
            continue;
        event->null[column.magic] = row.nulls[column.index];
        if (!row.nulls[column.index])
            event->text[column.magic] = text_of(output_of(column, row.values[column.index]));
    }
}

void add_expressions(const TriggerInfo &trigger, const Row &row, NewEvent *event)
{
    for (int i = 0; i < kTextColumns; i++) {
        if (trigger.expressions[i].text != nullptr)
            event->null[i] = !evaluate(trigger.expressions[i], row, &event->text[i]);
    }
}

// Makes the event; false when there is none to be written.
bool make_event(const Firing &firing, const TriggerInfo &trigger, NewEvent *event)
{
    begin_event(firing, trigger, event);
    if (firing.operation == kTruncate) {
        set_text(event, kData, text_of(firing.format == Format::json ? "{}" : ""));
        return true;
    }
    const Rows rows = rows_of(firing, trigger);
    const Expression &when = trigger.expressions[kWhen];
    if (!change_counts(firing, trigger, rows, event) || (when.text != nullptr && !holds(when, rows.row)))
        return false;
    add_data(firing, trigger, rows.row, event);
    if (trigger.options.backup && firing.operation == kUpdate)
        set_text(event, kExtra2,
                 firing.format == Format::json ? json_of_row(trigger, rows.before)
                                               : url_of_row(trigger, rows.before));
    if (trigger.has_magic)
        add_magic(trigger, rows.row, event);
    if (trigger.has_expressions)
        add_expressions(trigger, rows.row, event);
    return true;
}

} // namespace

// The row goes on to the table unless a BEFORE trigger has SKIP; an AFTER trigger's result is not looked at.
Datum fire(const pg::Args &args, Format format)
{
    const TriggerData &call = trigger_data(args, format);
    const Firing firing{call, format, operation_of(call.tg_event)};
    const bool after = TRIGGER_FIRED_AFTER(call.tg_event);
    const Datum row = PointerGetDatum(firing.operation == kUpdate ? call.tg_newtuple : call.tg_trigtuple);
    if (SessionReplicationRole == SESSION_REPLICATION_ROLE_LOCAL)
        return after ? 0 : row;

    check_definition(firing);
    const InUse trigger(pg::pg_call([&] { return find_trigger(call, format, firing.operation); }));
    check_allowed(firing, *trigger);
    NewEvent event;
    if (pg::pg_call([&] { return make_event(firing, *trigger, &event); }))
        insert_events(call.tg_trigger->tgargs[0], {&event, 1}, Right::none);
    return after || (*trigger).options.skip ? 0 : row;
}

} // namespace tasker::stream::triga

TASKER_FUNCTION(jsontriga)
{
    return triga::fire(args, triga::Format::json);
}

TASKER_FUNCTION(logutriga)
{
    return triga::fire(args, triga::Format::url);
}

TASKER_FUNCTION(sqltriga)
{
    return triga::fire(args, triga::Format::sql);
}
