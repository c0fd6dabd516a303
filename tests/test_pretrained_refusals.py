"""What does not fit is refused in one line that says what, where and what to do."""

import json
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_clips import built, changed, folder_with, in_open_clips_tables
from torch import nn

from cliplib import InputError, model
from cliplib.ladder import rung
from cliplib.pretrained import texts
from cliplib.pretrained.opening import open_model
from cliplib.pretrained.weights import read


@pytest.fixture(autouse=True)
def library(monkeypatch):
    return in_open_clips_tables(monkeypatch)


@pytest.fixture
def ours(tmp_path):
    model.save(model.create(rung("XXS"), 0), rung("XXS"), tmp_path / "ours")
    return tmp_path / "ours"


def saved(path, config=None, **extra):
    state = built(config or changed()).state_dict()
    torch.save(state | extra, path)
    return path


def refused(said, name, **wishes):
    with pytest.raises(InputError, match=said) as caught:
        open_model(name, device="cpu", **wishes)
    assert "\n" not in str(caught.value)


def edit(folder, change):
    path = folder / "open_clip_config.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


# --------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny-65", "no model or folder 'tiny-65'; near it: tiny-64"),
        ("ViT-B-23", "near it: .*ViT-B-32"),
        ("openclip/B-32/LAION-2B/33B", "near it: openclip/B-32/LAION-2B/3"),
        (
            "timm:vit_base_patch39_clip_224",
            "timm has no model .*near it: .*vit_base_patch32_clip_224",
        ),
        ("timm:vit_base_patch32_clip_224.laion3b", "has no pretrained weights 'laion3b'; near it"),
        ("local-dir:/nowhere", "/nowhere: no such folder"),
        ("tiny", "pass --weights FILE, --pretrained TAG or --random; known tags: good, quick"),
        ("timm:test_vit", "which architecture, not which weights.*known tags: r160_in1k"),
    ],
)
def test_unknown_names_are_refused_with_near_ones(name, said):
    refused(said, name)


def test_contradictory_wishes_are_refused(tmp_path, ours):
    path = saved(tmp_path / "w.pt")
    refused("choose one", "tiny", random=True, weights=path)
    refused("choose one", "tiny", random=True, pretrained="good")
    refused("no pretrained weights 'goood'; near it: good", "tiny", pretrained="goood")
    refused("has weights of its own: leave out --pretrained good", str(ours), pretrained="good")
    refused(f"is a file: name the model first, then pass --weights {path}", str(path))
    refused("precision 'fp8' is not known", "tiny", random=True, precision="fp8")
    with pytest.raises(InputError, match=r"device 'cuda:77' is not here.*use cpu or cuda"):
        open_model("tiny", random=True, device="cuda:77")


def test_folders_without_configuration_or_weights_are_refused(tmp_path):
    refused("no open_clip_config.json, so the architecture is not known", str(tmp_path))
    folder_with(tmp_path)
    (tmp_path / "open_clip_pytorch_model.bin").rename(tmp_path / "one.pt")
    (tmp_path / "two.pt").touch()
    refused(
        "expected one file of weights, found one.pt, two.pt; pass --weights FILE", str(tmp_path)
    )
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    refused("expected one file of weights, found none", str(tmp_path))
    edit(tmp_path, lambda document: document["model_cfg"].pop("embed_dim"))
    refused("model_cfg lacks embed_dim", str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{")
    refused("open_clip_config.json: no open_clip configuration", str(tmp_path))


# ----------------------------------------------------------------------------------- unreadable files


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched-by-a-pickle"),))


def test_a_pickle_that_is_not_weights_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    torch.save({"state_dict": built().state_dict(), "args": Evil()}, path)
    refused("holds Python objects that are not weights", "tiny", weights=path)
    path.write_bytes(pickle.dumps(Evil()))
    refused("no readable file of weights", "tiny", weights=path)
    assert not Path("touched-by-a-pickle").exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("left", [0.5, 0.001])
def test_a_file_that_was_cut_short_is_refused(tmp_path, suffix, left):
    path = tmp_path / f"w{suffix}"
    state = built().state_dict()
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(left * len(whole))])
    refused(
        f"{re.escape(str(path))}: no readable file of weights, or cut short", "tiny", weights=path
    )


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "w.pt"
    refused("no such file; --weights takes a file", "tiny", weights=path)
    path.touch()
    refused("the file is empty", "tiny", weights=path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    refused("a Git LFS pointer, not the weights; .*git lfs pull", "tiny", weights=path)
    torch.save([1, 2], path)
    refused("holds no state dict but list", "tiny", weights=path)
    torch.save({"epoch": 3, "loss": torch.tensor(1.0)}, path)
    refused("not a state dict: 'epoch' is of type int", "tiny", weights=path)
    other = path.rename(tmp_path / "w.onnx")
    refused(".onnx is not read; weights are .safetensors", "tiny", weights=other)


# ------------------------------------------------------------------------------------- size and shape


def test_weights_for_other_images_are_refused_and_the_right_model_named(tmp_path):
    small, large = saved(tmp_path / "32.pt"), tmp_path / "64.pt"
    saved(large, changed(vision_cfg__image_size=64))
    refused("for images of 64 px, but tiny takes 32 px.*open it as tiny-64", "tiny", weights=large)
    refused("for images of 32 px, but tiny-64 takes 64 px.*open it as", "tiny-64", weights=small)
    refused("32 px, but tiny-quickgelu takes 64 px", "tiny-quickgelu", weights=small, image_px=64)
    assert open_model("tiny", weights=large, image_px=64, device="cpu").image_px == 64
    path = saved(tmp_path / "96.pt", changed(vision_cfg__image_size=96))
    refused("pass --image-px 96, or name the model of that size", "tiny", weights=path)


def test_weights_for_other_texts_are_refused(tmp_path):
    path = saved(tmp_path / "w.pt", changed(text_cfg__context_length=64))
    refused("weights for texts of 64 tokens, but tiny takes 77", "tiny", weights=path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vision_cfg__patch_size": 16}, "visual.conv1.weight is 64 x 3 x 16 x 16 in the file and "
            "64 x 3 x 8 x 8"),
        ({"text_cfg__vocab_size": 500}, "token_embedding.weight is 500 x 64 in the file and 49408 x 64"),
        ({"vision_cfg__layers": 1}, "it lacks visual.transformer.resblocks.1"),
        ({"vision_cfg__layers": 3}, "it has visual.transformer.resblocks.2"),
        ({"embed_dim": 16}, "text_projection is 64 x 16 in the file and 64 x 32 in the model"),
    ],
)  # fmt: skip
def test_weights_of_another_architecture_are_refused_with_the_first_difference(
    tmp_path, changes, said
):
    path = saved(tmp_path / "w.pt", changed(**changes))
    refused(f"does not fit tiny: {said}", "tiny", weights=path)


def test_an_architecture_that_cannot_be_built_is_refused(tmp_path):
    folder_with(tmp_path)
    edit(tmp_path, lambda document: document["model_cfg"]["vision_cfg"].update(no_such=1))
    refused("open_clip cannot build it .*no_such", str(tmp_path))


# ----------------------------------------------------------------------------------------- activation


def archive(path):
    """What OpenAI published: a TorchScript archive in half precision, with its sizes inside."""
    root = nn.Module()
    for name, value in built().state_dict().items():
        *parts, last = name.split(".")
        place = root
        for part in parts:
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        place.register_parameter(last, nn.Parameter(value.half()))
    for key, size in (("input_resolution", 32), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(key, torch.tensor(size))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(root), path)
    return path


def test_openais_archive_opens_as_quickgelu_alone(tmp_path, recwarn):
    path = archive(tmp_path / "w.pt")
    refused(
        "OpenAI's, which .* but tiny computes GELU.*open it as tiny-quickgelu", "tiny", weights=path
    )
    opened = open_model("tiny-quickgelu", weights=path, device="cpu")
    assert opened.activation == "quick_gelu" and opened.weights_hash
    ours, theirs = opened.model.visual.conv1.weight, built().visual.conv1.weight
    assert ours.dtype == torch.float32 and torch.equal(ours, theirs.half().float())
    assert not [one for one in recwarn if "torch.jit" in str(one.message)]


def test_an_activation_that_the_library_lacks_is_not_suggested(tmp_path):
    path = saved(tmp_path / "w.pt", input_resolution=32)
    refused("open_clip has no such variant of tiny-64", "tiny-64", weights=path)


def test_a_state_dict_with_openais_sizes_is_openais(tmp_path):
    path = saved(tmp_path / "w.pt", input_resolution=32, context_length=77, vocab_size=49408)
    refused("OpenAI's, which was trained with QuickGELU", "tiny", weights=path)
    opened = open_model("tiny-quickgelu", weights=path, device="cpu")
    assert opened.activation == "quick_gelu" and read(path).openai


def test_a_tag_is_refused_under_the_other_activation_before_a_download():
    refused("tiny quick was trained .*open it as tiny-quickgelu", "tiny", pretrained="quick")
    refused("ViT-B-32 openai was trained with QuickGELU", "ViT-B-32", pretrained="openai")
    refused(
        "trained with QuickGELU.*open it as timm:vit_base_patch32_clip_quickgelu_224.openai",
        "timm:vit_base_patch32_clip_224.openai",
    )


def test_a_configuration_beside_the_file_says_the_activation(tmp_path):
    folder_with(tmp_path, changed(quick_gelu=True))
    weights = tmp_path / "open_clip_pytorch_model.bin"
    refused(
        "says open_clip_config.json beside it, was trained with QuickGELU", "tiny", weights=weights
    )
    assert open_model(str(tmp_path), device="cpu").activation == "quick_gelu"
    opened = open_model("tiny-quickgelu", weights=weights, device="cpu")
    assert opened.activation == "quick_gelu"


def test_a_run_of_the_study_is_known_by_its_file(tmp_path):
    path = saved(tmp_path / "Model-L-14_Data-2B_Samples-34B_lr-1e-3_bs-86k.pt")
    said = "a run of the study, was trained with GELU, but tiny-quickgelu computes Quick.*as tiny$"
    refused(said, "tiny-quickgelu", weights=path)
    assert open_model("tiny", weights=path, device="cpu").mean == (0.5, 0.5, 0.5)


# ------------------------------------------------------------------------------------------ tokenizer


def test_a_tokenizer_with_more_pieces_than_the_tower_knows_is_refused(ours):
    said = "the tokenizer of ViT-B-32 has 49,408 pieces, the text tower of .* knows 4,096"
    refused(said, str(ours), tokenizer="ViT-B-32")
    edit(ours, lambda document: document["model_cfg"]["text_cfg"].pop("hf_tokenizer_name"))
    (ours / "tokenizer.json").unlink()
    refused("has 49,408 pieces, .* knows 4,096; name the right one with --tokenizer", str(ours))


def test_a_tokenizer_for_another_context_is_refused(tmp_path):
    folder_with(tmp_path, changed(text_cfg__context_length=64))
    said = "the tokenizer of ViT-B-32 writes 77 tokens a text, the text tower of .* takes 64"
    refused(said, str(tmp_path), tokenizer="ViT-B-32")


def test_an_end_of_text_that_the_tower_does_not_read_is_refused(ours, tmp_path):
    edit(ours, lambda document: document["model_cfg"]["text_cfg"].update(eos_id=7))
    refused("reads its output at id 7, but the tokenizer of .* ends a text with 2", str(ours))
    edit(ours, lambda document: document["model_cfg"]["text_cfg"].pop("pool_type"))
    said = 'reads its output at the highest id, but .* ends a text with 2 of 4,096.*pool_type "eos"'
    refused(said, str(ours))
    large = tmp_path / "large"
    folder_with(large, changed(text_cfg__context_length=16))
    said = "at the highest id, but the tokenizer of .*ours ends a text with 2"
    refused(said, str(large), tokenizer=str(ours))


def test_the_library_reads_our_tokenizer_file_alike_when_it_is_not_ours_to_the_byte(ours):
    path = ours / "tokenizer.json"
    captions = ["an icon of an owl", "heart", "rocket launch " * 9]
    fast = open_model(str(ours), device="cpu").tokenize(captions)
    path.write_text(path.read_text() + "\n")
    assert not texts._is_ours(ours)
    assert torch.equal(open_model(str(ours), device="cpu").tokenize(captions), fast)
    path.unlink()
    refused("no tokenizer could be made", str(ours))


def test_the_weights_of_our_checkpoint_go_into_its_configuration_alone(ours, tmp_path):
    state = load_file(ours / model.WEIGHTS)
    save_file(state, tmp_path / "copy.safetensors")
    opened = open_model(str(ours), weights=tmp_path / "copy.safetensors", device="cpu")
    assert opened.weights == str(tmp_path / "copy.safetensors")
    refused("weights for texts of 16 tokens, but tiny takes 77", "tiny", weights=ours)
