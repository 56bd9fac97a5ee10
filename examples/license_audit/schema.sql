-- The audit's own tables. The queue needs none of them: they are the user's data, written in the same transactions
-- as the queue's records.

create schema if not exists audit;

-- What was to be audited: written by produce.py together with the records.
create table if not exists audit.package (
    package   text primary key,
    version   text not null,
    record_id bigint not null
);

-- What the workers found: written by work.py together with the completion of the record. There is no unique key here
-- on purpose. That each package has one row is what the queue promises; report.sql shows that it kept its word.
create table if not exists audit.finding (
    record_id  bigint not null,
    package    text not null,
    licenses   text[] not null,
    spdx_tags  text[] not null,
    files_read integer not null,
    attempt    integer not null,
    worker     text not null,
    found_at   timestamptz not null default clock_timestamp()
);
