-- Templates: defining tasks and their steps.

create function tasker.account_template_change() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_account_template_change';
comment on function tasker.account_template_change() is
'Makes every session look again which tasks are defined, and which flows carry steps, after a change.';
create trigger account_template_change after insert or update or delete or truncate on tasker.named_tasks
    for each statement execute function tasker.account_template_change();
alter table tasker.named_tasks enable always trigger account_template_change;
create trigger account_template_change after insert or update or delete or truncate on tasker.step_flow
    for each statement execute function tasker.account_template_change();
alter table tasker.step_flow enable always trigger account_template_change;

create function tasker.keep_step_flow() returns trigger
    language c as 'MODULE_PATHNAME', 'tasker_keep_step_flow';
comment on function tasker.keep_step_flow() is
'Refuses to drop or rename a flow that carries steps: their tasks could never end.';
create trigger keep_step_flow before delete or update of flow_id, flow_name on tasker.flow
    for each row execute function tasker.keep_step_flow();

create function tasker.define_task(namespace text, name text, definition jsonb, version text default '0.1.0')
    returns uuid
    language c as 'MODULE_PATHNAME', 'tasker_define_task';
comment on function tasker.define_task(text, text, jsonb, text) is
'Defines a version of a task and returns its named_task_uuid; the same definition again returns the same. definition: {"description", "lifecycle": {"max_waiting_for_dependencies_minutes", "max_waiting_for_retry_minutes", "max_steps_in_process_minutes", "max_duration_minutes"}, "steps": [{"name", "handler" (the name), "depends_on": [names], "type" (standard; decision, deferred, batch), "retryable" (true), "max_attempts" (3), "backoff": {"base_seconds" (1), "multiplier" (2), "max_seconds" (60), "jitter" (0.1)}, "timeout_seconds" (none), "priority" (the task''s), "inputs": {}}]}. Each handler of a namespace gets a flow "namespace/handler". Errors: 22023 the definition is wrong (unknown key, duplicate or unknown name, cycle, value out of range; the message names task and step); 42710 the version has another definition, or a flow of that name exists and does not carry steps.';

create function tasker.get_task_template(namespace text, name text, version text default null) returns jsonb
    language c stable as 'MODULE_PATHNAME', 'tasker_get_task_template';
comment on function tasker.get_task_template(text, text, text) is
'The definition of a task as it was given to define_task(); without a version that which was defined last. Errors: 42704 unknown task or version.';

create view tasker.task_templates as
    select n.name as namespace, t.name, t.version,
        (select pg_catalog.count(*) from tasker.named_steps s where s.named_task_uuid = t.named_task_uuid) as steps,
        t.created_at, t.description, t.named_task_uuid
    from tasker.named_tasks t join tasker.task_namespaces n using (task_namespace_uuid);
comment on view tasker.task_templates is 'What is defined: one row for each version of each named task';
comment on column tasker.task_templates.namespace is 'The namespace';
comment on column tasker.task_templates.name is 'The name of the task';
comment on column tasker.task_templates.version is 'The version';
comment on column tasker.task_templates.steps is 'How many steps it has';
comment on column tasker.task_templates.created_at is 'When it was defined';
comment on column tasker.task_templates.description is 'The definition''s "description"';
comment on column tasker.task_templates.named_task_uuid is 'Its key; tasks have it too';
