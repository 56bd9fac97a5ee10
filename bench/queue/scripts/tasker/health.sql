select tasker.health_check();
