"""Every printed number beside ours, the audit, the claims."""

import math
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")

from cliplib import InputError, published
from cliplib.paper import audit as paper_audit
from cliplib.paper import claims as paper_claims
from cliplib.paper import printed as paper_printed
from cliplib.paper.entries import entries_html


@pytest.fixture(scope="module")
def ours():
    return paper_printed.computed()


@pytest.fixture(scope="module")
def table(ours):
    return paper_printed.compare(paper_printed.printed(), ours)


# ---------------------------------------------------------------------------- the committed table


def test_the_committed_table_is_what_the_code_makes(tmp_path):
    paper_printed.main(["--out", str(tmp_path / "again.csv")])
    again, committed = (pd.read_csv(p) for p in (tmp_path / "again.csv", paper_printed.OUT))
    pd.testing.assert_frame_equal(again, committed, rtol=1e-6)


def test_no_value_of_ours_is_for_a_number_that_is_not_printed(ours):
    known = set(paper_printed.printed()["id"])
    spare = {key for key in ours if key not in known}
    # whole families are computed at once; what the paper does not print of them is left over
    families = ("prediction:", "text prediction:", "architecture:")
    assert {key for key in spare if not key.startswith(families)} == set()


def test_every_printed_number_has_its_place_source_and_tolerance():
    rows = paper_printed.printed()
    assert rows["id"].is_unique
    assert not rows.isna().any(axis=None)
    assert set(rows["relation"]) <= set(paper_printed.RELATIONS)
    assert set(rows["source"]) <= set(published.sources()["source"])
    for text, half in zip(rows["printed"], rows["rounding"], strict=True):
        decimals = len(text.partition(".")[2])
        assert half == pytest.approx(0.5 * 10**-decimals)


def test_the_sheet_is_long_enough_and_most_of_it_can_be_checked(table):
    assert len(table) >= 60
    assert (table["verdict"] != "not checkable here").mean() > 0.8


# -------------------------------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("start", "n"),
    [
        ("alpha:", 8),
        ("mae:", 2),
        ("headline:", 9),
        ("gain:", 4),
        ("architecture:", 12),
        ("bill:", 2),
    ],
)
def test_these_numbers_of_the_paper_come_out(table, start, n):
    some = table[table["id"].str.startswith(start)]
    assert len(some) == n
    assert set(some["verdict"]) <= {"agrees", "rounds"}


def test_the_typo_is_a_slip_and_the_only_prediction_that_is_off(table):
    off = table[
        table["id"].str.contains("prediction") & (table["difference"].abs() > table["tolerance"])
    ]
    assert list(off["id"]) == ["prediction:mscoco_captions:ViT-H-14:68B"]
    assert off["verdict"].item() == "slip"
    assert off["difference"].item() == pytest.approx(-0.0694, abs=1e-4)


def one(printed, ours, relation="=", rounding=0.05):
    row = {"id": "x", "where": "", "what": "", "printed": printed, "unit": "", "relation": relation}
    rows = pd.DataFrame([row | {"rounding": rounding, "source": "paper"}])
    return paper_printed.compare(rows, {} if ours is None else {"x": (ours, "")})["verdict"].item()


@pytest.mark.parametrize(
    ("printed", "ours", "relation", "verdict"),
    [
        ("1.5", 1.5, "=", "agrees"),
        ("1.5", 1.549, "=", "rounds"),
        ("1.5", 1.551, "=", "differs"),
        ("1,024.0", 1024, "=", "agrees"),
        ("1.5", 9.0, ">=", "agrees"),
        ("1.5", 1.4, ">=", "differs"),
        ("1.5", 1.2, "<=", "agrees"),
        ("1.5", None, "=", "not checkable here"),
    ],
)
def test_a_verdict_follows_the_rule(printed, ours, relation, verdict):
    assert one(printed, ours, relation) == verdict


def test_a_printed_value_whose_gain_agrees_with_it_is_no_slip(ours):
    rows = paper_printed.printed()
    wrong = "prediction:mscoco_captions:ViT-H-14:68B"
    rows.loc[rows["id"] == "gain:mscoco_captions:ViT-H-14:68B", "printed"] = "1.67"
    found = paper_printed.compare(rows, ours).set_index("id")["verdict"]
    assert found[wrong] == "differs"


def test_an_id_twice_is_refused(ours):
    rows = paper_printed.printed()
    with pytest.raises(InputError, match="twice"):
        paper_printed.compare(pd.concat([rows, rows.tail(1)]), ours)


def test_totals_are_sums_over_the_runs(ours):
    runs = published.pretraining_runs().query("family == 'OpenCLIP'")
    assert ours["bill:gpu_hours"][0] == pytest.approx(runs["gpu_hours"].sum(), rel=1e-6)
    assert ours["bill:mwh"][0] == pytest.approx(runs["energy_mwh_at_350w"].sum(), rel=1e-4)


def test_the_pairs_of_controls_have_the_same_architecture_and_data():
    extra = published.extra_control_runs().drop_duplicates("model_id")
    assert len(paper_printed.control_pairs()) == 4
    assert {"ViT-B-32", "ViT-L-14"} <= set(extra["arch"])
    effect = paper_printed.control_pairs().set_index("run")["effect"]
    assert effect["B-32/LAION-400M/13B"] == pytest.approx(63.228 - 62.918, abs=2e-3)
    assert effect["B-32/LAION-400M/3B"] == pytest.approx(57.12 - 58.16, abs=2e-2)


def test_readers_see_all_rows_with_digits_to_judge_by(table):
    shown = paper_printed.for_readers(table)
    assert len(shown) == len(table)
    alpha = shown[shown["what"].str.startswith("exponent")].iloc[0]
    assert alpha["ours"] == "-0.1114"


# ------------------------------------------------------------------------------------- the audit


@pytest.fixture(scope="module")
def audit():
    return paper_audit.findings()


def test_every_finding_has_evidence_with_a_number_and_a_chapter(audit):
    assert audit["id"].is_unique
    assert set(audit["severity"]) == set(paper_audit.SEVERITIES)
    assert audit["evidence"].str.contains(r"\d").all()
    folder = published.FOLDER.parents[1] / "paper"
    assert [c for c in set(audit["chapter"]) if not (folder / f"{c}.md").is_file()] == []


def test_every_finding_is_shown_once(audit):
    shown = "".join(paper_audit.for_readers(audit, severity) for severity in paper_audit.SEVERITIES)
    assert sorted(re.findall(r"<strong>([AB]\d+)\.", shown)) == sorted(audit["id"])
    assert shown.count("Evidence:") == len(audit)


def test_entries_escape_what_they_show():
    row = {"id": "1", "claim": "a < b", "verdict": "", "chapter": "figure1"}
    shown = entries_html(pd.DataFrame([row]), "claim", {"verdict": "Verdict"})
    assert "A &lt; b" in shown
    assert "Verdict" not in shown
    assert 'href="figure1.html"' in shown


def test_the_frontier_table_has_the_published_exponent_and_prediction_first():
    first = paper_audit.promises().iloc[0]
    assert first["alpha"] == pytest.approx(-0.111388, abs=1e-6)
    assert round(first["pct"], 2) == 81.92


def test_the_probed_model_at_240_pixels_stands_at_the_compute_of_224():
    assert "28.41" in paper_audit.wrong_resolution()
    assert "32.05" in paper_audit.wrong_resolution()


def test_bins_do_not_give_the_probe_coefficients_and_all_points_do():
    assert "14 of 14" in paper_audit.probe_lines()
    assert "0 of OpenCLIP's 7" in paper_audit.probe_lines()


# ------------------------------------------------------------------------------------- the claims


def test_every_claim_names_a_function_a_verdict_and_a_chapter():
    rows = pd.read_csv(paper_claims.TABLE)
    folder = published.FOLDER.parents[1] / "paper"
    assert 10 <= len(rows) <= 14
    assert set(rows["verdict"]) <= set(paper_claims.VERDICTS)
    assert all(callable(getattr(paper_claims, name)) for name in rows["evidence"])
    assert [c for c in set(rows["chapter"]) if not (folder / f"{c}.md").is_file()] == []


def test_the_evidence_for_the_law_holds_an_interval_for_each_test():
    text = paper_claims.power_law(n=200)
    assert text.count(" to ") == 4
    assert "29 runs" in text


def test_a_difference_in_level_is_not_one_in_slope():
    text = paper_claims.retrieval_slopes()
    assert "19% higher" in text
    assert "p below" not in text


def test_verdicts_add_up():
    rows = pd.read_csv(paper_claims.TABLE)
    counts = paper_claims.counts(rows)
    assert counts["claims"].sum() == len(rows)
    assert not math.isnan(np.float64(counts["claims"].iloc[0]))
