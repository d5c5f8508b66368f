-- API keys. The secret of a key is nowhere: hash is its keyed hash, prefix the part that may be shown.

create table api_key (
    id text not null primary key,
    tenant text not null,
    name text not null,
    prefix text not null,
    hash text not null unique,
    created_at bigint not null,
    -- A JSON list of words; models likewise, null: all that the tenant may use.
    scopes text not null,
    models text,
    -- So many submits in so many milliseconds; null: no limit of its own.
    rate_count bigint,
    rate_per_ms bigint,
    max_concurrency bigint,
    expires_at bigint,
    revoked_at bigint,
    -- The secret before a rotation, valid until the instant.
    former_hash text,
    former_until bigint
);

create index api_key_by_former on api_key (former_hash) where former_hash is not null;
create index api_key_by_tenant on api_key (tenant, id);
