"""Cached beginnings on disk: they survive a restart, and nothing on the disk can hurt."""

import os
from pathlib import Path

import pytest
from tests.engine.answers import end_of, expected, run, tokens_of
from tests.engine.fakes import FakeRunner

from alpage.core.errors import StorageError, UsageError
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.native import NativeRunner, sample_row
from alpage.engine.protocol import FinishEvent, Request, TokenEvent
from alpage.engine.scheduler import Scheduler
from alpage.engine.spill import Spill
from alpage.weights.source import open_model

LONG = [(7 * i) % 60 for i in range(40)]
BIG = 1 << 20
PAGE_FILE = 8 + 32 + 4 * (4 + 8)  # of the fake runner: tokens, and the adapters they ran with


def spill(folder: Path, limit: int = BIG, fingerprint: str = "fake-4") -> Spill:
    return Spill(folder, fingerprint, limit)


def ask(scheduler: Scheduler, prompt: list[int], tenant: str = "") -> int:
    """Run a request; how much of its prompt was there already."""
    one = Request(prompt, SamplingParams(max_tokens=3, seed=1), tenant=tenant)
    scheduler.add(0, one)
    events = run(scheduler)[0]
    assert tokens_of(events) == expected(one, 64)[0]
    assert scheduler.free_pages == scheduler._pages.page_count
    return end_of(events).usage.cached_tokens


def filled(folder: Path, limit: int = BIG) -> None:
    """What a process leaves that has run LONG for tenant a, then another text."""
    scheduler = Scheduler(FakeRunner(), spill=spill(folder, limit))
    ask(scheduler, LONG, "a")
    ask(scheduler, LONG[::-1], "a")
    scheduler.save()


def files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/*") if path.is_file()]


def test_a_prompt_survives_a_restart_for_its_tenant_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    assert len(files(tmp_path)) == 20
    scheduler = Scheduler(FakeRunner(), spill=spill(tmp_path))
    assert ask(scheduler, LONG, "b") == 0
    assert ask(scheduler, [*LONG, 5], "a") == 40
    assert ask(scheduler, LONG[:20], "a") == 16
    assert ask(Scheduler(FakeRunner()), LONG, "a") == 0


def test_a_pool_that_is_too_small_takes_what_it_can(tmp_path: Path) -> None:
    filled(tmp_path)
    scheduler = Scheduler(FakeRunner(pages=12), spill=spill(tmp_path))
    assert ask(scheduler, LONG, "a") == 36
    assert ask(scheduler, LONG[::-1], "a") == 36
    assert ask(scheduler, LONG, "a") == 36


@pytest.mark.parametrize("harm", ["cut", "longer", "flipped", "empty", "header", "other's"])
def test_a_damaged_file_is_a_miss_and_goes(tmp_path: Path, harm: str) -> None:
    filled(tmp_path)
    others = [path.read_bytes() for path in files(tmp_path)]
    for path, other in zip(files(tmp_path), others[1:] + others[:1], strict=True):
        data = bytearray(path.read_bytes())
        if harm == "flipped":
            data[-1] ^= 1
        elif harm == "header":
            data[12] ^= 1
        changed = {"cut": data[:-1], "longer": data + b"\0", "empty": b""}.get(harm, data)
        if harm == "other's":  # the content of another page under this one's name
            changed = bytearray(other)
        path.write_bytes(bytes(changed))
    scheduler = Scheduler(FakeRunner(), spill=spill(tmp_path))
    assert ask(scheduler, LONG, "a") == 0
    assert len(files(tmp_path)) < 20


def test_links_and_folders_in_place_of_files_are_a_miss(tmp_path: Path) -> None:
    filled(tmp_path)
    for number, path in enumerate(files(tmp_path)):
        moved = tmp_path / f"moved {number}"
        path.rename(moved)
        (path.mkdir if number % 2 else lambda p=path, m=moved: p.symlink_to(m))()
    assert ask(Scheduler(FakeRunner(), spill=spill(tmp_path)), LONG, "a") == 0


def test_another_model_finds_nothing(tmp_path: Path) -> None:
    filled(tmp_path)

    def other() -> Scheduler:
        return Scheduler(FakeRunner(), spill=spill(tmp_path, fingerprint="another"))

    assert ask(other(), LONG, "a") == 0
    (folder,) = [f for f in tmp_path.iterdir() if any(f.iterdir())]
    (empty,) = [f for f in tmp_path.iterdir() if f != folder]
    for path in folder.iterdir():
        path.rename(empty / path.name)
    assert ask(other(), LONG, "a") == 0  # even where its files were put in the other's place


@pytest.mark.parametrize("pages", [0, 1, 7, 12])
def test_the_limit_holds_and_the_latest_use_stays(tmp_path: Path, pages: int) -> None:
    limit = pages * PAGE_FILE + 3
    filled(tmp_path, limit)
    assert len(files(tmp_path)) == pages
    scheduler = Scheduler(FakeRunner(), spill=spill(tmp_path, limit))
    assert ask(scheduler, LONG[::-1], "a") == min(9, pages) * 4


def test_old_files_go_when_others_come(tmp_path: Path) -> None:
    filled(tmp_path)
    for path in files(tmp_path):
        os.utime(path, (1, 1))
    scheduler = Scheduler(FakeRunner(), spill=spill(tmp_path, 21 * PAGE_FILE))
    ask(scheduler, [9] * 17)
    scheduler.save()
    assert len(files(tmp_path)) == 21
    again = Scheduler(FakeRunner(), spill=spill(tmp_path))
    assert ask(again, [9] * 17) == 16


def test_a_disk_that_refuses_costs_nothing_but_the_cache(tmp_path: Path) -> None:
    kept = spill(tmp_path)
    scheduler = Scheduler(FakeRunner(), spill=kept)
    ask(scheduler, LONG)
    for folder in tmp_path.iterdir():
        folder.rmdir()
    scheduler.save()
    assert files(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="no folder for the cache on disk"):
        spill(tmp_path / "file")
    with pytest.raises(UsageError, match="at least 0, not -1"):
        spill(tmp_path, -1)


def test_two_processes_may_share_the_folder(tmp_path: Path) -> None:
    both = [Scheduler(FakeRunner(), spill=spill(tmp_path)) for _ in range(2)]
    for scheduler in both:
        ask(scheduler, LONG)
    for scheduler in both:
        scheduler.save()
    assert len(files(tmp_path)) == 10
    assert ask(Scheduler(FakeRunner(), spill=spill(tmp_path)), LONG) == 36


def test_the_real_model_goes_on_from_disk_as_if_it_had_run(
    tmp_path: Path, smollm2_path: Path
) -> None:
    prompt = list(range(1000, 1100))
    one = Request(prompt, SamplingParams(max_tokens=12, temperature=0))
    found, usages = [], []
    for _ in range(2):
        with open_model(smollm2_path) as source:
            runner = NativeRunner(source, threads=2, context_tokens=256)
        kept = Spill(tmp_path, runner.cache_fingerprint, 1 << 30)
        engine = Engine(runner, sampler=sample_row, spill=kept)
        events = list(engine.submit(one))
        engine.close()
        found.append([event.token for event in events if isinstance(event, TokenEvent)])
        assert isinstance(events[-1], FinishEvent)
        usages.append(events[-1].usage)
    assert found[0] == found[1]
    assert (usages[0].cached_tokens, usages[1].cached_tokens) == (0, 96)
