import csv
import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cliplib import InputError, ladder, rungs
from cliplib.ladder import RunSpec, gmacs, model_config, params, run_spec, rung, scale

PUBLISHED = Path(__file__).parents[1] / "book" / "data" / "published"
PAPER_RUNGS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "ViT-g-14", "ViT-G-14")
SMALL_GRIDS = ("smoke", "nano", "micro", "gpu")


def rows(table):
    with (PUBLISHED / f"{table}.csv").open() as lines:
        return list(csv.DictReader(lines))


# -------------------------------------------------------------- against the published architectures


@pytest.mark.parametrize("row", rows("architectures"), ids=lambda row: row["arch"])
def test_published_architecture(row):
    r = rung(row["arch"])
    ours = {
        "params_m": params(r) / 1e6,
        "image_params_m": ladder.image_params(r) / 1e6,
        "text_params_m": ladder.text_params(r) / 1e6,
        "gmacs_per_sample": gmacs(r),
        "image_gmacs": ladder.image_gmacs(r),
        "text_gmacs": ladder.text_gmacs(r),
    }
    # Every printed digit: two decimals, so half of the last one (and rounding noise) is allowed.
    assert ours == pytest.approx({name: float(row[name]) for name in ours}, rel=0, abs=0.00501)


@pytest.mark.parametrize("row", rows("architectures"), ids=lambda row: row["arch"])
def test_published_dimensions(row):
    r = rung(row["arch"])
    ours = {"image_px": r.image_px, "embed_dim": r.embed_dim, "text_width": r.text.width}
    ours |= {"text_layers": r.text.layers, "text_heads": r.text.heads}
    ours |= {"context_length": r.context_length, "patch_px": r.patch_px}
    if isinstance(r.vision, ladder.Tower):
        ours |= {"vision_width": r.vision.width, "vision_layers": r.vision.layers}
        ours |= {"vision_heads": r.vision.heads, "vision_mlp_ratio": r.vision.mlp_ratio}
    printed = {name: row[name] for name in ours if row[name]}  # the -336 rows leave some blank
    assert {name: float(ours[name]) for name in printed} == {
        k: float(v) for k, v in printed.items()
    }


def test_every_published_architecture_is_a_rung():
    assert set(ladder.PUBLISHED_RUNGS) == {row["arch"] for row in rows("architectures")}


# ------------------------------------------------------------------------------- against open_clip


def on_meta(config):
    import open_clip
    import torch

    with torch.device("meta"):
        return open_clip.CLIP(**config)


def shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    "name", [*ladder.CPU_RUNGS, *ladder.PHOTO_RUNGS, *PAPER_RUNGS, "ViT-M-16-alt", "RN50x4"]
)
def test_open_clip_builds_the_same_number_of_parameters(name):
    model = on_meta(model_config(name))
    assert sum(p.numel() for p in model.parameters()) == params(name)
    tables = [model.token_embedding.weight, model.positional_embedding]
    image = model.visual if hasattr(model.visual, "positional_embedding") else model.visual.attnpool
    tables.append(image.positional_embedding)
    assert params(name) - sum(p.numel() for p in tables) == ladder.params_non_embedding(name)


@pytest.mark.parametrize("name", [*PAPER_RUNGS, "ViT-M-16-alt", "RN50"])
def test_paper_rung_has_the_weights_of_open_clips_model(name):
    import open_clip

    theirs = open_clip.get_model_config({"ViT-G-14": "ViT-bigG-14"}.get(name, name))
    assert shapes(on_meta(model_config(name))) == shapes(on_meta(theirs))


@pytest.mark.parametrize("name", ["XXS", "S", "XS-4", "L"])
def test_macs_of_miniature_agree_with_torchs_counter(name, monkeypatch):
    import open_clip
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = open_clip.CLIP(**model_config(name))
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # the fused kernel of the CPU goes uncounted
        model.encode_image(torch.zeros(1, 3, rung(name).image_px, rung(name).image_px))
        model.encode_text(torch.full((1, ladder.CONTEXT_LENGTH), ladder.EOS_ID))
    monkeypatch.setattr(rungs, "LAYERNORM_OPS", 0)  # torch counts products only
    assert counter.get_total_flops() == pytest.approx(ladder.flops(name, "forward"), rel=1e-12)


def test_the_last_word_reaches_the_text_embedding():
    import open_clip
    import torch

    torch.manual_seed(0)
    model = open_clip.CLIP(**model_config("XXS"))
    tokens = torch.zeros(2, ladder.CONTEXT_LENGTH, dtype=torch.long)
    tokens[0, :4] = torch.tensor([1, 900, 70, ladder.EOS_ID])
    tokens[1, :4] = torch.tensor([1, 900, 71, ladder.EOS_ID])
    one, other = model.encode_text(tokens, normalize=True).detach()
    assert float(one @ other) < 0.999


def test_configs_survive_json():
    for name in ladder.RUNGS:
        assert json.loads(json.dumps(model_config(name))) == model_config(name)


# ------------------------------------------------------------------------------------------- rungs


def test_miniature_ladder_climbs_from_well_under_a_million_to_some_ten_million():
    for line in ("", "-4"):
        sizes = [params(name + line) for name in ("XXS", "XS", "S", "M", "L", "XL")]
        assert sizes == sorted(sizes)
        assert sizes[0] < 250_000 and 1e7 < sizes[-1] < 2e7


@pytest.mark.parametrize("name", ["XXS", "XS", "S", "M", "L", "XL"])
def test_patch_4_line_has_the_towers_of_the_patch_8_line(name):
    fine, coarse = rung(f"{name}-4"), rung(name)
    assert (fine.vision, fine.text) == (coarse.vision, coarse.text)
    assert (fine.patch_px, coarse.patch_px) == (4, 8)
    assert gmacs(fine) > 2.5 * gmacs(coarse)


def test_photo_ladder_is_the_miniatures_rule_with_wider_heads():
    photo = list(ladder.PHOTO_RUNGS.values())
    assert [params(r) for r in photo] == sorted(params(r) for r in photo)
    assert 30 < gmacs(photo[-1]) / gmacs(photo[0]) < 100
    for r in photo:
        twin = next(c for c in ladder.CPU_RUNGS.values() if c.vision.heads == r.vision.heads)
        assert r.vision == dataclasses.replace(twin.vision, width=2 * twin.vision.width)
        assert r.text == dataclasses.replace(twin.text, width=2 * twin.text.width)
        assert (r.image_px, r.patch_px, r.context_length, r.vocab_size) == (112, 16, 32, 49_408)
        assert (
            "eos_id" not in model_config(r)["text_cfg"]
        )  # CLIP's own end of text is its largest id


def test_heads_divide_widths_and_patches_divide_images():
    for r in ladder.RUNGS.values():
        towers = [t for t in (r.vision, r.text) if isinstance(t, ladder.Tower)]
        assert all(tower.width % tower.heads == 0 for tower in towers)
        assert r.image_px % (r.patch_px or 32) == 0


def test_shorter_context_costs_less_text_and_the_same_image():
    full = rung("S")
    short = dataclasses.replace(full, context_length=8)
    assert ladder.text_gmacs(short) < 0.51 * ladder.text_gmacs(full)
    assert ladder.image_gmacs(short) == ladder.image_gmacs(full)


def test_flop_conventions():
    macs = gmacs("ViT-H-14") * 1e9
    assert ladder.flops("ViT-H-14") == ladder.flops("ViT-H-14", "forward_macs") == macs
    assert ladder.flops("ViT-H-14", "forward") == 2 * macs
    assert ladder.flops("ViT-H-14", "training") == pytest.approx(6 * macs, rel=1e-12)
    with pytest.raises(InputError, match="forward_macs"):
        ladder.flops("ViT-H-14", "tflops")


@pytest.mark.parametrize("name", ["ViT-X-99", "", 8, ["S"]])
def test_unknown_rung_lists_the_known(name):
    with pytest.raises(InputError, match=r"known: XXS, XS.*ViT-B-32"):
        rung(name)


# ------------------------------------------------------------------------------------------ scales


@pytest.mark.parametrize("name", ladder.SCALES)
def test_scale_is_made_of_distinct_runs_with_safe_ids(name):
    ids = [run.run_id for run in scale(name)]
    assert len({run_id.lower() for run_id in ids}) == len(ids) > 0
    assert all(re.fullmatch(r"[A-Za-z0-9.-]{1,80}", run_id) for run_id in ids)
    # Runs of a scale follow its recipe, so no id names a departure from it.
    assert all(run_id.endswith(f"-s{run.seed}") for run_id, run in zip(ids, scale(name)))


@pytest.mark.parametrize("name", SMALL_GRIDS)
def test_runs_lie_on_iso_compute_diagonals(name):
    budgets = {b for arm in rungs.TABLE["scales"][name]["arms"] for b in arm["budgets"]}
    for run in scale(name):
        nearest = min(budgets, key=lambda budget: abs(math.log(budget / run.compute)))
        assert abs(run.compute - nearest) <= 0.5001 * run.batch_size * gmacs(run.rung)
        assert run.samples_seen % run.batch_size == 0


@pytest.mark.parametrize("name", SMALL_GRIDS)
def test_scale_shares_everything_but_the_learning_rate_of_the_rung(name):
    runs = scale(name)
    assert len({(r.batch_size, r.warmup_fraction, r.weight_decay) for r in runs}) == 1
    assert all(r.lr == run_spec(name, r.rung, r.samples_seen).lr for r in runs)


def test_nano_is_large_enough_to_show_a_fall_of_error():
    runs = scale("nano")
    assert len(runs) >= 9 and len({run.rung for run in runs}) == 3
    assert runs[-1].compute / runs[0].compute >= 30
    assert min(run.samples_seen for run in runs) >= 65_000
    assert max(run.samples_seen for run in runs) >= 262_144


@pytest.mark.parametrize("name", ["nano", "micro", "gpu"])
def test_frontier_can_change_rung(name):
    """Two budgets or more are run by at least two rungs each."""
    by_budget = {}
    for run in scale(name):
        by_budget.setdefault(round(math.log(run.compute), 1), set()).add(run.rung)
    assert sum(len(names) >= 2 for names in by_budget.values()) >= 2


def test_micro_has_data_corpus_and_seed_arms():
    runs = scale("micro")
    assert {run.data_scale for run in runs} == {"2k", "8k", "32k", "all"}
    assert {run.corpus for run in runs} == {"all", "colour", "mono"}
    assert {run.seed for run in runs} == {0, 1, 2}
    main = [r for r in runs if (r.data_scale, r.corpus, r.seed) == ("all", "all", 0)]
    assert {rung(r.rung).patch_px for r in main} == {4, 8}


def test_gpu_is_an_evening_on_the_users_own_photographs():
    runs = scale("gpu")
    assert {(run.corpus, run.data_scale) for run in runs} == {("shards", "all")}
    assert {run.rung for run in runs} == set(ladder.PHOTO_RUNGS)
    assert max(run.samples_seen for run in runs) <= 7 * 3_000_000  # passes over 3 million pairs
    by_budget = {}
    for run in runs:
        by_budget.setdefault(round(math.log10(run.compute), 2), []).append(run)
    assert 6 <= len(by_budget) <= 7 and runs[-1].compute / runs[0].compute > 200


def test_photo_learning_rates_follow_their_rule():
    for name, r in ladder.PHOTO_RUNGS.items():
        assert ladder.LEARNING_RATES[name] == float(f"{1e-3 * math.sqrt(256 / r.text.width):.2g}")


def test_smoke_is_a_handful_of_short_runs_of_the_smallest_rung():
    runs = scale("smoke")
    smallest = min(ladder.CPU_RUNGS.values(), key=params).name.removesuffix("-4")
    assert 2 <= len(runs) <= 3 and {run.rung for run in runs} == {smallest}
    assert sum(run.samples_seen for run in runs) < 50_000


def test_paper_scale_is_the_29_published_runs():
    ours = {(run.rung, run.data_scale, run.samples_seen): run for run in scale("paper")}
    printed = [row for row in rows("pretraining_runs") if row["family"] == "OpenCLIP"]
    assert len(scale("paper")) == len(ours) == len(printed) == 29
    for row in printed:
        samples = int(float(row["samples_seen_training"]))
        run = ours[row["arch"], row["data"].removeprefix("LAION-"), samples]
        assert (run.lr, run.batch_size) == (float(row["lr"]), int(row["global_batch"]))
        assert run.compute == pytest.approx(float(row["gmacs_total_training"]), rel=1e-3)
        warmup_steps = run.warmup_fraction * samples / run.batch_size
        assert warmup_steps == pytest.approx(int(row["warmup_steps"]))
        assert (run.corpus, run.weight_decay) == ("laion", 0.2)


def test_unknown_scale_lists_the_known():
    with pytest.raises(InputError, match="known: smoke, nano, micro, gpu, paper"):
        scale("huge")


# -------------------------------------------------------------------------------------------- runs


@pytest.fixture
def fields():
    return run_spec("nano", "S", 131_072).to_dict()


def test_run_survives_json(fields):
    spec = RunSpec.from_dict(json.loads(json.dumps(fields)))
    assert spec == run_spec("nano", "S", 131_072)
    assert spec.compute == gmacs("S") * 131_072


def test_run_takes_numpys_numbers_as_plain_ones():
    spec = run_spec("nano", "S", np.int64(131_072), seed=np.int32(1), lr=np.float64(0.5))
    assert json.loads(json.dumps(spec.to_dict())) == spec.to_dict()


def test_every_field_tells_runs_apart(fields):
    other = {
        "scale": "micro", "rung": "M", "data_scale": "8k", "corpus": "mono",
        "samples_seen": 131_073, "seed": 1, "batch_size": 64, "lr": 0.00123,
        "warmup_fraction": 0.2, "weight_decay": 0.0,
    }  # fmt: skip
    assert set(other) == set(fields)
    ids = {RunSpec.from_dict({**fields, name: value}).run_id for name, value in other.items()}
    assert len(ids | {RunSpec.from_dict(fields).run_id}) == len(other) + 1


def test_unknown_key_raises(fields):
    with pytest.raises(InputError, match=r"unknown learning_rate; known: .*\blr\b"):
        RunSpec.from_dict({**fields, "learning_rate": 1e-3})
    with pytest.raises(InputError, match="unknown warmup"):
        run_spec("nano", "S", 131_072, warmup=0.1)


def test_missing_key_raises(fields):
    del fields["seed"]
    with pytest.raises(InputError, match="lacks seed"):
        RunSpec.from_dict(fields)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("scale", "mega", "unknown scale 'mega'; known: smoke"),
        ("rung", "ViT-B-33", "unknown rung"),
        ("corpus", "color", "unknown corpus 'color'; known: all, colour, mono"),
        ("data_scale", "4k", "unknown data scale of corpus all '4k'; known: 2k"),
        ("data_scale", "400M", "unknown data scale of corpus all"),
        ("samples_seen", 131072.0, "samples_seen must be of type int"),
        ("samples_seen", "131072", "samples_seen must be of type int"),
        ("samples_seen", 100, "at least 128"),
        ("seed", -1, "seed"),
        ("seed", True, "seed must be of type int"),
        ("batch_size", 1, "batch_size"),
        ("lr", 0.0, "lr"),
        ("lr", math.nan, "lr"),
        ("lr", math.inf, "lr"),
        ("lr", "1e-3", "lr must be of type float"),
        ("warmup_fraction", 1.0, "below 1"),
        ("weight_decay", -0.1, "weight_decay"),
        ("rung", ["S"], "rung must be of type str"),
    ],
)
def test_bad_run_is_refused_in_one_line(fields, name, value, says):
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        RunSpec.from_dict({**fields, name: value})
    assert "\n" not in str(caught.value)
    if name in ("scale", "rung", "samples_seen", "data_scale", "corpus", "seed"):
        asked = {"scale": "nano", "rung": "S", "samples_seen": 131_072, name: value}
        with pytest.raises(InputError):
            run_spec(**asked)


def test_the_users_own_shards_have_no_subsets():
    with pytest.raises(InputError, match="unknown data scale of corpus shards '8k'; known: all"):
        run_spec("gpu", "P-S", 2_048_000, data_scale="8k", corpus="shards")


def test_rung_without_a_recipe_asks_for_one():
    with pytest.raises(InputError, match="lacks lr"):
        run_spec("gpu", "ViT-S-32", 1_000_000)
    assert run_spec("gpu", "ViT-S-32", 1_000_000, lr=5e-4).run_id.endswith("-lr0.0005")


def test_import_leaves_heavy_libraries_alone():
    heavy = "{'torch', 'pandas', 'numpy'}"
    check = f"import sys, cliplib.ladder; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
