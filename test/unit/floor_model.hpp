// A small model of what surrounds a floor in the server: records with committed and uncommitted states,
// snapshots, row locks, and sessions whose steps are interleaved at random. It checks the floor's invariant
// after every step by looking at all records.
//
// A Fault makes the sessions (or the floor) break one of the rules in core/floor.hpp, to show that each rule
// is needed and that the model would see a floor that fails.
#pragma once

#include "core/floor.hpp"

#include "random.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace tasker::test {

enum class Fault
{
    none,
    lower_before_the_end,         // rule 2
    no_lower_after_abort,         // rule 2
    snapshot_before_begin,        // rule 3
    reach_past_equal_positions,   // rule 4
    reach_past_foreign_locks,     // rule 4
    forget_what_was_not_taken,    // rule 4
    raise_without_owning_the_scan // rule 5
};

/// What a run did; `lost` counts the steps after which the invariant did not hold.
struct Tally
{
    int64_t lost = 0;
    int64_t raised = 0;
    int64_t lowered_in_scan = 0;
    int64_t taken = 0;
    int64_t left_behind = 0; // wanted records that claims no longer find at the end
    int64_t loose = 0;       // ends at which a full scan did not bring the floor to the lowest wanted record

    Tally &operator+=(const Tally &other)
    {
        lost += other.lost;
        raised += other.raised;
        lowered_in_scan += other.lowered_in_scan;
        taken += other.taken;
        left_behind += other.left_behind;
        loose += other.loose;
        return *this;
    }
};

template <typename FloorType> class FloorModel
{
  public:
    FloorModel(uint64_t seed, Fault fault) : random_(seed), fault_(fault) { floor_.reset(0); }

    Tally run(int steps)
    {
        for (int i = 0; i < steps; ++i) {
            now_ += random_.between(0, 2);
            if (random_.one_in(500))
                crash();
            else
                advance(pick_session());
            check_invariant();
        }
        finish_sessions();
        check_full_scan();
        drain();
        return tally_;
    }

  private:
    enum class Kind
    {
        insert,
        give_back,
        claim,
        foreign_lock
    };
    enum class Phase
    {
        begin,
        scan,
        take,
        hold,
        end,
        callback,
        done
    };

    struct Record
    {
        int64_t position = 0;
        bool wanted = false; // as committed
        bool locked = false; // by an open transaction that keeps rule 2
        bool foreign_locked = false;
        int version = 0; // committed changes so far
        int owed = 0;    // who will still call lower() for it, or take it
    };

    struct Session
    {
        Kind kind;
        Phase phase = Phase::begin;
        std::vector<size_t> mine{}; // records inserted, given back, taken or locked
        bool commits = true;
        // the scan of a claim
        bool owns_scan = false;
        std::pair<int64_t, size_t> cursor{0, 0}; // next index entry at or after (position, record)
        std::map<size_t, int> snapshot{};        // the wanted records and their versions
        bool has_snapshot = false;
        bool takes_later = false;         // notes records while it scans, and takes them after end_scan()
        std::vector<size_t> noted{};      // those
        int64_t held_at = core::kNothing; // lowest position passed over that may come free without a lower()
        int64_t limit = 0;
    };

    size_t pick_session()
    {
        std::erase_if(sessions_, [](const Session &session) { return session.phase == Phase::done; });
        if (sessions_.empty() || (sessions_.size() < 6 && random_.one_in(5))) {
            Session session{pick_kind()};
            session.commits = !random_.one_in(4);
            session.takes_later = random_.one_in(2);
            session.limit = random_.between(1, 6);
            sessions_.push_back(std::move(session));
        }
        return static_cast<size_t>(random_.between(0, static_cast<int64_t>(sessions_.size()) - 1));
    }

    Kind pick_kind()
    {
        constexpr Kind kinds[] = {Kind::insert, Kind::insert, Kind::claim,     Kind::claim,
                                  Kind::claim,  Kind::claim,  Kind::give_back, Kind::foreign_lock};
        return kinds[random_.between(0, 7)];
    }

    void advance(size_t index)
    {
        Session &session = sessions_[index];
        switch (session.phase) {
        case Phase::begin:
            begin(session);
            break;
        case Phase::scan:
            for (int64_t n = random_.between(1, 10); n > 0 && session.phase == Phase::scan; --n)
                scan(session);
            break;
        case Phase::take:
            take(session);
            break;
        case Phase::hold:
            hold(session);
            break;
        case Phase::end:
            end(session);
            break;
        case Phase::callback:
            call_back(session);
            break;
        case Phase::done:
            break;
        }
    }

    void begin(Session &session)
    {
        session.phase = Phase::hold;
        switch (session.kind) {
        case Kind::insert:
            for (int64_t n = random_.between(1, 4); n > 0; --n) {
                session.mine.push_back(records_.size());
                records_.push_back({now_ + random_.between(-20, 20)});
            }
            break;
        case Kind::give_back:
            give_back(session);
            break;
        case Kind::claim:
            begin_scan(session);
            break;
        case Kind::foreign_lock:
            for (size_t i = 0; i < records_.size(); ++i) {
                if (lockable(i) && random_.one_in(5)) {
                    records_[i].foreign_locked = true;
                    session.mine.push_back(i);
                }
            }
            break;
        }
    }

    // Takes back what an earlier claim took: at the same place (release), or at a new one (retry), which is a
    // new index entry.
    void give_back(Session &session)
    {
        for (size_t i = 0, n = records_.size(); i < n && session.mine.size() < 3; ++i) {
            if (records_[i].wanted || records_[i].locked || !processing_.contains(i) || random_.one_in(2))
                continue;
            processing_.erase(i);
            size_t again = i;
            if (random_.one_in(2)) {
                again = records_.size();
                records_.push_back({now_ + random_.between(0, 10)});
            }
            records_[again].locked = true;
            session.mine.push_back(again);
        }
    }

    void begin_scan(Session &session)
    {
        session.phase = Phase::scan;
        if (fault_ == Fault::snapshot_before_begin && !session.has_snapshot) {
            take_snapshot(session);
            session.phase = Phase::begin; // others may come in between
            return;
        }
        session.owns_scan = !floor_.scanning || fault_ == Fault::raise_without_owning_the_scan;
        session.cursor = {session.owns_scan ? floor_.begin_scan() : floor_.value, 0};
    }

    void take_snapshot(Session &session)
    {
        session.has_snapshot = true;
        for (size_t i = 0; i < records_.size(); ++i) {
            if (records_[i].wanted)
                session.snapshot.emplace(i, records_[i].version);
        }
    }

    // As in the server: only the version that the snapshot has, and only when it can be locked at once.
    bool can_take(const Session &session, size_t i) const { return is_current(session, i) && lockable(i); }

    bool is_current(const Session &session, size_t i) const
    {
        const auto seen = session.snapshot.find(i);
        return seen != session.snapshot.end() && records_[i].wanted && records_[i].version == seen->second;
    }

    bool lockable(size_t i) const
    {
        return records_[i].wanted && !records_[i].locked && !records_[i].foreign_locked;
    }

    // Looks at one index entry, as an index scan does: also at those that came after the snapshot.
    void scan(Session &session)
    {
        if (!session.has_snapshot) {
            take_snapshot(session);
            return;
        }
        if (session.owns_scan && random_.one_in(200)) {
            floor_.abandon_scan();
            session.commits = false; // an error
            session.phase = Phase::hold;
            return;
        }
        const size_t at = entry_at_or_after(session.cursor);
        if (at == records_.size()) {
            end_scan(session, core::kNothing);
            return;
        }
        Record &record = records_[at];
        if (record.position > now_) {
            end_scan(session, record.position);
            return;
        }
        session.cursor = {record.position, at + 1};
        if (can_take(session, at)) {
            if (session.takes_later) {
                session.noted.push_back(at);
                ++record.owed;
            } else {
                record.locked = true;
                session.mine.push_back(at);
            }
        } else if (record.foreign_locked && fault_ != Fault::reach_past_foreign_locks) {
            session.held_at = std::min(session.held_at, record.position);
        }
        if (static_cast<int64_t>(session.mine.size() + session.noted.size()) >= session.limit)
            end_scan(session, record.position + (fault_ == Fault::reach_past_equal_positions ? 1 : 0));
    }

    size_t entry_at_or_after(const std::pair<int64_t, size_t> &cursor) const
    {
        size_t found = records_.size();
        for (size_t i = 0; i < records_.size(); ++i) {
            if (std::pair(records_[i].position, i) >= cursor &&
                (found == records_.size() || records_[i].position < records_[found].position))
                found = i;
        }
        return found;
    }

    void end_scan(Session &session, int64_t reached)
    {
        session.phase = Phase::take;
        if (!session.owns_scan)
            return;
        const int64_t before = floor_.value;
        floor_.end_scan(std::min(reached, session.held_at));
        tally_.raised += floor_.value > before ? 1 : 0;
    }

    // Takes one of the records that were noted. Where it cannot and nobody else will, the floor comes back.
    void take(Session &session)
    {
        if (session.noted.empty()) {
            session.phase = Phase::hold;
            return;
        }
        if (random_.one_in(50)) {
            session.commits = false; // an error
            session.phase = Phase::hold;
            return;
        }
        const size_t i = session.noted.back();
        session.noted.pop_back();
        Record &record = records_[i];
        if (can_take(session, i)) {
            record.locked = true;
            session.mine.push_back(i);
        } else if (is_current(session, i) && record.foreign_locked &&
                   fault_ != Fault::forget_what_was_not_taken) {
            floor_.lower(record.position);
        }
        --record.owed;
    }

    // Stays open for a while; a claim may roll back a part to a savepoint.
    void hold(Session &session)
    {
        if (session.kind == Kind::claim && session.mine.size() > 1 && random_.one_in(4)) {
            const std::vector<size_t> undone{session.mine.back()};
            session.mine.pop_back();
            records_[undone[0]].locked = false;
            ++records_[undone[0]].owed;
            partial_.push_back(undone[0]); // its lower() comes in a later step
            return;
        }
        if (!partial_.empty()) {
            lower_after(partial_);
            partial_.clear();
        }
        if (random_.one_in(3)) {
            session.phase = Phase::end;
            if (fault_ == Fault::lower_before_the_end)
                lower_for(session.mine);
        }
    }

    // Makes the end of the transaction visible to new snapshots.
    void end(Session &session)
    {
        session.phase = Phase::callback;
        for (const size_t i : session.mine) {
            Record &record = records_[i];
            record.locked = false;
            switch (session.kind) {
            case Kind::insert:
            case Kind::give_back:
                record.wanted = session.commits;
                break;
            case Kind::claim:
                record.wanted = !session.commits;
                if (session.commits) {
                    processing_.insert(i);
                    ++tally_.taken;
                }
                break;
            case Kind::foreign_lock:
                record.foreign_locked = false;
                continue; // makes nothing wanted and owes nothing
            }
            ++record.version;
            record.owed += owes_lower() ? 1 : 0;
        }
    }

    // The callback of a commit or an abort. What never became wanted is lowered to as well; that is harmless.
    void call_back(Session &session)
    {
        session.phase = Phase::done;
        lower_after(session.noted); // an error came between the scan and the taking
        if (session.kind == Kind::foreign_lock || !owes_lower())
            return;
        if (fault_ == Fault::no_lower_after_abort && session.kind == Kind::claim)
            settle(session.mine);
        else
            lower_after(session.mine);
    }

    bool owes_lower() const { return fault_ != Fault::lower_before_the_end; }

    void lower_after(const std::vector<size_t> &which)
    {
        lower_for(which);
        settle(which);
    }

    void settle(const std::vector<size_t> &which)
    {
        for (const size_t i : which)
            --records_[i].owed;
    }

    void lower_for(const std::vector<size_t> &which)
    {
        for (const size_t i : which) {
            tally_.lowered_in_scan += floor_.scanning ? 1 : 0;
            floor_.lower(records_[i].position);
        }
    }

    // The server dies: open transactions are aborted, nobody calls back, shared memory is zero again.
    void crash()
    {
        sessions_.clear();
        partial_.clear();
        for (Record &record : records_) {
            record.locked = false;
            record.foreign_locked = false;
            record.owed = 0;
        }
        floor_ = FloorType{};
    }

    void check_invariant()
    {
        for (const Record &record : records_) {
            if (record.wanted && !record.locked && record.owed == 0 && record.position < floor_.value) {
                ++tally_.lost;
                return;
            }
        }
    }

    void finish_sessions()
    {
        while (!sessions_.empty()) {
            for (size_t i = 0; i < sessions_.size(); ++i)
                advance(i);
            std::erase_if(sessions_, [](const Session &session) { return session.phase == Phase::done; });
            check_invariant();
        }
        if (!partial_.empty())
            lower_after(partial_);
        partial_.clear();
    }

    // With nobody else about, a scan that takes nothing brings the floor exactly to the lowest wanted record.
    void check_full_scan()
    {
        int64_t lowest = core::kNothing;
        for (const Record &record : records_) {
            if (record.wanted)
                lowest = std::min(lowest, record.position);
        }
        floor_.begin_scan();
        floor_.end_scan(lowest);
        tally_.loose += floor_.value == lowest ? 0 : 1;
    }

    // Claims until claims find nothing, at a time when all is due; what is wanted then is lost for good.
    void drain()
    {
        now_ += 1000;
        size_t found = 1;
        while (found > 0) {
            Session session{Kind::claim};
            session.limit = 7;
            begin_scan(session);
            if (fault_ == Fault::snapshot_before_begin)
                begin_scan(session);
            session.phase = Phase::scan;
            while (session.phase == Phase::scan)
                scan(session);
            while (session.phase == Phase::take)
                take(session);
            found = session.mine.size();
            end(session);
            call_back(session);
            found += session.commits ? 0 : 1;
        }
        tally_.left_behind += std::count_if(records_.begin(), records_.end(),
                                            [](const Record &record) { return record.wanted; });
    }

    Random random_;
    Fault fault_;
    FloorType floor_{};
    int64_t now_ = 1000;
    std::vector<Record> records_;
    std::vector<Session> sessions_;
    std::vector<size_t> partial_; // rolled back to a savepoint, lower() still to come
    std::set<size_t> processing_; // records that a committed claim took
    Tally tally_;
};

} // namespace tasker::test
