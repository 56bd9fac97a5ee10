\set id random(1, :rows)
\set kind random(1, 2)
\if :kind = 1
update src set name = 'changed by a writer' where id = :id;
\else
insert into event values (:rows + :id * 1000 + random() * 1000, current_date - :id % 30, 1, 'a payload of a few bytes') on conflict do nothing;
\endif
