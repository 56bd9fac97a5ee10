\set key random(1, 1000)
select count(*) from event where at >= now() - interval '10 seconds' and key = :key;
