select status, count(*) as count from seed.processing_queue where flow_name = :flow group by status;
