#include "partition/retire_one.hpp"

#include "partition/locks.hpp"
#include "partition/retire_checks.hpp"
#include "partition/set_failure.hpp"
#include "partition/sets.hpp"
#include "pg/extension.hpp"
#include "pg/portal.hpp"
#include "pg/spi.hpp"

namespace tasker::partition {
namespace {

constexpr int kPoliteTries = 5;      // how often a detach makes way for transactions that use the parent
constexpr int kReportedFailures = 5; // when a lock that was not to be had is reported
constexpr int kBriefWaitMs = 10;     // for locks that are asked for while the parent is locked

enum class Step
{
    none,
    detach,
    detach_plainly,
    finalize,
    finish
};

void run_as_owner(const SetConfig &config, const char *sql)
{
    pg::AsOwner owner(config.owner);
    pg::Spi spi(pg::Spi::Identity::caller);
    spi.run_text(sql);
}

const char *detach_text(const SetConfig &config, Oid partition, const char *mode)
{
    const char *parent = quoted_parent(config);
    const char *name = quoted_partition(partition);
    return pg::pg_call([&] { return psprintf("alter table %s detach partition %s%s", parent, name, mode); });
}

void take_creation_lock(const SetConfig &config)
{
    if (!pg::pg_call(
            [&] { return try_lock_for_transaction(config.parent, LockKind::creation, ExclusiveLock); }))
        throw pg::Error(ERRCODE_LOCK_NOT_AVAILABLE, "a partition of \"%s\" is being made",
                        NameStr(config.parent_name));
}

// What becomes of a table that is detached and locked.
void carry_out(const SetConfig &config, const DuePartition &due, char kind)
{
    const Oid relid = due.entry.relid;
    const char *name = quoted_partition(relid);
    if (config.action == RetentionAction::drop)
        run_as_owner(config, pg::pg_call([&] {
                         return psprintf("drop %s %s",
                                         kind == RELKIND_FOREIGN_TABLE ? "foreign table" : "table", name);
                     }));
    else
        drop_bounds_check(config, relid);
    if (config.action == RetentionAction::move) {
        const char *move = pg::pg_call([&]() -> const char * {
            const char *schema = NameStr(config.action_schema);
            return get_rel_namespace(relid) == get_namespace_oid(schema, true)
                       ? nullptr
                       : psprintf("alter table %s set schema %s", name, quote_identifier(schema));
        });
        if (move != nullptr)
            run_as_owner(config, move);
    }
    strike(config.parent, due);
    note_maintenance(config.parent);
}

// For the book: everything that the error says.
const char *reason_of(const pg::CaughtError &error, const SetConfig &config, Oid partition)
{
    const char *holder = is_lock_failure(error) ? who_is_in_the_way(config.parent, partition) : nullptr;
    return pg::pg_call([&]() -> const char * {
        if (holder != nullptr)
            return psprintf("%s: in use by %s", error.message(), holder);
        StringInfoData text;
        initStringInfo(&text);
        appendStringInfoString(&text, error.message());
        if (error.detail() != nullptr)
            appendStringInfo(&text, ". %s", error.detail());
        if (error.hint() != nullptr)
            appendStringInfo(&text, "%s %s", error.detail() != nullptr ? "" : ".", error.hint());
        return text.data;
    });
}

// One partition of a set whose lane is held.
class Retirement
{
  public:
    Retirement(Steps &steps, const SetConfig &config, const OwnedSet *owned, const DuePartition &due)
        : steps_(steps), config_(config), owned_(owned), due_(due), relid_(due.entry.relid)
    {
    }

    // False when there is no use in trying the set's others now.
    bool run()
    {
        SessionLock hold(relid_, LockKind::retirement);
        if (!hold.held())
            return true; // a record in it is being brought back to life
        LockTimeoutScope timeout(patience_ms(due_.failures));
        NoRowSecurityScope no_policies;
        Step step = Step::none;
        guarded([&] { step = decide(); });
        if (step == Step::detach_plainly)
            return detach_plainly();
        if (step == Step::detach && !detach_concurrently())
            return true;
        if (step == Step::finalize && !finalize())
            return true;
        if (step != Step::none)
            finish();
        return true;
    }

  private:
    // A transaction whose failure is noted instead of thrown. False when it failed.
    template <class Body> bool guarded(Body &&body)
    {
        bool done = false;
        steps_.transaction([&] {
            const std::optional<pg::CaughtError> error = pg::try_in_subtransaction(body);
            done = !error;
            if (error)
                note_failed_step(*error);
        });
        return done;
    }

    // Notes a failed step in the current transaction. It is logged when it is news, and a client is told
    // always.
    void note_failed_step(const pg::CaughtError &error)
    {
        const bool other = book_failure(config_.parent, due_, reason_of(error, config_, relid_));
        const bool news = is_lock_failure(error) ? due_.failures + 1 == kReportedFailures : other;
        if (news || !steps_.may_run_top_level())
            report_failure(news || due_.failures == 0 ? WARNING : NOTICE, config_.parent, kRetire, error);
    }

    Standing standing() const { return standing_of(config_.parent, relid_, due_.schema, due_.name); }

    Step decide()
    {
        const std::optional<SetConfig> config = read_set(config_.parent);
        if (!config) {
            strike(config_.parent, due_); // no longer managed: the table stays
            return Step::none;
        }
        config_ = *config;
        if (due_.leaving && was_just_restored(config_))
            return Step::none; // however far it was: the restore may still be filling it
        standing_ = standing();
        if (standing_.attached && standing_.renamed && due_.leaving) {
            tidy_book(); // the next round knows it by its new name
            return Step::none;
        }
        if (standing_.pending)
            return due_.leaving ? Step::finalize : Step::none;
        if (standing_.attached)
            return decide_attached();
        if (due_.leaving && standing_.exists && !standing_.taken)
            return Step::finish;
        strike(config_.parent, due_); // gone, or detached or taken by somebody who keeps it
        return Step::none;
    }

    // The bounds that it has now: since it was booked, or since the round began, it may have been attached
    // anew.
    bool refresh_bounds()
    {
        for (const DirectoryEntry &entry : directory(config_.parent)) {
            if (entry.relid == relid_) {
                due_.entry = entry;
                return true;
            }
        }
        return false;
    }

    Step decide_attached()
    {
        if (!refresh_bounds())
            return Step::none;
        if (const char *reason = ask(config_, owned_, due_.entry); reason != nullptr) {
            book_refusal(config_.parent, due_, reason);
            return Step::none;
        }
        if (standing_.other_pending)
            return Step::none;
        if (owned_ == nullptr)
            check_obstacles(config_, relid_);
        if (!steps_.may_run_top_level() || standing_.has_default)
            return Step::detach_plainly;
        if (gives_way())
            return Step::none;
        book_leaving(config_.parent, due_);
        // Nothing else would make a detached table of ours go with the extension, and its defaults call
        // functions of the extension: between DETACH and DROP, it would keep DROP EXTENSION from working.
        if (owned_ != nullptr)
            pg::tie_to_extension(relid_);
        choose_patience();
        return Step::detach;
    }

    // A detach that cannot end soon becomes pending, and a pending one waits for every snapshot in the
    // database instead of for the users of this parent only. So at first it is rather not begun.
    bool gives_way()
    {
        if (due_.failures >= kPoliteTries)
            return false;
        const int64_t users = lasting_users_of(config_.parent);
        if (users == 0)
            return false;
        book_failure(config_.parent, due_, pg::pg_call([&] {
                         return psprintf(INT64_FORMAT " long transactions are using \"%s\"", users,
                                         NameStr(config_.parent_name));
                     }));
        return true;
    }

    // A foreign key makes the detach lock the table on its other side against writers.
    void choose_patience()
    {
        patience_ = locks_others(relid_) ? polite_patience_ms() : patience_ms(due_.failures);
    }

    // The book knows a partition that was renamed during the detach by its new name; from here on, who
    // renames it takes it.
    void follow()
    {
        follow_name(config_.parent, relid_);
        pg::pg_call([&] {
            const char *name = get_rel_name(relid_);
            const char *schema = get_namespace_name(get_rel_namespace(relid_));
            if (name != nullptr && schema != nullptr) {
                namestrcpy(&due_.name, name);
                namestrcpy(&due_.schema, schema);
            }
        });
    }

    // Nobody has attached it with other bounds since it was booked.
    bool has_booked_bounds()
    {
        const DirectoryEntry booked = due_.entry;
        return refresh_bounds() && due_.entry.lower == booked.lower && due_.entry.upper == booked.upper;
    }

    bool detach_concurrently()
    {
        std::optional<pg::CaughtError> error;
        const char *sql = nullptr;
        MemoryContext memory = CurrentMemoryContext;
        LockTimeoutScope timeout(patience_);
        const bool asked = guarded([&] {
            if (!has_booked_bounds())
                return; // the next round decides anew
            const char *text = detach_text(config_, relid_, " concurrently");
            sql = pg::pg_call([&] { return MemoryContextStrdup(memory, text); });
        });
        if (!asked || sql == nullptr)
            return false;
        try {
            pg::run_top_level(sql, config_.owner);
        } catch (...) {
            error.emplace(pg::CaughtError::current_unless_stop());
        }
        steps_.transaction([&] {
            if (error)
                note_failed_step(*error);
            else
                follow();
        });
        return !error;
    }

    bool finalize()
    {
        return guarded([&] {
            choose_patience();
            LockTimeoutScope timeout(patience_);
            finalize_detach(config_, relid_);
            follow();
        });
    }

    // Detaches and finishes in one transaction, with the parent locked against everybody from the middle to
    // the commit. `reason` is set when the partition must stay after all; the error then undoes the detach.
    void detach_and_finish(const char **reason)
    {
        take_creation_lock(config_);
        {
            LockTimeoutScope timeout(polite_patience_ms());
            pg::pg_call([&] { LockRelationOid(config_.parent, AccessExclusiveLock); });
        }
        LockTimeoutScope timeout(std::min(kBriefWaitMs, polite_patience_ms()));
        pg::pg_call([&] { LockRelationOid(relid_, AccessExclusiveLock); });
        (void)refresh_bounds(); // they stay from here on; of a table that has none, DETACH itself complains
        run_as_owner(config_, detach_text(config_, relid_, ""));
        *reason = ask(config_, owned_, due_.entry);
        if (*reason != nullptr)
            throw pg::Error(ERRCODE_OBJECT_IN_USE, "%s", *reason);
        carry_out(config_, due_, standing_.kind);
    }

    bool detach_plainly()
    {
        const char *reason = nullptr;
        bool done = false;
        bool busy = false;
        steps_.transaction([&] {
            announce_plain_detach();
            const std::optional<pg::CaughtError> error =
                pg::try_in_subtransaction([&] { detach_and_finish(&reason); });
            done = !error;
            busy = error && is_lock_failure(*error);
            if (reason != nullptr)
                book_refusal(config_.parent, due_, reason);
            else if (error)
                note_failed_step(*error);
        });
        if (done)
            tell_owner();
        return !busy; // each further try would make others wait again
    }

    void announce_plain_detach() const
    {
        const bool session = !steps_.may_run_top_level();
        const char *parent = NameStr(config_.parent_name);
        const char *hint = standing_.has_default
                               ? "A DEFAULT partition excludes CONCURRENTLY: empty it by "
                                 "tasker.partition_data_proc() and drop "
                                 "it."
                               : "Tasker's background worker detaches concurrently; it needs "
                                 "shared_preload_libraries = 'tasker'.";
        pg::pg_call([&] {
            ereport(session              ? NOTICE
                    : due_.failures == 0 ? LOG
                                         : DEBUG1,
                    errmsg("detaching partition \"%s\" without CONCURRENTLY", NameStr(due_.name)),
                    errdetail("Nobody can use \"%s\" for that moment.", parent), errhint("%s", hint));
        });
    }

    // True when it is done; false when the table was attached again, or is somebody else's by now.
    bool finish_detached()
    {
        pg::pg_call([&] { LockRelationOid(relid_, AccessExclusiveLock); });
        take_creation_lock(config_);
        standing_ = standing();
        if (!standing_.exists || standing_.attached)
            return false; // somebody needed its range meanwhile; the next round sees what is to do
        const std::optional<SetConfig> config = read_set(config_.parent);
        if (!config || standing_.taken) {
            strike(config_.parent, due_);
            return false;
        }
        config_ = *config;
        if (const char *reason = ask(config_, owned_, due_.entry); reason != nullptr) {
            attach_again(config_, due_.entry);
            book_refusal(config_.parent, due_, reason);
            return false;
        }
        if (owned_ == nullptr) {
            check_destination(config_);
            check_obstacles(config_, relid_);
        }
        carry_out(config_, due_, standing_.kind);
        return true;
    }

    void finish()
    {
        bool done = false;
        LockTimeoutScope timeout(polite_patience_ms());
        if (guarded([&] { done = finish_detached(); }) && done)
            tell_owner();
    }

    void tell_owner()
    {
        if (owned_ != nullptr && owned_->retired != nullptr)
            steps_.transaction([&] { owned_->retired(relid_); });
    }

    Steps &steps_;
    SetConfig config_; // as read last
    const OwnedSet *owned_;
    DuePartition due_;
    const Oid relid_;
    Standing standing_{};
    int patience_ = 0;
};

} // namespace

bool retire_one(Steps &steps, const SetConfig &config, const OwnedSet *owned, const DuePartition &due)
{
    return Retirement(steps, config, owned, due).run();
}

void finalize_detach(const SetConfig &config, Oid partition)
{
    run_as_owner(config, detach_text(config, partition, " finalize"));
}

} // namespace tasker::partition
