-- What of a tenant was moved last, for streams of events.
create index task_by_change on task (tenant, updated_at, id);
