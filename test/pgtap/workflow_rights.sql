-- Who may do what in the workflow plane: nobody by default; each role what it is for; and what is granted works.
\set ON_ERROR_STOP true
\set QUIET true
\pset format unaligned
\pset tuples_only true
begin;
set client_min_messages = warning;
create extension if not exists pgtap;

-- The plane's routines by the roles that may call them: p producer, w worker, o observer, a admin.
create temp table routine (name text, roles text);
insert into routine values
('create_task', 'pa'), ('create_tasks', 'pa'), ('cancel_task', 'pa'),
('claim_steps', 'wa'), ('step_results', 'wa'), ('complete_step', 'wa'), ('complete_steps', 'wa'), ('fail_step', 'wa'),
('checkpoint_step', 'wa'), ('extend_step_lease', 'wa'), ('release_steps', 'wa'), ('set_step_backoff_atomic', 'wa'),
('wait_for_steps', 'wa'),
('define_task', 'a'), ('retry_task', 'a'), ('reset_step', 'a'), ('resolve_step_manually', 'a'),
('transition_task_state_atomic', 'a'),
('detect_and_transition_stale_tasks', 'a'), ('create_dlq_entry', 'a'), ('assign_dlq_entry', 'a'),
('resolve_dlq_entry', 'a'), ('expire_dlq_entries', 'a'), ('rebuild_workflow_counts', 'a'),
('get_task_template', 'oa'), ('task_graph', 'oa'), ('check_workflow_integrity', 'oa'), ('get_system_health_counts', 'oa'),
('get_workflow_steps', 'oa'), ('get_workflow_step_edges', 'oa'), ('get_task_transitions', 'oa'),
('get_workflow_step_transitions', 'oa'), ('find_stuck_tasks', 'oa'), ('get_stale_tasks_for_dlq', 'oa'),
('calculate_staleness_threshold', 'oa'), ('get_analytics_metrics', 'oa'), ('get_slowest_steps', 'oa'),
('get_slowest_tasks', 'oa'),
('get_next_ready_tasks', 'woa'), ('get_next_ready_task', 'woa'), ('get_step_readiness_status', 'woa'),
('get_step_readiness_status_batch', 'woa'), ('get_task_execution_contexts_batch', 'woa'), ('get_current_step_state', 'woa'),
('get_task_ready_info', 'woa'), ('calculate_dependency_levels', 'woa'), ('get_step_transitive_dependencies', 'woa'),
('get_step_dag_relationships', 'woa'),
('get_current_task_state', 'pwoa'), ('get_task_execution_context', 'pwoa'),
('task_of', 'pwoa'), ('last_step_of', 'pwoa'), ('uuid_time', 'pwoa'), ('uuid_at', 'pwoa');
create temp table relation (name text, roles text);
insert into relation values
('task_namespaces', 'oa'), ('named_tasks', 'oa'), ('named_steps', 'oa'), ('step_flow', 'oa'), ('task_templates', 'oa'),
('tasks', 'oa'), ('workflow_steps', 'oa'), ('workflow_step_edges', 'oa'), ('task_transitions', 'oa'),
('workflow_step_transitions', 'oa'), ('step_dag_relationships', 'oa'), ('step_readiness_statuses', 'oa'),
('task_execution_contexts', 'oa'), ('tasks_dlq', 'oa'), ('v_task_state_analysis', 'oa'),
('v_task_staleness_monitoring', 'oa'), ('v_dlq_dashboard', 'oa'), ('v_dlq_investigation_queue', 'oa'),
('task', ''), ('workflow_step', ''), ('workflow_step_edge', ''), ('task_transition', ''), ('workflow_step_transition', ''),
('task_identity', ''), ('sealed_workflow_partition', '');
create temp table role_of (letter text, role text);
insert into role_of values ('p', 'tasker_producer'), ('w', 'tasker_worker'), ('o', 'tasker_observer'), ('a', 'tasker_admin');

select plan(23);

select set_eq($$
    select p.proname::text, r.role from pg_proc p join routine s on s.name = p.proname, role_of r
    where p.pronamespace = 'tasker'::regnamespace and has_function_privilege(r.role, p.oid, 'execute')$$,
    $$select s.name, r.role from routine s join role_of r on strpos(s.roles, r.letter) > 0$$,
    'each role may call what it is for, and nothing else');
select is_empty($$select name from routine where not exists (
        select from pg_proc where pronamespace = 'tasker'::regnamespace and proname = name)$$, 'all of them exist');
select set_eq($$
    select s.name, r.role from relation s, role_of r where has_table_privilege(r.role, 'tasker.' || s.name, 'select')$$,
    $$select s.name, r.role from relation s join role_of r on strpos(s.roles, r.letter) > 0$$,
    'observers and admins may read the views and templates');
select is_empty($$
    select s.name, r.role, privilege from relation s, role_of r, unnest('{insert,update,delete,truncate,references,trigger}'::text[]) privilege
    where has_table_privilege(r.role, 'tasker.' || s.name, privilege)$$, 'nobody writes past the functions');
select is_empty($$
    select p.oid::regprocedure from pg_proc p, lateral aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
    where p.pronamespace = 'tasker'::regnamespace and a.grantee = 0$$, 'PUBLIC may call no function');
-- What is not listed above, internal or not, is nobody's but for the admin's, and the helpers' of views that are granted.
select is_empty($$
    select c.oid::regclass from pg_class c, lateral aclexplode(coalesce(c.relacl,
        acldefault(case when c.relkind = 'S' then 's'::"char" else 'r'::"char" end, c.relowner))) a
    where c.relnamespace = 'tasker'::regnamespace and c.relkind in ('r', 'p', 'v', 'S') and a.grantee = 0$$,
    'PUBLIC may read no table');
select is_empty($$
    select p.oid::regprocedure from pg_proc p
    where p.pronamespace = 'tasker'::regnamespace and p.proname !~ '^_' and p.prorettype <> 'trigger'::regtype
      and p.proname not in ('notify_launcher') and not has_function_privilege('tasker_admin', p.oid, 'execute')$$,
    'admins may call all that is meant to be called');

-- What is granted works, although none of the roles has rights on the tables.
create role wr_admin in role tasker_admin;
create role wr_producer in role tasker_producer;
create role wr_worker in role tasker_worker;
create role wr_observer in role tasker_observer;
create role wr_nobody;
grant select, insert on routine, relation, role_of to public;
do $$ begin
    execute format('grant usage on schema %I to public', (select nspname from pg_namespace where oid = pg_my_temp_schema()));
end $$;

set local role wr_admin;
select lives_ok($$select tasker.define_task('wr', 'two', '{"steps": [{"name": "first", "handler": "h"}, {"name": "second", "handler": "h", "depends_on": ["first"]}]}')$$,
    'an admin defines tasks');
set local role wr_producer;
select lives_ok($$select tasker.create_task('wr', 'two', '{}', identity_key => 'one')$$, 'a producer creates tasks');
select lives_ok($$select tasker.cancel_task(t) from unnest(tasker.create_tasks('wr', 'two', array['{}']::jsonb[])) t$$, 'and cancels them');
select lives_ok($$select tasker.get_current_task_state(tasker.create_task('wr', 'two', '{}', identity_key => 'one'))$$, 'and asks what has become of them');
select throws_ok($$select tasker.define_task('wr', 'other', '{}')$$, '42501', null, 'a producer defines nothing');
select throws_ok($$select tasker.claim_steps('wr')$$, '42501', null, 'and does no steps');
select throws_ok($$select * from tasker.tasks$$, '42501', null, 'and does not read others'' tasks');
set local role wr_worker;
select lives_ok($$select tasker.complete_step(workflow_step_uuid, '{}', null, lease_token) from tasker.claim_steps('wr', 10, 'wr')$$, 'a worker does steps');
select lives_ok($$select tasker.fail_step(workflow_step_uuid, '{}', false, null, lease_token) from tasker.claim_steps('wr', 10, 'wr')$$, 'and fails');
select throws_ok($$select tasker.create_task('wr', 'two')$$, '42501', null, 'but creates no tasks');
set local role wr_observer;
select lives_ok($$
    select t.current_state, tasker.task_graph(t.task_uuid, f), s.*, c.*
    from tasker.tasks t, unnest('{text,dot,mermaid}'::text[]) f, tasker.get_workflow_steps(t.task_uuid) s, tasker.get_task_execution_context(t.task_uuid) c$$,
    'an observer sees all');
select is_empty($$select * from tasker.check_workflow_integrity()$$, 'and checks it');
select throws_ok($$select tasker.retry_task(task_uuid) from tasker.tasks$$, '42501', null, 'but changes nothing');
select throws_ok($$select * from tasker.task$$, '42501', null, 'and sees views only');
set local role wr_admin;
select lives_ok($$select tasker.retry_task(task_uuid) from tasker.tasks where current_state = 'blocked_by_failures'$$, 'an admin brings tasks on again');
set local role wr_nobody;
select throws_ok($$select tasker.task_of('016f5e66-e800-7000-8000-000100000000')$$, '42501', null, 'who has no role may not even do arithmetic');
reset role;

select * from finish();
rollback;
