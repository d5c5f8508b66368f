-- What a writer of PostgreSQL leaves in each of its transactions, so that it can find out later whether one whose
-- answer was lost was committed. SQLite's answers are not lost, and its table stays empty.

-- The number of a writer's last transaction; at: milliseconds since the epoch, for whoever removes those of the dead.
create table mark (
    writer text not null primary key,
    number bigint not null,
    at bigint not null
);
