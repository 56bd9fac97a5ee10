// get_batch_cursor(): the events of a batch through a cursor of the session.
//
// The cursor's query calls get_batch_events() and is opened as whoever called us, with the caller's
// search_path: the condition in i_extra_where can do what the caller could do without us, and nothing else.
// PgQ's clients pass conditions on as text, so it stays text; that it is one condition of one query is seen
// to by the parser, as a cursor takes no second statement.
#include "pg/function.hpp"
#include "pg/spi.hpp"

extern "C" {
#include "parser/scansup.h"
}

using namespace tasker;

namespace {

constexpr int64_t kPiece = 500; // rows that are fetched at once
constexpr int kColumns = 10;    // of get_batch_events()

// As the parser takes a name that somebody writes: cut to the length of one.
const char *cursor_name(std::string_view name)
{
    if (name.empty())
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"i_cursor_name\" must not be empty");
    return pg::pg_call([&] {
        char *copy = pnstrdup(name.data(), name.size());
        truncate_identifier(copy, static_cast<int>(name.size()), true);
        return copy;
    });
}

// The words `_evs` and `where` are PgQ's, and so conditions may refer to them.
const char *query_of(int64_t batch_id, std::optional<std::string_view> condition)
{
    return pg::pg_call([&] {
        const char *events =
            psprintf("select * from tasker.get_batch_events(" INT64_FORMAT ") _evs", batch_id);
        if (!condition)
            return events;
        return const_cast<const char *>(
            psprintf("%s where (\n%.*s\n)", events, static_cast<int>(condition->size()), condition->data()));
    });
}

// The batch is read now, so that its events are there also when it is finished before they are fetched: one
// step forth and back starts the query.
Portal open_cursor(const char *name, const char *query)
{
    return pg::pg_call([&] {
        SPIParseOpenOptions options{};
        options.cursorOptions = CURSOR_OPT_SCROLL;
        Portal portal = SPI_cursor_parse_open(name, query, &options);
        SPI_scroll_cursor_move(portal, FETCH_FORWARD, 1);
        SPI_scroll_cursor_move(portal, FETCH_BACKWARD, 1);
        return portal;
    });
}

// A text that closes the parenthesis can make another query of it: a UNION, with columns of other types.
// Plain C: may ereport.
void check_columns(TupleDesc given, TupleDesc expected)
{
    bool same = given->natts == expected->natts;
    for (int i = 0; same && i < given->natts; i++)
        same = TupleDescAttr(given, i)->atttypid == TupleDescAttr(expected, i)->atttypid;
    if (!same)
        ereport(ERROR, errcode(ERRCODE_DATATYPE_MISMATCH),
                errmsg("argument \"i_extra_where\" changes the columns of the events"),
                errhint("It is one condition on the columns of tasker.get_batch_events()."));
}

// One piece of rows to the result; returns their number.
int64_t fetch(Portal portal, int64_t count, pg::ResultSet &result)
{
    return pg::pg_call([&] {
        SPI_cursor_fetch(portal, true, static_cast<long>(count));
        SPITupleTable *table = SPI_tuptable;
        check_columns(table->tupdesc, result.descriptor());
        const auto fetched = static_cast<int64_t>(SPI_processed);
        for (int64_t i = 0; i < fetched; i++) {
            Datum values[kColumns];
            bool nulls[kColumns];
            heap_deform_tuple(table->vals[i], table->tupdesc, values, nulls);
            result.add(values, nulls);
        }
        SPI_freetuptable(table);
        return fetched;
    });
}

} // namespace

// get_batch_cursor(i_batch_id, i_cursor_name, i_quick_limit [, i_extra_where]): the first i_quick_limit
// events.
TASKER_FUNCTION(get_batch_cursor)
{
    pg::ResultSet result(args.call());
    if (args.is_null(0) || args.is_null(1) || args.is_null(2))
        return 0; // as PgQ
    const char *name = cursor_name(args.text(1, "i_cursor_name"));
    const char *query = query_of(args.i64(0, "i_batch_id"), args.optional_text(3));
    int64_t wanted = args.i32(2, "i_quick_limit");
    pg::Spi spi(pg::Spi::Identity::caller);
    Portal portal = open_cursor(name, query);
    while (wanted > 0) {
        const int64_t fetched = fetch(portal, std::min(wanted, kPiece), result);
        wanted -= fetched;
        if (fetched < kPiece)
            break;
    }
    return 0;
}
