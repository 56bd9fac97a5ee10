// A task as a tree for the terminal.
//
// In a graph of dependencies a step has many parents, in a tree one. It stands under the last step that all
// ways to it pass through, its dominator: after a fan-out the step that gathers the results stands beside the
// branches and not below one of them, and a branch can be left out without what comes after all of them.
// Which steps it waits for, when that is not the one above it, is named behind it.
//
// A step's dominator is the lowest common ancestor of its parents in the tree so far; parents come first, so
// one walk over the steps makes the tree.
#include "workflow/graph.hpp"

#include "workflow/ids.hpp"

extern "C" {
#include "mb/pg_wchar.h"
}

namespace tasker::workflow {
namespace {

constexpr int32_t kTask = -1;    // the root, as an index
constexpr int32_t kFolded = -2;  // what stands for steps that are not drawn
constexpr int kMostLevels = 24;  // deeper steps are not indented further, but say their level
constexpr int kWidestLabel = 64; // longer ones push their facts to the right
constexpr int kNamedParents = 3;

struct StateCounts
{
    int32_t by_state[core::kStepStateCount];
};

// One line to be: a step, or a number of them.
struct Item
{
    int32_t step;
    int32_t place; // among its siblings
    int32_t level;
    bool last;
    StateCounts folded; // with all that comes after them
    int32_t siblings;   // folded ones, without
};

struct Line
{
    const char *label;
    const char *facts;
    int width;
};

struct Glyphs
{
    const char *branch;
    const char *last;
    const char *pass;
    const char *more;
};

const Glyphs &glyphs()
{
    static constexpr Glyphs kLines = {"├─ ", "└─ ", "│  ", "…"};
    static constexpr Glyphs kPlain = {"|- ", "`- ", "|  ", "..."};
    return GetDatabaseEncoding() == PG_UTF8 ? kLines : kPlain;
}

const char *mark_of(core::StepState state)
{
    const bool utf8 = GetDatabaseEncoding() == PG_UTF8;
    switch (state) {
    case core::StepState::pending:
        return utf8 ? "○" : ".";
    case core::StepState::enqueued:
        return utf8 ? "●" : "*";
    case core::StepState::in_progress:
    case core::StepState::enqueued_for_orchestration:
    case core::StepState::enqueued_as_error_for_orchestration:
        return utf8 ? "▶" : ">";
    case core::StepState::waiting_for_retry:
        return utf8 ? "↻" : "~";
    case core::StepState::complete:
    case core::StepState::resolved_manually:
        return utf8 ? "✓" : "+";
    case core::StepState::error:
        return utf8 ? "✗" : "!";
    case core::StepState::cancelled:
        return utf8 ? "⊘" : "x";
    }
    return "?";
}

// What is drawn first when not all is: what somebody may have to look at.
int trouble_of(core::StepState state)
{
    switch (state) {
    case core::StepState::error:
        return 0;
    case core::StepState::waiting_for_retry:
        return 1;
    case core::StepState::in_progress:
    case core::StepState::enqueued_for_orchestration:
    case core::StepState::enqueued_as_error_for_orchestration:
        return 2;
    case core::StepState::enqueued:
        return 3;
    case core::StepState::pending:
        return 4;
    case core::StepState::cancelled:
        return 5;
    default:
        return 6;
    }
}

// A name as a terminal may see it. Plain C inside: may ereport.
void append_printable(StringInfo text, const char *name)
{
    for (const char *at = name; *at != '\0';) {
        const int length = pg_mblen(at);
        const auto byte = static_cast<unsigned char>(*at);
        const bool control = length == 1 ? byte < ' ' || byte == 0x7F
                                         : byte == 0xC2 && static_cast<unsigned char>(at[1]) < 0xA0;
        if (control)
            appendStringInfoChar(text, '?');
        else
            appendBinaryStringInfo(text, at, length);
        at += length;
    }
}

int width_of(const char *text)
{
    int width = 0;
    for (const char *at = text; *at != '\0'; at += pg_mblen(at))
        width += std::max(pg_dsplen(at), 0);
    return width;
}

class Tree
{
  public:
    Tree(const Graph &graph, int32_t most, std::pmr::memory_resource *memory)
        : graph_(graph), most_(most), above_(memory), after_(memory), trouble_(memory), begin_(memory),
          children_(memory), stack_(memory), open_(memory), items_(memory), lines_(memory)
    {
        find_dominators();
        sum_up();
        collect_children();
    }

    void draw(StringInfo text)
    {
        push_children(kTask, 1);
        while (!stack_.empty()) {
            const Item item = stack_.back();
            stack_.pop_back();
            open_.resize(static_cast<size_t>(item.level) + 1);
            open_[static_cast<size_t>(item.level)] = !item.last;
            lines_.push_back(pg::pg_call([&] { return line_of(item); }));
            if (item.step >= 0)
                push_children(item.step, item.level + 1);
            pg::check_for_interrupts();
        }
        pg::pg_call([&] { write(text); });
    }

  private:
    const GraphStep &step_at(int32_t i) const { return graph_.steps[static_cast<size_t>(i)]; }
    int32_t count() const { return static_cast<int32_t>(graph_.steps.size()); }

    int32_t common_ancestor(int32_t a, int32_t b) const
    {
        while (a != b) {
            if (a < b)
                b = above_[static_cast<size_t>(b)];
            else
                a = above_[static_cast<size_t>(a)];
        }
        return a;
    }

    void find_dominators()
    {
        above_.reserve(graph_.steps.size());
        for (const GraphStep &step : graph_.steps) {
            const auto parents = graph_.parents_of(step);
            int32_t above = parents.empty() ? kTask : parents.back();
            for (size_t i = parents.size(); i-- > 0 && above != kTask;)
                above = common_ancestor(parents[i], above);
            above_.push_back(above);
        }
    }

    // Of each step with all that stands below it: how many in which state, and the worst of them.
    void sum_up()
    {
        after_.resize(graph_.steps.size());
        trouble_.resize(graph_.steps.size());
        for (int32_t i = 0; i < count(); i++) {
            after_[static_cast<size_t>(i)] = StateCounts{};
            trouble_[static_cast<size_t>(i)] = trouble_of(step_at(i).state);
        }
        for (int32_t i = count(); i-- > 0;) {
            StateCounts &counts = after_[static_cast<size_t>(i)];
            if (const int state = core::state_index(step_at(i).state); state >= 0)
                counts.by_state[state]++;
            const int32_t above = above_[static_cast<size_t>(i)];
            if (above == kTask)
                continue;
            add(after_[static_cast<size_t>(above)], counts);
            trouble_[static_cast<size_t>(above)] =
                std::min(trouble_[static_cast<size_t>(above)], trouble_[static_cast<size_t>(i)]);
        }
    }

    static void add(StateCounts &sum, const StateCounts &counts)
    {
        for (int i = 0; i < core::kStepStateCount; i++)
            sum.by_state[i] += counts.by_state[i];
    }

    // children_ from begin_[i + 1] to begin_[i + 2] are those of step i; the task is i = -1.
    void collect_children()
    {
        begin_.resize(graph_.steps.size() + 2);
        std::fill(begin_.begin(), begin_.end(), 0);
        children_.resize(graph_.steps.size());
        for (const int32_t above : above_)
            begin_[static_cast<size_t>(above + 2)]++;
        for (size_t i = 1; i < begin_.size(); i++)
            begin_[i] += begin_[i - 1];
        pg::Vector<int32_t> next(begin_.begin(), begin_.end(), begin_.get_stored_allocator());
        for (int32_t i = 0; i < count(); i++)
            children_[static_cast<size_t>(next[static_cast<size_t>(above_[static_cast<size_t>(i)] + 1)]++)] =
                i;
    }

    std::span<const int32_t> children_of(int32_t step) const
    {
        const auto from = static_cast<size_t>(begin_[static_cast<size_t>(step + 1)]);
        const auto to = static_cast<size_t>(begin_[static_cast<size_t>(step + 2)]);
        return {children_.data() + from, to - from};
    }

    // Does it wait for something else than the step above it?
    bool joins(int32_t step) const
    {
        const auto parents = graph_.parents_of(step_at(step));
        return parents.size() > 1 || (parents.size() == 1 && parents[0] != above_[static_cast<size_t>(step)]);
    }

    // The items of one kind of siblings: all, or those in trouble first and one for the others.
    void add_items(std::span<int32_t> siblings)
    {
        const size_t drawn =
            most_ == 0 ? siblings.size() : std::min(siblings.size(), static_cast<size_t>(most_));
        if (drawn < siblings.size())
            std::stable_sort(siblings.begin(), siblings.end(), [&](int32_t a, int32_t b) {
                return trouble_[static_cast<size_t>(a)] < trouble_[static_cast<size_t>(b)];
            });
        for (size_t i = 0; i < drawn; i++)
            items_.push_back({siblings[i], siblings[i], 0, false, {}, 0});
        if (drawn == siblings.size())
            return;
        Item folded{kFolded, 0, 0, false, {}, static_cast<int32_t>(siblings.size() - drawn)};
        for (const int32_t step : siblings.subspan(drawn)) {
            add(folded.folded, after_[static_cast<size_t>(step)]);
            folded.place = std::max(folded.place, step);
        }
        items_.push_back(folded);
    }

    void push_children(int32_t step, int32_t level)
    {
        const auto children = children_of(step);
        if (children.empty())
            return;
        pg::Vector<int32_t> branches(items_.get_stored_allocator());
        pg::Vector<int32_t> gathering(items_.get_stored_allocator());
        for (const int32_t child : children)
            (joins(child) ? gathering : branches).push_back(child);
        items_.clear();
        add_items({branches.data(), branches.size()});
        add_items({gathering.data(), gathering.size()});
        std::sort(items_.begin(), items_.end(),
                  [](const Item &a, const Item &b) { return a.place > b.place; });
        for (Item &item : items_) { // the last one first: the stack turns them round
            item.level = level;
            item.last = &item == &items_.front();
            stack_.push_back(item);
        }
    }

    void append_indent(StringInfo text, const Item &item) const
    {
        for (int level = 1; level < std::min(item.level, kMostLevels); level++)
            appendStringInfoString(text, open_[static_cast<size_t>(level)] ? glyphs().pass : "   ");
        appendStringInfoString(text, item.last ? glyphs().last : glyphs().branch);
        if (item.level > kMostLevels)
            appendStringInfo(text, "(%d) ", item.level);
    }

    void append_parents(StringInfo text, int32_t step) const
    {
        const char *separator = "; after ";
        int named = 0;
        int left = 0;
        for (const int32_t parent : graph_.parents_of(step_at(step))) {
            if (parent == above_[static_cast<size_t>(step)])
                continue;
            if (named == kNamedParents) {
                left++;
                continue;
            }
            appendStringInfoString(text, separator);
            append_printable(text, step_at(parent).name);
            separator = ", ";
            named++;
        }
        if (left > 0)
            appendStringInfo(text, " and %d more", left);
    }

    static void append_counts(StringInfo text, const StateCounts &counts)
    {
        const char *separator = "";
        for (int i = 0; i < core::kStepStateCount; i++) {
            if (counts.by_state[i] == 0)
                continue;
            appendStringInfo(text, "%s%d %s", separator, counts.by_state[i],
                             core::state_name(core::state_at<core::StepState>(i)).data());
            separator = ", ";
        }
    }

    // Plain C inside: may ereport.
    Line line_of(const Item &item) const
    {
        StringInfoData label;
        StringInfoData facts;
        initStringInfo(&label);
        initStringInfo(&facts);
        append_indent(&label, item);
        if (item.step == kFolded) {
            appendStringInfo(&label, "%s %d more", glyphs().more, item.siblings);
            append_counts(&facts, item.folded);
        } else {
            const GraphStep &step = step_at(item.step);
            appendStringInfo(&label, "%s ", mark_of(step.state));
            append_printable(&label, step.name);
            append_facts(&facts, step);
            if (joins(item.step))
                append_parents(&facts, item.step);
        }
        return {label.data, facts.data, width_of(label.data)};
    }

    void write(StringInfo text) const
    {
        int column = 0;
        for (const Line &line : lines_)
            column = std::max(column, std::min(line.width, kWidestLabel));
        for (const Line &line : lines_) {
            appendStringInfoString(text, line.label);
            appendStringInfoSpaces(text, std::max(column - line.width, 0) + 2);
            appendStringInfo(text, "%s\n", line.facts);
        }
    }

    const Graph &graph_;
    const int32_t most_;
    pg::Vector<int32_t> above_; // dominators
    pg::Vector<StateCounts> after_;
    pg::Vector<int> trouble_;
    pg::Vector<int32_t> begin_;
    pg::Vector<int32_t> children_;
    pg::Vector<Item> stack_;
    pg::Vector<bool> open_; // has the ancestor at this level siblings that are still to come?
    pg::Vector<Item> items_;
    pg::Vector<Line> lines_;
};

} // namespace

void draw_text(const Graph &graph, int32_t most, StringInfo text)
{
    pg::ContextResource memory;
    pg::pg_call([&] {
        append_printable(text, graph.name);
        appendStringInfoString(text, "  ");
        append_task_facts(text, graph);
        appendStringInfoChar(text, '\n');
    });
    Tree(graph, most, &memory).draw(text);
}

} // namespace tasker::workflow
