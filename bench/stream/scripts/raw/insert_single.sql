insert into raw.event (type, data) values (:type, :data);
