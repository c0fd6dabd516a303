"""The numbers of CLIP_benchmark: its own code on the same checkpoint and files, beside ours.

All of the peer's work is done in one process at the start; the tests compare. fp32 on both sides.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from cliplib.bench import peers
from cliplib.bench.clip_benchmark_peer import Converted, Evaluated, Probed, command
from cliplib.data import load_split
from cliplib.evaluate.features import image_features
from cliplib.evaluate.icon_tasks import held_out_task, probe_tasks, stored, templates
from cliplib.evaluate.images import Chosen
from cliplib.evaluate.linear_probe import Setting, train_probes
from cliplib.evaluate.metrics import metric_rows
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.tasks import Classification, Retrieval
from cliplib.evaluate.wds import read_task, write_task
from cliplib.evaluate.zero_shot import classify
from cliplib.ladder import run_spec
from cliplib.pretrained.opening import open_model
from cliplib.train import Settings, train
from cliplib.train.config import Engine

CLOSE = 1e-6
SEEDS = 6
PROBES = (Setting(0.1, 10), Setting(0.01, 20), Setting(0.001, 40))
CONVERTED = ("kameleon", "several", "captioned")  # what the peer's builder writes as well
ZERO_SHOT = {
    "acc1": "top1", "acc5": "top5", "mean_per_class_recall": "mean_per_class_recall",
    "mean_average_precision": "mean_average_precision",
}  # fmt: skip


def whole(image):
    return image


# ------------------------------------------------------------------------------------------ data sets


def seen_in_training(corpus):
    """Pictures that the model was trained on, of the thirty concepts that have most."""
    pairs = corpus.pairs[corpus.pairs["split"] == "train"].reset_index()
    pairs = pairs[pairs["order"] < 2000]
    classes = pairs["concept"].value_counts().index[:30].tolist()
    pairs = pairs[pairs["concept"].isin(classes)]
    labels = np.array([classes.index(concept) for concept in pairs["concept"]])
    images = Chosen(stored(corpus, "train"), pairs.index.to_numpy())
    return Classification("seen", tuple(classes), templates(), images, labels)


def several_classes(corpus):
    """Phosphor drawings with two classes each: what they show, and in which style."""
    names = held_out_task(corpus, "phosphor")
    styles = corpus.pairs["style"].replace("", "regular").to_numpy()[names.items]
    rows = np.flatnonzero(names.labels < 40)
    kinds, style = np.unique(styles[rows].astype(str), return_inverse=True)
    labels = np.zeros((len(rows), 40 + len(kinds)), bool)
    labels[np.arange(len(rows)), names.labels[rows]] = True
    labels[np.arange(len(rows)), 40 + style] = True
    classes = (*names.classes[:40], *map(str, kinds))
    return Classification("several", classes, names.templates, Chosen(names.images, rows), labels)


def twins(corpus):
    """A task in which two classes share a name."""
    task = held_out_task(corpus, "kameleon")
    classes = (*task.classes[:40], task.classes[3], *task.classes[41:])
    return replace(task, name="twins", classes=classes, synonyms=None)


def captioned(corpus, images=300):
    """Pictures that the model was trained on, with one to three captions; no caption comes twice."""
    pairs = load_split(corpus, "train")
    order = corpus.pairs["order"][corpus.pairs["split"] == "train"].to_numpy()
    seen, places, captions = set(), [], []
    for place in np.argsort(order)[: 4 * images]:
        new = [text for text in dict.fromkeys(pairs.captions[place]) if text not in seen]
        if new and len(places) < images:
            places.append(place)
            captions.append(tuple(new[: 1 + len(places) % 3]))
            seen.update(captions[-1])
    return Retrieval("captioned", Chosen(stored(corpus, "train"), np.array(places)), captions)


def same_captions(corpus):
    """A pool in which every caption belongs to two pictures."""
    task = captioned(corpus, 120)
    return Retrieval("same", task.images, [(task.captions[i // 2][0],) for i in range(120)])


def tasks_of(corpus):
    """Every task with the format of its images and their number in a shard."""
    health = next(one for one in probe_tasks(corpus) if one.name == "health-categories")
    return [
        (health.train, "png", 1000),
        (health.test, "png", 100),
        (seen_in_training(corpus), "png", 1000),
        (held_out_task(corpus, "kameleon"), "webp", 1000),
        (several_classes(corpus), "png", 1000),
        (twins(corpus), "png", 1000),
        (captioned(corpus), "webp", 120),
        (same_captions(corpus), "png", 1000),
    ]


def listed(task, folder):
    """A task as the peer's builder is given it: pixels in an .npy, all else in a JSON file."""
    folder.mkdir(parents=True)
    np.save(folder / "pixels.npy", task.images.pixels(np.arange(len(task.images)), whole))
    about = {"pixels": str(folder / "pixels.npy")}
    if isinstance(task, Retrieval):
        about["labels"] = [list(texts) for texts in task.captions]
    else:
        about["labels"] = task.labels.astype(int).tolist()
        about |= {"classes": task.classes, "templates": task.templates}
    (folder / "about.json").write_text(json.dumps(about))
    return str(folder / "about.json")


# -------------------------------------------------------------------------- the peer, once for all tests


@pytest.fixture(scope="module")
def checkpoint(corpus, tmp_path_factory):
    """A model that knows something: a few seconds of training."""
    folder = tmp_path_factory.mktemp("run")
    run = run_spec("smoke", "XXS", 300 * 128, data_scale="2k", batch_size=128, lr=3e-3)
    fp32 = Settings(engine=Engine(precision="fp32"))
    train(run, corpus, folder, settings=fp32, say=lambda line: None)
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def opened(checkpoint):
    return open_model(str(checkpoint), precision="fp32")


@pytest.fixture(scope="module")
def sources(corpus):
    return {task.name: task for task, *_ in tasks_of(corpus)}


@pytest.fixture(scope="module")
def written(corpus, tmp_path_factory):
    """Folders that we wrote, by name of the task; train and test of one are in one folder."""
    root = tmp_path_factory.mktemp("ours")
    return {
        task.name: write_task(task, root / f"wds_{task.name}", image_format=kind, shard_images=many)
        for task, kind, many in tasks_of(corpus)
    }


@pytest.fixture(scope="module")
def features(opened, written, tmp_path_factory):
    """Our features of a data set, for both probes."""
    parts = {part: read_task(written["health-categories"], part) for part in ("train", "test")}
    x, tx = (image_features(opened, parts[part].images) for part in ("train", "test"))
    path = tmp_path_factory.mktemp("features") / "features.npz"
    np.savez(path, x=x, y=parts["train"].labels, tx=tx, ty=parts["test"].labels)
    return path


@pytest.fixture(scope="module")
def theirs(checkpoint, written, sources, features, tmp_path_factory):
    """What the peer answers, by name of what it was asked for, and the folder that it wrote to."""
    root = tmp_path_factory.mktemp("theirs")
    asked = {f"{name} written": conversion(sources[name], root) for name in CONVERTED}
    for name, task in sources.items():
        kind = "retrieval" if isinstance(task, Retrieval) else "zero_shot"
        asked[name] = kind, Evaluated(str(checkpoint), str(written[name]))
        if name in CONVERTED:
            asked[f"{name} of theirs"] = kind, Evaluated(str(checkpoint), str(root / f"wds_{name}"))
    data, lots = str(written["health-categories"]), len(np.load(features)["x"])
    asked["features"] = "features", Evaluated(str(checkpoint), data, out=str(root / "x.npz"))
    grid = [(s.lr, s.epochs, seed) for s in PROBES for seed in range(SEEDS)]
    asked["probes"] = "probes", Probed(str(features), grid)
    one = Probed(str(features), [(0.1, 10, 3)], batch_size=lots, out=str(root / "layer.npz"))
    asked["one batch"] = "probes", one
    answers = peers.run_json(command(*asked.values()), threads=1, first=peers.overlay())
    return dict(zip(asked, answers)), root


def conversion(task, root):
    kind = "convert_retrieval" if isinstance(task, Retrieval) else "convert"
    about = listed(task, root / f"listed_{task.name}")
    several = kind == "convert" and task.multilabel
    return kind, Converted(about, str(root / f"wds_{task.name}"), multilabel=several, max_count=150)


# -------------------------------------------------------------------------------------- equal numbers


def ours(opened, folder):
    """Our metrics of a folder, under the peer's names."""
    task = read_task(folder)
    if isinstance(task, Retrieval):
        rows = metric_rows(retrieve(opened, task))
        side = {f"{task.name}-i2t": "text", f"{task.name}-t2i": "image"}
        return {
            f"{side[row['task']]}_retrieval_recall@{row['metric'].rpartition('_')[2]}": row["value"]
            for row in rows
            if row["metric"].startswith("recall")
        }
    rows = {row["metric"]: row["value"] for row in metric_rows({task.name: classify(opened, task)})}
    return {theirs: rows[name] for theirs, name in ZERO_SHOT.items() if name in rows}


@pytest.mark.parametrize("name", ["seen", "health-categories", "kameleon", "several", "captioned"])
def test_equal_to_the_peer(opened, written, theirs, name):
    expected = theirs[0][name]["metrics"]
    assert ours(opened, written[name]) == pytest.approx(expected, abs=CLOSE)
    assert expected


def test_the_model_is_better_than_guessing(opened, written):
    """So that what is equal is not the numbers of guessing."""
    assert ours(opened, written["seen"])["acc1"] > 3 / 30
    found = ours(opened, written["captioned"])
    assert found["text_retrieval_recall@10"] > 3 * 10 / 300
    assert found["image_retrieval_recall@10"] > 3 * 10 / 300


def test_of_classes_with_one_name_the_first_is_guessed_as_by_their_arg_max(opened, written, theirs):
    expected = theirs[0]["twins"]["metrics"]
    assert ours(opened, written["twins"]) == pytest.approx(expected, abs=CLOSE)


def test_a_tie_of_captions_counts_against_the_model_and_with_them_by_place(opened, written, theirs):
    found, expected = ours(opened, written["same"]), theirs[0]["same"]["metrics"]
    for name, value in found.items():
        if name.startswith("image"):  # pictures do not tie
            assert value == pytest.approx(expected[name], abs=CLOSE)
        else:
            assert value <= expected[name] + CLOSE
    assert found["text_retrieval_recall@1"] == 0


# --------------------------------------------------------------------------------------- the same files


@pytest.mark.parametrize("name", CONVERTED)
def test_what_their_builder_wrote_is_read_as_what_we_wrote(written, theirs, name):
    one, other = read_task(written[name]), read_task(theirs[1] / f"wds_{name}")
    places = np.arange(len(one.images))
    assert np.array_equal(one.images.pixels(places, whole), other.images.pixels(places, whole))
    if isinstance(one, Retrieval):
        assert [list(texts) for texts in one.captions] == [list(texts) for texts in other.captions]
    else:
        assert np.array_equal(one.labels, other.labels)
        assert (one.classes, one.templates) == (other.classes, other.templates)


@pytest.mark.parametrize("name", CONVERTED)
def test_equal_on_the_files_that_their_builder_wrote(opened, theirs, name):
    answers, root = theirs
    expected = answers[f"{name} of theirs"]["metrics"]
    assert ours(opened, root / f"wds_{name}") == pytest.approx(expected, abs=CLOSE)


# ----------------------------------------------------------------------------------------------- probes


def test_features_are_theirs(theirs, features):
    mine, found = np.load(features), np.load(theirs[1] / "x.npz")
    assert np.array_equal(mine["ty"], found["y"])
    assert np.abs(mine["tx"] - found["x"]).max() < CLOSE


def test_a_probe_without_lots_is_theirs_weight_by_weight(theirs, features):
    """One batch an epoch: nothing is drawn but the first layer, and that from the same seed."""
    at, layer = np.load(features), np.load(theirs[1] / "layer.npz")
    mine = train_probes(
        at["x"], at["y"], int(at["y"].max()) + 1, PROBES[:1], seed=3, batch=len(at["x"])
    )
    assert np.abs(mine.weight[0] - layer["weight"]).max() < 1e-4
    assert np.abs(mine.bias[0] - layer["bias"]).max() < 1e-4
    (accuracy,) = mine.accuracy(at["tx"], at["ty"])
    assert accuracy == pytest.approx(theirs[0]["one batch"]["accuracy"][0], abs=CLOSE)


def test_probes_differ_by_no_more_than_their_seeds(theirs, features):
    """Means over seeds within three standard errors, of which a picture of the test is the least."""
    at = np.load(features)
    classes = int(at["y"].max()) + 1
    found = np.array(theirs[0]["probes"]["accuracy"]).reshape(len(PROBES), SEEDS)
    mine = np.stack(
        [
            train_probes(at["x"], at["y"], classes, PROBES, seed=seed).accuracy(at["tx"], at["ty"])
            for seed in range(SEEDS)
        ],
        axis=1,
    )
    spread = np.sqrt((mine.var(1, ddof=1) + found.var(1, ddof=1)) / SEEDS)
    noise = np.hypot(spread, 1 / len(at["ty"]))
    assert (np.abs(mine.mean(1) - found.mean(1)) < 3 * noise).all()
    assert mine.mean() > np.bincount(at["ty"]).max() / len(
        at["ty"]
    )  # better than the largest class
