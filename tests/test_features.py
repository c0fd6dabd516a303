"""Features: the same for any batch, company, number of threads and processes."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from evaluate_things import classification, pixels, retrieval, small_model

from cliplib import InputError
from cliplib.evaluate import blocks, features
from cliplib.evaluate.blocks import Workers, blocks_of, rows_in_blocks
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.zero_shot import classify


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def opened(request, tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"), request.param)


TEXTS = [
    "a cat",
    "dog",
    "an icon of a very small rocket",
    "sun",
    "a red sun over a house",
    "x",
] * 40


def test_neither_batch_nor_threads_change_a_bit(opened, monkeypatch):
    images = pixels(300)
    whole = features.image_features(opened, images)
    for threads, batch in ((1, 1), (1, 700), (2, 0), (2, 200)):
        monkeypatch.setattr(blocks.torch, "get_num_threads", lambda n=threads: n)
        again = features.image_features(opened, images, Workers(batch=batch))
        assert np.array_equal(whole, again)


def test_a_text_has_the_same_features_in_any_company(opened):
    alone = [features.text_features(opened, [text])[0] for text in TEXTS[:6]]
    among = features.text_features(opened, TEXTS)
    for place, text in enumerate(alone):
        assert np.array_equal(among[place], text) and np.array_equal(among[place + 6], text)


def test_features_are_unit_vectors_of_open_clip_s_own_model(opened):
    import open_clip

    clip, _, transform = open_clip.create_model_and_transforms(f"local-dir:{_folder(opened)}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{_folder(opened)}")
    images = pixels(5)
    with torch.no_grad():
        from PIL import Image

        batch = torch.stack([transform(Image.fromarray(image)) for image in images.array])
        image = clip.encode_image(batch, normalize=True).numpy()
        text = clip.encode_text(tokenizer(TEXTS[:6]), normalize=True).numpy()
    close = 1e-6 if opened.numerics.precision == "fp32" else 2e-2
    assert np.abs(features.image_features(opened, images) - image).max() < close
    assert np.abs(features.text_features(opened, TEXTS[:6]) - text).max() < close


def test_texts_are_cut_after_their_end_and_at_few_lengths():
    lengths = np.arange(1, 1000)
    for kind, how_many in (("small", 9), ("large", 250)):
        cuts = features._cuts(lengths, kind)
        assert (cuts >= lengths).all() and len(np.unique(cuts)) == how_many
    assert features._cuts(np.array([3, 4, 5, 8, 9, 16]), "small").tolist() == [4, 4, 8, 8, 16, 16]


def test_any_colours_are_centred_and_scaled_as_by_the_modules(opened):
    """Grey levels are multiplied as they are; each colour has its own middle, between two levels."""
    from dataclasses import replace

    opened = replace(opened, mean=(0.4814, 0.3, 0.7077), std=(0.2686, 0.15, 0.4))
    close = 1e-6 if opened.numerics.precision == "fp32" else 2e-2
    levels = np.concatenate(
        [pixels(20).array, np.zeros_like(pixels(1).array), 255 + np.zeros_like(pixels(1).array)]
    )
    with torch.no_grad():
        theirs = features.image_embedding(opened, features.network_input(opened, levels))
        ours = opened.written_out.image(levels)
    assert (ours - theirs).abs().max() < close


def _folder(opened):
    from pathlib import Path

    path = Path(opened.weights)
    return path if path.is_dir() else path.parent


def test_texts_that_are_known_are_not_computed_again(opened, monkeypatch):
    known = {}
    first = features.text_features(opened, TEXTS, known=known)
    assert len(known) == 6
    monkeypatch.setattr(features, "_new_texts", lambda *_: pytest.fail("computed again"))
    assert np.array_equal(features.text_features(opened, TEXTS, known=known), first)


def test_a_class_embedding_is_the_normalised_mean_over_prompts(opened):
    one = features.class_embeddings(opened, ["cat", "dog"], ["a {c}", "{c}, outline"])
    prompts = features.text_features(opened, ["a dog", "dog, outline"]).mean(0)
    assert np.allclose(one[1], prompts / np.linalg.norm(prompts), atol=1e-6)


def test_a_class_name_with_braces_is_taken_as_it_is(opened):
    assert np.array_equal(
        features.class_embeddings(opened, ["{x}"], ["a {c}"])[0],
        features.class_embeddings(opened, ["a {x}"], ["{c}"])[0],
    )


def test_an_image_tower_cannot_be_tested_zero_shot():
    from cliplib.pretrained.opening import open_model

    tower = open_model("timm:vit_tiny_patch16_224", random=True)
    with pytest.raises(InputError, match="image tower without texts"):
        features.text_features(tower, ["cat"])


def test_blocks_hold_every_row_once():
    found = rows_in_blocks(blocks_of(10, 4), lambda rows: rows[:, None] * 2.0)
    assert found[:, 0].tolist() == [2.0 * i for i in range(10)]


def test_long_work_says_how_far_it_is(monkeypatch):
    monkeypatch.setattr(blocks, "QUIET", 0.0)
    lines = []
    workers = Workers(say=lines.append)
    rows_in_blocks(blocks_of(4, 1), lambda rows: rows[:, None], workers, "counting")
    assert lines[0].startswith("counting: 25%, ") and len(lines) == 3  # the end needs no line


SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[2])
from evaluate_things import classification, retrieval
from cliplib.evaluate.blocks import Workers
from cliplib.evaluate.retrieval import retrieve
from cliplib.evaluate.zero_shot import classify
from cliplib.pretrained.opening import open_model
from cliplib.train.world import World
world = World.join(device="cpu")
opened, workers = open_model(sys.argv[1], precision="fp32"), Workers(world)
found = [classify(opened, classification(700), workers)]
found += retrieve(opened, retrieval(700), workers).values()
if world.main:
    print(json.dumps([r.rank.tolist() for r in found]))
world.leave()
"""


def test_two_processes_give_the_ranks_of_one(tmp_path):
    from pathlib import Path

    opened = small_model(tmp_path / "model")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*torchrun, "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    command += ["localhost:0", str(script), str(tmp_path / "model"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    both = json.loads(done.stdout.strip().splitlines()[-1])
    alone = [classify(opened, classification(700)), *retrieve(opened, retrieval(700)).values()]
    assert both == [r.rank.tolist() for r in alone]
