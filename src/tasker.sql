-- The schema, the roles and what all planes share.

-- Roles are global to the cluster and survive DROP EXTENSION; they are made once, without rights of their own.
create function tasker._create_roles() returns void
    language c strict as 'MODULE_PATHNAME', 'tasker_create_roles';
revoke all on function tasker._create_roles() from public;
select tasker._create_roles();
comment on function tasker._create_roles() is
'Makes the roles tasker_admin, tasker_producer, tasker_worker and tasker_observer (NOLOGIN) where they do not exist. Internal: run by CREATE EXTENSION.';

revoke all on schema tasker from public;
grant usage on schema tasker to tasker_admin, tasker_producer, tasker_worker, tasker_observer;
comment on schema tasker is 'Tasker: processing queue, event stream, workflow engine and range partitions';
