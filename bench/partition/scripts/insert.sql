\set id random(1, 1000000000)
insert into event values (:id, now(), :id % 1000, 'a payload of a few bytes');
