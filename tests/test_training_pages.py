"""The chapters on training: the tables they read, and what they say is proved."""

import ast
import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from cliplib import InputError
from cliplib.bench import jobs_loss, jobs_train
from cliplib.book.check import typed_results
from cliplib.training_pages import equal, measured, measured_figures, speed, step_profile

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "book/training" / name for name in ("measured.md", "equal.md")]


# ------------------------------------------------------------ made-up rows, worded by the bench itself


def made_up_bench(monkeypatch):
    """Rows of the four jobs as the bench words them: ours twice as fast, in half the memory."""
    rows = []
    ours = {
        "samples_per_s": 2000.0,
        "cpu_seconds_per_sample": 1e-3,
        "peak_mb": 500.0,
        "private_mb": 400.0,
    }
    peer = {
        "samples_per_s": 1000.0,
        "cpu_seconds_per_sample": 3e-3,
        "peak_mb": 1000.0,
        "private_mb": 1600.0,
    }
    turn = {
        "ours": {**ours, "precision": "bf16"},
        "fp32": peer,
        "amp_bf16": peer | {"samples_per_s": 9},
    }
    for rung in jobs_train.RUNGS:
        for vocabulary in (4096, 49408):
            case = jobs_train.Case(rung, vocabulary, 128, 10, 6.0, 2)
            rows += jobs_train.rows_of(case, [turn], "open_clip_train --workers 1")
        pair = ({"step_ms": 40.0, "precision": "bf16"}, {"ms": 10.0, "gmac_per_s": 1234.0})
        rows.append(jobs_train.share_row(case, [pair]))
    monkeypatch.setattr(jobs_train, "icons", lambda data: SimpleNamespace(folder="icons"))
    monkeypatch.setattr(
        jobs_train, "_loader_round", lambda *_: {"ours": ours, "peer": peer, "memory": ours}
    )
    monkeypatch.setattr(jobs_train, "_ours", lambda *_: {"samples": 400, "samples_per_s": 7.0})
    rows += jobs_train.loader()
    monkeypatch.setattr(
        jobs_loss, "_measured",
        lambda way, batch, width: {"bytes": batch * 1e3, "seconds": batch / 1e3, "loss": 1.0},
    )  # fmt: skip
    rows += jobs_loss.loss_memory()
    return {
        "machine": "made up",
        "commit": "0",
        "date": "2026-01-01",
        "rows": [asdict(r) for r in rows],
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with all tables of the page, made up."""
    (tmp_path / measured.BENCH).write_text(json.dumps(made_up_bench(monkeypatch)))
    monkeypatch.setattr(
        speed, "run_json",
        lambda command, threads: dict.fromkeys(speed.MEASURED, 10.0 * threads),
    )  # fmt: skip
    found = speed.measured(speed.CASES, 1.0, 3, Path("icons"))
    speed._write(tmp_path / measured.SPEED, speed.SPEED_COLUMNS, found)
    parts = [("phase", "data"), ("phase", "gradient"), ("kind", "GELU"), ("kind", "LayerNorm")]
    rows = [
        {
            "rung": r,
            "vocabulary": v,
            "path": p,
            "precision": n,
            "level": level,
            "part": part,
            "ms": 2.0,
            "share": 0.5,
        }
        for r, v, p, n in speed.PROFILES
        for level, part in parts
    ]
    speed._write(tmp_path / measured.PROFILE, speed.PROFILE_COLUMNS, rows)
    return tmp_path


def without(folder, **where):
    """The bench file, less the rows that have these values."""
    path = folder / measured.BENCH
    found = json.loads(path.read_text())
    found["rows"] = [r for r in found["rows"] if any(r[k] != v for k, v in where.items())]
    path.write_text(json.dumps(found))


# --------------------------------------------------------------------------------- beside open_clip


def test_training_rows_are_read_as_the_bench_words_them(folder):
    table = measured.training(measured.bench(folder)["rows"])
    assert len(table) == 2 * len(jobs_train.RUNGS)
    assert list(table["rung"][:2]) == ["XXS", "XS"] and set(table["vocabulary"]) == {4096, 49408}
    first = table.iloc[0]
    assert (first["our_speed"], first["peer_speed"], first["ratio_speed"]) == (2000, 1000, 2)
    assert (first["our_cpu"], first["peer_cpu"]) == (1, 3)
    assert (first["our_memory"], first["ratio_memory"], first["ratio_whole"]) == (500, 2, 4)
    assert (first["peer_precision"], first["precision"], first["workers"]) == ("fp32", "bf16", 1)


def test_products_loss_and_loaders_are_read(folder):
    rows = measured.bench(folder)["rows"]
    shares = measured.products(rows)
    assert list(shares["share"].unique()) == [0.25] and set(shares["gmac_per_s"]) == {1234.0}
    loss = measured.loss_at_scale(rows)
    assert list(loss["batch"]) == [1024, 4096, 16384, 65536]
    assert loss["peer_mb"].isna().tolist() == [False, False, False, True]
    assert loss["needed_mb"].iloc[-1] == pytest.approx(4 * 4 * 65536**2 / 1e6, rel=0.01)
    assert loss["our_mb"].iloc[0] == pytest.approx(1.024)
    feeds = measured.loaders(rows)
    assert len(feeds) == 3 and (feeds["speed"] == 2).all() and feeds["memory"].notna().sum() == 2
    assert measured.decoded_once(rows) == 7


@pytest.mark.parametrize("job", measured.JOBS)
def test_a_bench_without_a_job_is_refused_by_name(folder, job):
    without(folder, job=job)
    with pytest.raises(InputError, match=f"no row of {job}.*make bench"):
        measured.bench(folder)


def test_a_lost_row_or_a_new_wording_is_refused(folder):
    without(folder, job="train_step", unit="MiB")
    rows = measured.bench(folder)["rows"]
    with pytest.raises(InputError, match="lacks a speed, processor time or memory"):
        measured.training(rows)
    rows.loc[rows["job"] == "matmul_share", "case"] = "something else"
    with pytest.raises(InputError, match="cannot read: 'something else'"):
        measured.products(rows)
    with pytest.raises(InputError, match="not there"):
        measured.bench(folder / "nowhere")


# ---------------------------------------------------------------------------------------- our own ways


def test_speeds_and_profiles_are_read_and_a_lost_case_is_named(folder):
    table = measured.speeds(folder)
    cores = measured.side_by_side(table, measured.CORES, ("XS", "M"))
    assert list(cores["what"][:4]) == list(measured.CORES)
    assert cores["times"].tolist() == [1, 2, 1, 2] * 2  # two runs add up
    ways = measured.side_by_side(table, measured.WAYS, ("XS",))
    assert len(ways) == len(measured.WAYS)
    profile = measured.profiles(folder)
    parts = measured.parts_of(profile, "XS", 4096, "fast", "bf16")
    assert list(parts.index) == ["data", "GELU", "LayerNorm"]
    wide = measured.all_parts(profile)
    assert wide.shape == (4, 1 + len(speed.PROFILES)) and (wide.iloc[-1, 1:] == 6).all()
    table[table["processes"] != 2].to_csv(folder / measured.SPEED, index=False)
    with pytest.raises(InputError, match=r"0 rows of Case.*processes=2.*training_pages\.speed"):
        measured.speeds(folder)
    profile[profile["rung"] != "M"].to_csv(folder / measured.PROFILE, index=False)
    with pytest.raises(InputError, match="no profile of"):
        measured.profiles(folder)


def test_the_committed_tables_have_all_that_the_page_reads():
    data = ROOT / "book/data"
    rows = measured.bench(data)["rows"]
    assert len(measured.training(rows)) >= 2 and len(measured.products(rows)) >= 1
    assert len(measured.loss_at_scale(rows)) >= 3 and len(measured.loaders(rows)) >= 2
    assert measured.decoded_once(rows) > 0
    assert (measured.speeds(data)["samples_per_s"] > 0).all()
    assert (measured.profiles(data)["ms"] >= 0).all()


def test_commands_of_cases():
    assert "--attention" not in speed.Case("XS").command(1, Path("d"))
    two = speed.Case("XS", path="torch", processes=2, compile=True).command(1, Path("d"))
    assert two[:4] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    assert "--compile" in two and "plain" in two


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--rounds", "0"], "--rounds 0"), (["--data", "nowhere"], "no corpus here")],
)
def test_speed_refuses_what_cannot_work_in_one_line(words, said, tmp_path, capsys):
    assert speed.main(["--out", str(tmp_path / "speed.csv"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_profile_adds_up_and_names_the_products(corpus):
    rows = pd.DataFrame(step_profile.rows("XXS", 4096, "fast", "bf16", corpus.folder))
    phases, kinds = (rows[rows["level"] == level] for level in ("phase", "kind"))
    assert set(phases["part"]) == {"data", "gradient", "clipping", "optimiser"}
    assert phases["share"].sum() == pytest.approx(1, abs=1e-3)
    gradient = phases.set_index("part").loc["gradient", "ms"]
    assert kinds["ms"].sum() == pytest.approx(gradient, rel=1e-2)
    assert kinds.set_index("part").loc["matrix products", "share"] > 0.05


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "attention: its products and softmax"),
        ("aten::_softmax_backward_data", "attention: its products and softmax"),
        ("aten::native_layer_norm_backward", "LayerNorm"),
        ("aten::gelu_backward", "GELU"),
        ("aten::embedding_dense_backward", "token rows: looked up and added up"),
        ("autograd::engine::evaluate_function: ViewBackward0", "autograd's own work"),
        ("aten::_to_copy", "copies and casts"),
        ("aten::view", step_profile.OTHER),
    ],
)
def test_operations_are_sorted_into_kinds(operation, kind):
    assert step_profile.kind_of(operation) == kind


def test_figures_are_drawn(folder):
    rows, table = measured.bench(folder)["rows"], measured.speeds(folder)
    training = measured.training(rows)
    profile = measured.profiles(folder)
    columns = {p: measured.parts_of(profile, "XS", 4096, p, "bf16") for p in ("fast", "torch")}
    drawn = [
        measured_figures.pace(training),
        measured_figures.ratios(training),
        measured_figures.parts(columns),
        measured_figures.bars(measured.side_by_side(table, measured.CORES, ("XS", "M"))),
        measured_figures.memory_of_the_loss(measured.loss_at_scale(rows)),
    ]
    assert all(ax.get_xlabel() or i < len(f.axes) - 1 for f in drawn for i, ax in enumerate(f.axes))


# ------------------------------------------------------------------------- when two runs are equal


def functions_in(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_the_page_names_exists():
    named = [name for row in equal.PROMISES for name in row.tests]
    assert len(named) > 10
    for name in named:
        path, _, function = name.partition("::")
        assert function in functions_in(path), name
    assert all(
        row.tests or row.holds in (equal.NOT_AT_ALL, equal.NOT_PROMISED) for row in equal.PROMISES
    )


def test_the_table_shows_every_promise_and_its_proof():
    table = equal.promises_table()
    assert len(table) == len(equal.PROMISES)
    assert set(table["what holds"]) <= {
        equal.BITS, equal.ROUNDING, equal.NOT_AT_ALL, equal.NOT_PROMISED
    }  # fmt: skip


def test_threads_change_no_bit_and_precision_does():
    table = equal.demonstration(batch=16).set_index("what is changed")["relative difference"]
    assert table["nothing: the same again"] == 0
    assert table["two threads instead of one"] == 0
    assert 0 < table["the other path, in fp32"] < 1e-5
    assert table["bf16 instead of fp32"] > 1e-4


def test_the_order_of_a_sum_changes_its_last_digits():
    sums = equal.sums_by_parts()
    assert sums["parts"].tolist()[0] == 1 and sums["relative difference"].iloc[0] == 0
    assert 0 < sums["relative difference"].max() < 1e-5


def test_a_rounding_error_grows_and_equal_starts_stay_equal():
    growth = equal.growth(steps=40, starts=(0.0, 1e-7))
    same = growth[growth["start"] == 0]["difference"]
    moved = growth[growth["start"] > 0]["difference"]
    assert (same == 0).all()
    assert moved.iloc[0] < 1e-5 and moved.iloc[-1] > 2 * moved.iloc[0]


def test_a_checkpoint_is_as_the_page_says(tmp_path):
    parts = equal.checkpoint_shown(tmp_path)
    names = set(parts["tensor"])
    assert names > {"document.json", "model/plain", "model/decayed", "optimiser/plain/exp_avg_sq"}
    assert (parts["bytes"] > 0).all()


# ------------------------------------------------------------------------------------ the pages


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_types_no_result_and_glues_what_it_prints(page):
    text = page.read_text()
    assert typed_results(text) == []
    printed = set(re.findall(r"\{glue:text\}`([a-z0-9_]+)", text))
    glued = set(re.findall(r'glue\(\s*f?"([a-z0-9_]+)"', text))
    assert printed <= glued, printed - glued
