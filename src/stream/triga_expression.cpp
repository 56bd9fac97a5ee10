// Expressions over the columns of a row: "select " and the text, prepared with the columns as parameters.
//
// The parser asks which parameter a name stands for (resolve_column), so that a column is found wherever SQL
// allows one, and nowhere else. A column of the row wins over a column of a table in a subquery.
#include "stream/triga.hpp"

extern "C" {
#include "parser/parse_node.h"
}

namespace tasker::stream::triga {
namespace {

bool is_identifier_char(char c)
{
    return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || IS_HIGHBIT_SET(c);
}

// A name that is written without quotes stands for the column of just that spelling, if there is one: PgQ
// knows no quoted names, and finds "Id" as Id.
const Column *column_as_written(const TriggerInfo &trigger, const char *text)
{
    size_t length = 0;
    while (is_identifier_char(text[length]))
        length++;
    const std::string_view written(text, length);
    for (int i = 0; i < trigger.columns; i++) {
        if (written == trigger.column[i].name)
            return &trigger.column[i];
    }
    return nullptr;
}

const Column *column_named(const TriggerInfo &trigger, const char *name)
{
    for (int i = 0; i < trigger.columns; i++) {
        if (strcmp(trigger.column[i].name, name) == 0)
            return &trigger.column[i];
    }
    return nullptr;
}

int parameter_of(Expression *expression, const Column *column)
{
    for (int i = 0; i < expression->parameters; i++) {
        if (expression->columns[i] == column)
            return i + 1;
    }
    expression->columns[expression->parameters++] = column;
    return expression->parameters;
}

Node *resolve_column(ParseState *state, ColumnRef *reference)
{
    auto *expression = static_cast<Expression *>(state->p_ref_hook_state);
    if (list_length(reference->fields) != 1 || !IsA(linitial(reference->fields), String))
        return nullptr;
    const Column *column = nullptr;
    if (state->p_sourcetext != nullptr && reference->location >= 0)
        column = column_as_written(*expression->trigger, state->p_sourcetext + reference->location);
    if (column == nullptr)
        column = column_named(*expression->trigger, strVal(linitial(reference->fields)));
    if (column == nullptr)
        return nullptr;

    Param *parameter = makeNode(Param);
    parameter->paramkind = PARAM_EXTERN;
    parameter->paramid = parameter_of(expression, column);
    parameter->paramtype = column->type;
    parameter->paramtypmod = column->typmod;
    parameter->paramcollid = column->collation;
    parameter->location = reference->location;
    return reinterpret_cast<Node *>(parameter);
}

void set_up_parser(ParseState *state, void *expression)
{
    state->p_pre_columnref_hook = resolve_column;
    state->p_ref_hook_state = expression;
}

SPIPlanPtr prepare(TriggerInfo *trigger, Expression *expression)
{
    expression->trigger = trigger;
    expression->columns = static_cast<const Column **>(MemoryContextAllocZero(
        trigger->context, sizeof(Column *) * static_cast<size_t>(std::max(trigger->columns, 1))));
    SPIPlanPtr plan =
        SPI_prepare_params(psprintf("select %s", expression->text), set_up_parser, expression, 0);
    if (plan == nullptr)
        throw pg::Error(ERRCODE_INTERNAL_ERROR, "could not prepare the expression \"%s\" of a trigger: %s",
                        expression->text, SPI_result_code_string(SPI_result));
    return plan;
}

ParamListInfo parameters_of(const Expression &expression, const Row &row)
{
    ParamListInfo list = makeParamList(expression.parameters);
    for (int i = 0; i < expression.parameters; i++) {
        const Column &column = *expression.columns[i];
        list->params[i] = {row.values[column.index], row.nulls[column.index], PARAM_FLAG_CONST, column.type};
    }
    return list;
}

// Runs the query, whose one row is then in SPI_tuptable; the connection stays open.
Datum run(const Expression &expression, const Row &row, Oid *type, bool *null)
{
    SPI_connect();
    // Sees what the statement sees that fired the trigger; two rows tell as much as all of them.
    const int code =
        SPI_execute_plan_with_paramlist(expression.plan, parameters_of(expression, row), true, 2);
    if (code != SPI_OK_SELECT)
        throw pg::Error(ERRCODE_SYNTAX_ERROR, "the expression \"%s\" of a trigger is not one of a query",
                        expression.text);
    if (SPI_processed != 1)
        throw pg::Error(ERRCODE_CARDINALITY_VIOLATION,
                        "the expression \"%s\" of a trigger returned %s instead of one", expression.text,
                        SPI_processed == 0 ? "no row" : "more than one row");
    if (SPI_tuptable->tupdesc->natts < 1) { // the empty expression
        *type = UNKNOWNOID;
        *null = true;
        return 0;
    }
    *type = SPI_gettypeid(SPI_tuptable->tupdesc, 1);
    return SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, null);
}

} // namespace

void prepare_expressions(TriggerInfo *trigger)
{
    SPIPlanPtr plans[kExpressions] = {};
    SPI_connect();
    for (int i = 0; i < kExpressions; i++) {
        if (trigger->expressions[i].text != nullptr)
            plans[i] = prepare(trigger, &trigger->expressions[i]);
    }
    // Nothing fails from here on, and nothing was kept before.
    for (int i = 0; i < kExpressions; i++) {
        if (plans[i] != nullptr)
            SPI_keepplan(plans[i]);
        trigger->expressions[i].plan = plans[i];
    }
    SPI_finish();
}

bool holds(const Expression &when, const Row &row)
{
    Oid type = InvalidOid;
    bool null = false;
    const Datum value = run(when, row, &type, &null);
    if (type != BOOLOID)
        throw pg::Error(ERRCODE_DATATYPE_MISMATCH, "the argument \"when=%s\" of a trigger must be boolean",
                        when.text)
            .detail("It has type %s.", format_type_be(type));
    if (null)
        throw pg::Error(ERRCODE_NULL_VALUE_NOT_ALLOWED,
                        "the argument \"when=%s\" of a trigger must not be null", when.text)
            .hint("Say with coalesce() or IS TRUE what null means.");
    SPI_finish();
    return DatumGetBool(value);
}

bool evaluate(const Expression &expression, const Row &row, Datum *text)
{
    MemoryContext outer = CurrentMemoryContext;
    Oid type = InvalidOid;
    bool null = false;
    const Datum value = run(expression, row, &type, &null);
    if (!null) {
        Oid output = InvalidOid;
        bool varlena = false;
        getTypeOutputInfo(type, &output, &varlena);
        char *string = OidOutputFunctionCall(output, value);
        MemoryContext connection = MemoryContextSwitchTo(outer);
        *text = text_of(string);
        MemoryContextSwitchTo(connection);
    }
    SPI_finish();
    return !null;
}

} // namespace tasker::stream::triga
