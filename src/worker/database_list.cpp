#include "worker/database_list.hpp"

#include "pg/settings.hpp"

namespace tasker::worker {
namespace {

constexpr int kInvalidDatabase = -2; // datconnlimit of a database whose DROP was cut off

// tasker.databases, taken apart. Names are exact: unlike SQL identifiers they are not folded to lower case.
class WantedNames
{
  public:
    WantedNames()
    {
        all_ = pg::pg_call([&] {
            const char *setting = pg::settings::databases != nullptr ? pg::settings::databases : "";
            char *text = pstrdup(setting);
            if (!SplitGUCList(text, ',', &names_)) {
                complain(setting);
                names_ = NIL;
                return false;
            }
            return names_ == NIL;
        });
    }

    bool contains(const char *name) const
    {
        if (all_)
            return true;
        for (int i = 0; i < list_length(names_); i++) {
            if (strcmp(static_cast<char *>(list_nth(names_, i)), name) == 0)
                return true;
        }
        return false;
    }

  private:
    static void complain(const char *setting)
    {
        static char complained_about[256];
        if (strncmp(complained_about, setting, sizeof complained_about - 1) == 0)
            return;
        strlcpy(complained_about, setting, sizeof complained_about);
        ereport(WARNING, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("invalid list of names in parameter \"tasker.databases\": \"%s\"", setting),
                errdetail("No database gets a background worker."),
                errhint("Separate the names by commas, and put those with special characters into double "
                        "quotes."));
    }

    List *names_ = NIL;
    bool all_ = true;
};

bool takes_worker(const FormData_pg_database *form)
{
    return form->datallowconn && !form->datistemplate && form->datconnlimit != kInvalidDatabase;
}

// One scan of pg_database, like the autovacuum launcher's. Plain C inside.
struct Scan
{
    Relation relation;
    TableScanDesc scan;
};

Scan begin_scan()
{
    StartTransactionCommand();
    (void)GetTransactionSnapshot();
    Relation relation = table_open(DatabaseRelationId, AccessShareLock);
    return {relation, table_beginscan_catalog(relation, 0, nullptr)};
}

void end_scan(const Scan &scan)
{
    table_endscan(scan.scan);
    table_close(scan.relation, AccessShareLock);
    CommitTransactionCommand();
}

} // namespace

pg::Vector<DatabaseInfo> list_databases(pg::ContextResource &resource)
{
    pg::MemoryContextScope memory(CurrentMemoryContext);
    pg::Vector<DatabaseInfo> list(&resource);
    const Scan scan = pg::pg_call([] { return begin_scan(); });
    const WantedNames wanted; // in the transaction's memory

    while (HeapTuple tuple = pg::pg_call([&] { return heap_getnext(scan.scan, ForwardScanDirection); })) {
        const auto *form = reinterpret_cast<FormData_pg_database *>(GETSTRUCT(tuple));
        DatabaseInfo info{form->oid, form->datname, false};
        info.wanted = takes_worker(form) && wanted.contains(NameStr(info.name));
        list.push_back(info);
    }
    pg::pg_call([&] { end_scan(scan); });
    std::sort(list.begin(), list.end(),
              [](const DatabaseInfo &a, const DatabaseInfo &b) { return a.oid < b.oid; });
    return list;
}

bool is_named_by_setting(const char *database)
{
    return WantedNames().contains(database);
}

} // namespace tasker::worker
