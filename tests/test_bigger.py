"""What the chapter "Going bigger" says: its dry runs, memory, shards, links, and their sources."""

import math
import re
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from cliplib import InputError, published
from cliplib.book.check import typed_results
from cliplib.data.preflight import check_counts
from cliplib.paper import bill
from cliplib.train.config import Engine, TrainConfig
from cliplib.training_pages import bigger, links

BOOK = Path(__file__).resolve().parents[1] / "book"
PAGE = (BOOK / "training" / "bigger.md").read_text()
KEYS = set(re.findall(r"^@\w+\{(\w+),", (BOOK / "references.bib").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def paper():
    return bigger.dry_run("paper")


@pytest.fixture(scope="module")
def evening():
    return bigger.dry_run("gpu")


# -------------------------------------------------------------------------------------- dry runs


def test_the_dry_run_adds_up_to_the_papers_bill_run_by_run(paper):
    _, rows = paper
    paid = bill.cost(published.pretraining_runs().query("family == 'OpenCLIP'"))
    assert sorted(rows["gpu_hours"]) == pytest.approx(sorted(paid["gpu_hours"]), rel=1e-6)
    printed = published.printed().set_index("id")["printed"]
    assert rows["gpu_hours"].sum() == pytest.approx(
        float(printed["bill:gpu_hours"].replace(",", "")), abs=1
    )
    assert rows["mwh"].sum() == pytest.approx(float(printed["bill:mwh"]), abs=0.01)


def test_every_run_of_the_plan_has_its_row_and_a_command_of_its_own(paper):
    placed, rows = paper
    shown = bigger.plan_table(rows)
    assert list(shown["run"].iloc[[0, -1]]) == ["B/32 400M 2.4 bn", "H/14 2B 34.7 bn"]
    assert shown["run"].is_unique and rows["command"].is_unique
    for each, command in zip(placed, rows["command"], strict=True):
        assert each.run.run_id in command
        assert f"--nproc-per-node={each.gpus_per_node} " in command


def test_passes_are_over_the_pairs_that_are_there(evening):
    _, rows = evening
    full, half = (bigger.evening_table(rows, pairs)["passes"].astype(float) for pairs in (1e6, 5e5))
    assert list(full) == pytest.approx(list(rows["samples_seen"] / 1e6), abs=0.051)
    assert list(half) == pytest.approx(list(rows["samples_seen"] / 5e5), abs=0.051)


def test_the_energy_axis_reads_the_same_points_in_mwh(paper, evening):
    fig = bigger.cost_picture(paper[1], evening[1])
    (ax,) = fig.axes
    fig.canvas.draw()
    (right,) = ax.child_axes
    low, high = ax.get_ylim()
    assert right.get_ylim() == pytest.approx((low * bill.WATTS / 1e6, high * bill.WATTS / 1e6))
    drawn = sum(len(line.get_xdata()) for line in ax.lines)
    assert drawn == len(paper[1]) + len(evening[1])
    plt.close(fig)


# ------------------------------------------------------------------------------ on other machines


def test_fewer_gpus_keep_the_global_batch_and_take_longer(paper):
    run = next(p.run for p in paper[0] if p.run.batch_size == 90_112)
    rows = bigger.other_machines(run, [1, 8, 64])
    assert list(rows["gpus"] * rows["batch_per_gpu"]) == [90_112] * 3
    assert list(rows["wall_hours"] * rows["gpus"]) == pytest.approx([rows["wall_hours"][0]] * 3)
    most = next(p for p in paper[0] if p.run == run).batch_per_gpu
    assert (rows["batch_per_gpu"] / rows["accumulate"] <= most).all()
    with pytest.raises(InputError, match="do not divide"):
        bigger.other_machines(run, [7])


def test_what_the_page_shows_is_what_training_reads(paper):
    found = TrainConfig.from_dict(bigger.settings(paper[0][-1]))
    assert found.settings.engine.gradient_checkpointing
    assert found.settings.data.sampler == "replacement"


def test_every_switch_of_the_engine_is_explained_and_counted(paper):
    shown = bigger.switch_table(paper[0])
    assert set(bigger.SWITCHES) == set(Engine.__dataclass_fields__)
    count = shown.set_index("key")["runs that set it"]
    assert count["engine.precision"] == len(paper[0]) and count["engine.compile"] == 0
    large = sum(p.run.rung in ("ViT-L-14", "ViT-H-14", "ViT-g-14") for p in paper[0])
    assert count["engine.gradient_checkpointing"] == large


def test_memory_of_the_loss_by_hand():
    found = bigger.loss_memory(1024, 4, 512)
    assert found == {"all": 4 * 1024**2, "own": 1024**2, "chunk": 1024**2, "texts": 2 * 1024**2}
    big = bigger.loss_memory(65_536, 1, 512)
    assert big["chunk"] == 64 * 65_536 * 4 < big["own"] == big["all"]
    assert bigger.loss_memory(65_536, 1, 512, chunk=128)["chunk"] == 2 * big["chunk"]
    with pytest.raises(InputError, match="evenly"):
        bigger.loss_memory(10, 3, 8)


def test_the_memory_table_uses_the_runs_own_chunk(paper):
    run = next(p.run for p in paper[0] if p.run.batch_size == 90_112)
    few = bigger.place(run, gpus_per_node=4, gpus=8)
    chunk = bigger.settings(few)["engine"]["loss_chunk"]
    held = float(bigger.memory_table([few])["held at once (MiB)"].iloc[0])
    assert held == pytest.approx(chunk * 90_112 * 4 / 2**20, abs=1)


def test_a_short_job_gets_more_tries(paper):
    tries = bigger.job_table(paper[0][-1], [12, 24, 10_000])["tries"]
    assert tries[0] > tries[1] > tries[2] == 2


def test_too_few_shards_are_refused_before_training(paper):
    run = next(p.run for p in paper[0] if p.run.batch_size == 90_112)
    placed = bigger.place(run, gpus_per_node=4, gpus=8)
    lanes = bigger.settings(placed)["data"]["lanes"]
    assert "too few" in bigger.preflight_says(lanes - 1, placed)
    assert bigger.preflight_says(lanes, placed) == ""


def test_the_solution_on_shards_for_a_world():
    shards = [str(n) for n in range(math.ceil(links.CC12M / 10_000))]
    assert len(shards) == 1243
    check_counts(shards, 8 * 128, 2**15, 128, 8, True)
    with pytest.raises(InputError, match="too few"):
        check_counts(shards, 8 * 156, 8 * 156, 156, 8, True)


def test_share_never_drawn_is_that_of_drawing_with_replacement():
    shards, passes = 10_000, 1.3
    exact = (1 - 1 / shards) ** (shards * passes)
    assert bigger.never_drawn(passes) == pytest.approx(exact, rel=1e-3)


# ------------------------------------------------------------------------------------- the data


def test_the_monthly_loss_is_the_one_planted():
    when = pd.to_datetime(["2022-01-01", "2024-01-01"])
    planted = pd.DataFrame({"data": "A", "when": when, "share": [0.9, 0.9 * 0.98**24]})
    assert links.lost_a_month(planted, "A") == pytest.approx(0.02, abs=1e-4)
    with pytest.raises(InputError, match="two months"):
        links.lost_a_month(planted.iloc[:1], "A")


def test_the_picture_of_links_has_a_mark_for_every_report():
    reports = links.survival()
    fig = links.survival_picture(reports)
    (ax,) = fig.axes
    assert sum(len(line.get_xdata()) for line in ax.lines) == len(links.REPORTS)
    low, high = ax.get_ylim()
    assert (100 * reports["share"]).between(low, high).all()
    again = reports.sort_values("when").groupby("data")["share"]
    assert (again.diff().dropna() < 0).all()  # as the alt text says
    plt.close(fig)


def test_every_fact_and_citation_has_its_source():
    facts = {entry.source for entry in (*links.REPORTS, *links.RELEASES)}
    assert facts <= KEYS
    cited = {
        key.strip() for group in re.findall(r"\{cite:[pt]\}`([^`]+)`", PAGE) for key in group.split(",")
    }  # fmt: skip
    assert cited <= KEYS
    assert facts <= cited


def test_no_result_of_the_page_is_typed_by_hand():
    assert typed_results(PAGE) == []
