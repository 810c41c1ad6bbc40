"""What an interrupted run remembers, whatever ended it."""

import os
import time
from pathlib import Path

import pytest

from tritonq.command.journal import KEPT_S, Journal, RunningAlready, journal_folder, key_of


def test_what_was_noted_is_known_to_the_next_run(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")
    journal.note("a.jpg", "aa", "p1")
    journal.close()

    again = Journal.open(tmp_path, "k")
    assert len(again) == 1
    assert again.find("a.jpg", "aa") == "p1"
    assert again.find("a.jpg", "other content") is None
    assert again.find("b.jpg", "aa") is None
    again.close()


def test_a_line_torn_by_a_kill_costs_that_line_alone(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")
    journal.note("a.jpg", "aa", "p1")
    journal.note("b.jpg", "bb", "p2")
    journal.close()
    path = tmp_path / "k.jsonl"
    path.write_bytes(path.read_bytes()[:-9])

    again = Journal.open(tmp_path, "k")
    assert (again.find("a.jpg", "aa"), again.find("b.jpg", "bb")) == ("p1", None)
    again.note("c.jpg", "cc", "p3")
    again.close()

    last = Journal.open(tmp_path, "k")
    assert (last.find("a.jpg", "aa"), last.find("c.jpg", "cc")) == ("p1", "p3")
    last.close()


def test_a_note_is_on_the_disk_before_anything_else_happens(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")
    journal.note("a.jpg", "aa", "p1")

    assert b"p1" in (tmp_path / "k.jsonl").read_bytes()
    journal.close()


def test_a_finished_run_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")
    journal.note("a.jpg", "aa", "p1")
    journal.forget()
    journal.close()

    assert list(tmp_path.iterdir()) == []


def test_a_run_that_starts_over_is_remembered_from_there(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")
    journal.note("a.jpg", "aa", "p1")
    journal.forget()
    journal.note("b.jpg", "bb", "p2")
    journal.close()

    again = Journal.open(tmp_path, "k")
    assert (again.find("a.jpg", "aa"), again.find("b.jpg", "bb")) == (None, "p2")
    again.close()


def test_the_same_command_twice_at_once_is_refused(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")

    with pytest.raises(RunningAlready):
        Journal.open(tmp_path, "k")

    journal.close()
    Journal.open(tmp_path, "k").close()


def test_a_journal_nobody_came_back_to_is_forgotten(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "old")
    journal.note("a.jpg", "aa", "p1")
    journal.close()
    long_ago = time.time() - KEPT_S - 1
    os.utime(tmp_path / "old.jsonl", (long_ago, long_ago))

    Journal.open(tmp_path, "new").close()

    assert list(tmp_path.iterdir()) == []


def test_a_journal_belongs_to_one_service_model_input_and_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    key = key_of("http://a", "m", {"k": "1"}, ["photos"])

    assert key == key_of("http://a", "m", {"k": "1"}, [str(tmp_path / "photos")])
    others = [
        key_of("http://b", "m", {"k": "1"}, ["photos"]),
        key_of("http://a", "n", {"k": "1"}, ["photos"]),
        key_of("http://a", "m", {"k": "2"}, ["photos"]),
        key_of("http://a", "m", {"k": "1"}, ["photos", "more"]),
    ]
    assert len({key, *others}) == 5


def test_journals_are_kept_in_the_cache_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert journal_folder() == Path("/cache/tritonq/runs")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert journal_folder() == Path("/home/somebody/.cache/tritonq/runs")


def test_a_run_is_begun_once_and_its_keys_are_the_same_ever_after(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, "k")
    begun = journal.begin("low", "90s")
    key = journal.key("a.jpg", "aa")
    os.close(journal._descriptor)  # as a kill does it

    again = Journal.open(tmp_path, "k")
    assert again.begun == again.begin("high", None) == begun
    assert again.key("a.jpg", "aa") == key
    others = [
        again.key("b.jpg", "aa"),
        again.key("a.jpg", "bb"),
        again.key("a.jpg", "aa", instead_of="p1"),
    ]
    assert len({key, *others}) == 4
    assert again.path.exists()
    again.forget()
    again.begin("low", None)
    assert again.key("a.jpg", "aa") != key, "a run that starts over submits anew"
    again.close()


def test_a_run_is_begun_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path, "k")
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append((tmp_path / "k.jsonl").read_bytes()))

    run = journal.begin("normal", None).run
    journal.begin("normal", None)
    journal.close()

    assert len(synced) == 2, "the file and its folder, once"
    assert all(run.encode() in content for content in synced)


def test_a_file_is_the_same_from_wherever_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path, "k")
    journal.begin("normal", None)
    monkeypatch.chdir(tmp_path)
    journal.note("photos/a.jpg", "aa", "p1")
    key = journal.key("photos/a.jpg", "aa")
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path / "photos")

    assert journal.find("../photos/a.jpg", "aa") == "p1"
    assert journal.key("a.jpg", "aa") == key
    journal.close()


def test_a_line_that_a_full_disk_cut_short_is_an_error_and_spoils_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal.open(tmp_path, "k")
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
        with pytest.raises(OSError, match="No space left"):
            journal.begin("low", None)
    assert journal.begun is None
    begun = journal.begin("high", None)
    journal.note("a.jpg", "aa", "p1")
    os.close(journal._descriptor)  # as a kill does it

    again = Journal.open(tmp_path, "k")
    assert (again.begun, again.find("a.jpg", "aa")) == (begun, "p1")
    again.close()
