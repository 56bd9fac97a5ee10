// Triggers that write the changes of a table into a queue: jsontriga(), logutriga() and sqltriga().
//
// They are PgQ's: the same arguments, the same events. docs/triga.md is the reference, and names what
// differs.
//
//   triga.cpp             the calls: what a trigger does when it fires
//   triga_options.cpp     the arguments of a trigger
//   triga_cache.cpp       what is known of a table and its trigger, kept in the backend
//   triga_row.cpp         rows as JSON, url-encoded, and as SQL
//   triga_expression.cpp  when= and the expressions that give a column of the event
//
// WHAT IS KEPT. A TriggerInfo holds what the rows of one trigger on one table have in common, down to the
// encoded names of the columns. An invalidation of the table's relcache entry marks it stale, and that comes
// with every change that matters: of columns, keys, names and triggers, in other sessions when it commits and
// in this one at its rollback too. The name of a schema stands in no relcache entry, so that changes of
// pg_namespace make all stale. A stale one is replaced when the trigger fires next.
//
// One in use is not freed. An expression may call a function that alters the table or writes to it, and
// so fires the trigger within itself. The last user of a replaced one frees it.
//
// RIGHTS. Expressions run as whoever changes the table, as the body of any trigger does. Writing the event
// asks for no right on the queue: that was asked for when the trigger was made, as EXECUTE on its function.
// So EXECUTE goes to those only who may produce into every queue; grant_queue() does not give it.
#pragma once

#include "stream/event.hpp"

namespace tasker::stream::triga {

enum class Format
{
    json,
    url,
    sql
};

enum Operation
{
    kInsert,
    kUpdate,
    kDelete,
    kTruncate,
    kOperations
};

// Columns of an event, in the order of NewEvent::text.
enum EventText
{
    kType,
    kData,
    kExtra1,
    kExtra2
};

inline constexpr int kWhen = kTextColumns; // the expression that follows those for the columns
inline constexpr int kExpressions = kWhen + 1;

inline constexpr int kNotMagic = -1;
inline constexpr int kUnknownMagic = -2;

struct Column
{
    int index; // among the attributes, from 0
    Oid type;
    int32_t typmod;
    Oid collation;
    int16_t length;
    bool by_value;
    bool key;
    bool left_out;    // of the row: named by ignore=, or magic
    int magic;        // the text of the event that its value becomes, or one of the constants above
    FmgrInfo output;  // of its type
    const char *name; // and as it stands in an event
    const char *json; // with the colon
    const char *url;
    const char *sql;
};

struct TriggerInfo;

// A query over the columns of the row, prepared once.
struct Expression
{
    const char *text; // null: there is none
    const TriggerInfo *trigger;
    SPIPlanPtr plan;
    int parameters;         // columns that it names,
    const Column **columns; // in the order of the parameters
};

struct Options
{
    bool skip;
    bool backup;
    bool deny;
    const char *ignore; // null: none
    const char *key;    // null: the primary key
};

struct TriggerInfo
{
    Oid oid;
    Format format;
    MemoryContext context; // of everything below
    TriggerInfo *next;     // of the same table
    uint64_t built;        // see current() in triga_cache.cpp
    bool stale;
    bool replaced;
    int users;

    Options options;
    Expression expressions[kExpressions];
    bool has_expressions;
    bool has_magic;
    const char *table; // schema.table
    const char *key;   // names of the key's columns with commas between; empty: none
    int columns;       // without dropped ones
    int key_columns;
    int attributes; // with dropped ones
    Column *column;
    Datum type_text[kOperations]; // ev_type
    Datum table_text;             // ev_extra1
};

// Keeps a TriggerInfo alive for a scope.
class InUse
{
  public:
    explicit InUse(TriggerInfo *trigger) noexcept : trigger_(trigger) { trigger_->users++; }
    ~InUse();
    InUse(const InUse &) = delete;
    InUse &operator=(const InUse &) = delete;

    TriggerInfo &operator*() const noexcept { return *trigger_; }

  private:
    TriggerInfo *trigger_;
};

// One row, taken apart.
struct Row
{
    Datum *values; // by the index of the column
    bool *nulls;
};

// Plain C from here on: may ereport, and throws pg::Error.

// What is known of the trigger that fires, from the cache or read anew.
TriggerInfo *find_trigger(const TriggerData &call, Format format, Operation operation);

// Does a list of names, divided by commas or blanks, name the column?
bool list_names(const char *list, const char *name);
// Reads the arguments; the texts of expressions too, which are not prepared yet.
void read_options(TriggerInfo *trigger, const Trigger &definition, Operation operation);

// Prepares the expressions of a trigger, all or none.
void prepare_expressions(TriggerInfo *trigger);
bool holds(const Expression &when, const Row &row);
// The value as text; false when it is null.
bool evaluate(const Expression &expression, const Row &row, Datum *text);

Row take_apart(const TriggerInfo &trigger, HeapTuple tuple, TupleDesc descriptor);
// Is the update one to be written? Reports a changed key.
bool update_counts(const TriggerInfo &trigger, const Row &before, const Row &after);
Datum json_of_row(const TriggerInfo &trigger, const Row &row);
Datum url_of_row(const TriggerInfo &trigger, const Row &row);
Datum sql_of_insert(const TriggerInfo &trigger, const Row &row);
// False when the update is not one to be written. Reports a changed key.
bool sql_of_update(const TriggerInfo &trigger, const Row &before, const Row &after, Datum *sql);
Datum sql_of_delete(const TriggerInfo &trigger, const Row &row);
char *output_of(const Column &column, Datum value);

// A text in the making: room for the header comes first.
void begin_text(StringInfo buffer);
Datum finish_text(StringInfo buffer);
Datum text_of(const char *string);

void append_json(StringInfo buffer, const char *string);
void append_url(StringInfo buffer, const char *string);

} // namespace tasker::stream::triga
