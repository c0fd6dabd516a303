"""Joint fine-tuning, the way between two towers, and the rule that says how far to go."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluate_things import small_model
from finetune_things import SHORT, assert_equal_weights, part, quiet, splits, tuned_weights

from cliplib import InputError, __main__
from cliplib.evaluate.features import class_embeddings
from cliplib.evaluate.outcomes import unpack
from cliplib.evaluate.ranks import clustered_mean, top_k
from cliplib.evaluate.zero_shot import classify
from cliplib.finetune import results
from cliplib.finetune.cli import add_arguments, run
from cliplib.finetune.icons import finetune_everything
from cliplib.finetune.joint import JointTasks
from cliplib.finetune.patching import Point, allowed_loss, choose, interpolate
from cliplib.finetune.recipe import JointRecipe, Recipe, Setting
from cliplib.finetune.run import finetune
from cliplib.pretrained.opening import open_model

BRIEF = JointRecipe(iterations=12, batch_size=16, lr=1e-3)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "xxs")


def joint_tasks(opened, **changes):
    """Two tasks, and a control whose classes are others."""
    tasks = (splits("one"), splits("two", seed=5, classes=("west", "east", "north")))
    control = part(30, "val", 11, "control", ("sun", "moon", "star"))
    parts = [*(task.train for task in tasks), control]
    embeddings = {p.name: class_embeddings(opened, p.classes, p.templates) for p in parts}
    return JointTasks(**{"tasks": tasks, "control": control, "embeddings": embeddings, **changes})


def joined(opened, folder, recipe=BRIEF, **changes):
    return finetune(
        opened, splits(), folder, stages=("joint",), joint=joint_tasks(opened, **changes),
        joint_recipe=recipe, say=quiet,
    )  # fmt: skip


# --------------------------------------------------------------------------------------- the rule


def curve(*points):
    return [Point(alpha, {"a": mean}, control) for alpha, mean, control in points]


def test_the_best_mean_within_the_allowance_is_chosen():
    way = curve((0.0, 0.2, 0.50), (0.3, 0.4, 0.495), (0.6, 0.6, 0.49), (1.0, 0.9, 0.20))
    assert choose(way, 0.01).alpha == 0.6
    assert choose(way, 0.009).alpha == 0.3
    assert choose(way, 1.0).alpha == 1.0


def test_the_way_is_not_taken_if_the_control_loses_too_much_everywhere():
    assert choose(curve((0.0, 0.2, 0.5), (0.1, 0.9, 0.4), (1.0, 0.99, 0.0)), 0.01).alpha == 0.0


def test_a_control_that_gains_never_forbids_and_equals_go_to_the_nearest():
    assert choose(curve((0.0, 0.2, 0.5), (0.5, 0.6, 0.7), (1.0, 0.6, 0.7)), 0.0).alpha == 0.5
    assert choose(curve((0.0, 0.6, 0.5), (1.0, 0.6, 0.5)), 0.0).alpha == 0.0


def test_tasks_count_the_same_whatever_their_size():
    assert Point(0.5, {"a": 1.0, "b": 0.0, "c": 0.5}, 0.0).mean_val == 0.5


def test_the_allowance_is_a_share_or_one_clustered_standard_error():
    before = clustered_mean(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]))
    assert allowed_loss(0.01, before) == 0.01
    assert (
        allowed_loss("se", before)
        == before.se
        > clustered_mean(np.array([1.0, 1.0, 0.0, 0.0]), np.arange(4)).se
    )


def test_the_ends_of_the_way_are_the_two_towers_bit_for_bit():
    torch.manual_seed(0)
    before = {"w": torch.randn(50) * 1e-3, "count": torch.tensor(3)}
    after = {"w": torch.randn(50) * 1e3, "count": torch.tensor(9)}
    assert torch.equal(interpolate(before, after, 0.0)["w"], before["w"])
    assert torch.equal(interpolate(before, after, 1.0)["w"], after["w"])
    half = interpolate(before, after, 0.5)
    assert torch.allclose(half["w"], (before["w"] + after["w"]) / 2)
    assert half["count"] == 3


# -------------------------------------------------------------------------------------- the stage


def test_the_ends_of_the_curve_are_the_model_before_and_the_tuned_one(opened, tmp_path):
    record = joined(opened, tmp_path, replace(BRIEF, iterations=80, lr=3e-3))
    what = joint_tasks(opened)
    ranked = unpack(tmp_path / results.RANKS)
    tuned = open_model(str(tmp_path / "joint"), precision="fp32")

    for task in what.tasks:
        for name, model in (("zero-shot", opened), ("joint", tuned)):
            expected = classify(model, task.test)  # by cosines, through the library's own path
            assert (ranked[f"{name}.{task.name}"].rank == expected.rank).mean() > 0.95
    before, *_, after = record["stages"]["joint"]["curve"]
    assert (before["alpha"], after["alpha"]) == (0.0, 1.0)
    assert before["control"] == pytest.approx(top_k(classify(opened, what.control).rank, 1).mean())
    assert after["control"] == pytest.approx(top_k(classify(tuned, what.control).rank, 1).mean())
    assert after["mean_val"] > 0.9
    assert before["mean_val"] < 0.6


def test_only_the_image_tower_learns(opened, tmp_path):
    joined(opened, tmp_path)
    tuned = tuned_weights(tmp_path)
    start = "joint/open_clip_model.safetensors/"
    for name, value in opened.model.state_dict().items():
        if not name.startswith("visual."):
            assert torch.equal(tuned[start + name], value), name
    assert any(
        not torch.equal(tuned[start + name], value)
        for name, value in opened.model.state_dict().items()
        if name.startswith("visual.")
    )
    assert not (tmp_path / "joint" / "head.safetensors").exists()


def test_the_patched_model_is_the_place_that_was_chosen(opened, tmp_path):
    record = joined(opened, tmp_path, replace(BRIEF, tolerance=1.0, alphas=(0.0, 0.25, 1.0)))
    stage = record["stages"]["joint"]
    tuned = tuned_weights(tmp_path)
    file, name = "open_clip_model.safetensors", "visual.conv1.weight"
    way = interpolate(
        {name: opened.model.state_dict()[name]},
        {name: tuned[f"joint/{file}/{name}"]},
        stage["alpha"],
    )
    assert torch.equal(tuned[f"patched/{file}/{name}"], way[name])
    best = max(stage["curve"], key=lambda point: point["mean_val"])
    assert stage["alpha"] == best["alpha"]

    rows = {(row["tower"], row["task"], row["metric"]): row["value"] for row in record["metrics"]}
    control = stage["control"]
    assert rows["zero-shot", "control", "top1"] == pytest.approx(control["before"], abs=1e-6)
    assert rows["patched", "control", "top1"] == pytest.approx(control["after"], abs=1e-6)


def test_validation_decides_how_far_and_test_is_not_asked(opened, tmp_path):
    honest = joined(opened, tmp_path / "honest")
    tasks = joint_tasks(opened).tasks
    wrong = tuple(
        replace(task, test=replace(task.test, labels=(task.test.labels + 1) % 3)) for task in tasks
    )
    poisoned = joined(opened, tmp_path / "poisoned", tasks=wrong)

    assert poisoned["stages"]["joint"]["curve"] == honest["stages"]["joint"]["curve"]
    assert_equal_weights(tuned_weights(tmp_path / "honest"), tuned_weights(tmp_path / "poisoned"))
    assert poisoned["metrics"] != honest["metrics"]


def test_a_joint_training_that_was_cut_off_ends_with_the_same_weights(
    opened, tmp_path, monkeypatch
):
    from cliplib.finetune import training

    joined(opened, tmp_path / "whole")
    step = training._Training._learn

    def interrupted(self, *batch):
        if self.step == 7:
            raise KeyboardInterrupt
        step(self, *batch)

    monkeypatch.setattr(training._Training, "_learn", interrupted)
    monkeypatch.setattr(
        training.Checkpoints, "due", lambda self, step, now: step % 3 == 0
    )  # the last one before the end is that of step 6
    with pytest.raises(KeyboardInterrupt):
        joined(opened, tmp_path / "cut")
    monkeypatch.undo()
    joined(opened, tmp_path / "cut")

    assert_equal_weights(tuned_weights(tmp_path / "whole"), tuned_weights(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: JointRecipe(alphas=(0.0, 0.5)), "both ends among them"),
        (lambda: JointRecipe(tolerance="much"), "tolerance 'much'"),
        (lambda: JointRecipe(tolerance=2.0), "tolerance 2.0"),
        (lambda: JointRecipe(iterations=0), "iterations 0"),
    ],
)
def test_a_joint_recipe_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_embeddings_and_tasks_that_do_not_fit_are_refused(opened):
    known = joint_tasks(opened).embeddings
    with pytest.raises(
        InputError, match=r"task two: .*needs its class embeddings; known: one, con"
    ):
        joint_tasks(opened, embeddings={name: known[name] for name in ("one", "control")})
    with pytest.raises(InputError, match=r"task one: class embeddings of shape \(2, \d+\) for 3"):
        joint_tasks(opened, embeddings={**known, "one": known["one"][:2]})
    with pytest.raises(InputError, match="one task or more beside the control, each once"):
        joint_tasks(opened, tasks=())
    with pytest.raises(InputError, match="each once"):
        joint_tasks(opened, tasks=(splits("one"), splits("one")))


# ---------------------------------------------------------------------------------- icons, the verb


TINY = {
    "recipe": Recipe(epochs=1, batch_size=256, settings=(Setting(3e-3),)),
    "between_recipe": Recipe(epochs=1, batch_size=512, settings=(Setting(3e-3),)),
    "joint_recipe": JointRecipe(iterations=3, batch_size=32, alphas=(0.0, 1.0)),
}


def test_everything_on_real_icons_ends_in_one_record(corpus, opened, tmp_path):
    """The smallest model and the shortest recipes: all stages, with the real tasks."""
    bf16 = open_model(opened.name)  # as this machine would
    record = finetune_everything(
        bf16, corpus, tmp_path, target="health-categories", say=quiet, **TINY
    )

    assert list(record["stages"]) == ["direct", "intermediate", "joint"]
    assert record["stages"]["intermediate"]["between"]["task"] == "fine-categories"
    assert record["stages"]["joint"]["tasks"] == [
        "emoji-groups", "health-categories", "phosphor-styles",
    ]  # fmt: skip
    towers = {(row["tower"], row["task"]) for row in record["metrics"]}
    assert {("direct", "health-categories"), ("intermediate", "health-categories")} < towers
    assert {("patched", "validation-names"), ("joint", "phosphor-styles")} < towers
    assert all(row["n_clusters"] < row["n_items"] for row in record["metrics"])
    assert record["precision"] == bf16.numerics.precision


def test_an_unknown_icon_task_is_refused(corpus, opened, tmp_path):
    with pytest.raises(InputError, match="unknown task 'cats'; known: emoji-groups, health-cat"):
        finetune_everything(opened, corpus, tmp_path, target="cats", say=quiet)


def verb(*words):
    parser = __main__.Parser(prog="cliplib finetune")
    add_arguments(parser)
    return run(parser.parse_args([str(word) for word in words]))


def test_the_verb_fine_tunes_on_a_data_set_of_ones_own(opened, tmp_path, capsys):
    from cliplib.evaluate.wds import write_task

    task = splits("own")
    for one in (task.train, task.val, task.test):
        write_task(one, tmp_path / "wds_own")
    common = ("--task", tmp_path / "wds_own", "--out", tmp_path / "out", "--epochs", 2)
    how = ("--batch-size", 16, "--lr", "1e-3,3e-3", "--layer-decay", "0.65", "--precision", "fp32")

    assert verb(opened.name, *common, *how) == 0

    assert "direct" in capsys.readouterr().out
    direct = results.read(tmp_path / "out")["stages"]["direct"]
    assert [(s["lr"], s["layer_decay"]) for s in direct["settings"]] == [(1e-3, 0.65), (3e-3, 0.65)]
    with pytest.raises(InputError, match="--stages joint goes with a task of the corpus"):
        verb(opened.name, *common, "--stages", "joint")


def test_words_for_numbers_are_refused(opened, tmp_path):
    with pytest.raises(InputError, match="--lr 'high': give numbers"):
        verb(opened.name, "--out", tmp_path, "--lr", "high")
    with pytest.raises(InputError, match="--tolerance 'none': give numbers"):
        verb(opened.name, "--out", tmp_path, "--tolerance", "none")


def test_one_recipe_serves_stages_of_one_call(opened, tmp_path):
    record = finetune(
        opened, splits(), tmp_path, stages=("joint", "direct"), joint=joint_tasks(opened),
        recipe=SHORT, joint_recipe=BRIEF, say=quiet,
    )  # fmt: skip
    assert sorted(record["stages"]) == ["direct", "joint"]
    assert record["recipes"]["joint"]["lr"] == 1e-3
