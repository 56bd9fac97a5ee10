#include "stream/log_mapping.hpp"

extern "C" {
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
}

namespace tasker::stream {
namespace {

constexpr const char *kNames[kLogExpressions] = {"ev_order",  "ev_time",   "ev_type",   "ev_data",
                                                 "ev_extra1", "ev_extra2", "ev_extra3", "ev_extra4"};

Oid type_of(int expression)
{
    if (expression == kLogOrder)
        return INT8OID;
    return expression == kLogTime ? TIMESTAMPTZOID : TEXTOID;
}

[[noreturn]] void refuse(int expression, const char *text)
{
    ereport(ERROR, errcode(ERRCODE_SYNTAX_ERROR),
            errmsg("\"%s\" of a log's mapping is not an expression: %s", kNames[expression], text));
    pg_unreachable();
}

// One expression, and not a text that closes the parenthesis and goes on.
Node *parse(int expression, const char *text)
{
    List *statements = raw_parser(psprintf("select (\n%s\n)", text), RAW_PARSE_DEFAULT);
    if (list_length(statements) != 1)
        refuse(expression, text);
    auto *statement = reinterpret_cast<SelectStmt *>(linitial_node(RawStmt, statements)->stmt);
    if (!IsA(statement, SelectStmt) || list_length(statement->targetList) != 1)
        refuse(expression, text);
    SelectStmt *plain = makeNode(SelectStmt);
    plain->targetList = statement->targetList;
    auto *target = linitial_node(ResTarget, statement->targetList);
    if (!equal(plain, statement) || target->name != nullptr)
        refuse(expression, text);
    return target->val;
}

// A time may stand for the order, too: what matters is which is greater.
Node *as_type(ParseState *state, Node *node, int expression, const char *text)
{
    const Oid type = exprType(node);
    if (expression == kLogOrder && type == TIMESTAMPTZOID)
        return node;
    Node *coerced = coerce_to_target_type(state, node, type, type_of(expression), -1,
                                          expression >= kLogText ? COERCION_EXPLICIT : COERCION_ASSIGNMENT,
                                          COERCE_EXPLICIT_CAST, -1);
    if (coerced == nullptr)
        ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
                errmsg("\"%s\" of a log's mapping must be of type %s: %s", kNames[expression],
                       format_type_be(type_of(expression)), text),
                errdetail("It has type %s.", format_type_be(type)));
    return coerced;
}

ExprState *compile(Relation log, int expression, const char *text)
{
    ParseState *state = make_parsestate(nullptr);
    ParseNamespaceItem *row =
        addRangeTableEntryForRelation(state, log, AccessShareLock, makeAlias("log", NIL), false, false);
    addNSItemToQuery(state, row, false, true, true);
    Node *node = transformExpr(state, parse(expression, text), EXPR_KIND_CHECK_CONSTRAINT);
    node = as_type(state, node, expression, text);
    assign_expr_collations(state, node);
    free_parsestate(state);
    return ExecInitExpr(expression_planner(reinterpret_cast<Expr *>(node)), nullptr);
}

// Acts as the owner of the log; an error's abort puts the user back.
class AsLogOwner
{
  public:
    explicit AsLogOwner(Relation log)
    {
        GetUserIdAndSecContext(&user_, &context_);
        SetUserIdAndSecContext(log->rd_rel->relowner,
                               context_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
    }
    void end() const { SetUserIdAndSecContext(user_, context_); }

  private:
    Oid user_ = InvalidOid;
    int context_ = 0;
};

} // namespace

const char *name_of(LogExpression expression)
{
    return kNames[expression];
}

LogMapping::LogMapping(const LogTable &log)
    : log_(log), parent_(table_open(log.table, AccessShareLock)), executor_(CreateExecutorState()),
      context_(GetPerTupleExprContext(executor_))
{
    if (log.mapper != nullptr)
        return;
    MemoryContext outer = MemoryContextSwitchTo(executor_->es_query_cxt);
    const AsLogOwner owner(parent_);
    for (int i = 0; i < kLogExpressions; i++) {
        if (log.expressions[i] != nullptr)
            states_[i] = compile(parent_, i, log.expressions[i]);
    }
    owner.end();
    MemoryContextSwitchTo(outer);
}

void LogMapping::close()
{
    if (converted_ != nullptr)
        ExecDropSingleTupleTableSlot(converted_);
    FreeExecutorState(executor_);
    table_close(parent_, NoLock);
}

TupleConversionMap *LogMapping::conversion_from(Relation table)
{
    if (RelationGetRelid(table) == RelationGetRelid(parent_))
        return nullptr;
    MemoryContext outer = MemoryContextSwitchTo(executor_->es_query_cxt);
    TupleConversionMap *map = convert_tuples_by_name(RelationGetDescr(table), RelationGetDescr(parent_));
    if (map != nullptr && converted_ == nullptr)
        converted_ = MakeSingleTupleTableSlot(RelationGetDescr(parent_), &TTSOpsVirtual);
    MemoryContextSwitchTo(outer);
    return map;
}

TupleTableSlot *LogMapping::as_of_log(TupleTableSlot *row, TupleConversionMap *conversion)
{
    ResetPerTupleExprContext(executor_);
    if (conversion == nullptr)
        return row;
    return execute_attr_map_slot(conversion->attrMap, row, converted_);
}

Datum LogMapping::evaluate(int expression, bool *null)
{
    *null = true;
    if (states_[expression] == nullptr)
        return 0;
    return ExecEvalExprSwitchContext(states_[expression], context_, null);
}

int64_t LogMapping::order(TupleTableSlot *row, TupleConversionMap *conversion)
{
    if (log_.mapper == nullptr && states_[kLogOrder] == nullptr)
        return 0;
    TupleTableSlot *of_log = as_of_log(row, conversion);
    if (log_.mapper != nullptr)
        return log_.mapper->order(of_log);
    bool null = true;
    context_->ecxt_scantuple = of_log;
    const AsLogOwner owner(parent_);
    const Datum order = evaluate(kLogOrder, &null);
    owner.end();
    return null ? 0 : DatumGetInt64(order);
}

const LogEvent &LogMapping::map(TupleTableSlot *row, TupleConversionMap *conversion)
{
    TupleTableSlot *of_log = as_of_log(row, conversion);
    if (log_.mapper != nullptr) {
        MemoryContext outer = MemoryContextSwitchTo(context_->ecxt_per_tuple_memory);
        log_.mapper->map(of_log, event_);
        MemoryContextSwitchTo(outer);
        return event_;
    }
    bool null = true;
    context_->ecxt_scantuple = of_log;
    const AsLogOwner owner(parent_);
    const Datum time = evaluate(kLogTime, &null);
    event_.time = null ? DT_NOBEGIN : DatumGetTimestampTz(time);
    for (int i = 0; i < kTextColumns; i++)
        event_.text[i] = evaluate(kLogText + i, &event_.null[i]);
    owner.end();
    return event_;
}

} // namespace tasker::stream
