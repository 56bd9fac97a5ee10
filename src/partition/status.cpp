// What can be seen of one partition set: its partitions, and what its health is judged by.
#include "partition/bounds.hpp"
#include "partition/create.hpp"
#include "partition/cutoff.hpp"
#include "partition/maintenance.hpp"
#include "partition/members.hpp"
#include "pg/function.hpp"
#include "pg/subtransaction.hpp"

using namespace tasker;
using namespace tasker::partition;

namespace {

// How long after a partition came of age nobody is to be blamed for its being there.
constexpr int64_t kGraceUs = core::kUsPerHour;

Datum text_datum(std::string_view text)
{
    return PointerGetDatum(
        pg::pg_call([&] { return cstring_to_text_with_len(text.data(), static_cast<int>(text.size())); }));
}

// A row of a result, filled column by column.
template <size_t N> class Row
{
  public:
    void add(Datum value) { values_.at(count_++) = value; }
    void add(const char *value) { value != nullptr ? add(text_datum(value)) : add_null(); }
    void add_null() { nulls_.at(count_++) = true; }
    void add_time(int64_t unix_us) { add(TimestampTzGetDatum(pg::timestamp_of_unix_us(unix_us))); }
    void put(pg::ResultSet &result) const { result.add(values_.data(), nulls_.data()); }

  private:
    std::array<Datum, N> values_{};
    std::array<bool, N> nulls_{};
    size_t count_ = 0;
};

// The moment of a bound, where it is one: what the clocks of a wall-clock type show counts as UTC.
void add_bound_time(Row<9> &row, const Control &control, int64_t key)
{
    const int64_t unix_us = unix_us_of_key(control.kind, key);
    const int64_t timestamp = has_time(control.kind) ? pg::timestamp_of_unix_us(unix_us) : 0;
    if (!has_time(control.kind) || key == core::kInt64Min || key == core::kInt64Max ||
        !IS_VALID_TIMESTAMP(timestamp))
        row.add_null();
    else
        row.add_time(unix_us);
}

void show(Oid parent, pg::ResultSet &result)
{
    const SetConfig config = describe_set(parent);
    pg::ContextResource memory;
    pg::Vector<Member> members(&memory);
    add_members(parent, members);
    measure_members(members);
    const std::optional<int64_t> now = current_key(config);
    const Member *current = now ? member_for(members, *now) : nullptr;

    for (const Member &member : members) {
        Row<9> row;
        row.add(ObjectIdGetDatum(member.entry.relid));
        if (member.state == MemberState::remainder) {
            row.add_null();
            row.add_null();
        } else {
            row.add(bound_text(config.control, member.entry.lower));
            row.add(bound_text(config.control, member.entry.upper));
        }
        row.add(Int64GetDatum(member.rows));
        row.add(Int64GetDatum(member.bytes));
        row.add(BoolGetDatum(&member == current));
        row.add(name_of(member.state));
        if (result.columns() > 7) {
            const bool ranged = member.state != MemberState::remainder;
            add_bound_time(row, config.control, ranged ? member.entry.lower : core::kInt64Min);
            add_bound_time(row, config.control, ranged ? member.entry.upper : core::kInt64Max);
        }
        row.put(result);
    }
}

const char *would_be_name(const SetConfig &config, int64_t key, const pg::Vector<Member> &members)
{
    core::NumberRange range = aligned_range(config, key);
    for (const Member &member : members)
        range = fit_around(range, key, {&member.entry, 1});
    const char *name = free_partition_name(config, range);
    return pg::pg_call([&] { return quote_qualified_identifier(get_namespace_name(config.schema), name); });
}

// What partition_status says from the bounds.
struct Summary
{
    int32_t partitions = 0;
    int32_t pending = 0;
    int32_t detached = 0;
    int32_t overdue = 0; // attached, and older than the retention
    int32_t late = 0;    // of these, for longer than the grace
    Outlook outlook{};
    bool in_default = false;
    const char *oldest = nullptr;
    const char *newest = nullptr;
};

Summary summarize(Oid parent)
{
    pg::ContextResource memory;
    pg::Vector<Member> members(&memory);
    const SetConfig config = describe_set(parent);
    const std::optional<int64_t> cutoff = retention_cutoff(config);
    const int64_t late = cutoff ? key_before(config.control, *cutoff, kGraceUs) : core::kInt64Min;
    Summary summary;

    add_members(parent, members);
    for (const Member &member : members) {
        summary.pending += member.state == MemberState::pending;
        summary.detached += member.state == MemberState::detached;
        if (member.state != MemberState::attached)
            continue;
        ++summary.partitions;
        summary.overdue += cutoff && member.entry.upper <= *cutoff;
        summary.late += cutoff && member.entry.upper <= late;
        if (summary.oldest == nullptr)
            summary.oldest = bound_text(config.control, member.entry.lower);
        summary.newest = bound_text(config.control, member.entry.upper);
    }
    summary.outlook = look_ahead(config, members, current_key(config));
    summary.in_default =
        summary.outlook.current != nullptr && summary.outlook.current->state == MemberState::remainder;
    return summary;
}

} // namespace

// show_partitions(parent regclass)
TASKER_FUNCTION(show_partitions)
{
    const Oid parent = args.oid(0, "parent");
    pg::ResultSet result(args.call());
    show(parent, result);
    return 0;
}

// _partition_extents(parent regclass): the same with the bounds as times, and nothing for a set that cannot
// be read, so that one broken set does not hide the others.
TASKER_FUNCTION(partition_extents)
{
    const Oid parent = args.oid(0, "parent");
    pg::ResultSet result(args.call());
    (void)pg::try_in_subtransaction([&] { show(parent, result); });
    return 0;
}

// partition_of(parent regclass, value text)
//
// A range that is being retired has its table until that is dropped, though rows go nowhere meanwhile.
TASKER_FUNCTION(partition_of)
{
    const Oid parent = args.oid(0, "parent");
    const SetConfig config = describe_set(parent);
    const int64_t key = parse_key(config.control, args.text(1, "value"));
    if (config.control.kind == ControlKind::number && key != core::kInt64Min && key != core::kInt64Max)
        check_key(config, key); // a partition that is open to MAXVALUE would cover what the type cannot hold
    if (Oid found = find_partition(parent, key); OidIsValid(found))
        return args.result(std::string_view(quoted_partition(found)));

    pg::ContextResource memory;
    pg::Vector<Member> members(&memory);
    add_members(parent, members);
    for (const Member &member : members) {
        if (covers(member.entry, key)) // the DEFAULT partition comes last, and covers all
            return args.result(std::string_view(quoted_partition(member.entry.relid)));
    }
    check_key(config, key);
    return args.result(std::string_view(would_be_name(config, key, members)));
}

// _partition_summary(parent regclass): the part of partition_status that comes from the bounds; of a set that
// cannot be read, the error.
TASKER_FUNCTION(partition_summary)
{
    const Oid parent = args.oid(0, "parent");
    pg::ResultSet result(args.call());
    Summary summary;
    const std::optional<pg::CaughtError> error =
        pg::try_in_subtransaction([&] { summary = summarize(parent); });

    Row<13> row;
    row.add(Int32GetDatum(summary.partitions));
    row.add(Int32GetDatum(summary.outlook.ahead));
    row.add(Int32GetDatum(summary.pending));
    row.add(Int32GetDatum(summary.detached));
    row.add(BoolGetDatum(summary.outlook.current != nullptr && !summary.in_default));
    row.add(summary.oldest);
    row.add(summary.newest);
    row.add(error ? error->message() : nullptr);
    row.add(Int32GetDatum(summary.outlook.gaps));
    row.add(BoolGetDatum(summary.outlook.complete));
    row.add(BoolGetDatum(summary.in_default));
    row.add(Int32GetDatum(summary.overdue));
    row.add(Int32GetDatum(summary.late));
    row.put(result);
    return 0;
}

// _partition_rows_changed(parent regclass): since the parent was last analyzed.
TASKER_FUNCTION(partition_rows_changed)
{
    return args.result(rows_changed_since_analyze(args.oid(0, "parent")));
}
