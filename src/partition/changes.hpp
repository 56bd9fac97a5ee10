// How many rows of a partitioned table have changed since it was last analyzed.
//
// Each leaf (partition without partitions of its own) has cumulative counters of rows inserted, updated and
// deleted. What they showed at the last analyze of the parent is in the book, tasker.part_analyze; the
// difference is what has changed. n_mod_since_analyze would not do: it begins anew when autovacuum visits the
// leaf. Four things happen that no counter tells:
//
//   a leaf comes or goes  it counts with its rows
//   TRUNCATE              the leaf has another file, and fewer rows in it
//   ANALYZE by hand       it left the number of rows that it found in pg_class; how far they are from those
//   of
//                         now is all that is known of the time since
//   counters are lost     by a crash, a promotion or a reset: they are smaller than in the book. What they
//   had
//                         is gone; what shows is by how much the size of the leaf's file has changed
//
// In the last two cases, and when a parent is seen for the first time, the book is written anew with what is
// known to have changed carried over; so each is judged once.
//
// Nothing here locks a parent, and only those leaves of which the counters know nothing, for a moment and if
// they can be had at once.
#pragma once

#include "pg/memory.hpp"

namespace tasker::partition {

// When a parent is due: tasker.part_analyze_config, the settings where that says nothing.
struct AnalyzeRule
{
    bool enabled;
    double threshold;
    double scale_factor;
};

struct AnalyzedParent
{
    Oid relid;
    double rows_when_analyzed; // negative: it never was
    AnalyzeRule rule;
};

// A leaf and its counters.
struct Leaf
{
    Oid relid;
    Oid file; // TRUNCATE makes another
    int64_t changes;
    int64_t rows;
    int64_t pages; // in the book only; -1 when the leaf was locked
    bool counted;  // by a vacuum or analyze; else the rows may be more than the counters tell
};

// A row of the book, found in a look at the parents.
struct Book
{
    Oid parent;
    std::optional<TimestampTz> analyzed_at;
    int64_t carried; // rows changed before the leaves were as they are here
    size_t first;    // its leaves in Books::leaves
    size_t count;
};

// The book, for all parents or for one, as it is when the object is made.
class Books
{
  public:
    Books(Oid only, pg::ContextResource &memory);

    const Book *find(Oid parent) const;
    std::span<const Leaf> leaves(const Book &book) const { return {leaves_.data() + book.first, book.count}; }
    // Books of tables that are not among the parents, which are in the order of their OIDs.
    bool has_other_than(std::span<const AnalyzedParent> parents) const;

  private:
    pg::Vector<Book> books_;
    pg::Vector<Leaf> leaves_;
};

struct Changes
{
    std::span<const Leaf> leaves; // as they are now, for the book; in the current memory context
    int64_t rows = 0;
    int64_t changed = 0;
    bool uncertain = false; // a leaf could not be measured
    bool rewrite = false;   // the book is missing or is no longer to be compared with
    std::optional<TimestampTz> analyzed_at;

    double needed(const AnalyzeRule &rule) const
    {
        return rule.threshold + rule.scale_factor * static_cast<double>(rows);
    }
    bool due(const AnalyzeRule &rule) const
    {
        return rule.enabled && !leaves.empty() && static_cast<double>(changed) > needed(rule);
    }
};

// Adds the partitioned tables of the database in the order of their OIDs: those of one tree, or all but
// temporary ones.
void add_analyzed_parents(pg::Vector<AnalyzedParent> &parents, Oid only);

// May counters have been lost twice since the book was written? Then it shows in sizes only: the first look
// of a process asks, because a crash leaves no process alive, and who finds that the database's counters were
// reset.
enum class Doubt
{
    none,
    losses
};

// The books have to be read before the counters.
Changes count_changes(const AnalyzedParent &parent, const Books &books, Doubt doubt);

// Writes the counters of the leaves as those of the last analyze, apart from changes that are carried over.
void write_book(Oid parent, std::span<const Leaf> leaves, int64_t carried,
                std::optional<TimestampTz> analyzed_at);

} // namespace tasker::partition
