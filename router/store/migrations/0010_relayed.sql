-- Chat completions that were relayed: a row for each try at a target, written when it is over.
--
-- What a try counted for on budgets stands in the ledger under its request id, so that balances stay the ledger's sums.

create table relayed (
    request_id text not null,
    n bigint not null,
    tenant text not null,
    key_id text,
    model text not null,
    provider text not null,
    target text not null,
    target_model text not null,
    account text not null,
    streamed bigint not null,
    -- Whether the caller was given something of it.
    begun bigint not null,
    started_at bigint not null,
    ended_at bigint not null,
    outcome text not null,
    billing text not null,
    cost_nanos bigint,
    estimated bigint not null,
    http_status bigint,
    detail text not null,
    input_tokens bigint,
    cached_tokens bigint,
    output_tokens bigint,
    primary key (request_id, n)
);

-- What a tenant has used in a time; and what is deleted next.
create index relayed_of_tenant on relayed (tenant, ended_at);
create index relayed_to_forget on relayed (ended_at, request_id, n);
