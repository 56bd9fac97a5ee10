// SQL from C++, for everything that is not a hot path.
//
// A Spi object connects for a scope and acts as the owner of the extension with search_path pinned to
// pg_catalog, so that callers need rights on our functions only, and cannot slip in objects of theirs. A
// Statement is prepared at its first use in a backend and kept; nobody assembles SQL text from values.
#pragma once

#include "pg/error.hpp"

namespace tasker::pg {

// A timestamptz or interval in a parameter list, where a bare int64 would be taken for a bigint.
struct Timestamp
{
    TimestampTz value;
};

// One typed value for a parameter of a Statement. The constructors choose Datum and nullness; the statement
// declares the SQL type.
struct Param
{
    Datum value = 0;
    bool null = false;
    Oid type = InvalidOid;

    static Param none() { return Param{0, true, InvalidOid}; }
    static Param of_datum(Datum d) { return Param{d, false, InvalidOid}; }

    Param() = default;
    Param(Datum d, bool is_null, Oid t) : value(d), null(is_null), type(t) {}
    Param(bool v) : value(BoolGetDatum(v)), type(BOOLOID) {}
    Param(int16_t v) : value(Int16GetDatum(v)), type(INT2OID) {}
    Param(int32_t v) : value(Int32GetDatum(v)), type(INT4OID) {}
    Param(int64_t v) : value(Int64GetDatum(v)), type(INT8OID) {}
    Param(double v) : value(Float8GetDatum(v)), type(FLOAT8OID) {}
    Param(Timestamp v) : value(TimestampTzGetDatum(v.value)), type(TIMESTAMPTZOID) {}
    Param(Oid v) : value(ObjectIdGetDatum(v)), type(OIDOID) {}
    Param(std::string_view v)
        : value(PointerGetDatum(
              pg_call([&] { return cstring_to_text_with_len(v.data(), static_cast<int>(v.size())); }))),
          type(TEXTOID)
    {
    }
    Param(const char *v) : Param(std::string_view(v)) {}
    template <class T> Param(T *) = delete; // else any other pointer would become a boolean
    template <class T> Param(const std::optional<T> &v) : Param(v ? Param(*v) : none()) {}
};

// A statement that is prepared once per backend. Define as a function-local static; it is trivially
// destructible. Plans revalidate themselves after DDL, also after DROP and CREATE EXTENSION.
class Statement
{
  public:
    static constexpr int kMaxParameters = 16;

    constexpr Statement(const char *sql, std::initializer_list<Oid> types) : sql_(sql), count_(0), types_{}
    {
        for (Oid type : types)
            types_.at(static_cast<size_t>(count_++)) = type; // throws when there are too many
    }

    SPIPlanPtr plan();
    int parameter_count() const { return count_; }
    Oid type(int i) const { return types_[i]; }
    const char *sql() const { return sql_; }

  private:
    const char *sql_;
    int count_;
    std::array<Oid, kMaxParameters> types_;
    SPIPlanPtr plan_ = nullptr;
};

// The result of one statement. Valid as long as its Spi object; by-reference values live in SPI's memory.
class Rows
{
  public:
    Rows(SPITupleTable *table, uint64 processed) : table_(table), processed_(processed) {}

    // Rows returned, or rows changed by a statement without RETURNING.
    uint64 count() const { return processed_; }
    bool empty() const { return processed_ == 0; }

    // Rows count from 0, columns from 1, as everywhere in SPI. Asking for one that is not there, or for a
    // value that is stored in another way than its column, is an internal error.
    bool is_null(uint64 row, int column) const;
    Datum datum(uint64 row, int column) const;
    bool boolean(uint64 row, int column) const { return DatumGetBool(sized(row, column, 1)); }
    int32_t i32(uint64 row, int column) const { return DatumGetInt32(sized(row, column, 4)); }
    int64_t i64(uint64 row, int column) const { return DatumGetInt64(sized(row, column, 8)); }
    Oid oid(uint64 row, int column) const { return DatumGetObjectId(sized(row, column, 4)); }
    std::string_view text(uint64 row, int column) const; // of a text column; empty when null

  private:
    HeapTuple tuple(uint64 row, int column) const;
    Datum sized(uint64 row, int column, int16 length) const;

    SPITupleTable *table_;
    uint64 processed_;
};

class Spi
{
  public:
    enum class Identity
    {
        owner,
        caller
    };

    explicit Spi(Identity identity = Identity::owner);
    ~Spi();
    Spi(const Spi &) = delete;
    Spi &operator=(const Spi &) = delete;

    // Runs a kept statement; the number and types of parameters must be those it declares.
    Rows run(Statement &statement, std::initializer_list<Param> parameters = {});
    // Runs a kept statement that sees and changes what is committed right now, also in a REPEATABLE READ
    // transaction.
    Rows run_latest(Statement &statement, std::initializer_list<Param> parameters = {});
    // Runs a kept query that sees what is committed right now, also in a REPEATABLE READ transaction.
    Rows read_latest(Statement &statement, std::initializer_list<Param> parameters = {});
    // Runs a kept query under the given snapshot.
    Rows read_under(Statement &statement, Snapshot snapshot, std::initializer_list<Param> parameters = {});
    // Runs one-off query text under the given snapshot.
    Rows read_text_under(const char *sql, Snapshot snapshot);
    // Runs one-off text: DDL whose identifiers were quoted by quote_identifier.
    Rows run_text(const char *sql);

  private:
    enum class Sees
    {
        its_transaction, // a fresh snapshot, or that of the transaction in REPEATABLE READ
        active,          // the active snapshot, as it is; reads only
        latest
    };
    Rows execute(Statement &statement, std::initializer_list<Param> parameters, Sees sees);

    int exceptions_;
    bool switched_ = false;
    bool outermost_ = false;
    Oid saved_user_ = InvalidOid;
    int saved_context_ = 0;
    int guc_level_ = 0;
};

// The role that owns the extension's objects; InvalidOid when the extension does not exist.
Oid extension_owner();

// Is the extension installed in this database (and not just being created or dropped)?
bool extension_exists();

// Acts as the owner with a pinned search_path for a scope, without SPI: for DDL run through the portal.
class AsOwner
{
  public:
    AsOwner();
    // Acts as the owner of another table: `role` is what its pg_class row says.
    explicit AsOwner(Oid role);
    ~AsOwner();
    AsOwner(const AsOwner &) = delete;
    AsOwner &operator=(const AsOwner &) = delete;

  private:
    bool outermost_ = false;
    Oid saved_user_ = InvalidOid;
    int saved_context_ = 0;
    int guc_level_ = 0;
    int exceptions_;
};

// Who called, also from within an Spi or AsOwner: the current user outside of the outermost of them.
Oid calling_user() noexcept;

} // namespace tasker::pg
