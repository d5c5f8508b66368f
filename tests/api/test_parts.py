"""More images than a target makes at a time, from the submit to the end: contract 6, n > 1, over the API."""

from dataclasses import dataclass, field, replace

import pytest

from router.outcome import Billed, Fail
from router.policy.rules import Budget, OnFailure, Retry, Rule, Scope, Strategy, When, Window
from router.policy.rules import Model as RoutedModel
from router.store.memory import MemoryStore
from tests.api.house import Desk, FailureKind, failing, open_house, ruleset
from tests.waiting import poll_until

CENT = 10_000_000


def rules_of(*most, slots=16, retry=None, **changes):
    """The house's two targets, which make at most so many at a time (one number for both, or one for each)."""
    plain = ruleset()
    first = plain.models["cat"].otherwise
    limits = most * 2 if len(most) == 1 else most
    targets = tuple(
        replace(one, abilities=replace(one.abilities, max_n=limit))
        for one, limit in zip(first.targets, limits, strict=True)
    )
    retry = retry or Retry(backoff_first_s=0.01)
    rule = Rule(0, When(), targets, Strategy.ORDERED, OnFailure.NEXT, None, retry)
    providers = {name: replace(one, max_concurrency=slots) for name, one in plain.providers.items()}
    return replace(plain, models={"cat": RoutedModel("cat", "image", (), rule)}, providers=providers, **changes)


@dataclass(slots=True)
class PartsDesk(Desk):
    """Answers by the first image of a part."""

    fates: dict[int, list[Fail]] = field(default_factory=dict)

    def fail_image(self, image, *answers):
        """Let the attempts that begin with this image fail so, one after another."""
        self.fates[image] = list(answers)

    async def submit(self, job, call):
        image = int(job.attempt_key.split("-")[1])
        if not self.fates.get(image):
            return await Desk.submit(self, job, call)
        self.jobs.append(job)
        answer = self.fates[image].pop(0)
        await self.open.wait()
        return answer


async def submit(house, n=4, **more):
    """Ask for n pictures."""
    body = {"kind": "image.generation", "model": "cat", "input": {"prompt": "a cat", "n": n}, **more}
    reply = await house.client.post("/v1/tasks", json=body)
    assert reply.status == 202, await reply.text()
    return await reply.json()


async def read(house, task_id):
    """Read a task."""
    return await (await house.client.get(f"/v1/tasks/{task_id}")).json()


async def ended(house, task_id):
    """Wait for the end of a task."""

    async def done():
        now = await read(house, task_id)
        return now if now["status"] in {"succeeded", "failed", "cancelled", "expired"} else None

    return await poll_until(done, "the task to end")


def parts_of(task):
    """What each attempt was: (part, target, outcome)."""
    return [(one["part"], one["target"], one["outcome"]) for one in task["attempts"]]


async def balance_of(house):
    """Held and spent in cents of the budget over all."""
    (balance,) = await house.store.balances([("all", "total")])
    return balance.held / CENT, balance.spent / CENT


async def test_four_images_of_a_target_that_makes_one_are_four_attempts_side_by_side():
    async with open_house(rules_of(1), desk=PartsDesk(is_open=False)) as house:
        task = await submit(house)
        await poll_until(lambda: len(house.desk.jobs) == 4, "all four to be out at once")
        running = await read(house, task["id"])
        house.desk.open.set()
        done = await ended(house, task["id"])

        assert (running["status"], len(running["attempts"])) == ("running", 4)
        assert [job.n for job in house.desk.jobs] == [1, 1, 1, 1]
        assert [job.attempt_key for job in house.desk.jobs] == [f"{task['id']}-{part}-1" for part in range(4)]
        assert parts_of(done) == [(part, "one", "succeeded") for part in range(4)]
        assert (done["status"], done["warnings"], done["retry_count"], len(done["output"])) == ("succeeded", [], 0, 4)
        assert done["cost"] == {"total_usd": "0.12", "wasted_usd": "0", "billing": "billed"}
        assert done["usage"] == {"input_tokens": 40, "output_tokens": 400}


async def test_the_images_stand_in_their_order_whoever_came_first():
    async with open_house(rules_of(1), desk=PartsDesk(is_open=False)) as house:
        house.desk.fail_image(0, failing(FailureKind.OVERLOADED))
        task = await submit(house, 3)
        await poll_until(lambda: len(house.desk.jobs) == 3, "all to be out")
        house.desk.open.set()
        done = await ended(house, task["id"])
        row = (await house.store.view("default", task["id"])).task

        assert [output.key for output in row.output] == [f"{task['id']}/{n}/0" for n in (4, 2, 3)]
        assert done["retry_count"] == 1


async def test_as_many_as_fit_go_into_one_attempt():
    async with open_house(rules_of(3)) as house:
        done = await ended(house, (await submit(house, 4))["id"])

        assert [(job.n, job.attempt_key[-4:]) for job in house.desk.jobs] == [(3, "-0-3"), (1, "-3-1")]
        assert (len(done["output"]), done["cost"]["total_usd"]) == (4, "0.12")


async def test_a_part_that_fails_goes_to_another_target_and_the_others_stay():
    async with open_house(rules_of(1), desk=PartsDesk()) as house:
        house.desk.fail_image(2, failing(FailureKind.OVERLOADED))
        done = await ended(house, (await submit(house))["id"])

        assert sorted(parts_of(done)) == [
            (0, "one", "succeeded"),
            (1, "one", "succeeded"),
            (2, "one", "overloaded"),
            (2, "two", "succeeded"),
            (3, "one", "succeeded"),
        ]
        assert (done["status"], len(done["output"]), done["cost"]["total_usd"]) == ("succeeded", 4, "0.14")


async def test_after_a_failure_of_the_whole_the_images_go_on_in_the_pieces_of_the_next_target():
    async with open_house(rules_of(10, 1), desk=PartsDesk()) as house:
        house.desk.fail_image(0, failing(FailureKind.OVERLOADED))
        done = await ended(house, (await submit(house, 3))["id"])

        assert parts_of(done) == [(0, "one", "overloaded"), *((part, "two", "succeeded") for part in range(3))]
        assert [job.n for job in house.desk.jobs] == [3, 1, 1, 1]


async def test_images_that_nobody_makes_are_missing_and_said_so():
    async with open_house(rules_of(1), desk=PartsDesk()) as house:
        house.desk.fail_image(1, failing(FailureKind.REFUSED))
        house.desk.fail_image(3, failing(FailureKind.UNKNOWN))
        done = await ended(house, (await submit(house))["id"])

        assert (done["status"], len(done["output"])) == ("succeeded", 2)
        assert done["warnings"] == ["2 of 4 images are missing"]
        assert done["cost"] == {"total_usd": None, "wasted_usd": "0.03", "billing": "unknown"}
        assert len(house.desk.jobs) == 4  # an unknown outcome and a refusal are final, each for its own part


async def test_when_nothing_exists_the_task_fails_with_the_last_error_and_the_bill_of_all():
    async with open_house(rules_of(1), desk=PartsDesk()) as house:
        house.desk.fail_image(0, failing(FailureKind.REFUSED))
        house.desk.fail_image(1, failing(FailureKind.BAD_REQUEST))
        done = await ended(house, (await submit(house, 2))["id"])

        assert (done["status"], done["error"]["billing"]) == ("failed", "billed")
        assert done["error"]["details"]["attempts"] == 2
        assert "money was spent" in done["error"]["message"]


async def test_a_target_that_makes_them_all_is_asked_once_with_the_usual_number_of_commits():
    async with open_house(rules_of(10, 1)) as house:
        done = await ended(house, (await submit(house))["id"])
        writes = {verb: count for verb, count in house.store.writes.items() if verb != "heartbeat"}

        assert [(job.n, job.attempt_key[-2:]) for job in house.desk.jobs] == [(4, "-0")]
        assert (len(done["output"]), done["attempts"][0]["output"]) == (4, [])
        assert {verb: writes[verb] for verb in ("admit", "open_attempt", "close_attempt")} == dict.fromkeys(
            ("admit", "open_attempt", "close_attempt"), 1
        )
        assert not writes.get("move")


async def test_a_cancel_stops_all_parts_and_hears_those_that_are_out():
    async with open_house(rules_of(1, slots=2), desk=PartsDesk(is_open=False)) as house:
        task = await submit(house)
        await poll_until(lambda: len(house.desk.jobs) == 2, "two to be out")
        reply = await house.client.post(f"/v1/tasks/{task['id']}/cancel")
        house.desk.open.set()

        async def heard():
            now = await read(house, task["id"])
            return now if all(one["outcome"] for one in now["attempts"]) else None

        done = await poll_until(heard, "both to be heard")

        assert (reply.status, done["status"], len(house.desk.jobs)) == (200, "cancelled", 2)
        assert [len(one["output"]) for one in done["attempts"]] == [1, 1]
        assert done["cost"] == {"total_usd": "0.06", "wasted_usd": "0.06", "billing": "billed"}


async def test_parts_beyond_the_places_of_a_provider_wait_for_them():
    async with open_house(rules_of(1, slots=1)) as house:
        done = await ended(house, (await submit(house, 3))["id"])

        assert parts_of(done) == [(part, "one", "succeeded") for part in range(3)]


async def test_the_reservation_covers_every_image_and_comes_back_with_what_was_not_billed():
    limit = (Budget(Scope.ALL, "*", Window.TOTAL, 20 * CENT),)
    async with open_house(rules_of(1, budgets=limit), desk=PartsDesk(is_open=False)) as house:
        house.desk.fail_image(1, failing(FailureKind.BAD_REQUEST))
        task = await submit(house)  # the dearest target takes 5 cents an image
        await poll_until(lambda: len(house.desk.jobs) == 4, "all to be out")
        held = await balance_of(house)
        refused = await house.client.post(
            "/v1/tasks", json={"kind": "image.generation", "model": "cat", "input": {"prompt": "one more"}}
        )
        house.desk.open.set()
        done = await ended(house, task["id"])

        assert (held, refused.status) == ((20, 0), 402)
        assert (len(done["output"]), await balance_of(house)) == (3, (0, 9))


async def test_a_budget_of_a_provider_that_holds_two_images_sends_the_others_elsewhere():
    limit = (Budget(Scope.PROVIDER, "one", Window.TOTAL, 6 * CENT),)
    async with open_house(rules_of(1, budgets=limit)) as house:
        done = await ended(house, (await submit(house))["id"])

        assert [target for _part, target, _outcome in parts_of(done)] == ["one", "one", "two", "two"]
        assert (done["status"], done["cost"]["total_usd"]) == ("succeeded", "0.16")


async def test_what_a_crash_left_is_judged_part_by_part_and_the_rest_goes_on():
    store = MemoryStore()
    async with open_house(rules_of(1, slots=2), store=store, desk=PartsDesk(is_open=False)) as house:
        task = await submit(house, 3)
        await poll_until(lambda: len(house.desk.jobs) == 2, "two to be out")
        await house.life.dispatcher.cut()  # nothing is written of them, as in a crash
        async with open_house(rules_of(1), store=store) as after:
            done = await ended(after, task["id"])

            assert parts_of(done) == [(0, "one", "unknown"), (1, "one", "unknown"), (2, "one", "succeeded")]
            assert (done["status"], done["warnings"]) == ("succeeded", ["2 of 3 images are missing"])
            assert [job.attempt_key[-4:] for job in after.desk.jobs] == ["-2-1"]


async def test_after_the_deadline_no_part_begins_and_what_exists_is_delivered():
    retry = Retry(backoff_first_s=600.0, backoff_max_s=600.0)
    async with open_house(rules_of(1, retry=retry), desk=PartsDesk()) as house:
        house.desk.fail_image(1, failing(FailureKind.OVERLOADED), failing(FailureKind.OVERLOADED))
        done = await ended(house, (await submit(house, 2, timeout=1))["id"])

        assert (done["status"], len(done["output"]), len(house.desk.jobs)) == ("succeeded", 1, 3)
        assert done["warnings"] == ["1 of 2 images are missing"]


@pytest.mark.parametrize("billed", [Billed.NO, Billed.UNKNOWN])
async def test_each_part_has_its_own_repeats(billed):
    retry = Retry(per_target=1, total=3, backoff_first_s=0.001, backoff_max_s=0.001)
    async with open_house(rules_of(1, retry=retry), desk=PartsDesk()) as house:
        for image in range(2):
            house.desk.fail_image(image, *(failing(FailureKind.OVERLOADED, billed=billed) for _turn in range(2)))
        done = await ended(house, (await submit(house, 2))["id"])

        assert (done["status"], len(done["output"]), len(done["attempts"])) == ("succeeded", 2, 6)
        assert done["retry_count"] == 4
