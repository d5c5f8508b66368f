"""The check at the end of every run sees what it must see."""

import os
import subprocess
import sys

from tests.leftovers import MARK, list_leftovers
from tests.waiting import poll_until_sync

WAIT_FOR_INPUT = "import sys; sys.stdin.read()"
# The child starts a grandchild of its own session, tells its number, and ends: the grandchild has lost its parent.
ABANDON = (
    "import subprocess, sys;"
    f"line = [sys.executable, '-c', {WAIT_FOR_INPUT!r}];"
    "print(subprocess.Popen(line, start_new_session=True, stdout=subprocess.DEVNULL).pid)"
)


def test_a_running_child_is_found_by_its_command_and_an_ended_one_is_not():
    child = subprocess.Popen([sys.executable, "-c", WAIT_FOR_INPUT], stdin=subprocess.PIPE)
    try:
        seen = poll_until_sync(
            lambda: [line for line in list_leftovers("no such mark") if WAIT_FOR_INPUT in line], "the child to be seen"
        )
    finally:
        child.communicate()

    assert len(seen) == 1
    assert seen[0].startswith(f"{child.pid} ")
    assert not [line for line in list_leftovers("no such mark") if line.startswith(f"{child.pid} ")]


def test_a_process_that_lost_its_parent_is_found_by_the_mark():
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w"):
        told = subprocess.run(
            [sys.executable, "-c", ABANDON],
            stdin=reader,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            env={**os.environ, MARK: "an abandoned one"},
        ).stdout
        before, seen = list_leftovers("no such mark"), list_leftovers("an abandoned one")
    orphan = int(told)

    # Children of this process, such as the run's database, are seen whatever the mark.
    assert [int(line.split()[0]) for line in seen if line not in before] == [orphan]
    poll_until_sync(lambda: not (set(seen) - set(before)) & set(list_leftovers("an abandoned one")), "its end")
