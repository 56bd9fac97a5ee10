-- What the audit found and what the queue knows of it. Run by psql:  psql -v flow=license_audit -f report.sql
\set QUIET on
\if :{?flow}
\else
    \set flow license_audit
\endif
\pset footer off
\pset border 1

\echo
\echo 'Licences declared by the most packages'
select min(license) as license,
       count(*) as packages,
       string_agg(package, ', ' order by package) filter (where place <= 3)
           || case when count(*) > 3 then ', ...' else '' end as for_instance
from (select license, package,
             row_number() over (partition by lower(license) order by package) as place
      from audit.finding, unnest(licenses) as license) as declared
group by lower(license)
order by count(*) desc, 1
limit 15;

\echo 'SPDX tags in the installed files themselves'
select tag, count(*) as packages
from audit.finding, unnest(spdx_tags) as tag
group by tag
order by count(*) desc, tag
limit 6;

\echo 'Who did how many'
select worker, count(*) as packages, sum(files_read) as files_read,
       count(*) filter (where attempt > 1) as of_them_again,
       to_char(min(found_at), 'HH24:MI:SS.MS') as first, to_char(max(found_at), 'HH24:MI:SS.MS') as last
from audit.finding
group by worker
order by worker;

\echo 'The queue''s own count'
select flow_name, pending, scheduled, processing, completed, failed, cancelled, total
from tasker.get_queue_status(:'flow');

\echo 'Dead letters: tried as often as the flow allows, and given up with the last error'
select payload->>'package' as package, retry_count, flow_instance_id as last_worker, error_message
from tasker.dead_letters
where flow_name = :'flow'
order by 1
limit 15;
