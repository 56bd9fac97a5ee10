// Rows in the three formats.
#include "stream/triga.hpp"

extern "C" {
#include "catalog/pg_operator.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/json.h"
}

namespace tasker::stream::triga {
namespace {

[[noreturn]] void report_changed_key(const TriggerInfo &trigger, const Column &column)
{
    throw pg::Error(ERRCODE_FEATURE_NOT_SUPPORTED, "primary key update not allowed: column \"%s\" of \"%s\"",
                    column.name, trigger.table)
        .detail("Whoever reads the event finds the row by its key.")
        .hint("Delete the row and insert it anew, or name another key with pkey=.");
}

bool same_value(const Column &column, const Row &before, const Row &after)
{
    const int i = column.index;
    if (before.nulls[i] || after.nulls[i])
        return before.nulls[i] && after.nulls[i];
    const Datum old_value = before.values[i];
    const Datum new_value = after.values[i];
    // The same bytes, which a value stored out of line has in its pointer, need no look at the type.
    if (datumIsEqual(old_value, new_value, column.by_value, column.length))
        return true;
    TypeCacheEntry *type = lookup_type_cache(column.type, TYPECACHE_EQ_OPR | TYPECACHE_EQ_OPR_FINFO);
    // As PgQ does: types without an equality, and arrays, are compared as they are written.
    if (OidIsValid(type->eq_opr) && type->eq_opr != ARRAY_EQ_OP)
        return DatumGetBool(FunctionCall2Coll(&type->eq_opr_finfo, column.collation, old_value, new_value));
    return strcmp(output_of(column, old_value), output_of(column, new_value)) == 0;
}

void append_json_value(StringInfo buffer, const Column &column, Datum value)
{
    char text[MAXDATELEN + 1]; // longer than any integer
    switch (column.type) {
    case BOOLOID:
        appendStringInfoString(buffer, DatumGetBool(value) ? "true" : "false");
        break;
    case INT2OID:
        appendBinaryStringInfo(buffer, text, pg_itoa(DatumGetInt16(value), text));
        break;
    case INT4OID:
        appendBinaryStringInfo(buffer, text, pg_ltoa(DatumGetInt32(value), text));
        break;
    case INT8OID:
        appendBinaryStringInfo(buffer, text, pg_lltoa(DatumGetInt64(value), text));
        break;
    case DATEOID:
    case TIMESTAMPOID:
    case TIMESTAMPTZOID:
        appendStringInfoChar(buffer, '"');
        appendStringInfoString(buffer, JsonEncodeDateTime(text, value, column.type, nullptr));
        appendStringInfoChar(buffer, '"');
        break;
    default:
        append_json(buffer, output_of(column, value));
    }
}

// The value as an SQL literal; `null` where there is none.
void append_sql_value(StringInfo buffer, const Column &column, const Row &row, const char *null)
{
    if (row.nulls[column.index]) {
        appendStringInfoString(buffer, null);
        return;
    }
    char *literal = quote_literal_cstr(output_of(column, row.values[column.index]));
    appendStringInfoString(buffer, literal);
    pfree(literal);
}

void append_key_column(StringInfo sql, const TriggerInfo &trigger, const Column &column, const Row &row)
{
    if (row.nulls[column.index])
        throw pg::Error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "key column \"%s\" of \"%s\" is null", column.name,
                        trigger.table)
            .detail("sqltriga() cannot name the row by it.");
    appendStringInfo(sql, "%s=", column.sql);
    append_sql_value(sql, column, row, "null");
}

void append_condition(StringInfo sql, const TriggerInfo &trigger, const Row &row)
{
    const char *and_word = "";
    if (trigger.key_columns == 0)
        throw pg::Error(ERRCODE_UNDEFINED_COLUMN,
                        "\"%s\" has none of the columns \"%s\" of pkey=", trigger.table, trigger.key)
            .detail("sqltriga() cannot name the row by them.");
    for (int i = 0; i < trigger.columns; i++) {
        if (!trigger.column[i].key)
            continue;
        appendStringInfoString(sql, and_word);
        append_key_column(sql, trigger, trigger.column[i], row);
        and_word = " and ";
    }
}

const Column &first_key_column(const TriggerInfo &trigger)
{
    return *std::find_if(trigger.column, trigger.column + trigger.columns,
                         [](const Column &column) { return column.key; });
}

} // namespace

char *output_of(const Column &column, Datum value)
{
    return OutputFunctionCall(const_cast<FmgrInfo *>(&column.output), value);
}

void append_json(StringInfo buffer, const char *string)
{
    escape_json(buffer, string);
}

void append_url(StringInfo buffer, const char *string)
{
    static constexpr char kDigits[] = "0123456789abcdef";
    for (; *string != '\0'; string++) {
        const auto c = static_cast<unsigned char>(*string);
        const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                           c == '_' || c == '.' || c == '-';
        if (plain || c == ' ') {
            appendStringInfoCharMacro(buffer, plain ? *string : '+');
        } else {
            appendStringInfoCharMacro(buffer, '%');
            appendStringInfoCharMacro(buffer, kDigits[c >> 4]);
            appendStringInfoCharMacro(buffer, kDigits[c & 15]);
        }
    }
}

void begin_text(StringInfo buffer)
{
    initStringInfo(buffer);
    buffer->len = VARHDRSZ;
}

Datum finish_text(StringInfo buffer)
{
    SET_VARSIZE(buffer->data, buffer->len);
    return PointerGetDatum(buffer->data);
}

Datum text_of(const char *string)
{
    return PointerGetDatum(cstring_to_text(string));
}

Row take_apart(const TriggerInfo &trigger, HeapTuple tuple, TupleDesc descriptor)
{
    const auto count = static_cast<size_t>(std::max(trigger.attributes, 1));
    Row row{static_cast<Datum *>(palloc(sizeof(Datum) * count)),
            static_cast<bool *>(palloc(sizeof(bool) * count))};
    heap_deform_tuple(tuple, descriptor, row.values, row.nulls);
    return row;
}

bool update_counts(const TriggerInfo &trigger, const Row &before, const Row &after)
{
    bool ignored = false;
    bool changed = false;
    for (int i = 0; i < trigger.columns; i++) {
        const Column &column = trigger.column[i];
        const bool matters = column.key || (trigger.options.ignore != nullptr && !changed);
        if (!matters || same_value(column, before, after))
            continue;
        if (column.key)
            report_changed_key(trigger, column);
        ignored |= column.left_out;
        changed |= !column.left_out;
    }
    return changed || !ignored; // an update that changes nothing counts
}

Datum json_of_row(const TriggerInfo &trigger, const Row &row)
{
    StringInfoData buffer;
    bool first = true;
    begin_text(&buffer);
    appendStringInfoChar(&buffer, '{');
    for (int i = 0; i < trigger.columns; i++) {
        const Column &column = trigger.column[i];
        if (column.left_out)
            continue;
        if (!std::exchange(first, false))
            appendStringInfoChar(&buffer, ',');
        appendStringInfoString(&buffer, column.json);
        if (row.nulls[column.index])
            appendStringInfoString(&buffer, "null");
        else
            append_json_value(&buffer, column, row.values[column.index]);
    }
    appendStringInfoChar(&buffer, '}');
    return finish_text(&buffer);
}

Datum url_of_row(const TriggerInfo &trigger, const Row &row)
{
    StringInfoData buffer;
    bool first = true;
    begin_text(&buffer);
    for (int i = 0; i < trigger.columns; i++) {
        const Column &column = trigger.column[i];
        if (column.left_out)
            continue;
        if (!std::exchange(first, false))
            appendStringInfoChar(&buffer, '&');
        appendStringInfoString(&buffer, column.url);
        if (row.nulls[column.index]) // the name alone
            continue;
        appendStringInfoChar(&buffer, '=');
        append_url(&buffer, output_of(column, row.values[column.index]));
    }
    return finish_text(&buffer);
}

Datum sql_of_insert(const TriggerInfo &trigger, const Row &row)
{
    StringInfoData sql;
    const char *comma = "";
    begin_text(&sql);
    appendStringInfoChar(&sql, '(');
    for (int i = 0; i < trigger.columns; i++) {
        if (trigger.column[i].left_out)
            continue;
        appendStringInfo(&sql, "%s%s", comma, trigger.column[i].sql);
        comma = ",";
    }
    appendStringInfoString(&sql, ") values (");
    comma = "";
    for (int i = 0; i < trigger.columns; i++) {
        if (trigger.column[i].left_out)
            continue;
        appendStringInfoString(&sql, comma);
        append_sql_value(&sql, trigger.column[i], row, "null");
        comma = ",";
    }
    appendStringInfoChar(&sql, ')');
    return finish_text(&sql);
}

bool sql_of_update(const TriggerInfo &trigger, const Row &before, const Row &after, Datum *text)
{
    StringInfoData sql;
    const char *comma = "";
    bool ignored = false;
    begin_text(&sql);
    for (int i = 0; i < trigger.columns; i++) {
        const Column &column = trigger.column[i];
        if (same_value(column, before, after))
            continue;
        if (column.key)
            report_changed_key(trigger, column);
        if (column.left_out) {
            ignored = true;
            continue;
        }
        appendStringInfo(&sql, "%s%s=", comma, column.sql);
        append_sql_value(&sql, column, after, "NULL");
        comma = ",";
    }
    if (*comma == '\0' && ignored)
        return false;
    StringInfoData condition;
    initStringInfo(&condition);
    append_condition(&condition, trigger, before);
    if (*comma == '\0') // an update that changes nothing is written as one of the key
        append_key_column(&sql, trigger, first_key_column(trigger), before);
    appendStringInfo(&sql, " where %s", condition.data);
    *text = finish_text(&sql);
    return true;
}

Datum sql_of_delete(const TriggerInfo &trigger, const Row &row)
{
    StringInfoData sql;
    begin_text(&sql);
    append_condition(&sql, trigger, row);
    return finish_text(&sql);
}

} // namespace tasker::stream::triga
