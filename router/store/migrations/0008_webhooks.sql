-- Webhooks: what a task's caller asked for, the rows that are owed, and the endpoints that want no more.

-- Where to tell of the task, of which types (words between spaces), and the base of the links in it.
alter table task add column callback_url text;
alter table task add column callback_events text not null default '';
alter table task add column link_base text;

-- One row per move that is told of, written with the move. The id is made of the task's and its version's.
create table webhook (
    id text not null primary key,
    tenant text not null,
    task_id text not null,
    type text not null,
    url text not null,
    -- The URL's host:port, so that one slow receiver delays nobody else.
    host text not null,
    created_at bigint not null,
    state text not null,
    -- Of the present round of tries.
    tries bigint not null,
    -- Due from then on; whoever takes the row puts it off to the end of a lease.
    next_at bigint not null,
    first_at bigint,
    fence bigint not null,
    ended_at bigint,
    -- The last tries as JSON.
    log text not null
);

-- What is due, host by host and altogether.
create index webhook_by_host on webhook (host, next_at, id) where state = 'waiting';
create index webhook_due on webhook (next_at) where state = 'waiting';

-- The log, newest first, and what is swept next.
create index webhook_by_age on webhook (created_at, id);
create index webhook_by_tenant on webhook (tenant, created_at, id);
create index webhook_by_task on webhook (task_id, created_at, id);
create index webhook_ended on webhook (ended_at, id) where ended_at is not null;

-- Endpoints (tenant and URL) that have answered 410.
create table disabled_endpoint (
    tenant text not null,
    url text not null,
    disabled_at bigint not null,
    primary key (tenant, url)
);
