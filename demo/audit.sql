-- The demo's workflow and its own tables.

create schema audit;

-- Written by the steps, in the transactions that complete them. There are no unique keys here on purpose: that each
-- package stands once is what the workflow promises.
create table audit.package (name text not null, version text not null);
create table audit.finding (
    package    text not null,
    licenses   text[] not null,
    spdx_tags  text[] not null,
    files_read integer not null,
    problem    text,
    worker     text not null,
    step       uuid not null
);
create table audit.total (license text not null, packages integer not null);

select tasker.define_task('license_audit', 'audit', $$
{
    "description": "Which licences do the packages of this machine come under?",
    "steps": [
        {"name": "collect", "handler": "collect", "type": "batch"},
        {"name": "audit", "handler": "audit", "depends_on": ["collect"], "max_attempts": 5},
        {"name": "aggregate", "handler": "aggregate", "type": "deferred", "depends_on": ["audit"]},
        {"name": "report", "handler": "report", "depends_on": ["aggregate"], "max_attempts": 20,
         "backoff": {"base_seconds": 1, "multiplier": 1, "max_seconds": 1, "jitter": 0}}
    ]
}$$);
