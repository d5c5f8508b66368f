"""Every statement of the stores, named, each with a sentence: the subset that SQLite and PostgreSQL share.

Statements are constants; values are bound as `$1`, never written into the text. What belongs to a tenant is found by
tenant and id. The exceptions are the fleet's own reads, which look across tenants to find work and name the tenant of
what they found (`WAITING`, `BACKLOG`, `FENCES`, `ORPHANS`, `ORPHANS_OUT`, `RUNNABLE`, `HALTED`, `ENDED`, `TO_SWEEP`,
`TO_FORGET`), and the audit of one task (`LEDGER`). `{task}` and `{attempt}` stand for the columns of `rows`, put in
when this file is loaded.

Two things are said so that both engines understand them. A row is locked by an update that changes nothing, and read
by what that returns; SQLite has one writer and needs no lock, PostgreSQL waits for it. And `SKIP_LOCKED` is a comment
to SQLite; the driver of PostgreSQL takes the comment signs away. Floor 3.
"""

from __future__ import annotations

from router.store.rows import ATTEMPT_COLUMNS, TASK_COLUMNS

LIVE = "('pending', 'running', 'retrying')"
OUT = "('intent', 'accepted')"
SKIP_LOCKED = "/* for update of task skip locked */"


def _expand(text: str) -> str:
    """Put the columns of the records into a statement."""
    parts = {
        "task": ", ".join(f"task.{name}" for name in TASK_COLUMNS),
        "attempt": ", ".join(f"attempt.{name}" for name in ATTEMPT_COLUMNS),
        "task columns": ", ".join(TASK_COLUMNS),
        "attempt columns": ", ".join(ATTEMPT_COLUMNS),
        "task values": ", ".join(f"${place}" for place in range(1, len(TASK_COLUMNS) + 1)),
        "attempt values": ", ".join(f"${place}" for place in range(1, len(ATTEMPT_COLUMNS) + 1)),
        "live": LIVE,
        "out": OUT,
        "skip locked": SKIP_LOCKED,
    }
    for name, columns in parts.items():
        text = text.replace(f"{{{name}}}", columns)
    return text


# -- tasks ------------------------------------------------------------------------------------------------------------

# Write a task; nothing happens when its id or its tenant's key is taken.
INSERT_TASK = _expand("""
insert into task ({task columns}) values ({task values}) on conflict do nothing returning id
""")

# Read a task of a tenant.
TASK = _expand("""
select {task} from task where task.tenant = $1 and task.id = $2
""")

# Read a task of a tenant as it is and stays until the end of the transaction.
LOCK_TASK = _expand("""
update task set version = version where tenant = $1 and id = $2 returning {task columns}
""")

# Read the task that a tenant's key stands for.
TASK_OF_KEY = _expand("""
select {task} from task where task.tenant = $1 and task.idempotency_key = $2
""")

# See whether a task is still as somebody knows it.
IS_CURRENT = """
select 1 from task where tenant = $1 and id = $2 and version = $3 and fence = $4
"""

# Move a task that goes on, if it is still as expected.
STEP_TASK = """
update task
set state = $5, version = $6, updated_at = $7, not_before = $8, started_at = $9, tries = $10, provider = $11,
    target_model = $12
where tenant = $1 and id = $2 and version = $3 and fence = $4
returning id
"""

# End a task, if it is still as expected; its end of retention is when it will be swept.
END_TASK = """
update task
set state = $5, version = $6, updated_at = $7, not_before = $8, completed_at = $9, expires_at = $10, sweep_at = $10,
    output = $11, usage = $12, error = $13, warnings = $14
where tenant = $1 and id = $2 and version = $3 and fence = $4
returning id
"""

# -- attempts ---------------------------------------------------------------------------------------------------------

# Write an intent; nothing happens when its number is taken or another attempt of its part is out (I3).
INSERT_ATTEMPT = _expand("""
insert into attempt ({attempt columns}) values ({attempt values}) on conflict do nothing returning n
""")

# See whether an attempt is still out, and in which state.
IS_OUT = _expand("""
select state from attempt where tenant = $1 and task_id = $2 and n = $3 and fence = $4 and state in {out}
""")

# Write down the upstream's name of the job.
ACCEPT_ATTEMPT = """
update attempt
set state = 'accepted', handle = $5, accepted_at = $6
where tenant = $1 and task_id = $2 and n = $3 and fence = $4 and state = 'intent'
returning n
"""

# End an attempt that is out.
END_ATTEMPT = _expand("""
update attempt
set state = 'ended', handle = $5, accepted_at = $6, ended_at = $7, outcome = $8, http_status = $9, billing = $10,
    cost_nanos = $11, estimated = $12, detail = $13, output = $14, usage = $15
where tenant = $1 and task_id = $2 and n = $3 and fence = $4 and state in {out}
returning n
""")

# Take back an intent.
DELETE_INTENT = """
delete from attempt
where tenant = $1 and task_id = $2 and n = $3 and fence = $4 and state = 'intent'
returning n
"""

# -- money ------------------------------------------------------------------------------------------------------------

# Read what one budget window has held and spent.
BALANCE = """
select held, spent from balance where budget = $1 and period = $2
"""

# The same, as it is and stays until the end of the transaction; one that nobody has used begins at nothing.
LOCK_BALANCE = """
insert into balance (budget, period, held, spent) values ($1, $2, 0, 0)
on conflict (budget, period) do update set held = balance.held
returning held, spent
"""

# Add to what a budget window has held and spent.
POST_BALANCE = """
insert into balance (budget, period, held, spent) values ($1, $2, $3, $4)
on conflict (budget, period) do update set held = balance.held + excluded.held, spent = balance.spent + excluded.spent
"""

# Read everything that a task and its attempts hold.
HOLDS = """
select n, part, budget, period, unit, units, limit_nanos from hold where tenant = $1 and task_id = $2
"""

# Write down a hold as it is now.
PUT_HOLD = """
insert into hold (tenant, task_id, n, part, budget, period, unit, units, limit_nanos)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (task_id, n, budget, period) do update set units = excluded.units
"""

# Let go of a hold.
DELETE_HOLD = """
delete from hold where tenant = $1 and task_id = $2 and n = $3 and budget = $4 and period = $5
"""

# Append a line to the ledger of a task.
APPEND_LINE = """
insert into ledger (tenant, task_id, line, part, n, entry, budget, period, held_delta, spent_delta, provider, model, at)
values (
    $1, $2, (select coalesce(max(line), 0) + 1 from ledger where task_id = $2),
    $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
)
"""

# Read the ledger of a task in the order in which it was written.
LEDGER = """
select task_id, tenant, part, n, entry, budget, period, held_delta, spent_delta, provider, model, at
from ledger
where task_id = $1
order by line
"""

# -- reads ------------------------------------------------------------------------------------------------------------

# Read a task of a tenant with its attempts.
VIEW = _expand("""
select {task}, {attempt}
from task left join attempt on attempt.task_id = task.id and attempt.tenant = task.tenant
where task.tenant = $1 and task.id = $2
order by attempt.n
""")

# List a page of a tenant's tasks with their attempts, newest first. $5, $6, $7: what lies between two places in time.
SEARCH = _expand("""
with page as (
    select id from task
    where tenant = $1 and (cast($2 as text) is null or state = $2) and (cast($3 as text) is null or model = $3)
        and (cast($4 as text) is null or provider = $4)
        and created_at > $5 and (created_at, id) < ($6, $7)
    order by created_at desc, id desc
    limit $8
)
select {task}, {attempt}
from page
join task on task.id = page.id and task.tenant = $1
left join attempt on attempt.task_id = task.id and attempt.tenant = task.tenant
order by task.created_at desc, task.id desc, attempt.n
""")

# The same for the one task that a key stands for.
SEARCH_KEY = _expand("""
select {task}, {attempt}
from task left join attempt on attempt.task_id = task.id and attempt.tenant = task.tenant
where task.tenant = $1 and task.idempotency_key = $8
    and (cast($2 as text) is null or task.state = $2) and (cast($3 as text) is null or task.model = $3)
    and (cast($4 as text) is null or task.provider = $4)
    and task.created_at > $5 and (task.created_at, task.id) < ($6, $7)
order by attempt.n
""")

# Find a tenant's equal requests that live or ended not before an instant, oldest first.
ALIKE = _expand("""
select {task} from task where task.tenant = $1 and task.digest = $2 and task.completed_at is null
union all
select {task} from task where task.tenant = $1 and task.digest = $2 and task.completed_at >= $3
order by created_at, id
limit $4
""")

# List what waits for a life, in the order of the queue.
WAITING = _expand("""
select {task} from task
where task.fence = $1 and task.state in {live} and task.state <> 'running'
order by task.priority, task.created_at, task.id
limit $2
""")

# Count what waits for a life by class and tenant.
BACKLOG = _expand("""
select priority, tenant, count(*), min(created_at) from task
where fence = $1 and state in {live} and state <> 'running'
group by priority, tenant
""")

# -- ownership --------------------------------------------------------------------------------------------------------

# Let nobody else begin a life until the end of the transaction. The row means nothing.
LOCK_LIVES = """
insert into setting (name, value) values ('lives', '') on conflict (name) do update set value = setting.value
"""

# Begin a life of a replica, above every epoch that was.
REGISTER = """
insert into life (replica, epoch, beat_at)
values ($1, (select coalesce(max(epoch), 0) + 1 from life), $2)
on conflict (replica) do update set epoch = excluded.epoch, beat_at = excluded.beat_at
returning epoch
"""

# Note that a life is still there, unless a later one has taken its place.
HEARTBEAT = """
update life set beat_at = $3 where replica = $1 and epoch = $2 returning epoch
"""

# See whether a life is the latest of its replica.
IS_LATEST = """
select 1 from life where replica = $1 and epoch = $2
"""

# End a life: it was heard last at the beginning of time.
LEAVE = """
update life set beat_at = 0 where replica = $1 and epoch = $2
"""

# Read which lives were heard after an instant.
AWAKE = """
select epoch from life where beat_at > $1
"""

# List the fences under which there are live tasks, jumping from one to the next.
FENCES = _expand("""
with recursive step (fence) as (
    select min(fence) from task where state in {live}
    union all
    select (select min(task.fence) from task where task.fence > step.fence and task.state in {live})
    from step
    where step.fence is not null
)
select fence from step where fence is not null
""")

# List the best of the live tasks of one fence.
ORPHANS = _expand("""
select priority, created_at, id, tenant from task
where fence = $1 and state in {live}
order by priority, created_at, id
limit $2
{skip locked}
""")

# List ended tasks with an attempt that is still out, and their fences.
ORPHANS_OUT = _expand("""
select task.priority, task.created_at, task.id, task.tenant, task.fence
from attempt join task on task.id = attempt.task_id and task.tenant = attempt.tenant
where attempt.state in {out} and task.state not in {live}
{skip locked}
""")

# List what waits for one life and could start now, beyond its best.
RUNNABLE = _expand("""
select priority, created_at, id, tenant from task
where fence = $1 and state in {live} and state <> 'running' and (not_before is null or not_before <= $2)
order by priority, created_at, id
limit $4 offset $3
{skip locked}
""")

# Take a task over.
CLAIM_TASK = """
update task set owner = $3, fence = $4, version = version + 1 where tenant = $1 and id = $2
"""

# Take over those of its attempts that are out.
CLAIM_ATTEMPTS = _expand("""
update attempt set fence = $3 where tenant = $1 and task_id = $2 and state in {out}
""")

# -- what daemons share -----------------------------------------------------------------------------------------------

# Read a provider's bucket of starts; who has read it divides the provider's places until the transaction ends.
LOCK_PACE = """
insert into pace (provider, tokens, filled_at) values ($1, -1, 0)
on conflict (provider) do update set tokens = pace.tokens
returning tokens, filled_at
"""

# Write down what is left in a bucket.
PUT_PACE = """
update pace set tokens = $2, filled_at = $3 where provider = $1
"""

# Read who holds places of a provider, and could use how many.
PLACES = """
select epoch, places, need from place where provider = $1
"""

# Write down what a life holds of a provider's places.
PUT_PLACES = """
insert into place (provider, epoch, places, need) values ($1, $2, $3, $4)
on conflict (provider, epoch) do update set places = excluded.places, need = excluded.need
"""

# Let go of the places that a life holds.
DELETE_PLACES = """
delete from place where epoch = $1
"""

# Let go of the places of lives that others have replaced: nobody counts them, and nobody will give them up.
DELETE_DEAD_PLACES = """
delete from place where not exists (select 1 from life where life.epoch = place.epoch)
"""

# Write down the move of a circuit; one that an operator has pinned is moved by an operator only ($9).
PUT_CIRCUIT = """
insert into circuit (provider, target, model, state, until_at, openings, pinned, version, epoch)
values ($1, $2, $3, $4, $5, $6, $7, 1, $8)
on conflict (provider, target, model) do update set
    state = excluded.state, until_at = excluded.until_at, openings = excluded.openings, pinned = excluded.pinned,
    version = circuit.version + 1, epoch = excluded.epoch, holder = null, held_until = null
where circuit.pinned = 0 or cast($9 as bigint) = 1
"""

# Hand the right to probe back, if it is held by that life.
RETURN_PROBE = """
update circuit set holder = null, held_until = null
where provider = $1 and target = $2 and model = $3 and holder = $4
"""

# Read every circuit.
CIRCUITS = """
select provider, target, model, state, until_at, openings, pinned, version, epoch from circuit
order by provider, target, model
"""

# Read an open circuit as it is and stays until the end of the transaction.
LOCK_CIRCUIT = """
update circuit set holder = holder
where provider = $1 and target = $2 and model = $3 and state = 'open' and pinned = 0
returning until_at, holder, held_until
"""

# Give the right to probe.
LEASE_PROBE = """
update circuit set holder = $4, held_until = $5 where provider = $1 and target = $2 and model = $3
"""

# List the tasks of a life that have ended while an attempt is out.
HALTED = _expand("""
select distinct task.tenant, task.id
from attempt join task on task.id = attempt.task_id and task.tenant = attempt.tenant
where attempt.state in {out} and attempt.fence = $1 and task.state not in {live}
order by task.id
""")

# Read those of 32 tasks that have ended.
ENDED = _expand("""
with asked (id) as (
    values ($1), ($2), ($3), ($4), ($5), ($6), ($7), ($8), ($9), ($10), ($11), ($12), ($13), ($14), ($15), ($16),
    ($17), ($18), ($19), ($20), ($21), ($22), ($23), ($24), ($25), ($26), ($27), ($28), ($29), ($30), ($31), ($32)
)
select {task} from asked join task on task.id = asked.id and task.state not in {live}
order by task.id
""")

# -- housekeeping -----------------------------------------------------------------------------------------------------

# Write a setting unless it exists.
KEEP_SETTING = """
insert into setting (name, value) values ($1, $2) on conflict do nothing
"""

# Read a setting.
SETTING = """
select value from setting where name = $1
"""

# List the ended tasks that retention strips next, none with an attempt that may still bring a result.
TO_SWEEP = _expand("""
select {task} from task
where task.sweep_at <= $1
    and not exists (select 1 from attempt where attempt.task_id = task.id and attempt.state in {out})
order by task.sweep_at, task.id
limit $2
{skip locked}
""")

# Read the late results of a task's attempts.
LATE_OUTPUTS = """
select output from attempt where tenant = $1 and task_id = $2 and output <> '[]' order by n
"""

# Strip a task of input and output.
SWEEP_TASK = """
update task set state = $3, version = $4, updated_at = $5, output = '[]', input = '{}', sweep_at = null
where tenant = $1 and id = $2
"""

# Strip its attempts.
SWEEP_ATTEMPTS = """
update attempt set output = '[]' where tenant = $1 and task_id = $2 and output <> '[]'
"""

# List the ended tasks whose rows are deleted next, none with an attempt that is still out.
TO_FORGET = _expand("""
select tenant, id from task
where completed_at < $1
    and not exists (select 1 from attempt where attempt.task_id = task.id and attempt.state in {out})
order by completed_at, id
limit $2
{skip locked}
""")

# Delete a task.
FORGET_TASK = """
delete from task where tenant = $1 and id = $2
"""

# Delete its attempts.
FORGET_ATTEMPTS = """
delete from attempt where tenant = $1 and task_id = $2
"""

# Delete its holds; the ledger stays.
FORGET_HOLDS = """
delete from hold where tenant = $1 and task_id = $2
"""
