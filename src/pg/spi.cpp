#include "pg/spi.hpp"

namespace tasker::pg {
namespace {

constexpr const char *kSchema = "tasker";
constexpr const char *kOwnedTable = "part_config"; // of the lowest plane: there whenever anything of ours is

int pin_search_path()
{
    int level = NewGUCNestLevel();
    set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true,
                      0, false);
    return level;
}

} // namespace

Oid extension_owner()
{
    Oid schema = get_namespace_oid(kSchema, true);
    Oid table = OidIsValid(schema) ? get_relname_relid(kOwnedTable, schema) : InvalidOid;
    if (!OidIsValid(table))
        return InvalidOid;
    HeapTuple tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(tuple))
        return InvalidOid;
    Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(tuple))->relowner;
    ReleaseSysCache(tuple);
    return owner;
}

bool extension_exists()
{
    return OidIsValid(get_extension_oid("tasker", true)) && OidIsValid(extension_owner());
}

AsOwner::AsOwner() : exceptions_(std::uncaught_exceptions())
{
    pg_call([&] {
        Oid owner = extension_owner();
        GetUserIdAndSecContext(&saved_user_, &saved_context_);
        guc_level_ = pin_search_path();
        if (OidIsValid(owner))
            SetUserIdAndSecContext(owner, saved_context_ | SECURITY_LOCAL_USERID_CHANGE);
    });
}

// While an error unwinds, the abort of the transaction or subtransaction restores settings; only the user is
// put back at once.
AsOwner::~AsOwner()
{
    SetUserIdAndSecContext(saved_user_, saved_context_);
    if (std::uncaught_exceptions() == exceptions_)
        AtEOXact_GUC(false, guc_level_);
}

SPIPlanPtr Statement::plan()
{
    if (plan_ == nullptr) {
        plan_ = pg_call([&] {
            SPIPlanPtr fresh = SPI_prepare(sql_, count_, types_.data());
            if (fresh == nullptr)
                elog(ERROR, "could not prepare \"%s\": %s", sql_, SPI_result_code_string(SPI_result));
            SPI_keepplan(fresh);
            return fresh;
        });
    }
    return plan_;
}

bool Rows::is_null(uint64 row, int column) const
{
    return heap_attisnull(table_->vals[row], column, table_->tupdesc);
}

Datum Rows::datum(uint64 row, int column) const
{
    bool null = false;
    return SPI_getbinval(table_->vals[row], table_->tupdesc, column, &null);
}

std::string_view Rows::text(uint64 row, int column) const
{
    if (is_null(row, column))
        return {};
    Datum value = datum(row, column);
    varlena *t =
        pg_call([&] { return pg_detoast_datum_packed(reinterpret_cast<varlena *>(DatumGetPointer(value))); });
    return {VARDATA_ANY(t), static_cast<size_t>(VARSIZE_ANY_EXHDR(t))};
}

Spi::Spi(Identity identity) : exceptions_(std::uncaught_exceptions())
{
    pg_call([&] {
        if (SPI_connect() != SPI_OK_CONNECT)
            elog(ERROR, "could not connect to SPI");
        if (identity == Identity::owner) {
            Oid owner = extension_owner();
            GetUserIdAndSecContext(&saved_user_, &saved_context_);
            guc_level_ = pin_search_path();
            if (OidIsValid(owner))
                SetUserIdAndSecContext(owner, saved_context_ | SECURITY_LOCAL_USERID_CHANGE);
            switched_ = true;
        }
    });
}

// While an error unwinds, the abort of the transaction or subtransaction closes the connection and restores
// settings: doing it here could touch what the error left half done.
Spi::~Spi()
{
    if (switched_)
        SetUserIdAndSecContext(saved_user_, saved_context_);
    if (std::uncaught_exceptions() != exceptions_)
        return;
    if (switched_)
        AtEOXact_GUC(false, guc_level_);
    SPI_finish();
}

Rows Spi::run(Statement &statement, std::initializer_list<Param> parameters)
{
    Datum values[Statement::kMaxParameters];
    char nulls[Statement::kMaxParameters];
    int count = 0;

    for (const Param &parameter : parameters) {
        values[count] = parameter.value;
        nulls[count++] = parameter.null ? 'n' : ' ';
    }
    Assert(count == statement.parameter_count());
    SPIPlanPtr plan = statement.plan();
    pg_call([&] {
        int code = SPI_execute_plan(plan, values, nulls, false, 0);
        if (code < 0)
            elog(ERROR, "could not run \"%s\": %s", statement.sql(), SPI_result_code_string(code));
    });
    return Rows(SPI_tuptable, SPI_processed);
}

Rows Spi::run_text(const char *sql)
{
    pg_call([&] {
        int code = SPI_execute(sql, false, 0);
        if (code < 0)
            elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(code));
    });
    return Rows(SPI_tuptable, SPI_processed);
}

} // namespace tasker::pg
