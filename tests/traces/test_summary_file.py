"""Summaries on disk: the round trip, and every kind of damage."""

import io
import json
import os
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from trbounds.errors import InputError
from trbounds.traces import TraceSummary, example_path, open_trace, summarize
from trbounds.traces.stopping import BUDGETS

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("summary") / "run.tbs"
    summary = summarize([DATA / "moe.parquet", example_path()])
    summary.record_skip(InputError("broken", file="x", record=3, field="kl"))
    summary.save(path)
    return summary, path


def test_round_trip(saved, tmp_path):
    summary, path = saved
    loaded = TraceSummary.load(path)
    loaded.save(tmp_path / "again.tbs")
    assert (tmp_path / "again.tbs").read_bytes() == path.read_bytes()
    assert loaded.extremes == summary.extremes
    assert loaded.counts == summary.counts
    assert loaded.skipped == summary.skipped
    assert loaded.present == summary.present
    assert loaded.positions.mean("kl").tolist() == summary.positions.mean("kl").tolist()
    assert repr(loaded) == repr(summary)
    assert os.listdir(path.parent) == ["run.tbs"]


def test_an_empty_summary_survives(tmp_path):
    TraceSummary(reward_range=(-1, 1)).save(tmp_path / "a.tbs")
    loaded = TraceSummary.load(tmp_path / "a.tbs")
    assert (loaded.n_sequences, loaded.present, loaded.reward_range) == (0, None, (-1.0, 1.0))


def test_saved_shards_merge_to_the_whole(tmp_path):
    batches = list(open_trace(DATA / "moe.parquet"))
    for i, batch in enumerate(batches):
        TraceSummary.of(batch).save(tmp_path / f"{i}.tbs")
    merged = summarize([tmp_path / f"{i}.tbs" for i in reversed(range(len(batches)))])
    whole = summarize(DATA / "moe.parquet")
    assert merged.sequences["kl_sum"].tolist() == whole.sequences["kl_sum"].tolist()
    np.testing.assert_allclose(
        merged.positions.mean("chi2"), whole.positions.mean("chi2"), rtol=1e-14
    )
    with pytest.raises(InputError, match="found twice"):
        summarize([tmp_path / "0.tbs", DATA / "moe.parquet"])


def rewrite(path, out, changes, compression=zipfile.ZIP_STORED):
    """Copy a summary with some members replaced (None removes one)."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", compression) as target:
        for name in source.namelist():
            data = changes.get(name, source.read(name))
            if data is not None:
                target.writestr(name, data)
    return out


def document(path, **changes):
    with zipfile.ZipFile(path) as archive:
        return json.dumps({**json.loads(archive.read("summary.json")), **changes}).encode()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def test_another_version_is_named(saved, tmp_path):
    _, path = saved
    changed = rewrite(path, tmp_path / "a.tbs", {"summary.json": document(path, version=99)})
    with pytest.raises(InputError, match=r"a.tbs: found version 99, expected 1"):
        TraceSummary.load(changed)
    changed = rewrite(path, tmp_path / "a.tbs", {"summary.json": b'{"format": "other"}'})
    with pytest.raises(InputError, match="not a trbounds summary"):
        TraceSummary.load(changed)


@pytest.mark.parametrize(
    "changes",
    [
        {"summary.json": None},
        {"summary.json": b"{"},
        {"summary.json": b"[" * 100_000},
        {"sequences/kl_sum.npy": None},
        {"sequences/kl_sum.npy": npy(np.zeros(3))},
        {"sequences/kl_sum.npy": npy(np.zeros(192, np.float32))},
        {"sequences/kl_sum.npy": npy(np.array([{}]), allow_pickle=True)},
        {"sequences/kl_sum.npy": npy(np.zeros(192))[:-8]},
        {"sequences/file.npy": npy(np.full(192, 7, np.int32))},
        {"positions/alive.npy": npy(np.zeros(3, np.int64))},
        {"positions/sum_kl.npy": npy(np.zeros(3))},
        {"stopped/crossed.npy": npy(np.zeros(3, np.int64))},
        {"histograms/kl.npy": npy(np.zeros(3, np.int64))},
        {"budgets.npy": npy(np.zeros(40))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_damaged_members(saved, tmp_path, changes):
    _, path = saved
    with pytest.raises(InputError, match=r"a\.tbs"):
        TraceSummary.load(rewrite(path, tmp_path / "a.tbs", changes))


def test_a_file_that_is_listed_twice_is_refused(saved, tmp_path):
    summary, path = saved
    listed = document(path, files=[*summary.files, summary.files[0]])
    changed = rewrite(path, tmp_path / "a.tbs", {"summary.json": listed})
    with pytest.raises(InputError, match="a file is listed twice"):
        TraceSummary.load(changed)


@pytest.mark.parametrize("limits", [[0.0, 1e200], [1.0, 0.0], [0.0, None], [0.0]])
def test_a_range_of_rewards_that_no_trace_is_read_with_is_refused(saved, tmp_path, limits):
    _, path = saved
    changes = {"summary.json": document(path, reward_range=limits)}
    with pytest.raises(InputError, match=r"a\.tbs(, field 'reward_range'|: not a readable)"):
        TraceSummary.load(rewrite(path, tmp_path / "a.tbs", changes))


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        ("skipped", "a count is negative"),
        ("tokens", "the counts are not those of the table"),
        ("alive", "the positions are not those of the table"),
        ("k3", "the extremes or the histograms are not those"),
        ("abs_log_ratio", "the extremes or the histograms are not those"),
        ("extremes", "the extremes or the histograms are not those"),
    ],
)
def test_parts_of_different_traces_are_refused(saved, tmp_path, part, problem):
    summary, path = saved
    more = np.zeros_like(summary.histograms["k3"].counts)
    more[5] = 1
    extremes = {name: list(extreme) for name, extreme in summary.extremes.items()}
    del extremes["k3_min"]
    alive = summary.positions.alive + (np.arange(summary.T) == 0)
    counts = summary.counts
    changes = {
        "skipped": {"summary.json": document(path, counts={**counts, "skipped": -1})},
        "tokens": {"summary.json": document(path, counts={**counts, "tokens": 1})},
        "alive": {"positions/alive.npy": npy(alive)},
        "extremes": {"summary.json": document(path, extremes=extremes)},
        **{
            name: {f"histograms/{name}.npy": npy(summary.histograms[name].counts + more)}
            for name in ("k3", "abs_log_ratio")
        },
    }
    with pytest.raises(InputError, match=problem):
        TraceSummary.load(rewrite(path, tmp_path / "a.tbs", changes[part]))


def test_the_grid_of_another_numpy_is_the_same(saved, tmp_path):
    summary, path = saved
    moved = npy(np.nextafter(BUDGETS, np.inf))
    loaded = TraceSummary.load(rewrite(path, tmp_path / "a.tbs", {"budgets.npy": moved}))
    assert loaded.stopped.stop_prob.tolist() == summary.stopped.stop_prob.tolist()
    moved = npy(BUDGETS * (1 + 1e-9))
    with pytest.raises(InputError, match="another grid of budgets"):
        TraceSummary.load(rewrite(path, tmp_path / "b.tbs", {"budgets.npy": moved}))


def test_members_cannot_overlap(saved, tmp_path):
    """A hundred names for the bytes of one member: the file would multiply in memory."""
    _, path = saved
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start, member = archive.start_dir, archive.getinfo("sequences/kl_sum.npy")
        count = len(archive.namelist())
    place = data.index(b"sequences/kl_sum.npy", start) - 46
    entry = data[place : place + 46 + len(member.filename)]
    more = b"".join(entry.replace(b"kl_sum", b"k%05d"[:6] % i) for i in range(100))
    directory = data[start:-22] + more
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count + 100, count + 100, len(directory), start, 0
    )
    (tmp_path / "a.tbs").write_bytes(data[:start] + directory + end)
    with pytest.raises(InputError, match="members overlap"):
        TraceSummary.load(tmp_path / "a.tbs")


def test_an_array_header_cannot_claim_more_than_the_file_holds(saved, tmp_path):
    _, path = saved
    data = npy(np.zeros(192)).replace(b"(192,), }   ", b"(10**9), }  ")
    huge = npy(np.zeros(192)).replace(b"(192,)", b"(9<<40,)")
    wide = npy(np.zeros(192)).replace(b"(192,), }     ", b"(1922222222,)}")
    for body in (data, huge, wide):
        changed = rewrite(path, tmp_path / "a.tbs", {"sequences/kl_sum.npy": body})
        with pytest.raises(InputError, match=r"a\.tbs: not a readable trbounds summary"):
            TraceSummary.load(changed)


def test_compressed_members_are_refused(saved, tmp_path):
    _, path = saved
    changed = rewrite(path, tmp_path / "a.tbs", {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="compressed"):
        TraceSummary.load(changed)


def test_flipped_and_truncated_bytes_never_crash(saved, tmp_path):
    _, path = saved
    data = path.read_bytes()
    source = random.Random(0)
    file = tmp_path / "a.tbs"
    places = []
    for trial in range(120):
        if trial % 2:
            broken = data[: source.randrange(len(data))]
        else:
            broken = bytearray(data)
            for _ in range(20):
                broken[source.randrange(len(data))] ^= 1 << source.randrange(8)
        file.write_bytes(broken)
        try:
            TraceSummary.load(file)
        except InputError as error:
            places.append(error.file)
    # What is not refused changed nothing that is read, such as a date.
    assert len(places) >= 110
    assert set(places) == {str(file)}


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        TraceSummary.load(tmp_path / "absent.tbs")
    with pytest.raises(InputError, match="cannot be written"):
        TraceSummary().save(tmp_path / "no" / "a.tbs")
