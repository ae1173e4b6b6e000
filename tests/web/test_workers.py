"""Tests for clip4clip.web.workers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from clip4clip.web.workers import Workers


def test_a_function_runs_in_a_worker_and_its_result_is_returned() -> None:
    name = asyncio.run(Workers(1).run(lambda prefix: prefix + threading.current_thread().name, "in "))
    assert name == "in clip4clip-worker"


def test_an_exception_is_raised_to_the_caller_and_the_worker_goes_on() -> None:
    async def run() -> int:
        workers = Workers(1)
        with pytest.raises(ZeroDivisionError):
            await workers.run(lambda: 1 // 0)
        return await workers.run(lambda: 1)

    assert asyncio.run(run()) == 1


def test_calls_beyond_the_number_of_workers_wait_and_can_be_cancelled() -> None:
    async def run() -> list[str]:
        workers, release, calls = Workers(2), threading.Event(), []
        running = [asyncio.create_task(workers.run(release.wait)) for _ in range(2)]
        waiting = [asyncio.create_task(workers.run(calls.append, name)) for name in ("cancelled", "waiting")]
        await asyncio.sleep(0)  # all four are handed to the workers
        waiting[0].cancel()
        await asyncio.sleep(0)  # the cancellation arrives
        assert calls == []
        release.set()
        await asyncio.gather(*running, waiting[1])
        return calls

    assert asyncio.run(run()) == ["waiting"]


def test_a_worker_that_hangs_does_not_keep_the_process_from_exiting() -> None:
    code = """
import asyncio, threading
from clip4clip.web.workers import Workers
started = threading.Event()

async def main():
    task = asyncio.create_task(Workers(1).run(lambda: started.set() or threading.Event().wait()))
    while not started.is_set():
        await asyncio.sleep(0.01)

asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
