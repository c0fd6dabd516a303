"""The registry: the paper's models, what was published of them, and what the libraries build."""

import json
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from small_clips import built, changed, folder_with, in_open_clips_tables

from cliplib import InputError, published
from cliplib.__main__ import main
from cliplib.pretrained import check, registry
from cliplib.pretrained.check import counted
from cliplib.pretrained.opening import open_model
from cliplib.rungs import gmacs, params

STUDY = "openclip/B-32/LAION-2B/34B"
FILE = "Model-B-32_Data-2B_Samples-34B_lr-1e-3_bs-79k.pt"


# ------------------------------------------------------------------------------------------ the table


def test_the_study_is_in_the_registry_as_it_was_published():
    runs = published.pretraining_runs().query("family == 'OpenCLIP'").set_index("run_id")
    study = {one.name: one for one in registry.entries() if one.table == "zero_shot"}
    assert len(study) == 29 and study.keys() == set(runs.index)
    for name, one in study.items():
        assert (one.arch, one.file) == (runs.arch[name], runs.checkpoint[name])
        assert one.hub == "laion/scaling-laws-openclip" and not one.quick_gelu
        half = name == "openclip/L-14/LAION-2B/34B"
        assert one.statistics == ("half" if half else "openai")


def test_a_model_goes_by_its_name_or_its_file():
    assert registry.entry(STUDY) is registry.entry(FILE)
    with pytest.raises(
        InputError, match=r"no model 'openclip/B-32/LAION-2B/33B'.*near it: openclip"
    ):
        registry.entry("openclip/B-32/LAION-2B/33B")


def test_published_values_are_those_of_the_published_tables():
    zero = published.zero_shot().query("run_id == @STUDY")
    mine = registry.published(registry.entry(STUDY))
    assert len(mine) == len(zero) and list(mine) == ["dataset", "metric", "value", "source"]
    tower = registry.entry("vit_huge_patch14_clip_336.laion2b_ft_in12k_in1k")
    row = published.finetuned().query("model == @tower.name").iloc[0]
    scores = registry.published(tower).set_index(["dataset", "metric"])["value"]
    assert scores["imagenet1k", "top1"] == row.in1k_top1 / 100
    assert scores["imagenetv2", "top1"] == row.inv2_top1 / 100 and scores.max() < 1
    later = registry.published(registry.entry("laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"))
    assert later.set_index(["dataset", "metric"])["value"]["imagenet1k", "top1"] == 0.8009
    assert registry.published(registry.entry("vit_huge_patch14_clip_224.laion2b_ft_in12k")).empty


def test_crops_of_the_towers_are_as_published():
    crops = published.finetuned().set_index("model")["crop_pct"]
    towers = [one for one in registry.entries() if one.table == "finetuned"]
    assert len(towers) == 7 and all(one.crop_pct == crops[one.name] for one in towers)


# ----------------------------------------------------------------------------------- built and counted


def test_every_model_is_built_with_the_published_parameters_and_gmacs():
    table = check.check().set_index("name")
    assert len(table) == 39 and table["agrees"].all(), table[~table["agrees"]]
    bare = table[table["published_params_m"].isna()]
    assert len(bare) == 2 and all("no published size" in note for note in bare["note"])
    assert table["gmacs"].max() == pytest.approx(532.92, abs=0.005)


@pytest.mark.parametrize("arch", ["ViT-B-32", "ViT-L-14"])
def test_what_is_counted_is_what_the_formulas_say(arch):
    found = counted("open_clip", arch, 0)
    assert found[0] == params(arch) and found[1] == pytest.approx(1e9 * gmacs(arch), abs=1)


def test_a_library_that_prepares_images_otherwise_is_found_out():
    one = replace(registry.entry("vit_base_patch32_clip_224.laion2b_ft_in1k"), crop_pct=1.0)
    row = check.check([one]).iloc[0]
    assert not row["agrees"] and "the library has crop_pct 0.9, the registry 1.0" in row["note"]


def test_a_size_that_is_not_the_published_one_is_found_out(monkeypatch, capsys):
    one = registry.entry(STUDY)
    monkeypatch.setattr(check, "published_size", lambda entry: (151.28, 7.42))
    monkeypatch.setattr(check, "entries", lambda: (one,))
    assert not check.check().agrees.any()
    assert main(["models", "--check"]) == 1 and "7.42" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- the verb


def test_the_verb_lists_every_model_with_its_published_accuracy(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert (
        f"| {STUDY} | open_clip | 151.28 | 7.40 | 0.6647 | laion/scaling-laws-openclip/{FILE} |"
        in text
    )
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 39 and rows[3]["imagenet1k_top1"] is None


# ----------------------------------------------------------------------------------------- downloading


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub's client, serving a folder on this disk: repository/file."""
    asked = []

    def serve(repo_id, filename, **_):
        asked.append(f"{repo_id}/{filename}")
        path = tmp_path / repo_id / filename
        if not path.exists():
            raise EntryNotFoundError(f"404: {filename}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", serve)
    serve.folder, serve.asked = tmp_path, asked
    library = in_open_clips_tables(monkeypatch)
    monkeypatch.setattr(library, "hf_hub_download", serve)
    return serve


def repository(hub, name):
    folder = hub.folder / name
    folder.mkdir(parents=True)
    return folder


def test_a_run_of_the_study_is_fetched_and_opened(hub):
    from open_clip import create_model

    state = create_model("ViT-B-32", load_weights=False).half().state_dict()
    path = repository(hub, "laion/scaling-laws-openclip") / FILE
    torch.save({"epoch": 256, "name": "run", "state_dict": state}, path)
    opened = open_model(STUDY, device="cpu")
    assert hub.asked == [f"laion/scaling-laws-openclip/{FILE}"] and opened.weights == str(path)
    assert torch.equal(opened.model.visual.proj, state["visual.proj"].float())
    assert (opened.arch, opened.image_px) == ("ViT-B-32", 224)
    with pytest.raises(
        InputError, match=r"does not fit ViT-B-16: .* in the file and .* in the model"
    ):
        open_model("ViT-B-16", weights=path, device="cpu")


def test_a_tower_of_the_registry_is_fetched_and_opened(hub, monkeypatch):
    import timm
    from safetensors.torch import save_file

    tower = registry.entry("vit_base_patch32_clip_224.laion2b_ft_in1k")
    small = replace(tower, name="test_vit.r160_in1k", arch="test_vit", tag="r160_in1k")
    monkeypatch.setattr(registry, "entries", lambda: (small,))
    state = timm.create_model("test_vit").state_dict()
    save_file(state, repository(hub, "timm/test_vit.r160_in1k") / "model.safetensors")
    opened = open_model("test_vit.r160_in1k", device="cpu")
    assert (opened.loader, opened.classes, opened.image_px) == ("timm", 1000, 160)
    assert torch.equal(opened.model.head.weight, state["head.weight"])


@pytest.mark.parametrize("name", ["hf-hub:someone/tiny", "tiny"])
def test_a_repository_and_a_tag_are_fetched_and_opened(hub, name):
    folder = repository(hub, "someone/tiny")
    stock = folder_with(folder, resize_mode="squash")
    opened = open_model(name, pretrained=None if ":" in name else "good", device="cpu")
    assert torch.equal(opened.model.visual.proj, stock.visual.proj)
    assert opened.weights == str(folder / "open_clip_pytorch_model.bin")
    assert opened.preprocess["resize_mode"] == ("squash" if ":" in name else "shortest")
    assert torch.equal(opened.tokenize(["a dog"])[0, :2], torch.tensor([49406, 320]))


def test_a_file_of_a_tag_that_is_here_needs_no_download(hub, tmp_path):
    torch.save(built(changed(quick_gelu=True)).state_dict(), path := tmp_path / "w.pt")
    open_model("tiny", pretrained="good", weights=path, device="cpu")
    assert hub.asked == []


def test_a_download_that_fails_says_what_to_do(hub, monkeypatch):
    with pytest.raises(InputError, match=f"has none of {FILE}; pass --weights FILE"):
        open_model(STUDY, device="cpu")

    def offline(**_):
        raise LocalEntryNotFoundError("cannot locate the file on the Hub\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    said = (
        rf"{FILE}: could not be downloaded \(cannot locate the file on the Hub\); .*--weights FILE"
    )
    with pytest.raises(InputError, match=said):
        open_model(STUDY, device="cpu")
    with pytest.raises(InputError, match="tiny good: could not be downloaded"):
        open_model("tiny", pretrained="good", device="cpu")
