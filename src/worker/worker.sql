-- The worker plane: what it does and how it fares, and the duties as calls.

-- Starts a worker for this database, where the library is preloaded, as soon as this transaction has committed.
create function tasker.notify_launcher() returns void
    language c as 'MODULE_PATHNAME', 'tasker_notify_launcher';
comment on function tasker.notify_launcher() is
'Tells the launcher, when the transaction commits, that this database has the extension. Run by CREATE EXTENSION; does nothing without shared_preload_libraries.';
revoke all on function tasker.notify_launcher() from public;
select tasker.notify_launcher();
