"""What chapters show of the study and of the corpus, from small tables made here."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliplib.book import corpus, study

ROOT = Path(__file__).resolve().parents[1]

# ---------------------------------------------------------------------------------- the study


def table(n=8, exponent=-0.12, noise=0.0, se=0.005, chance=0.05):
    """Rows of book/data/runs.csv for runs on an exact power law, for two responses."""
    compute = np.geomspace(100, 10_000, n)
    scatter = np.exp(noise * np.random.default_rng(0).standard_normal(n))
    rows = []
    for i, (C, error) in enumerate(zip(compute, 1.4 * compute**exponent * scatter, strict=True)):
        run = {
            "run_id": f"r{i}",
            "rung": "XS" if i % 2 else "S",
            "seed": 0,
            "samples_seen": 1000 * i,
        }
        run |= {"scale": "nano", "data_scale": "all", "corpus": "all", "compute_gmac": C}
        run |= {"seconds": 1.0, "n_items": 100, "se": se, "gmacs_per_pair": 1.0}
        loss = {"value": 6.9 * error, "chance": 6.9, "se": 6.9 * se}
        for task, metric, numbers in (
            ("phosphor", "accuracy_20_way", {"value": 1 - error, "chance": chance}),
            ("retrieval", "infonce", loss),
        ):
            row = run | {"task": task, "metric": metric} | numbers
            low, high = row["value"] - 2 * row["se"], row["value"] + 2 * row["se"]
            rows.append(row | {"ci_low": low, "ci_high": high})
    return pd.DataFrame(rows)


def phosphor(**kwargs):
    return study.errors(table(**kwargs), study.RESPONSES["phosphor"])


def test_errors_are_one_minus_the_metric_with_their_interval_turned_round():
    runs = phosphor()
    assert runs.error.iloc[0] == pytest.approx(1.4 * 100**-0.12)
    assert (runs.low < runs.error).all()
    assert (runs.high > runs.error).all()
    assert runs.guessing.unique() == pytest.approx([0.95])
    assert runs.compute_gmac.is_monotonic_increasing


def test_a_loss_is_a_share_of_the_loss_of_guessing():
    runs = study.errors(table(), study.RESPONSES["infonce"])
    assert runs.error.tolist() == pytest.approx(phosphor().error.tolist())
    assert runs.guessing.tolist() == pytest.approx([1.0] * len(runs))
    assert (runs.low < runs.error).all()


def test_runs_near_chance_are_marked_with_a_reason():
    runs = phosphor(se=0.05)
    assert not runs.included.iloc[0]
    assert "chance" in runs.reason.iloc[0]
    assert runs.included.iloc[-1]


def test_no_runs_give_an_empty_table_with_the_same_columns():
    empty = study.errors(table().iloc[:0], study.RESPONSES["phosphor"])
    assert len(empty) == 0
    assert list(empty.columns) == list(phosphor().columns)


def test_the_power_law_is_recovered_and_its_band_holds_the_line():
    law = study.study_law(phosphor(noise=0.01), "power")
    alpha, low, high = law.exponent
    assert low < -0.12 < high
    assert alpha == pytest.approx(-0.12, abs=0.02)
    assert (law.curve.low <= law.curve.error).all()
    assert (law.curve.high >= law.curve.error).all()
    assert law.curve.compute_gmac.iloc[[0, -1]].tolist() == pytest.approx([100, 10_000])


def test_a_law_is_fitted_to_included_runs_only():
    runs = phosphor()
    runs.loc[0, ["included", "error"]] = [False, 0.1]
    law = study.study_law(runs, "power")
    assert law.fit.n == len(runs) - 1
    assert law.exponent[0] == pytest.approx(-0.12)


def test_the_curved_law_takes_runs_near_chance_too(monkeypatch):
    monkeypatch.setitem(study.DRAWS, "curved", 10)
    runs = phosphor(se=0.05)
    law = study.study_law(runs, "curved")
    assert law.fit.n == len(runs)
    assert law.curve.error.max() <= 0.95


def test_too_few_runs_give_the_reason_in_words():
    reason = study.study_law(phosphor(n=4), "power")
    assert "too few" in reason
    assert f"No power law is fitted: {reason}." in study.summary(phosphor(n=4), {"power": reason})


def test_the_summary_names_runs_interval_and_range():
    runs = phosphor(noise=0.01)
    law = study.study_law(runs, "power")
    text = study.summary(runs, {"power": law})
    assert "8 runs over a factor of 100" in text
    assert f"{law.exponent[1]:.3f}".replace("-", "−") in text
    assert "contains zero" not in text


def test_an_exponent_that_may_be_zero_is_said_to_show_no_fall():
    flat = phosphor(exponent=0.0, noise=0.05)
    flat = flat.assign(error=flat.error / 2, included=True)
    text = study.summary(flat, {"power": study.study_law(flat, "power")})
    assert "contains zero" in text


def test_reading_without_a_committed_table_and_without_runs_gives_nothing(tmp_path):
    committed, own = study.read_runs(tmp_path / "runs.csv", tmp_path / "runs", "nano")
    assert committed.empty
    assert own.empty


def test_only_runs_of_the_scale_on_all_the_data_are_read(tmp_path):
    rows = pd.concat([table(), table().assign(scale="micro"), table().assign(data_scale="2k")])
    rows.to_csv(tmp_path / "runs.csv", index=False)
    committed, _ = study.read_runs(tmp_path / "runs.csv", tmp_path / "runs", "nano")
    assert len(committed) == len(table())


def test_curves_come_with_their_rung_smallest_rung_first(tmp_path):
    lines = pd.DataFrame({"run_id": ["r1", "r0", "r0", "other"], "samples_seen": [1, 1, 2, 1]})
    lines.to_csv(tmp_path / "curves.csv", index=False)
    runs = table().assign(gmacs_per_pair=lambda t: t.rung.map({"XS": 1, "S": 2}))
    curves = study.read_curves(tmp_path / "curves.csv", tmp_path / "runs", runs)
    assert curves[["run_id", "rung"]].to_numpy().tolist() == [
        ["r1", "XS"],
        ["r0", "S"],
        ["r0", "S"],
    ]


# --------------------------------------------------------------------------------- the corpus


def one_set(prefix, role, which, author="A & B"):
    address = f"https://example.org/{prefix}"
    return {
        "prefix": prefix,
        "name": prefix.title(),
        "author": author,
        "author_url": address,
        "licence": "MIT",
        "licence_url": None,
        "corpus": which,
        "role": role,
        "pairs": 1234,
        "version": "1",
    }


def sample(prefix, name, which):
    return {"set": prefix, "name": name, "corpus": which, "licence": "MIT"}


def shard(path, samples):
    with tarfile.open(path, "w") as tar:
        for i, one in enumerate(samples):
            parts = {"png": f"png {one['name']}".encode(), "txt": b"x"}
            for extension, content in {**parts, "json": json.dumps(one).encode()}.items():
                info = tarfile.TarInfo(f"{i:03d}__{one['set']}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return {"path": path.name, "count": len(samples)}


@pytest.fixture
def built(tmp_path):
    """A folder with a manifest, one training and one held-out shard."""
    sets = [
        one_set("zeta", "train", "colour"),
        one_set("alpha", "train", "mono", author="<b>Eve</b>"),
        one_set("beta", "train", "mono"),
        one_set("ph", "test", "mono"),
    ]
    train = [sample(s, f"{s} {i}", c) for i in range(4) for s, c in
             (("alpha", "mono"), ("zeta", "colour"), ("beta", "mono"))]  # fmt: skip
    held_out = [sample("ph", f"test {i}", "mono") for i in range(12)]
    manifest = {
        "schema_version": 1,
        "source": {"package": "p"},
        "renderer": "r",
        "corpus_hash": "h",
        "splits": {"train": 12},
        "data_scales": {"2k": 2000, "all": 12},
        "coverage": {"phosphor": {"2k": 0.236, "all": 1.0}},
        "counts": {"icons_listed": 12345, "new_step": 3},
        "sets": sets,
        "tasks": {
            "phosphor": {"classes": ["a", "b"], "items": 12, "chance": 0.5, "synonyms": {"a": []}}
        },
        "shards": [
            {**shard(tmp_path / "train-000000.tar", train), "split": "train"},
            {**shard(tmp_path / "test-ph-000000.tar", held_out), "split": "test-ph"},
        ],
        "pairs": {"path": "pairs.csv.gz"},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def test_the_summary_is_the_manifest_without_its_bulk(built):
    summary = corpus.read_summary(built, built)
    assert summary["tasks"] == {"phosphor": {"classes": 2, "items": 12, "chance": 0.5}}
    assert "shards" not in summary
    assert "version" not in summary["sets"][0]


def test_the_committed_summary_serves_where_no_corpus_is_built(built, tmp_path):
    clone = tmp_path / "clone"
    (clone / "data").mkdir(parents=True)
    assert corpus.read_summary(clone, clone / "none") is None
    summary = corpus.read_summary(built, built)
    (clone / "data/corpus.json").write_text(json.dumps(summary))
    assert corpus.read_summary(clone, clone / "none") == summary


def test_steps_are_put_in_words_and_unknown_ones_kept(built):
    steps = corpus.counts(corpus.read_summary(built, built))
    assert steps.to_numpy().tolist() == [["icons in the package", "12,345"], ["new step", "3"]]


def test_tasks_say_what_share_of_their_classes_training_names(built):
    (row,) = corpus.tasks(corpus.read_summary(built, built)).to_dict("records")
    assert row == {
        "task": "phosphor", "classes": 2, "items": 12, "chance": 0.5,
        "seen at 2k": "24%", "seen at all": "100%",
    }  # fmt: skip


def test_attribution_names_every_set_and_escapes_what_others_wrote(built):
    summary = corpus.read_summary(built, built)
    assert corpus.attribution(summary).prefix.tolist() == ["alpha", "beta", "ph", "zeta"]
    page = corpus.attribution_html(summary)
    assert page.count("<tr>") == 5
    assert "&lt;b&gt;Eve" in page
    assert '<a href="https://example.org/ph">A &amp; B</a>' in page
    assert "1,234" in page


def test_attribution_links_to_web_addresses_only(built):
    summary = corpus.read_summary(built, built)
    summary["sets"][0]["author_url"] = "javascript:alert(1)"
    assert "javascript" not in corpus.attribution_html(summary)


def test_the_contact_sheet_shows_different_sets_and_spreads_over_held_out_ones(built):
    rows = corpus.contact_sheet(built, per_row=3)
    names = {title: [tile.name for tile in tiles] for title, tiles in rows.items()}
    assert names == {
        "Training, emoji and colour sets": ["zeta 0"],
        "Training, monochrome interface sets": ["alpha 0", "beta 0"],
        "Held out: Ph": ["test 2", "test 6", "test 10"],
    }


def test_every_tile_carries_set_author_licence_and_its_own_picture(built):
    tiles = [t for row in corpus.contact_sheet(built).values() for t in row]
    assert all(t.picture == f"png {t.name}".encode() for t in tiles)
    page = corpus.tiles_html(tiles)
    assert page.count("<img") == page.count('alt="icon named') == len(tiles)
    assert "Alpha, &lt;b&gt;Eve&lt;/b&gt;, MIT" in page


def test_there_is_no_contact_sheet_where_no_corpus_is_built(tmp_path):
    assert corpus.contact_sheet(tmp_path) == {}


def test_the_committed_summary_is_that_of_the_built_corpus(corpus_built):
    """After a change of the corpus: `python -m cliplib book corpus`."""
    built = corpus_built.manifest
    committed = json.loads((ROOT / "book/data/corpus.json").read_text())
    assert committed == corpus.corpus_summary(built)


def test_the_budget_table_names_the_rung_with_the_least_error():
    rows = [("XS", 600.1, 0.5), ("XXS", 599.8, 0.4), ("S", 1200.0, 0.3)]
    table = study.budget_table(pd.DataFrame(rows, columns=["rung", "compute_gmac", "error"]))
    assert list(table.columns) == ["compute (GMAC)", "XXS", "XS", "S", "least error"]
    assert table.iloc[0].tolist() == [600, 0.4, 0.5, "", "XXS"]
    assert table.iloc[1].tolist() == [1200, "", "", 0.3, ""]


def test_too_few_runs_are_said_in_words():
    runs = pd.DataFrame(
        {"included": [False] * 9, "guessing": 0.95, "compute_gmac": 1.0, "error": 0.9}
    )
    assert (
        study.study_law(runs, "power")
        == "0 runs are too few to resample for an interval (at least 5)"
    )


def test_the_tables_of_the_largest_run_follow_from_the_committed_study():
    committed, _ = study.read_runs(ROOT / "book/data/runs.csv", ROOT / "no runs", "nano")
    tasks, near = study.task_table(committed), study.similarity_table(committed)
    assert {"phosphor", "emoji-flat", "game-icons"} <= set(tasks.task)
    assert (tasks["with synonyms"] >= tasks["top-1"]).all() and (
        tasks["top-5"] >= tasks["top-1"]
    ).all()
    whole = tasks.loc[tasks.task == "phosphor", "items"].item()
    bins = near[near.similarity.str.contains("to")]
    assert bins["items"].sum() == whole and (bins["from"] <= bins.error).all()
