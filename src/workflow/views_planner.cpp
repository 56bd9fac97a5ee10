#include "workflow/views_planner.hpp"

#include "pg/error.hpp"

extern "C" {
#include "catalog/pg_proc.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "rewrite/rewriteManip.h"
}

namespace tasker::workflow {
namespace {

planner_hook_type next_hook = nullptr;

bool is_ours(Oid function, const char *name)
{
    const char *found = get_func_name(function);
    return found != nullptr && strcmp(found, name) == 0 &&
           get_func_namespace(function) == get_namespace_oid("tasker", true);
}

// The subquery of whose output the expression is a column, or null. What comes out of a join by USING is
// none: the join's own conditions are about the columns behind it.
const Query *subquery_behind(const Query *query, Node *expression)
{
    if (expression == nullptr || !IsA(expression, Var) || castNode(Var, expression)->varlevelsup != 0)
        return nullptr;
    const RangeTblEntry *entry = rt_fetch(castNode(Var, expression)->varno, query->rtable);
    return entry->rtekind == RTE_SUBQUERY ? entry->subquery : nullptr;
}

// The output column of a subquery that is just this column of one of its tables, or 0.
AttrNumber output_column(const Query *subquery, const Var *column)
{
    ListCell *cell = nullptr;
    foreach (cell, subquery->targetList) {
        const auto *target = lfirst_node(TargetEntry, cell);
        if (!target->resjunk && equal(target->expr, column))
            return target->resno;
    }
    return 0;
}

Var *with_column(const Var *var, AttrNumber column)
{
    Var *other = static_cast<Var *>(copyObjectImpl(var));
    other->varattno = column;
    other->varattnosyn = column;
    return other;
}

bool is_task_of(Expr *expression)
{
    if (!IsA(expression, FuncExpr))
        return false;
    const auto *call = castNode(FuncExpr, expression);
    return call->funcresulttype == UUIDOID && list_length(call->args) == 1 &&
           IsA(linitial(call->args), Var) && is_ours(call->funcid, "task_of");
}

// For an output column of a subquery that is the task of a step: the output column that is the step, or 0.
// The one may have come through views over views; the other must have come along in the same row. In a UNION
// the rows of other branches have other columns, and grouping sets make columns null one by one.
AttrNumber step_of_output(const Query *subquery, AttrNumber task)
{
    check_stack_depth();
    if (task <= 0 || task > list_length(subquery->targetList) || subquery->setOperations != nullptr ||
        subquery->groupingSets != NIL)
        return 0;
    auto *target = static_cast<TargetEntry *>(list_nth(subquery->targetList, task - 1));
    if (is_task_of(target->expr))
        return output_column(subquery, castNode(Var, linitial(castNode(FuncExpr, target->expr)->args)));
    const Query *inner = subquery_behind(subquery, reinterpret_cast<Node *>(target->expr));
    if (inner == nullptr)
        return 0;
    const Var *var = castNode(Var, target->expr);
    const AttrNumber step = step_of_output(inner, var->varattno);
    return step == 0 ? static_cast<AttrNumber>(0) : output_column(subquery, with_column(var, step));
}

// For a view's column task_uuid: the view's column of which it is computed, else null.
Var *step_column_of(const Query *query, Node *side)
{
    const Query *view = subquery_behind(query, side);
    if (view == nullptr)
        return nullptr;
    const Var *var = castNode(Var, side);
    const AttrNumber step = step_of_output(view, var->varattno);
    return step == 0 ? nullptr : with_column(var, step);
}

Expr *comparison(Oid op, Oid function, Expr *left, Expr *right)
{
    Expr *clause = make_opclause(op, BOOLOID, false, left, right, InvalidOid, InvalidOid);
    castNode(OpExpr, clause)->opfuncid = function;
    return clause;
}

// tasker.last_step_of(uuid), if whoever asks may call it: through somebody else's view he may read from ours
// without any right on the schema. Else nothing is added.
Oid callable_last_step_of()
{
    const Oid argument = UUIDOID;
    const Oid function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("last_step_of"),
                                         PointerGetDatum(buildoidvector(&argument, 1)),
                                         ObjectIdGetDatum(get_namespace_oid("tasker", true)));
    if (!OidIsValid(function))
        return InvalidOid;
    return DatumGetBool(DirectFunctionCall2(has_function_privilege_id, ObjectIdGetDatum(function),
                                            CStringGetTextDatum("execute")))
               ? function
               : InvalidOid;
}

// Adds what follows from the step's task being `task`. It is evaluated several times then, so it must be the
// same each time: a subquery need not be, it may have a LIMIT without an order.
List *add_range(List *added, Var *step, Node *task)
{
    constexpr Oid kUuidLessEqual = 2976;
    constexpr Oid kUuidGreaterEqual = 2977;
    const Oid last_step_of = callable_last_step_of();
    if (!OidIsValid(last_step_of) || contain_volatile_functions(task) || checkExprHasSubLink(task))
        return added;
    auto *first = static_cast<Expr *>(copyObjectImpl(task));
    auto *last =
        reinterpret_cast<Expr *>(makeFuncExpr(last_step_of, UUIDOID, list_make1(copyObjectImpl(task)),
                                              InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL));
    added = lappend(added, comparison(kUuidGreaterEqual, F_UUID_GE, reinterpret_cast<Expr *>(step), first));
    return lappend(added,
                   comparison(kUuidLessEqual, F_UUID_LE, static_cast<Expr *>(copyObjectImpl(step)), last));
}

// What follows from "task_uuid = X", of either side.
List *range_of(const Query *query, Node *clause)
{
    if (clause == nullptr || !IsA(clause, OpExpr))
        return NIL;
    const auto *equality = castNode(OpExpr, clause);
    if (get_opcode(equality->opno) != F_UUID_EQ)
        return NIL;
    List *added = NIL;
    for (int side = 0; side < 2; side++) {
        if (Var *step = step_column_of(query, static_cast<Node *>(list_nth(equality->args, side))))
            added = add_range(added, step, static_cast<Node *>(list_nth(equality->args, 1 - side)));
    }
    return added;
}

// The conditions with what follows from those that are joined by AND.
Node *with_ranges(const Query *query, Node *conditions)
{
    if (conditions == nullptr)
        return nullptr;
    if (is_andclause(conditions)) {
        auto *all = castNode(BoolExpr, conditions);
        List *arguments = NIL;
        ListCell *cell = nullptr;
        foreach (cell, all->args)
            arguments = lappend(arguments, with_ranges(query, static_cast<Node *>(lfirst(cell))));
        all->args = arguments;
        return conditions;
    }
    List *added = range_of(query, conditions);
    return added == NIL ? conditions : reinterpret_cast<Node *>(make_andclause(lcons(conditions, added)));
}

void add_ranges_to_joins(const Query *query, Node *node)
{
    if (node == nullptr)
        return;
    if (IsA(node, FromExpr)) {
        auto *from = castNode(FromExpr, node);
        from->quals = with_ranges(query, from->quals);
        ListCell *cell = nullptr;
        foreach (cell, from->fromlist)
            add_ranges_to_joins(query, static_cast<Node *>(lfirst(cell)));
    } else if (IsA(node, JoinExpr)) {
        auto *join = castNode(JoinExpr, node);
        join->quals = with_ranges(query, join->quals);
        add_ranges_to_joins(query, join->larg);
        add_ranges_to_joins(query, join->rarg);
    }
}

// Does the query read from a subquery, as an expanded view is one?
bool reads_a_subquery(const Query *query)
{
    ListCell *cell = nullptr;
    foreach (cell, query->rtable) {
        if (lfirst_node(RangeTblEntry, cell)->rtekind == RTE_SUBQUERY)
            return true;
    }
    return false;
}

bool add_ranges(Node *node, void *context);

// Server 15 wants a pointer to a function whose arguments it does not know; later ones cast what they get.
bool (*visitor())()
{
    return reinterpret_cast<bool (*)()>(reinterpret_cast<void (*)()>(add_ranges));
}

// Visits the query and every query in it.
bool add_ranges(Node *node, void *context)
{
    if (node == nullptr)
        return false;
    if (!IsA(node, Query))
        return expression_tree_walker(node, visitor(), context);
    auto *query = castNode(Query, node);
    if (query->commandType != CMD_UTILITY && reads_a_subquery(query))
        add_ranges_to_joins(query, reinterpret_cast<Node *>(query->jointree));
    return query_tree_walker(query, visitor(), context, 0);
}

PlannedStmt *plan(Query *query, const char *text, int options, ParamListInfo parameters)
{
    pg::boundary([&] {
        check_stack_depth();
        if (OidIsValid(get_namespace_oid("tasker", true))) // other databases do not pay for the walk
            (void)add_ranges(reinterpret_cast<Node *>(query), nullptr);
    });
    return next_hook != nullptr ? next_hook(query, text, options, parameters)
                                : standard_planner(query, text, options, parameters);
}

} // namespace

void install_planner_hook()
{
    next_hook = planner_hook;
    planner_hook = plan;
}

} // namespace tasker::workflow
