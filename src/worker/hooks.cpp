#include "worker/hooks.hpp"

#include "pg/function.hpp"
#include "stream/wake.hpp"
#include "worker/shared.hpp"

extern "C" {
#include "commands/defrem.h"
}

namespace tasker::worker {
namespace {

constexpr int64_t kPatienceUs = 5 * core::kUsPerSecond;
constexpr int64_t kLookAgainMs = 100;

ProcessUtility_hook_type previous_utility_hook = nullptr;
object_access_hook_type previous_access_hook = nullptr;

// This transaction's part; see at_transaction_end.
bool holds_workers = false;  // an entry of `holds` is ours
bool statement_runs = false; // the statement that the hold is for has not returned
bool wake_at_commit = false; // databases have changed
bool told_at_commit = false; // the extension came or went in this database

void release_holds() noexcept
{
    WorkerShared &state = *shared();
    LWLockAcquire(&state.lock, LW_EXCLUSIVE);
    for (Hold &hold : state.holds) {
        if (OidIsValid(hold.database) && hold.pid == MyProcPid)
            hold = Hold{};
    }
    LWLockRelease(&state.lock);
    holds_workers = false;
}

// Releases what the transaction holds and passes on what it has changed. ALTER DATABASE ... SET TABLESPACE
// commits in the middle; its hold stays to the end of the second transaction.
void at_transaction_end(XactEvent event, void *)
{
    const bool aborted = event == XACT_EVENT_ABORT || event == XACT_EVENT_PARALLEL_ABORT;
    if (!aborted && event != XACT_EVENT_COMMIT && event != XACT_EVENT_PREPARE)
        return;
    if (aborted)
        statement_runs = false;
    if (statement_runs)
        return;
    const bool released = holds_workers;
    if (released)
        release_holds();
    if (event == XACT_EVENT_COMMIT && told_at_commit)
        wake_launcher(MyDatabaseId);
    else if (released || (event == XACT_EVENT_COMMIT && wake_at_commit))
        wake_launcher();
    wake_at_commit = told_at_commit = false;
}

void watch_transaction()
{
    static bool registered = false;
    if (!registered)
        pg::pg_call([] { RegisterXactCallback(at_transaction_end, nullptr); });
    registered = true;
}

// Notes that this backend keeps the processes away, and tells them to end. False when too many do so.
bool place_hold(Oid database)
{
    WorkerShared &state = *shared();
    pg::LockScope lock(&state.lock, LW_EXCLUSIVE);
    for (Hold &hold : state.holds) {
        if (!OidIsValid(hold.database)) {
            hold = {database, MyProcPid, MyLatch};
            holds_workers = true;
            if (DatabaseSlot *slot = find_slot(database)) {
                stop_process(slot->worker);
                stop_process(slot->ticker);
            }
            return true;
        }
    }
    return false;
}

bool process_is_there(Oid database)
{
    pg::LockScope lock(&shared()->lock, LW_SHARED);
    const DatabaseSlot *slot = find_slot(database);
    return slot != nullptr && has_process(*slot);
}

// The worker and the ticker have a hand in the statement's database: send them home and wait until they have
// gone.
void keep_worker_away(Oid database)
{
    static uint32 wait_event = 0;
    if (wait_event == 0)
        wait_event = tasker_wait_event("TaskerWorkerExit");
    watch_transaction();
    if (!place_hold(database))
        return;
    const int64_t start = now_us();
    while (process_is_there(database)) {
        const int64_t waited = now_us() - start;
        if (waited < 0 || waited >= kPatienceUs)
            return;
        pg::pg_call([&] {
            (void)WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, kLookAgainMs,
                            wait_event);
            ResetLatch(MyLatch);
        });
        pg::check_for_interrupts();
    }
}

bool has_option(List *options, const char *name)
{
    for (int i = 0; i < list_length(options); i++) {
        if (strcmp(static_cast<DefElem *>(list_nth(options, i))->defname, name) == 0)
            return true;
    }
    return false;
}

// The database that CREATE DATABASE copies; template1 when none is named. Plain C inside: may ereport.
const char *template_of(const CreatedbStmt *statement)
{
    for (int i = 0; i < list_length(statement->options); i++) {
        auto *option = static_cast<DefElem *>(list_nth(statement->options, i));
        if (strcmp(option->defname, "template") == 0 && option->arg != nullptr)
            return defGetString(option);
    }
    return "template1";
}

bool drops_tasker(const DropStmt *statement)
{
    if (statement->removeType != OBJECT_EXTENSION)
        return false;
    for (int i = 0; i < list_length(statement->objects); i++) {
        if (strcmp(strVal(list_nth(statement->objects, i)), "tasker") == 0)
            return true;
    }
    return false;
}

// The database that must be without a worker for this statement, if the user may run it; else InvalidOid.
// Plain C inside: may ereport.
Oid database_to_clear(Node *statement)
{
    const char *name = nullptr;
    switch (nodeTag(statement)) {
    case T_DropdbStmt:
        name = reinterpret_cast<DropdbStmt *>(statement)->dbname;
        break;
    case T_CreatedbStmt:
        name = template_of(reinterpret_cast<CreatedbStmt *>(statement));
        break;
    case T_RenameStmt:
        if (reinterpret_cast<RenameStmt *>(statement)->renameType == OBJECT_DATABASE)
            name = reinterpret_cast<RenameStmt *>(statement)->subname;
        break;
    case T_AlterDatabaseStmt:
        if (has_option(reinterpret_cast<AlterDatabaseStmt *>(statement)->options, "tablespace"))
            name = reinterpret_cast<AlterDatabaseStmt *>(statement)->dbname;
        break;
    case T_DropStmt:
        if (drops_tasker(reinterpret_cast<DropStmt *>(statement))) {
            const Oid extension = get_extension_oid("tasker", true);
            const bool allowed =
                OidIsValid(extension) && tasker_is_owner(ExtensionRelationId, extension, GetUserId());
            return allowed ? MyDatabaseId : InvalidOid;
        }
        break;
    default:
        break;
    }
    const Oid database = name != nullptr ? get_database_oid(name, true) : InvalidOid;
    if (!OidIsValid(database) || !tasker_is_owner(DatabaseRelationId, database, GetUserId()))
        return InvalidOid;
    return database;
}

// Does the statement change which databases there are to look after?
bool changes_databases(Node *statement)
{
    return IsA(statement, CreatedbStmt) || IsA(statement, DropdbStmt) || IsA(statement, AlterDatabaseStmt);
}

bool commits_prepared(Node *statement)
{
    return IsA(statement, TransactionStmt) &&
           reinterpret_cast<TransactionStmt *>(statement)->kind == TRANS_STMT_COMMIT_PREPARED;
}

// Before the statement.
void prepare_for(Node *statement)
{
    if (commits_prepared(statement) || RecoveryInProgress())
        return;
    const Oid database = pg::pg_call([&] { return database_to_clear(statement); });
    if (OidIsValid(database)) {
        keep_worker_away(database);
        statement_runs = true;
    }
    if (changes_databases(statement)) {
        watch_transaction();
        wake_at_commit = true;
    }
}

bool concerns_us(Node *statement)
{
    switch (nodeTag(statement)) {
    case T_DropdbStmt:
    case T_CreatedbStmt:
    case T_RenameStmt:
    case T_AlterDatabaseStmt:
    case T_DropStmt:
        return true;
    default:
        return commits_prepared(statement);
    }
}

// An error leaves through here with longjmp: nothing is to be destroyed, and at_transaction_end puts things
// right.
void on_utility(PlannedStmt *planned, const char *query, bool read_only_tree, ProcessUtilityContext context,
                ParamListInfo parameters, QueryEnvironment *environment, DestReceiver *receiver,
                QueryCompletion *completion)
{
    Node *statement = planned->utilityStmt;
    const bool concerned = concerns_us(statement);
    const bool prepared = commits_prepared(statement);

    if (concerned)
        pg::boundary([&] { prepare_for(statement); });
    if (previous_utility_hook != nullptr)
        previous_utility_hook(planned, query, read_only_tree, context, parameters, environment, receiver,
                              completion);
    else
        standard_ProcessUtility(planned, query, read_only_tree, context, parameters, environment, receiver,
                                completion);
    if (concerned)
        statement_runs = false;
    // The prepared transaction may have been one that created or dropped the extension, or inserted events.
    if (prepared) {
        wake_launcher(MyDatabaseId);
        stream::after_commit_prepared();
    }
}

// DROP EXTENSION also comes as DROP OWNED BY or as a CASCADE, which the statement's tree does not show.
void on_object_access(ObjectAccessType access, Oid class_id, Oid object, int sub_id, void *argument)
{
    if (previous_access_hook != nullptr)
        previous_access_hook(access, class_id, object, sub_id, argument);
    if (access == OAT_DROP && class_id == ExtensionRelationId)
        pg::boundary([] {
            watch_transaction();
            told_at_commit = true;
        });
}

} // namespace

void install_hooks()
{
    previous_utility_hook = std::exchange(ProcessUtility_hook, on_utility);
    previous_access_hook = std::exchange(object_access_hook, on_object_access);
}

// Run by CREATE EXTENSION: once its transaction has committed, the launcher tries this database.
TASKER_FUNCTION(notify_launcher)
{
    if (shared() != nullptr) {
        watch_transaction();
        told_at_commit = true;
    }
    return args.null();
}

} // namespace tasker::worker
