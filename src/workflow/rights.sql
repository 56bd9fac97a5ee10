-- Rights on the workflow plane: nothing for PUBLIC.
revoke all on all functions in schema tasker from public;
revoke all on all procedures in schema tasker from public;
grant execute on function tasker.check_workflow_integrity() to tasker_observer, tasker_admin;
