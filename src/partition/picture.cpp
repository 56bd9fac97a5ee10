// partition_picture(): a partition set drawn for a terminal, a line per partition.
//
//   tasker.events by created_at, 1 day each; kept for 30 days
//     2026-10   ▕█████████▋       ▏  31 GB  214M  × 12
//     ┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄┄ kept from 2026-10-22 on
//     2026-11-20▕█████████████████▏ 3.1 GB   21M
//   ▶ 2026-11-21▕████▍            ▏ 512 MB  3.0M  now
//     2026-11-22▕                 ▏  16 kB     0  ahead
//
// A set with many partitions is folded: those around now stay as they are, older ones are put together by
// month, year or number, and the bar of such a line is that of the mean. A line never folds what differs in
// kind: gaps, the end of the retention and a pending detach stand between lines.
#include "partition/bounds.hpp"
#include "partition/create.hpp"
#include "partition/cutoff.hpp"
#include "partition/members.hpp"
#include "pg/function.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

using namespace tasker;
using namespace tasker::partition;

namespace {

constexpr int kNarrowest = 50;
constexpr int kWidest = 250;
constexpr size_t kUnfolded = 40;   // members that are shown one by one
constexpr size_t kPastShown = 14;  // of a folded set: complete partitions before the current one
constexpr size_t kAheadShown = 10; // and partitions after it
constexpr size_t kFoldedLines = 24;

// What lines are drawn with: Unicode where server and client agree on it.
struct Charset
{
    const char *eighths[9]; // bars of 0/8 to 8/8 of a column
    const char *left;
    const char *right;
    const char *now;
    const char *rule;
    const char *times;
};
constexpr Charset kUnicode = {{"", "▏", "▎", "▍", "▌", "▋", "▊", "▉", "█"}, "▕", "▏", "▶", "┄", "×"};
constexpr Charset kAscii = {{"", "", "", "", "#", "#", "#", "#", "#"}, "|", "|", ">", "-", "x"};

const Charset &charset()
{
    return GetDatabaseEncoding() == PG_UTF8 && pg_get_client_encoding() == PG_UTF8 ? kUnicode : kAscii;
}

// How much of a time is needed to tell the bounds of a set apart.
enum class Detail
{
    year,
    month,
    day,
    minute
};

struct Scene
{
    SetConfig config;
    std::optional<int64_t> now;
    std::optional<int64_t> cutoff;
    pg::Vector<Member> members;
    Detail detail;

    explicit Scene(std::pmr::memory_resource *memory) : config{}, members(memory), detail(Detail::year) {}
};

// One or several members that follow each other.
struct Line
{
    size_t first;
    size_t count;
};

template <class... Values> const char *text(const char *format, Values... values)
{
    return pg::pg_call([&] { return psprintf(format, values...); });
}

// What the clocks of the set show at a bound.
int64_t wall_of(const Scene &scene, int64_t key)
{
    const Control &control = scene.config.control;
    const int64_t unix_us = unix_us_of_key(control.kind, key);
    const bool zoned = is_moment(control.kind) && scene.config.zone != nullptr;
    return zoned ? wall_clock(unix_us, scene.config.zone) : unix_us;
}

bool is_open(int64_t key)
{
    return key == core::kInt64Min || key == core::kInt64Max;
}

Detail detail_of(int64_t wall_us)
{
    if (core::floor_mod(wall_us, core::kUsPerDay) != 0)
        return Detail::minute;
    const core::CivilDate date = core::civil_from_us(wall_us);
    if (date.day != 1)
        return Detail::day;
    return date.month != 1 ? Detail::month : Detail::year;
}

// A year alone stands for a partition of a year only.
Detail detail_of(const Scene &scene)
{
    const core::CalendarInterval &interval = scene.config.interval;
    Detail detail = interval.months == 0                        ? Detail::day
                    : core::floor_mod(interval.months, 12) != 0 ? Detail::month
                                                                : Detail::year;
    for (const Member &member : scene.members) {
        if (member.state != MemberState::remainder && !is_open(member.entry.lower))
            detail = std::max(detail, detail_of(wall_of(scene, member.entry.lower)));
    }
    return detail;
}

const char *label_of(const Scene &scene, int64_t key, Detail detail)
{
    if (!has_time(scene.config.control.kind) || is_open(key))
        return is_open(key) ? (key < 0 ? "MINVALUE" : "MAXVALUE") : bound_text(scene.config.control, key);
    const int64_t wall_us = wall_of(scene, key);
    const core::CivilDate date = core::civil_from_us(wall_us);
    const auto year = static_cast<int>(date.year);
    const auto second = static_cast<int>(core::floor_mod(wall_us, core::kUsPerDay) / core::kUsPerSecond);
    switch (detail) {
    case Detail::year:
        return text("%04d", year);
    case Detail::month:
        return text("%04d-%02d", year, date.month);
    case Detail::day:
        return text("%04d-%02d-%02d", year, date.month, date.day);
    default:
        return text("%04d-%02d-%02d %02d:%02d", year, date.month, date.day, second / 3600, second / 60 % 60);
    }
}

const char *label_of(const Scene &scene, int64_t key)
{
    return label_of(scene, key, scene.detail);
}

bool is_past(const Scene &scene, const Member &member)
{
    return member.state == MemberState::attached && scene.now && member.entry.upper <= *scene.now &&
           member.entry.upper != core::kInt64Max;
}

bool is_due(const Scene &scene, const Member &member)
{
    return member.state == MemberState::attached && scene.cutoff && member.entry.upper <= *scene.cutoff;
}

// --- folding

// Do two neighbours look the same but for their time?
bool may_join(const Scene &scene, const Member &a, const Member &b)
{
    return a.state == MemberState::attached && b.state == MemberState::attached &&
           a.entry.upper == b.entry.lower && is_due(scene, a) == is_due(scene, b) &&
           is_past(scene, a) == is_past(scene, b) && !is_open(a.entry.lower);
}

// By what members are put together: the days, months or years in which they begin, or their places in line.
struct Unit
{
    int days;
    int months;
    size_t places;
};
constexpr Unit kUnits[] = {{1, 0, 0}, {7, 0, 0}, {0, 1, 0}, {0, 3, 0}, {0, 12, 0}, {0, 120, 0}};

int64_t group_of(const Scene &scene, size_t member, const Unit &unit)
{
    if (unit.places > 0)
        return static_cast<int64_t>(member / unit.places);
    const int64_t wall_us = wall_of(scene, scene.members[member].entry.lower);
    const core::CivilDate date = core::civil_from_us(wall_us);
    if (unit.months > 0)
        return core::floor_div(date.year * 12 + date.month - 1, unit.months);
    return core::floor_div(core::floor_div(wall_us, core::kUsPerDay) + 3, unit.days); // weeks begin on Monday
}

void fold(const Scene &scene, size_t from, size_t to, const Unit &unit, pg::Vector<Line> &lines)
{
    for (size_t i = from; i < to; i++) {
        const bool joins = i > from && may_join(scene, scene.members[i - 1], scene.members[i]) &&
                           group_of(scene, i - 1, unit) == group_of(scene, i, unit);
        if (joins)
            ++lines.back().count;
        else
            lines.push_back({i, 1});
    }
}

// The shortest unit of time that leaves few enough lines; where the set has no time, or gaps leave too many
// lines with each of them, places.
void fold_best(const Scene &scene, size_t from, size_t to, pg::Vector<Line> &lines)
{
    const size_t before = lines.size();
    const auto try_unit = [&](const Unit &unit) {
        lines.resize(before);
        fold(scene, from, to, unit, lines);
        return lines.size() - before <= kFoldedLines;
    };
    if (has_time(scene.config.control.kind) && std::any_of(std::begin(kUnits), std::end(kUnits), try_unit))
        return;
    try_unit({0, 0, (to - from + kFoldedLines - 1) / kFoldedLines});
}

void add_lines(const Scene &scene, pg::Vector<Line> &lines)
{
    const size_t count = scene.members.size();
    const auto is_old = [&](const Member &member) { return is_past(scene, member); };
    if (count <= kUnfolded) {
        for (size_t i = 0; i < count; i++)
            lines.push_back({i, 1});
        return;
    }
    const auto first_new = static_cast<size_t>(
        std::find_if_not(scene.members.begin(), scene.members.end(), is_old) - scene.members.begin());
    const size_t shown_from = first_new - std::min(first_new, kPastShown);
    const size_t shown_to = std::min(count, first_new + 1 + kAheadShown);
    size_t folded_to = count;
    while (folded_to > shown_to && scene.members[folded_to - 1].state == MemberState::remainder)
        --folded_to;
    if (shown_from > 0)
        fold_best(scene, 0, shown_from, lines);
    for (size_t i = shown_from; i < shown_to; i++)
        lines.push_back({i, 1});
    if (shown_to < folded_to)
        fold_best(scene, shown_to, folded_to, lines);
    for (size_t i = folded_to; i < count; i++)
        lines.push_back({i, 1});
}

// --- drawing

const char *size_text(double bytes)
{
    constexpr const char *units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    size_t unit = 0;
    while (bytes >= 1000 && unit + 1 < std::size(units)) {
        bytes /= 1024;
        ++unit;
    }
    return text(unit > 0 && bytes < 9.95 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

const char *count_text(double rows)
{
    constexpr const char *units[] = {"", "k", "M", "G", "T"};
    size_t unit = 0;
    while (rows >= (unit == 0 ? 10'000 : 999.5) && unit + 1 < std::size(units)) {
        rows /= 1000;
        ++unit;
    }
    return text(unit > 0 && rows < 9.95 ? "%.1f%s" : "%.0f%s", rows, units[unit]);
}

class Drawing
{
  public:
    Drawing(const Scene &scene, const pg::Vector<Line> &lines, int width, pg::ResultSet &result)
        : scene_(scene), lines_(lines), set_(charset()), result_(result)
    {
        for (const Line &line : lines) {
            label_width_ = std::max(label_width_, static_cast<int>(strlen(label(line))));
            longest_ = std::max(longest_, bytes(line) / static_cast<double>(line.count));
        }
        // mark, label, ends of the bar, size, rows, note
        bar_width_ =
            std::max(width - (2 + label_width_ + 2 + kSizeWidth + 1 + kRowsWidth + 2 + kNoteWidth), 4);
    }

    void draw()
    {
        put(title());
        std::optional<int64_t> end;
        bool ruled = !scene_.cutoff;
        for (const Line &line : lines_) {
            const Member &member = scene_.members[line.first];
            const bool ranged = member.state != MemberState::remainder;
            if (!ruled && !is_due(scene_, member) && member.state == MemberState::attached) {
                ruled = true;
                if (line.first > 0)
                    draw_rule();
            }
            if (ranged && end && member.entry.lower > *end)
                draw_gap(*end, member.entry.lower);
            draw_line(line);
            if (ranged)
                end = scene_.members[line.first + line.count - 1].entry.upper;
        }
        put(summary());
    }

  private:
    static constexpr int kSizeWidth = 7;
    static constexpr int kRowsWidth = 5;
    static constexpr int kNoteWidth = 8;

    const char *label(const Line &line) const
    {
        const Member &member = scene_.members[line.first];
        if (member.state == MemberState::remainder)
            return "DEFAULT";
        return label_of(scene_, member.entry.lower);
    }

    double bytes(const Line &line) const
    {
        double sum = 0;
        for (size_t i = line.first; i < line.first + line.count; i++)
            sum += static_cast<double>(scene_.members[i].bytes);
        return sum;
    }

    double rows(const Line &line) const
    {
        double sum = 0;
        for (size_t i = line.first; i < line.first + line.count; i++)
            sum += static_cast<double>(scene_.members[i].rows);
        return sum;
    }

    bool is_current(const Line &line) const
    {
        return scene_.now && member_for(scene_.members, *scene_.now) == &scene_.members[line.first];
    }

    // A bar of so many eighths of columns, filled up with blanks. Plain C inside.
    const char *bar(double share, bool some) const
    {
        int eighths = static_cast<int>(share * bar_width_ * 8 + 0.5);
        eighths = std::clamp(eighths, some ? 1 : 0, bar_width_ * 8);
        return pg::pg_call([&] {
            StringInfoData drawn;
            initStringInfo(&drawn);
            for (int i = 0; i < eighths / 8; i++)
                appendStringInfoString(&drawn, set_.eighths[8]);
            const char *rest =
                set_.eighths[eighths < 8 && set_.now[0] == '>' && eighths > 0 ? 8 : eighths % 8];
            appendStringInfoString(&drawn, rest);
            appendStringInfoSpaces(&drawn, bar_width_ - eighths / 8 - (rest[0] != '\0' ? 1 : 0));
            return drawn.data;
        });
    }

    const char *note(const Line &line) const
    {
        const Member &member = scene_.members[line.first];
        const char *word = "";
        if (member.state == MemberState::pending)
            word = "detaching";
        else if (member.state == MemberState::detached)
            word = "detached";
        else if (is_current(line))
            word = "now";
        else if (member.state == MemberState::remainder)
            word = member.rows > 0 ? "not empty" : "";
        else if (is_due(scene_, member))
            word = scene_.config.legal_hold ? "held" : "due";
        else if (scene_.now && member.entry.lower > *scene_.now)
            word = "ahead";
        if (line.count > 1)
            return text("%s %d%s%s", set_.times, static_cast<int>(line.count), word[0] != '\0' ? " " : "",
                        word);
        return word;
    }

    void draw_line(const Line &line)
    {
        const double mean = bytes(line) / static_cast<double>(line.count);
        const char *drawn = bar(longest_ > 0 ? mean / longest_ : 0, rows(line) > 0);
        put(text("%s %-*s%s%s%s%*s %*s  %s", is_current(line) ? set_.now : " ", label_width_, label(line),
                 set_.left, drawn, set_.right, kSizeWidth, size_text(bytes(line)), kRowsWidth,
                 count_text(rows(line)), note(line)));
    }

    void draw_gap(int64_t from, int64_t to)
    {
        put(text("  %-*s  no partition up to %s", label_width_, label_of(scene_, from),
                 label_of(scene_, to)));
    }

    void draw_rule()
    {
        const char *drawn = pg::pg_call([&] {
            StringInfoData line;
            initStringInfo(&line);
            for (int i = 0; i < label_width_ + bar_width_ + 2; i++)
                appendStringInfoString(&line, set_.rule);
            return line.data;
        });
        const bool time = has_time(scene_.config.control.kind);
        const Detail fine =
            time ? std::max(scene_.detail, std::min(detail_of(wall_of(scene_, *scene_.cutoff)), Detail::day))
                 : scene_.detail;
        put(text("  %s kept from %s on", drawn, label_of(scene_, *scene_.cutoff, fine)));
    }

    const char *title() const
    {
        const SetConfig &config = scene_.config;
        const char *zone = has_time(config.control.kind) && config.zone != nullptr
                               ? text(", %s", pg_get_timezone_name(config.zone))
                               : "";
        return text("%s by %s, %s each%s%s", quoted_parent(config), NameStr(config.control_name), interval(),
                    zone, retention());
    }

    const char *interval() const
    {
        const SetConfig &config = scene_.config;
        if (!has_time(config.control.kind))
            return text(INT64_FORMAT, config.step);
        Interval length{};
        length.month = config.interval.months;
        length.day = static_cast<int32>(config.interval.us / core::kUsPerDay);
        length.time = config.interval.us % core::kUsPerDay;
        return interval_text(length);
    }

    // 1 year 6 months, 90 days, 12 hours: whatever IntervalStyle is.
    static const char *interval_text(const Interval &interval)
    {
        struct Part
        {
            int64_t count;
            const char *unit;
        };
        const Part parts[] = {{interval.month / 12, "year"},
                              {interval.month % 12, "month"},
                              {interval.day, "day"},
                              {interval.time / core::kUsPerHour, "hour"},
                              {interval.time % core::kUsPerHour / core::kUsPerMinute, "minute"},
                              {interval.time % core::kUsPerMinute / core::kUsPerSecond, "second"}};
        const char *all = "";
        for (const Part &part : parts) {
            if (part.count != 0)
                all = text("%s%s" INT64_FORMAT " %s%s", all, all[0] != '\0' ? " " : "", part.count, part.unit,
                           part.count == 1 ? "" : "s");
        }
        return all[0] != '\0' ? all : "no time";
    }

    const char *retention() const
    {
        const SetConfig &config = scene_.config;
        const char *fate = config.action == RetentionAction::drop     ? "dropped"
                           : config.action == RetentionAction::detach ? "detached"
                                                                      : "moved";
        const char *hold = config.legal_hold ? ", legal hold" : "";
        if (config.retention)
            return text(", %s after %s%s", fate, interval_text(*config.retention), hold);
        if (config.retention_keys)
            return text(", %s " INT64_FORMAT " behind%s", fate, *config.retention_keys, hold);
        return hold;
    }

    const char *summary() const
    {
        double all_bytes = 0, all_rows = 0;
        int attached = 0;
        for (const Member &member : scene_.members) {
            all_bytes += static_cast<double>(member.bytes);
            all_rows += static_cast<double>(member.rows);
            attached += member.state == MemberState::attached;
        }
        const Outlook outlook = look_ahead(scene_.config, scene_.members, scene_.now);
        const char *ahead = outlook.complete ? "complete" : text("%d ahead", outlook.ahead);
        const char *gaps =
            outlook.gaps > 0 ? text(", %d gap%s ahead", outlook.gaps, outlook.gaps == 1 ? "" : "s") : "";
        const char *nobody = outlook.current == nullptr ? ", NO PARTITION FOR NOW" : "";
        return text("%d partition%s, %s%s%s; %s, %s rows; longest bar %s", attached, attached == 1 ? "" : "s",
                    ahead, gaps, nobody, size_text(all_bytes), count_text(all_rows), size_text(longest_));
    }

    void put(const char *line)
    {
        const Datum value = pg::pg_call([&] {
            int length = static_cast<int>(strlen(line));
            while (length > 0 && line[length - 1] == ' ')
                --length;
            return PointerGetDatum(cstring_to_text_with_len(line, length));
        });
        const bool null = false;
        result_.add(&value, &null);
    }

    const Scene &scene_;
    const pg::Vector<Line> &lines_;
    const Charset &set_;
    pg::ResultSet &result_;
    int label_width_ = 7;
    int bar_width_ = 0;
    double longest_ = 0;
};

} // namespace

// partition_picture(parent regclass, width integer = 60)
TASKER_FUNCTION(partition_picture)
{
    const Oid parent = args.oid(0, "parent");
    const int32_t width = args.i32(1, "width");
    if (width < kNarrowest || width > kWidest)
        throw pg::Error(ERRCODE_INVALID_PARAMETER_VALUE, "argument \"width\" must be from %d to %d, not %d",
                        kNarrowest, kWidest, width);
    pg::ResultSet result(args.call());
    pg::ContextResource memory;
    Scene scene(&memory);
    scene.config = describe_set(parent);
    add_members(parent, scene.members);
    measure_members(scene.members);
    scene.now = current_key(scene.config);
    scene.cutoff = retention_cutoff(scene.config);
    scene.detail = detail_of(scene);
    pg::Vector<Line> lines(&memory);
    add_lines(scene, lines);
    Drawing(scene, lines, width, result).draw();
    return 0;
}
