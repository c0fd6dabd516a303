"""Fine-tuning on one task: who learns how fast, who chooses, what is left, what is refused."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluate_things import small_model
from finetune_things import (
    CLASSES,
    ONE,
    SHORT,
    assert_equal_weights,
    part,
    quiet,
    splits,
    tuned_weights,
    with_test,
)

from cliplib import InputError
from cliplib.evaluate.features import network_input
from cliplib.evaluate.metrics import task_rows
from cliplib.evaluate.outcomes import unpack
from cliplib.evaluate.tasks import Splits
from cliplib.finetune import results, training
from cliplib.finetune.course import courses_of
from cliplib.finetune.learner import Learner, linear_head, parameter_groups
from cliplib.finetune.pictures import Album, batches_of_epoch, shifted
from cliplib.finetune.recipe import Recipe, Setting, joint_lr, settings_of, usual_settings
from cliplib.finetune.run import finetune
from cliplib.finetune.stages import settings_for
from cliplib.finetune.towers import ImageTower, layer_scales, tower_of, width_of
from cliplib.finetune.workshop import Progress
from cliplib.pretrained.opening import open_model
from cliplib.train import Diverged


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "xxs")


@pytest.fixture(scope="module")
def timm_tower():
    return open_model("timm:vit_tiny_patch16_224", random=True, precision="fp32", image_px=32)


def run_course(opened, folder, settings=ONE, stop=None, **changes):
    """One training, without a record around it."""
    (course,) = courses_of("direct", splits(), replace(SHORT, **changes), settings)
    return training.train(course, opened, Album(opened), folder, Progress("", 1, quiet), stop)


# ------------------------------------------------------------------------------- who learns how fast


def test_a_layer_learns_slower_the_deeper_it_lies(opened):
    scales = layer_scales(tower_of(opened), 0.5)
    blocks = len(opened.model.visual.transformer.resblocks)

    assert scales["body.conv1.weight"] == 0.5 ** (blocks + 1)
    assert scales["body.positional_embedding"] == 0.5 ** (blocks + 1)
    assert scales["body.transformer.resblocks.0.mlp.c_fc.weight"] == 0.5**blocks
    assert scales[f"body.transformer.resblocks.{blocks - 1}.ln_1.bias"] == 0.5
    assert scales["body.proj"] == scales["body.ln_post.weight"] == 0.5
    assert scales.keys() == {name for name, _ in tower_of(opened).named_parameters()}


def test_open_clips_tower_decays_as_timms_of_equal_depth(timm_tower):
    import timm
    import timm.optim
    from open_clip.transformer import VisionTransformer

    whole = timm.create_model("vit_tiny_patch16_224", num_classes=5)  # with a head, as timm has it
    groups = timm.optim.param_groups_layer_decay(whole, layer_decay=0.7)
    names = {id(p): name for name, p in whole.named_parameters()}
    theirs = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    head = theirs["head.weight"]
    ours = layer_scales(tower_of(timm_tower), 0.7)
    assert head == 1
    assert ours == {f"body.{n}": s for n, s in theirs.items() if not n.startswith("head.")}

    same_depth = VisionTransformer(32, 16, 192, 12, 3, 4.0, output_dim=16)
    clips = layer_scales(ImageTower(same_depth, "open_clip"), 0.7)
    for block in range(12):
        ours_of_block = clips[f"body.transformer.resblocks.{block}.ln_1.weight"]
        assert ours_of_block == pytest.approx(theirs[f"blocks.{block}.norm1.weight"])
    assert clips["body.conv1.weight"] == pytest.approx(theirs["patch_embed.proj.weight"])
    assert clips["body.ln_post.weight"] == pytest.approx(theirs["norm.weight"])


def test_the_head_learns_at_the_full_rate_and_biases_do_not_decay(opened):
    learner = Learner(tower_of(opened), [linear_head(4, 3)])
    groups = parameter_groups(learner, Setting(1e-3, 0.5), weight_decay=0.1)
    of = {id(p): group for group in groups for p in group["params"]}

    head = learner.heads[0]
    assert (of[id(head.weight)]["lr_scale"], of[id(head.weight)]["weight_decay"]) == (1.0, 0.1)
    assert (of[id(head.bias)]["lr_scale"], of[id(head.bias)]["weight_decay"]) == (1.0, 0.0)
    assert {id(p) for p in learner.parameters()} == of.keys()
    for group in groups:
        assert all((group["weight_decay"] > 0) == (p.ndim >= 2) for p in group["params"])


def test_a_tower_without_a_known_order_of_layers_has_no_layer_decay(opened):
    from open_clip.modified_resnet import ModifiedResNet

    resnet = ModifiedResNet((1, 1, 1, 1), output_dim=16, heads=8, image_size=32, width=16).eval()
    clip = replace(opened, model=torch.nn.Module())
    clip.model.visual = resnet

    settings, about = settings_for(clip, [Setting(1e-3, 0.65), Setting(1e-3), Setting(1e-2, 0.65)])

    assert settings == (Setting(1e-3), Setting(1e-2))
    assert about["layers"] == "none: no order of layers is known for ModifiedResNet"


def test_usual_learning_rates_are_the_papers_at_its_widths():
    assert usual_settings(512)[1] == Setting(1.1e-3, 0.65)  # ViT-B/32: 1e-3
    assert joint_lr(640) == pytest.approx(1e-5, rel=0.1)
    assert settings_of((1e-4,), (1.0, 0.5), 64) == (Setting(1e-4), Setting(1e-4, 0.5))


# ------------------------------------------------------------------------------------------ pictures


def test_every_image_is_once_in_an_epoch_and_epochs_differ():
    first, again, second = (batches_of_epoch(50, 16, 3, epoch) for epoch in (0, 0, 1))
    assert sorted(np.concatenate(first)) == list(range(50))
    assert [len(lot) for lot in first] == [16, 16, 16, 2]
    assert all((a == b).all() for a, b in zip(first, again))
    assert (np.concatenate(first) != np.concatenate(second)).any()


def test_a_picture_moves_by_two_pixels_at_most_and_repeats_its_edge():
    picture = np.zeros((200, 32, 32, 3), np.uint8)
    picture[:, 16, 16] = 255
    rows, columns = np.nonzero(shifted(picture, 1 / 16, (0,))[..., 0])[1:]
    assert set(rows) == set(columns) == {14, 15, 16, 17, 18}
    assert (shifted(np.full((9, 32, 32, 3), 7, np.uint8), 1 / 16, (0,)) == 7).all()
    assert shifted(picture, 0.0, (0,)) is picture


def test_pictures_that_do_not_fit_are_decoded_each_time_with_the_same_result(opened, tmp_path):
    kept = finetune(opened, splits(), tmp_path / "kept", recipe=SHORT, say=quiet)
    read = finetune(opened, splits(), tmp_path / "read", recipe=SHORT, say=quiet, in_memory=0)

    assert kept["metrics"] == read["metrics"]
    assert_equal_weights(tuned_weights(tmp_path / "kept"), tuned_weights(tmp_path / "read"))


# ------------------------------------------------------------------------------------ who chooses


def test_validation_chooses_and_test_is_not_asked(opened, tmp_path):
    grid = (Setting(1e-5), Setting(3e-3, 0.65), Setting(1e-2))
    recipe = replace(SHORT, epochs=4, settings=grid)
    honest = finetune(opened, splits(), tmp_path / "honest", recipe=recipe, say=quiet)
    wrong = (splits().test.labels + 1) % len(CLASSES)
    poisoned = finetune(
        opened, with_test(splits(), labels=wrong), tmp_path / "poisoned", recipe=recipe, say=quiet
    )

    direct = honest["stages"]["direct"]
    vals = [setting["val"][0] for setting in direct["settings"]]
    best = direct["settings"][int(np.argmax(vals))]
    assert len(set(vals)) > 1
    assert direct["chosen"] == {"lr": best["lr"], "layer_decay": best["layer_decay"]}
    assert poisoned["stages"]["direct"]["chosen"] == direct["chosen"]
    assert_equal_weights(tuned_weights(tmp_path / "honest"), tuned_weights(tmp_path / "poisoned"))
    assert honest["metrics"][0]["value"] > 0.5 > poisoned["metrics"][0]["value"]


def test_a_setting_that_diverges_is_out_and_the_record_says_so(opened, tmp_path, monkeypatch):
    usual = training.F.cross_entropy

    def fails_at_low_rates(logits, truth, **how):
        return usual(logits, truth, **how) * (float("nan") if failing else 1.0)

    monkeypatch.setattr(training.F, "cross_entropy", fails_at_low_rates)
    failing = True
    with pytest.raises(
        Diverged, match=r"no setting went through: direct, lr 0.003.*step 1: loss nan"
    ):
        finetune(opened, splits(), tmp_path / "all", recipe=SHORT, say=quiet)

    step = training._Training._learn

    def learn(self, *batch):
        nonlocal failing
        failing = self.course.setting.lr == 1e-2 and self.step == 2
        step(self, *batch)

    monkeypatch.setattr(training._Training, "_learn", learn)
    torch.set_num_threads(1)
    recipe = replace(SHORT, settings=(Setting(1e-2), Setting(1e-3)))
    record = finetune(opened, splits(), tmp_path / "one", recipe=recipe, say=quiet)
    lost, kept = record["stages"]["direct"]["settings"]
    assert (lost["val"], lost["steps"]) == (None, 2)
    assert "step 3: loss nan" in lost["stopped"]
    assert record["stages"]["direct"]["chosen"]["lr"] == kept["lr"] == 1e-3


def test_a_loss_that_is_no_number_stops_before_the_optimiser_steps(opened, tmp_path, monkeypatch):
    (course,) = courses_of("direct", splits(), SHORT, ONE)
    album, progress = Album(opened), Progress("", 1, quiet)
    one = training._Training(course, opened, album, tmp_path, progress, stop=None)
    before = {name: value.clone() for name, value in one.learner.state_dict().items()}
    monkeypatch.setattr(training.F, "cross_entropy", lambda x, y, **how: x.sum() * float("inf"))

    with pytest.raises(Diverged, match="lower the learning rate"):
        one._learn(0, splits().train.images.array[:4], splits().train.labels[:4])

    assert one.step == 0
    assert_equal_weights(before, one.learner.state_dict())


# ------------------------------------------------------------------------------- stopping, going on


class StopAt:
    """Set once it has been asked so many times: the training then saves and stops."""

    def __init__(self, asked):
        self.left = asked

    def is_set(self):
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("steps", [1, 4])
def test_an_interrupted_training_ends_with_the_same_weights(opened, tmp_path, steps):
    whole = run_course(opened, tmp_path / "whole")
    with pytest.raises(training.Stopped):
        run_course(opened, tmp_path / "cut", stop=StopAt(2 * steps - 1))
    assert not (tmp_path / "cut" / training.FINISHED).exists()
    assert list((tmp_path / "cut" / "checkpoint" / "resume").iterdir())

    cut = run_course(opened, tmp_path / "cut")

    assert_equal_weights(whole.tensors(), cut.tensors())
    assert {**whole.result, "seconds": 0} == {**cut.result, "seconds": 0}


def test_a_killed_call_goes_on_and_ends_with_the_same_weights(opened, tmp_path):
    recipe = replace(SHORT, epochs=6, settings=(Setting(3e-3, 0.65), Setting(1e-3)))
    script = f"""
        import sys, time
        sys.path[:0] = [{str(Path(__file__).parent)!r}]
        from finetune_things import splits
        from cliplib.finetune import training
        from cliplib.finetune.recipe import Recipe, Setting
        from cliplib.finetune.run import finetune
        from cliplib.pretrained.opening import open_model
        slow = training._Training._point
        def point(self):
            slow(self)
            time.sleep(0.3)  # so that there is time to be killed in
        training._Training._point = point
        opened = open_model({opened.name!r}, precision="fp32")
        recipe = Recipe(epochs=6, batch_size=16, settings=(Setting(3e-3, 0.65), Setting(1e-3)))
        finetune(opened, splits(), {str(tmp_path / "killed")!r}, recipe=recipe)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed").glob("work/*/checkpoint/resume/step-*6.safetensors")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / results.RECORD).exists()

    lines = []
    killed = finetune(opened, splits(), tmp_path / "killed", recipe=recipe, say=lines.append)
    whole = finetune(opened, splits(), tmp_path / "whole", recipe=recipe, say=quiet)

    assert any("resumed at step" in line for line in lines)
    assert killed["metrics"] == whole["metrics"]
    assert_equal_weights(tuned_weights(tmp_path / "whole"), tuned_weights(tmp_path / "killed"))
    assert not (tmp_path / "killed" / "work").exists()


def test_how_many_trainings_run_at_once_changes_nothing(opened, tmp_path):
    recipe = replace(SHORT, settings=(Setting(3e-3, 0.65), Setting(1e-3), Setting(1e-2)))
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        finetune(opened, splits(), tmp_path / str(threads), recipe=recipe, say=quiet)
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert_equal_weights(tuned_weights(tmp_path / "1"), tuned_weights(tmp_path / "3"))


def test_a_finished_stage_is_kept_and_a_new_one_joins_it(opened, tmp_path):
    between = splits("between", seed=7)
    first = finetune(opened, splits(), tmp_path, recipe=SHORT, say=quiet)
    lines = []
    both = finetune(
        opened, splits(), tmp_path, stages=("direct", "intermediate"), between=between,
        recipe=SHORT, between_recipe=SHORT, say=lines.append,
    )  # fmt: skip
    again = finetune(opened, splits(), tmp_path, recipe=SHORT, say=lines.append)

    assert both["stages"]["direct"] == first["stages"]["direct"]
    assert list(unpack(tmp_path / results.RANKS)) == ["direct.halves", "intermediate.halves"]
    assert "intermediate in" in lines[-2]
    assert "direct" not in lines[-2]
    assert "fine-tuned already" in lines[-1]
    assert again == both


def test_another_recipe_or_model_is_refused_and_changed_code_is_redone(
    opened, tmp_path, monkeypatch
):
    finetune(opened, splits(), tmp_path, recipe=SHORT, say=quiet)
    with pytest.raises(InputError, match=r"finished stage direct with recipe.epochs 2 \(now 3\)"):
        finetune(opened, splits(), tmp_path, recipe=replace(SHORT, epochs=3), say=quiet)
    with pytest.raises(InputError, match=r"target.name halves \(now others\)"):
        finetune(opened, splits("others"), tmp_path, recipe=SHORT, say=quiet)
    other = replace(opened, weights_hash="0" * 16)
    with pytest.raises(InputError, match=r"weights 0*|use another --out"):
        finetune(other, splits(), tmp_path, recipe=SHORT, say=quiet)

    monkeypatch.setattr("cliplib.finetune.stages.STAGE_CODE", ("model.py",))
    lines = []
    finetune(opened, splits(), tmp_path, recipe=SHORT, say=lines.append)
    assert "already" not in lines[-1]


def test_two_calls_do_not_write_into_one_folder(opened, tmp_path):
    lines = []

    def second(line):
        with pytest.raises(InputError, match="process"):
            finetune(opened, splits(), tmp_path, recipe=SHORT, say=quiet)
        lines.append(line)

    (tmp_path / "work").mkdir()
    stop = Progress("", 1, second)
    from cliplib.train.loop import locked
    from cliplib.train.world import World

    with locked(tmp_path, World()):
        stop.skip(1, "held")
    assert lines


# --------------------------------------------------------------------------------------- what is left


def test_every_number_follows_from_the_ranks_and_intervals_cluster(opened, tmp_path):
    record = finetune(
        opened, splits(), tmp_path, stages=("direct", "intermediate"), between=splits("b", seed=9),
        recipe=SHORT, between_recipe=SHORT, say=quiet,
    )  # fmt: skip
    ranked = unpack(tmp_path / results.RANKS)

    assert results.metric_rows(ranked) == record["metrics"]
    rows = {(row["tower"], row["metric"]): row for row in record["metrics"]}
    top1 = rows["direct", "top1"]
    assert (top1["n_items"], top1["n_clusters"]) == (24, 12)
    assert {"tower": "direct", **task_rows("halves", ranked["direct.halves"])[0]} == top1
    gain = rows["intermediate", "top1_gain_over_direct"]
    assert gain["value"] == pytest.approx(
        rows["intermediate", "top1"]["value"] - top1["value"], abs=1e-6
    )
    task = record["stages"]["direct"]["identity"]["target"]
    assert task["test"] == splits().test.hashes


def test_a_tuned_model_is_opened_by_open_clip_and_gives_the_same_features(opened, tmp_path):
    import open_clip

    finetune(opened, splits(), tmp_path, recipe=SHORT, say=quiet)
    clip, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'direct'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'direct'}")(["a cat"])
    ours = open_model(str(tmp_path / "direct"), precision="fp32")

    from PIL import Image

    pixels = splits().test.images.array
    theirs = torch.stack([preprocess(Image.fromarray(picture)) for picture in pixels])
    with torch.inference_mode():
        features = clip.eval().encode_image(theirs)
        mine = ours.model.visual(network_input(ours, pixels))
        before = opened.model.visual(network_input(opened, pixels))
        assert torch.allclose(features, mine, atol=1e-5)
        assert not torch.allclose(features, before, atol=1e-2)
        text = opened.model.encode_text(tokens)
        assert torch.allclose(clip.encode_text(tokens), text, atol=1e-5)

    weights = tuned_weights(tmp_path)
    weight, bias = (weights[f"direct/head.safetensors/{name}"] for name in ("weight", "bias"))
    best = (features @ weight.T + bias).argmax(1).numpy()
    ranked = unpack(tmp_path / results.RANKS)["direct.halves"]
    assert ((best == splits().test.labels) == (ranked.rank == 1)).all()


def test_the_heads_class_names_are_in_its_file(opened, tmp_path):
    import json

    from safetensors import safe_open

    finetune(opened, splits(), tmp_path, recipe=SHORT, say=quiet)
    with safe_open(tmp_path / "direct" / "head.safetensors", "pt") as file:
        assert tuple(json.loads(file.metadata()["classes"])) == CLASSES


def test_an_open_clip_architecture_gets_its_configuration_from_the_library(tmp_path, monkeypatch):
    import open_clip
    from small_clips import in_open_clips_tables

    in_open_clips_tables(monkeypatch)
    opened = open_model("tiny-quickgelu", random=True, precision="fp32")
    finetune(opened, splits(), tmp_path, recipe=replace(SHORT, epochs=1), say=quiet)

    again = open_model(str(tmp_path / "direct"), precision="fp32")
    assert (again.activation, again.image_px) == ("quick_gelu", 32)
    assert (again.mean, again.std) == (opened.mean, opened.std)
    assert isinstance(again.model, open_clip.CLIP)


def test_a_timm_tower_is_tuned_and_opened_by_timm_as_a_classifier(timm_tower, tmp_path):
    import timm

    recipe = Recipe(epochs=1, batch_size=24, settings=(Setting(1e-3, 0.65),))
    finetune(timm_tower, splits(n=24), tmp_path, recipe=recipe, say=quiet)

    model = timm.create_model(f"local-dir:{tmp_path / 'direct'}", pretrained=True).eval()
    pictures = splits(n=24).test.images.pixels(np.arange(12), timm_tower.geometry)
    x = network_input(timm_tower, pictures)
    with torch.inference_mode():
        best = model(x).argmax(1).numpy()
    ranked = unpack(tmp_path / results.RANKS)["direct.halves"]
    assert ((best == splits(n=24).test.labels) == (ranked.rank == 1)).all()
    assert model.pretrained_cfg["num_classes"] == 3
    assert tuple(model.pretrained_cfg["mean"]) == timm_tower.mean


# ------------------------------------------------------------------------------------- it does learn


def test_real_icons_are_told_apart_far_better_than_by_chance(corpus, opened, tmp_path):
    """Random weights and 900 pictures: the drawings' styles are seen in a few seconds."""
    from cliplib.evaluate.icon_tasks import probe_tasks

    styles = next(task for task in probe_tasks(corpus) if task.name == "phosphor-styles")
    few = Splits(
        styles.train.take(np.arange(0, 5024, 4)),
        styles.val.take(np.arange(0, 1751, 4)),
        styles.test,
    )
    recipe = Recipe(epochs=4, batch_size=32, settings=(Setting(3e-3),))
    record = finetune(opened, few, tmp_path, recipe=recipe, say=quiet)
    (top1,) = (row for row in record["metrics"] if row["metric"] == "top1")
    assert top1["ci_low"] > 0.30  # chance is 0.17
    curve = record["stages"]["direct"]["settings"][0]["curve"]
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]


# ------------------------------------------------------------------------------------- what is refused


def test_what_does_not_fit_is_refused_in_words(opened, timm_tower, tmp_path):
    def asked(target=None, model=opened, **how):
        finetune(model, target or splits(), tmp_path, recipe=SHORT, say=quiet, **how)

    with pytest.raises(InputError, match="unknown stage 'sideways'; known: direct, intermediate"):
        asked(stages=("sideways",))
    with pytest.raises(InputError, match="no stage to do"):
        asked(stages=())
    with pytest.raises(InputError, match="stage intermediate: needs an intermediate task"):
        asked(stages=("intermediate",))
    with pytest.raises(InputError, match=r"stage joint: .* image tower without texts"):
        asked(model=timm_tower, stages=("joint",))
    with pytest.raises(InputError, match="stage joint: needs tasks and a control"):
        asked(stages=("joint",))
    several = np.eye(3, dtype=bool)[np.arange(48) % 3]
    many = {
        split: replace(getattr(splits(), split), labels=several[: len(getattr(splits(), split).labels)])
        for split in ("train", "val", "test")
    }  # fmt: skip
    with pytest.raises(InputError, match="may have several classes"):
        asked(Splits(**many))
    assert not (tmp_path / results.RECORD).exists()


def test_splits_of_other_classes_and_empty_ones_are_refused():
    with pytest.raises(InputError, match="the classes of split val are not those of train"):
        replace(splits(), val=part(24, "val", 1, classes=("left", "right", "bottom")))
    with pytest.raises(InputError, match="split train is empty"):
        splits().train.take(np.arange(0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Recipe(epochs=0), "epochs 0: give at least 1"),
        (lambda: Recipe(label_smoothing=1.0), "label smoothing 1.0"),
        (lambda: Recipe(shift=0.5), "shift 0.5"),
        (lambda: Setting(0.0), "learning rate 0.0"),
        (lambda: Setting(1e-3, 1.5), "layer decay 1.5"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_the_tower_gives_what_the_model_gives(opened, timm_tower):
    for one in (opened, timm_tower):
        x = network_input(one, splits().test.images.array[:4])
        with torch.inference_mode():
            given = tower_of(one)(x)
            net = one.model
            own = (
                net.forward_head(net.forward_features(x), pre_logits=True)
                if one.loader == "timm"
                else net.encode_image(x)
            )
        assert torch.equal(given, own)
        assert width_of(tower_of(one), one) == own.shape[1]
