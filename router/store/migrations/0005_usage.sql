-- Sums of what a tenant spent, by the day on which its attempts ended.
create index attempt_by_end on attempt (tenant, ended_at) where ended_at is not null;
