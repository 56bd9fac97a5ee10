#include "pg/portal.hpp"

#include "pg/memory.hpp"

namespace tasker::pg {
namespace {

// The one statement in `sql`. Parsed in the current context, which outlives the statement's own commits.
RawStmt *parse_single(const char *sql)
{
    List *statements = pg_parse_query(sql);
    if (list_length(statements) != 1)
        elog(ERROR, "expected one statement, found %d in \"%s\"", list_length(statements), sql);
    return linitial_node(RawStmt, statements);
}

List *plan_statement(RawStmt *statement, const char *sql)
{
    const bool needs_snapshot = analyze_requires_snapshot(statement);
    if (needs_snapshot)
        PushActiveSnapshot(GetTransactionSnapshot());
    List *queries = pg_analyze_and_rewrite_fixedparams(statement, sql, nullptr, 0, nullptr);
    List *plans = pg_plan_queries(queries, sql, CURSOR_OPT_PARALLEL_OK, nullptr);
    if (needs_snapshot)
        PopActiveSnapshot();
    return plans;
}

// Plain C inside: an ereport may leave from anywhere. `context` holds the trees.
void run_statement(const char *sql, MemoryContext context)
{
    StartTransactionCommand();
    MemoryContextSwitchTo(context);
    RawStmt *statement = parse_single(sql);
    CommandTag tag = CreateCommandTag(statement->stmt);
    List *plans = plan_statement(statement, sql);

    Portal portal = CreatePortal("", true, true);
    portal->visible = false;
    PortalDefineQuery(portal, nullptr, sql, tag, plans, nullptr);
    PortalStart(portal, nullptr, 0, InvalidSnapshot);
    QueryCompletion completion;
    InitializeQueryCompletion(&completion);
    (void)tasker_portal_run(portal, None_Receiver, &completion);
    PortalDrop(portal, false);
    CommitTransactionCommand();
}

// Puts the user, the timer and the activity line back, whatever happened.
class StatementScope
{
  public:
    StatementScope(const char *sql, Oid role, int timeout_ms) noexcept : timed_(timeout_ms > 0)
    {
        GetUserIdAndSecContext(&user_, &context_);
        // No security context: a transaction must not begin under one, and this statement begins several.
        if (OidIsValid(role))
            SetUserIdAndSecContext(role, 0);
        if (timed_)
            enable_timeout_after(STATEMENT_TIMEOUT, timeout_ms);
        outer_query_ = std::exchange(debug_query_string, sql);
    }
    ~StatementScope()
    {
        debug_query_string = outer_query_;
        if (timed_)
            disable_timeout(STATEMENT_TIMEOUT, false);
        SetUserIdAndSecContext(user_, context_);
    }
    StatementScope(const StatementScope &) = delete;
    StatementScope &operator=(const StatementScope &) = delete;

  private:
    bool timed_;
    Oid user_ = InvalidOid;
    int context_ = 0;
    const char *outer_query_;
};

} // namespace

void run_top_level(const char *sql, Oid role, int timeout_ms)
{
    if (IsTransactionOrTransactionBlock())
        throw Error(ERRCODE_ACTIVE_SQL_TRANSACTION, "a top-level statement cannot run inside a transaction")
            .detail("The statement is: %s", sql);

    OwnedContext trees("tasker top-level statement", TopMemoryContext);
    MemoryContextScope memory(CurrentMemoryContext);
    StatementScope scope(sql, role, timeout_ms);
    try {
        pg_call([&] { run_statement(sql, trees.get()); });
    } catch (...) {
        // Abort restores the user that the failed transaction began with; the scope then puts back ours.
        pg_call([] { AbortCurrentTransaction(); });
        throw;
    }
}

} // namespace tasker::pg
