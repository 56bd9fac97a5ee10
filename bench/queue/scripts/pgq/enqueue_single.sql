select pgq.insert_event(:flow, 'record', :payload);
