-- The functions of the test module; psql's variable "library" is the path of its file.

create schema border;

-- What the border takes for the extension: its schema, and the owner of its lowest table.
create role border_owner;
create role border_caller;
create schema tasker authorization border_owner;
set role border_owner;
create table tasker.part_config (parent regclass);
reset role;

create function border.live() returns int language c as :'library', 'tasker_border_live';
create function border.raise_plain() returns text language c as :'library', 'tasker_border_raise_plain';
create function border.raise_deep() returns text language c as :'library', 'tasker_border_raise_deep';
create function border.raise_raw() returns text language c as :'library', 'tasker_border_raise_raw';
create function border.run_deep(sql text) returns boolean language c as :'library', 'tasker_border_run_deep';
create function border.throw(kind text) returns text language c as :'library', 'tasker_border_throw';
create function border.swallow(sql text) returns text language c as :'library', 'tasker_border_swallow';
create function border.swallow_kind(kind text) returns text
    language c as :'library', 'tasker_border_swallow_kind';
create function border.swallow_nested(outer_sql text, inner_sql text, outer_fails boolean) returns int
    language c as :'library', 'tasker_border_swallow_nested';
create function border.guards_after(sql text) returns text
    language c as :'library', 'tasker_border_guards_after';
create function border.throw_through_pg_call(kind text) returns text
    language c as :'library', 'tasker_border_throw_through_pg_call';
create function border.throw_past_callback() returns text
    language c as :'library', 'tasker_border_throw_past_callback';
create function border.warn() returns int language c as :'library', 'tasker_border_warn';

create function border.cost(guard text, count int) returns bigint language c as :'library', 'tasker_border_cost';

create function border.memory() returns bigint language c as :'library', 'tasker_border_memory';
create function border.context_memory() returns bigint
    language c as :'library', 'tasker_border_context_memory';
create function border.growth(kind text, count int) returns bigint
    language c as :'library', 'tasker_border_growth';
create function border.allocate_too_much(less int, alignment int) returns boolean
    language c as :'library', 'tasker_border_allocate_too_much';
create function border.too_many_elements() returns text
    language c as :'library', 'tasker_border_too_many_elements';
create function border.exhaust_container() returns text
    language c as :'library', 'tasker_border_exhaust_container';
create function border.exhaust_palloc() returns text language c as :'library', 'tasker_border_exhaust_palloc';
create function border.exhaust_copy() returns text language c as :'library', 'tasker_border_exhaust_copy';
create function border.aligned(alignment int) returns int language c as :'library', 'tasker_border_aligned';
create function border.containers() returns bigint language c as :'library', 'tasker_border_containers';

create function border.wait() returns text language c as :'library', 'tasker_border_wait';
create function border.wait_in_subtransaction() returns text
    language c as :'library', 'tasker_border_wait_in_subtransaction';
create function border.spin() returns text language c as :'library', 'tasker_border_spin';
create function border.holdoff() returns int language c as :'library', 'tasker_border_holdoff';
create function border.lock_is_held() returns boolean language c as :'library', 'tasker_border_lock_is_held';
create function border.lock_is_free() returns boolean language c as :'library', 'tasker_border_lock_is_free';
create function border.lock_and_throw(kind text) returns text
    language c as :'library', 'tasker_border_lock_and_throw';
create function border.lock_and_swallow(kind text) returns boolean
    language c as :'library', 'tasker_border_lock_and_swallow';
create function border.lock_raw_and_throw(kind text) returns text
    language c as :'library', 'tasker_border_lock_raw_and_throw';
create function border.lock_raw_and_swallow(kind text) returns boolean
    language c as :'library', 'tasker_border_lock_raw_and_swallow';
create function border.subtransaction_under_lock() returns boolean
    language c as :'library', 'tasker_border_subtransaction_under_lock';
create function border.fatal() returns text language c as :'library', 'tasker_border_fatal';
create function border.commit_fails(at_rollback boolean) returns text
    language c as :'library', 'tasker_border_commit_fails';

create function border.who() returns text language c as :'library', 'tasker_border_who';
create function border.who_inside(scope text) returns text
    language c as :'library', 'tasker_border_who_inside';
create function border.fail_under_identity(how text) returns text
    language c as :'library', 'tasker_border_fail_under_identity';
create function border.swallow_under_identity(how text) returns text
    language c as :'library', 'tasker_border_swallow_under_identity';
create function border.kept_statement(id bigint) returns text
    language c as :'library', 'tasker_border_kept_statement';
create function border.misread(how text) returns bigint language c as :'library', 'tasker_border_misread';
create function border.wrong_parameters(wrong_type boolean) returns text
    language c as :'library', 'tasker_border_wrong_parameters';
create function border.read_latest(id int) returns bigint
    language c as :'library', 'tasker_border_read_latest';
create function border.arguments(flow_name text, number bigint, lease interval, numbers bigint[], labels text[])
    returns text language c as :'library', 'tasker_border_arguments';
create function border.misdeclared(labels int[]) returns bigint
    language c as :'library', 'tasker_border_misdeclared';
create function border.rows(count bigint, fail_at bigint) returns table (i bigint, label text)
    language c as :'library', 'tasker_border_rows';

create table border.target (id int constraint target_key primary key, label text constraint label_set not null);
insert into border.target values (1, 'one');
grant usage on schema border to border_caller, border_owner;
grant select, insert on border.target to border_caller, border_owner;

-- Everything that can be known of the error of a statement, after which no C++ object may be alive.
create function border.error_of(statement text) returns jsonb language plpgsql as $$
declare
    state text; message text; detail text; hint text; context text;
    schema_name text; table_name text; column_name text; type_name text; constraint_name text;
begin
    execute statement;
    return null;
exception when others or assert_failure then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail,
        hint = pg_exception_hint, context = pg_exception_context, schema_name = schema_name,
        table_name = table_name, column_name = column_name, type_name = pg_datatype_name,
        constraint_name = constraint_name;
    return jsonb_build_object('state', state, 'message', message, 'detail', detail, 'hint', hint,
        'context', context, 'schema', schema_name, 'table', table_name, 'column', column_name,
        'type', type_name, 'constraint', constraint_name, 'live', border.live(), 'holdoff', border.holdoff());
end $$;

-- Catches so many errors in PL/pgSQL's way and returns by how many bytes memory grew after the first thousand.
create function border.growth_in_plpgsql(kind text, count int) returns bigint language plpgsql as $$
declare
    memory bigint; memory_before bigint; contexts bigint; contexts_before bigint;
begin
    for i in 1 .. count + 1000 loop
        begin
            perform border.throw(kind);
        exception when others then
            null;
        end;
        -- The first look prepares these expressions, which takes memory too; the last two are compared.
        if i in (500, 1000, count + 1000) then
            memory_before := memory;
            contexts_before := contexts;
            memory := border.memory();
            contexts := border.context_memory();
        end if;
    end loop;
    return greatest(memory - memory_before, contexts - contexts_before);
end $$;
