#include "pg/spi.hpp"

namespace tasker::pg {
namespace {

constexpr const char *kExtension = "tasker";
constexpr const char *kSchema = "tasker";
constexpr const char *kOwnedTable = "part_config"; // of the lowest plane: there whenever anything of ours is

// The current user outside of the outermost Spi or AsOwner that has changed it; InvalidOid outside of all.
Oid outer_user = InvalidOid;

// Notes the user that is put back at the end of a scope; true when that scope is the outermost.
bool enter_scope(Oid saved_user) noexcept
{
    if (OidIsValid(outer_user))
        return false;
    outer_user = saved_user;
    return true;
}

// Plain C, as the next two: an ereport may leave from anywhere.
Oid find_owner()
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

int pin_search_path()
{
    int level = NewGUCNestLevel();
    (void)set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
                            true, 0, false);
    return level;
}

// What cannot fail comes last, so that a failure leaves the user as it was.
void act_as(Oid owner, Oid *saved_user, int *saved_context, int *guc_level)
{
    GetUserIdAndSecContext(saved_user, saved_context);
    *guc_level = pin_search_path();
    if (OidIsValid(owner))
        SetUserIdAndSecContext(owner, *saved_context | SECURITY_LOCAL_USERID_CHANGE);
}

[[noreturn]] void throw_spi_failure(const char *what, const char *sql, int code)
{
    throw Error(ERRCODE_INTERNAL_ERROR, "could not %s: %s", what, SPI_result_code_string(code))
        .detail("The statement is: %s", sql);
}

// varchar and text are stored alike.
bool same_representation(Oid declared, Oid given)
{
    return declared == given || (declared == VARCHAROID && given == TEXTOID);
}

} // namespace

Oid extension_owner()
{
    return pg_call([] { return find_owner(); });
}

bool extension_exists()
{
    return pg_call(
        [] { return OidIsValid(get_extension_oid(kExtension, true)) && OidIsValid(find_owner()); });
}

Oid calling_user() noexcept
{
    return OidIsValid(outer_user) ? outer_user : GetUserId();
}

AsOwner::AsOwner() : exceptions_(std::uncaught_exceptions())
{
    pg_call([&] { act_as(find_owner(), &saved_user_, &saved_context_, &guc_level_); });
    outermost_ = enter_scope(saved_user_);
}

// DDL may call functions of the table's owner: it folds constants in CHECK constraints and indexes. They must
// not leave anything behind that would run later with the rights of the session, a deferred trigger say.
AsOwner::AsOwner(Oid role) : exceptions_(std::uncaught_exceptions())
{
    pg_call([&] {
        act_as(role, &saved_user_, &saved_context_, &guc_level_);
        SetUserIdAndSecContext(role,
                               saved_context_ | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
    });
    outermost_ = enter_scope(saved_user_);
}

// While an error unwinds, the abort of the transaction or subtransaction restores settings; only the user is
// put back at once.
AsOwner::~AsOwner()
{
    SetUserIdAndSecContext(saved_user_, saved_context_);
    if (outermost_)
        outer_user = InvalidOid;
    if (std::uncaught_exceptions() == exceptions_)
        AtEOXact_GUC(false, guc_level_);
}

SPIPlanPtr Statement::plan()
{
    if (plan_ == nullptr) {
        SPIPlanPtr fresh = pg_call([&] { return SPI_prepare(sql_, count_, types_.data()); });
        if (fresh == nullptr)
            throw_spi_failure("prepare a statement", sql_, SPI_result);
        SPI_keepplan(fresh);
        plan_ = fresh;
    }
    return plan_;
}

HeapTuple Rows::tuple(uint64 row, int column) const
{
    if (table_ == nullptr || row >= table_->numvals || column < 1 || column > table_->tupdesc->natts)
        throw Error(ERRCODE_INTERNAL_ERROR, "there is no row %llu with a column %d in the result",
                    static_cast<unsigned long long>(row), column);
    return table_->vals[row];
}

// By-value values of the wanted length (a varlena has -1).
Datum Rows::sized(uint64 row, int column, int16 length) const
{
    const Datum value = datum(row, column);
    const Form_pg_attribute attribute = TupleDescAttr(table_->tupdesc, column - 1);
    if (attribute->attlen != length)
        throw Error(ERRCODE_INTERNAL_ERROR, "column %d of the result has type %u, which has another size",
                    column, attribute->atttypid);
    return value;
}

bool Rows::is_null(uint64 row, int column) const
{
    const HeapTuple checked = tuple(row, column);
    return heap_attisnull(checked, column, table_->tupdesc);
}

Datum Rows::datum(uint64 row, int column) const
{
    const HeapTuple checked = tuple(row, column);
    bool null = false;
    return SPI_getbinval(checked, table_->tupdesc, column, &null);
}

std::string_view Rows::text(uint64 row, int column) const
{
    if (is_null(row, column))
        return {};
    Datum value = sized(row, column, -1);
    varlena *t =
        pg_call([&] { return pg_detoast_datum_packed(reinterpret_cast<varlena *>(DatumGetPointer(value))); });
    return {VARDATA_ANY(t), static_cast<size_t>(VARSIZE_ANY_EXHDR(t))};
}

// A constructor that fails leaves the connection open: the abort that its error leads to closes it.
Spi::Spi(Identity identity) : exceptions_(std::uncaught_exceptions())
{
    pg_call([&] {
        (void)SPI_connect(); // reports every failure itself
        if (identity == Identity::owner)
            act_as(find_owner(), &saved_user_, &saved_context_, &guc_level_);
    });
    switched_ = identity == Identity::owner;
    if (switched_)
        outermost_ = enter_scope(saved_user_);
}

// While an error unwinds, the abort of the transaction or subtransaction closes the connection and restores
// settings: doing it here could touch what the error left half done.
Spi::~Spi()
{
    if (switched_)
        SetUserIdAndSecContext(saved_user_, saved_context_);
    if (outermost_)
        outer_user = InvalidOid;
    if (std::uncaught_exceptions() != exceptions_)
        return;
    if (switched_)
        AtEOXact_GUC(false, guc_level_);
    SPI_finish();
}

Rows Spi::execute(Statement &statement, std::initializer_list<Param> parameters, Sees sees)
{
    Datum values[Statement::kMaxParameters];
    char nulls[Statement::kMaxParameters];
    int count = 0;

    // A wrong type would be read as what it is not; the look costs a comparison each.
    if (static_cast<int>(parameters.size()) != statement.parameter_count())
        throw Error(ERRCODE_INTERNAL_ERROR, "statement got %zu parameters, but declares %d",
                    parameters.size(), statement.parameter_count())
            .detail("The statement is: %s", statement.sql());
    for (const Param &parameter : parameters) {
        if (OidIsValid(parameter.type) && !same_representation(statement.type(count), parameter.type))
            throw Error(ERRCODE_INTERNAL_ERROR, "parameter %d has type %u, but the statement declares %u",
                        count + 1, parameter.type, statement.type(count))
                .detail("The statement is: %s", statement.sql());
        values[count] = parameter.value;
        nulls[count++] = parameter.null ? 'n' : ' ';
    }
    SPIPlanPtr plan = statement.plan();
    int code = pg_call([&] {
        return sees == Sees::latest ? SPI_execute_snapshot(plan, values, nulls, GetLatestSnapshot(),
                                                           InvalidSnapshot, false, true, 0)
                                    : SPI_execute_plan(plan, values, nulls, sees == Sees::active, 0);
    });
    if (code < 0)
        throw_spi_failure("run a statement", statement.sql(), code);
    return Rows(SPI_tuptable, SPI_processed);
}

Rows Spi::run(Statement &statement, std::initializer_list<Param> parameters)
{
    return execute(statement, parameters, Sees::its_transaction);
}

Rows Spi::run_latest(Statement &statement, std::initializer_list<Param> parameters)
{
    return execute(statement, parameters, Sees::latest);
}

Rows Spi::read_latest(Statement &statement, std::initializer_list<Param> parameters)
{
    pg_call([] { PushActiveSnapshot(GetLatestSnapshot()); });
    Rows rows = execute(statement, parameters, Sees::active);
    PopActiveSnapshot();
    return rows;
}

Rows Spi::read_under(Statement &statement, Snapshot snapshot, std::initializer_list<Param> parameters)
{
    pg_call([&] { PushActiveSnapshot(snapshot); });
    Rows rows = execute(statement, parameters, Sees::active);
    PopActiveSnapshot();
    return rows;
}

Rows Spi::read_text_under(const char *sql, Snapshot snapshot)
{
    pg_call([&] {
        PushActiveSnapshot(snapshot);
        int code = SPI_execute(sql, true, 0);
        if (code < 0)
            elog(ERROR, "could not run \"%s\": %s", sql, SPI_result_code_string(code));
        PopActiveSnapshot();
    });
    return Rows(SPI_tuptable, SPI_processed);
}

Rows Spi::run_text(const char *sql)
{
    int code = pg_call([&] { return SPI_execute(sql, false, 0); });
    if (code < 0)
        throw_spi_failure("run a statement", sql, code);
    return Rows(SPI_tuptable, SPI_processed);
}

} // namespace tasker::pg
