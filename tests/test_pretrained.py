"""Anyone's checkpoints: opened as their library opens them, refused where it would go on silently."""

import json
import logging
import re

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_clips import built, changed, folder_with, in_open_clips_tables

from cliplib import InputError, model, records
from cliplib.ladder import rung
from cliplib.pretrained import image_towers
from cliplib.pretrained.opening import open_model
from cliplib.pretrained.weights import content_hash

TIMM = "timm:test_vit.r160_in1k"


@pytest.fixture
def library(monkeypatch):
    return in_open_clips_tables(monkeypatch)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A checkpoint as our training writes it."""
    folder = tmp_path_factory.mktemp("ours")
    model.save(model.create(rung("XXS"), 0), rung("XXS"), folder)
    return folder


def noise(n, px):
    return np.random.default_rng(0).integers(0, 256, (n, px, px, 3)).astype(np.uint8)


def picture(width, height):
    levels = np.random.default_rng(width).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return Image.fromarray(levels)


# ------------------------------------------------------------------------- the library's own numbers


@pytest.mark.parametrize("prefix", ["", "local-dir:"])
def test_our_checkpoint_gives_the_features_that_open_clip_computes(ours, prefix):
    opened = open_model(f"{prefix}{ours}", precision="fp32", device="cpu")
    stock, _, transform = open_clip.create_model_and_transforms(f"local-dir:{ours}")
    texts = ["an icon of an owl", "heart", "rocket launch duotone"]
    tokens = open_clip.get_tokenizer(f"local-dir:{ours}")(texts)
    x = model.normalise(noise(3, 32), opened.mean, opened.std)
    assert (
        torch.equal(opened.tokenize(texts), tokens) and opened.tokenize(texts).dtype == torch.int64
    )
    with torch.no_grad():
        stock.eval()
        images = model.encode_image(opened.model, x) - stock.encode_image(x, normalize=True)
        words = model.encode_text(opened.model, tokens) - stock.encode_text(tokens, normalize=True)
    assert images.abs().max() < 1e-6 and words.abs().max() < 1e-6
    assert torch.equal(transform(Image.fromarray(noise(1, 32)[0])), x[0])


def test_circumstances_say_what_the_numbers_depend_on(ours):
    opened = open_model(str(ours), precision="fp32", device="cpu")
    weights = ours / model.WEIGHTS
    said = opened.circumstances()
    assert said["weights_hash"] == records.digest(weights.read_bytes()) == content_hash(weights)
    assert (said["loader"], said["arch"], said["image_px"]) == ("open_clip", "", 32)
    assert (said["precision"], said["attention"]) == ("fp32", "plain")
    assert (said["activation"], said["context_length"]) == ("gelu", 16)
    assert said["preprocess"] == {
        "mean": list(model.MEAN), "std": list(model.STD), "interpolation": "bicubic",
        "resize_mode": "shortest", "crop_pct": 1.0,
    }  # fmt: skip
    assert not said["training_mode"] and json.dumps(said)


def test_a_state_dict_of_open_clips_opens_with_its_folder(tmp_path):
    stock = folder_with(tmp_path)
    opened = open_model(str(tmp_path), precision="fp32", device="cpu")
    x, tokens = torch.randn(2, 3, 32, 32), opened.tokenize(["a dog", "two cats"])
    assert torch.equal(tokens, open_clip.tokenize(["a dog", "two cats"]))
    with torch.no_grad():
        assert torch.allclose(opened.model.encode_image(x), stock.encode_image(x), atol=1e-6)
        assert torch.allclose(
            opened.model.encode_text(tokens), stock.encode_text(tokens), atol=1e-6
        )


@pytest.mark.parametrize("form", ["safetensors", "training", "module", "folder"])
def test_every_form_of_the_same_weights_opens_alike(tmp_path, library, form):
    state = built().state_dict()
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        prefix = "module." if form == "module" else ""
        inner = {prefix + key: value for key, value in state.items()}
        torch.save({"epoch": 3, "state_dict": inner} if form == "training" else inner, path)
    opened = open_model("tiny", weights=tmp_path if form == "folder" else path, device="cpu")
    assert opened.weights == str(path) and opened.arch == "tiny"
    own = opened.model.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in state)


def test_text_towers_apart_take_the_old_names_and_keep_their_attention(tmp_path):
    folder_with(tmp_path, changed(custom_text=True))
    torch.save(old := built().state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    opened = open_model(str(tmp_path), device="cpu")
    assert torch.equal(opened.model.text.positional_embedding, old["positional_embedding"])
    assert (opened.numerics.attention, opened.numerics.precision) == ("fused", "fp32")
    assert open_model(str(tmp_path), device="cpu", precision="bf16").numerics.precision == "bf16"


def test_random_weights_are_the_same_each_time_and_leave_the_state_alone(library, caplog):
    before, handlers = torch.get_rng_state(), list(logging.getLogger().handlers)
    one, two = (open_model("tiny", random=True, device="cpu") for _ in range(2))
    assert one.weights == "random" and one.weights_hash == two.weights_hash
    assert torch.equal(one.model.visual.conv1.weight, two.model.visual.conv1.weight)
    assert torch.equal(before, torch.get_rng_state())
    assert not [line for line in caplog.messages if "randomly" in line]
    assert logging.getLogger().handlers == handlers


def test_a_published_architecture_opens_with_its_own_tokenizer_and_colours():
    opened = open_model("ViT-B-32", random=True, device="cpu")
    assert (opened.image_px, opened.context_length, opened.classes) == (224, 77, 0)
    assert opened.mean == open_clip.OPENAI_DATASET_MEAN and opened.numerics.attention == "plain"
    assert torch.equal(opened.tokenize(["a dog"]), open_clip.tokenize(["a dog"]))
    assert not any(value.requires_grad for value in opened.model.parameters())


def test_preprocessing_is_that_of_the_tag_and_otherwise_what_is_usual(tmp_path, library):
    torch.save(built().state_dict(), path := tmp_path / "w.pt")
    assert open_model("tiny", weights=path, device="cpu").preprocess["resize_mode"] == "shortest"
    of_tag = open_model("tiny-half", weights=path, pretrained="a", device="cpu")
    usual = open_model("tiny-half", weights=path, device="cpu")
    assert of_tag.mean == usual.mean == (0.5, 0.5, 0.5)
    assert usual.preprocess["resize_mode"] == "squash"
    library._PRETRAINED["tiny-half"]["b"]["interpolation"] = "bilinear"
    with pytest.raises(InputError, match=r"different preprocessing.*--pretrained TAG"):
        open_model("tiny-half", weights=path, device="cpu")


# -------------------------------------------------------------------------------------------- pixels

SIDES = [(37, 91), (91, 37), (32, 32), (64, 21), (333, 500)]


def numbers(opened, image):
    levels = np.array(opened.geometry(image))[None]
    return model.normalise(levels, opened.mean, opened.std)[0]


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_geometry_and_arithmetic_are_open_clips_transform(tmp_path, mode, interpolation):
    folder_with(tmp_path, resize_mode=mode, interpolation=interpolation, fill_color=7)
    opened = open_model(str(tmp_path), device="cpu")
    transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")[2]
    for width, height in SIDES:
        image = picture(width, height)
        assert opened.geometry(image).size == (32, 32)
        assert torch.equal(numbers(opened, image), transform(image))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_geometry_and_arithmetic_are_timms_transform(monkeypatch, mode):
    from timm.data import create_transform

    how = {
        "input_size": (3, 160, 160), "interpolation": "bicubic", "mean": (0.48, 0.45, 0.4),
        "std": (0.26, 0.26, 0.27), "crop_pct": 0.9, "crop_mode": mode,
    }  # fmt: skip
    monkeypatch.setattr(image_towers, "data", lambda *_: how)
    opened = open_model(TIMM, random=True, device="cpu")
    transform = create_transform(**how, is_training=False)
    assert opened.preprocess["crop_pct"] == 0.9 and opened.preprocess["resize_mode"] == mode
    for width, height in SIDES:
        image = picture(width, height)
        assert torch.equal(numbers(opened, image), transform(image))


# ---------------------------------------------------------------------------------------- image towers


def timm_state(classes=1000, **changes):
    import timm

    torch.manual_seed(5)
    return timm.create_model("test_vit", num_classes=classes, **changes).state_dict()


@pytest.mark.parametrize("classes", [1000, 0])
def test_a_timm_tower_with_and_without_classifier(tmp_path, classes):
    save_file(state := timm_state(classes), path := tmp_path / "model.safetensors")
    opened = open_model(TIMM, weights=path, device="cpu", precision="fp32")
    own = opened.model.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in state)
    assert (opened.classes, opened.tokenize, opened.image_px) == (classes, None, 160)
    with torch.no_grad():
        out = opened.model(torch.zeros(1, 3, 160, 160))
    assert out.shape[1] == (classes or opened.model.num_features)
    assert opened.weights_hash == content_hash(path) and json.dumps(opened.circumstances())


def test_a_bare_timm_architecture_takes_its_classes_from_the_file(tmp_path):
    torch.save(timm_state(12), tmp_path / "w.pth")
    assert open_model("timm:test_vit", weights=tmp_path / "w.pth", device="cpu").classes == 12
    with pytest.raises(InputError, match=r"a classifier of 12 classes, but .* has 1,000"):
        open_model(TIMM, weights=tmp_path / "w.pth", device="cpu")


def test_a_timm_tower_reads_the_image_half_of_a_clip_file(tmp_path):
    import timm

    torch.save(clip := built().state_dict(), path := tmp_path / "w.pt")
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    tower = timm.create_model("vit_base_patch32_clip_224", num_classes=32, **small)
    what = image_towers.Named("x", "timm", "vit_base_patch32_clip_224")
    from cliplib.pretrained.weights import read

    held = read(path)
    assert image_towers.outputs(what, held) == 32 and image_towers.classes(what, 32, held) == 0
    image_towers.check(tower, held, what)
    other = timm.create_model(
        "vit_base_patch32_clip_224", num_classes=32, **small | {"img_size": 64}
    )
    with pytest.raises(InputError, match="images of 32 px, but x takes 64 px"):
        image_towers.check(other, held, what)
    assert clip["visual.proj"].shape == (64, 32)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"img_size": 224}, "images of 224 px, but timm:test_vit.r160_in1k takes 160 px"),
        (
            {"patch_size": 8},
            r"patch_embed.proj.weight is 64 x 3 x 8 x 8 in the file and 64 x 3 x 16",
        ),
        ({"depth": 5}, "it lacks blocks.5"),
        ({"depth": 7}, "it has blocks.6"),
    ],
)
def test_timm_weights_that_do_not_fit_are_refused(tmp_path, changes, said):
    torch.save(timm_state(**changes), tmp_path / "w.pth")
    with pytest.raises(InputError, match=said):
        open_model(TIMM, weights=tmp_path / "w.pth", device="cpu")


def test_an_image_tower_has_no_tokenizer():
    with pytest.raises(InputError, match=re.escape("leave out --tokenizer")):
        open_model(TIMM, random=True, tokenizer="ViT-B-32")
    with pytest.raises(InputError, match="an image tower has no tokenizer; name a CLIP model"):
        open_model("ViT-B-32", random=True, tokenizer=TIMM)
