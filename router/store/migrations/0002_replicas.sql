-- What several daemons on one store share: leased places, rate tokens, circuits and the right to probe.
--
-- All of it belongs to the whole fleet, so that no row names a tenant. Leases end with their life: a row counts while
-- its epoch was heard of lately. Instants are milliseconds since the epoch on the store's clock.

-- How many places of a provider a life may use, and how many it could.
create table place (
    provider text not null,
    epoch bigint not null,
    places bigint not null,
    need bigint not null,
    primary key (provider, epoch)
);

-- One bucket of starts per provider, in thousandths of a token. The row is also the lock under which places are divided.
create table pace (
    provider text not null primary key,
    tokens bigint not null,
    filled_at bigint not null
);

-- The last move of each circuit, and who may probe it.
create table circuit (
    provider text not null,
    target text not null,
    model text not null,
    state text not null,
    -- When an open one may be probed; null: until somebody acts.
    until_at bigint,
    openings bigint not null,
    pinned bigint not null,
    version bigint not null,
    epoch bigint not null,
    holder bigint,
    held_until bigint,
    primary key (provider, target, model)
);
