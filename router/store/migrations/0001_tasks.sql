-- The first schema: tasks, their attempts, the money they hold and spend, and the lives of the daemons that own them.
--
-- Written in what SQLite and PostgreSQL share. Instants are milliseconds since the epoch in UTC, money is nano-USD, both
-- bigint; structured values are JSON as text. Rows that belong to a tenant name it, and statements on them bind it.
-- life, setting and balance belong to the whole fleet: a budget may span tenants.

create table task (
    id text not null primary key,
    tenant text not null,
    -- Who drives it: the replica's name and the epoch of its life, which fences every write.
    owner text not null,
    fence bigint not null,
    version bigint not null,
    state text not null,
    priority bigint not null,
    kind text not null,
    model text not null,
    surface text not null,
    route text not null,
    digest text not null,
    key_id text,
    idempotency_key text,
    request_id text not null,
    retry_of text,
    created_at bigint not null,
    updated_at bigint not null,
    start_by bigint,
    deadline bigint,
    not_before bigint,
    started_at bigint,
    completed_at bigint,
    expires_at bigint,
    tries bigint not null,
    provider text,
    target_model text,
    metadata text not null,
    preferences text not null,
    output text not null,
    usage text,
    error text,
    warnings text not null,
    input text not null,
    -- When retention strips the row: set at the end of the task, null again when it is done.
    sweep_at bigint
);

-- A tenant's key stands for one task as long as the row lives (I10).
create unique index task_by_key on task (tenant, idempotency_key) where idempotency_key is not null;

-- Listings, newest first.
create index task_by_age on task (tenant, created_at, id);

-- Equal requests that live (completed_at is null) or ended not long ago.
create index task_by_digest on task (tenant, digest, completed_at);

-- What a life has to do, in the order of the queue; answers the counts of the backlog without touching the rows.
create index task_live on task (fence, priority, created_at, id, state, tenant)
    where state in ('pending', 'running', 'retrying');

-- What retention strips next, and which rows are deleted next.
create index task_to_sweep on task (sweep_at, id) where sweep_at is not null;
create index task_to_forget on task (completed_at, id) where completed_at is not null;

create table attempt (
    task_id text not null,
    tenant text not null,
    n bigint not null,
    -- Which share of a request for several outputs it makes.
    part bigint not null,
    state text not null,
    fence bigint not null,
    provider text not null,
    target text not null,
    target_model text not null,
    account text not null,
    base_url text not null,
    attempt_key text not null,
    started_at bigint not null,
    timeout_at bigint not null,
    rules_hash text not null,
    estimate_nanos bigint,
    handle text,
    accepted_at bigint,
    ended_at bigint,
    outcome text,
    http_status bigint,
    billing text not null,
    cost_nanos bigint,
    estimated bigint not null,
    detail text not null,
    output text not null,
    primary key (task_id, n)
);

-- I3: at most one attempt of a part is out. Also how those that are out are found at a start.
create unique index attempt_out on attempt (task_id, part) where state in ('intent', 'accepted');

-- What a task (n = 0) or an attempt holds on one budget window: units times unit. Gone with the ledger line that ends it.
create table hold (
    task_id text not null,
    tenant text not null,
    n bigint not null,
    part bigint not null,
    budget text not null,
    period text not null,
    unit bigint not null,
    units bigint not null,
    limit_nanos bigint not null,
    primary key (task_id, n, budget, period)
);

-- What one budget window has held and spent: always the sums of its ledger lines (I8).
create table balance (
    budget text not null,
    period text not null,
    held bigint not null,
    spent bigint not null,
    primary key (budget, period)
);

-- Append-only. line counts within the task. Outlives the task.
create table ledger (
    task_id text not null,
    line bigint not null,
    tenant text not null,
    part bigint not null,
    n bigint not null,
    entry text not null,
    budget text not null,
    period text not null,
    held_delta bigint not null,
    spent_delta bigint,
    provider text not null,
    model text not null,
    at bigint not null,
    primary key (task_id, line)
);

-- The latest life of each replica. Epochs are unique over all replicas and never come back.
create table life (
    replica text not null primary key,
    epoch bigint not null unique,
    beat_at bigint not null
);

-- What all lives agree on, such as generated secrets. The first value stands.
create table setting (
    name text not null primary key,
    value text not null
);
