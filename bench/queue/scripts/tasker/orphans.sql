select tasker.cleanup_orphaned_records();
