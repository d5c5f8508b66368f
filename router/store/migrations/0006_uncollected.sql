-- Results that callers were sent away from with a 504: an equal request collects instead of being made anew.
create table uncollected (
    tenant text not null,
    digest text not null,
    until_at bigint not null,
    primary key (tenant, digest)
);
create index uncollected_by_end on uncollected (until_at);
