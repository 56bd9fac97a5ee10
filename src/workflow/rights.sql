-- Rights on the workflow plane: nothing for PUBLIC. Producers create and cancel tasks, workers do steps, observers read,
-- admins define, steer and do all of it. What only reads is granted where it is made.
revoke all on all functions in schema tasker from public;
revoke all on all procedures in schema tasker from public;

grant execute on function
    tasker.create_task(text, text, jsonb, text, integer, text, uuid, uuid, jsonb, text, text, text, timestamptz),
    tasker.create_tasks(text, text, jsonb[], text, integer, text[], uuid, uuid, jsonb, text, text, text, timestamptz),
    tasker.cancel_task(uuid, text), tasker.get_current_task_state(uuid), tasker.get_task_execution_context(uuid)
    to tasker_producer, tasker_admin;
grant execute on function tasker.claim_steps(text, integer, text, interval, text[]), tasker.step_results(uuid),
    tasker.complete_step(uuid, jsonb, jsonb, bigint), tasker.complete_steps(uuid[], jsonb[], bigint[]),
    tasker.fail_step(uuid, jsonb, boolean, integer, bigint), tasker.checkpoint_step(uuid, jsonb, bigint),
    tasker.extend_step_lease(uuid[], interval, bigint[]), tasker.release_steps(uuid[], bigint[]),
    tasker.set_step_backoff_atomic(uuid, integer)
    to tasker_worker, tasker_admin;
grant execute on procedure tasker.wait_for_steps(text, interval, text[], boolean) to tasker_worker, tasker_admin;
grant execute on function tasker.define_task(text, text, jsonb, text), tasker.retry_task(uuid),
    tasker.reset_step(uuid, boolean), tasker.resolve_step_manually(uuid, jsonb, text, text),
    tasker.transition_task_state_atomic(uuid, text, text, uuid, jsonb)
    to tasker_admin;
grant execute on function tasker.get_task_template(text, text, text), tasker.task_graph(uuid, text, integer),
    tasker.check_workflow_integrity()
    to tasker_observer, tasker_admin;
-- They read views, with the rights of who calls them.
revoke execute on function tasker.get_workflow_steps(uuid), tasker.get_workflow_step_edges(uuid),
    tasker.get_task_transitions(uuid), tasker.get_workflow_step_transitions(uuid)
    from tasker_worker, tasker_producer;
grant select on tasker.task_namespaces, tasker.named_tasks, tasker.named_steps, tasker.step_flow, tasker.task_templates
    to tasker_observer, tasker_admin;
