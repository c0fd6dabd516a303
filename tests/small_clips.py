"""Small models in open_clip's own forms, for tests of what opens them."""

import json

import torch

TINY = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2,
    },
}  # fmt: skip


def changed(**changes):
    """The configuration with other values: ``quick_gelu=True``, ``vision_cfg__image_size=64``."""
    config = json.loads(json.dumps(TINY))
    for name, value in changes.items():
        part, _, key = name.rpartition("__")
        (config[part] if part else config)[key] = value
    return config


def built(config=TINY, seed=1):
    from open_clip.model import CLIP, CustomTextCLIP

    config = dict(config)
    kind = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    torch.manual_seed(seed)
    return kind(**config).eval()


def folder_with(path, config=TINY, weights="open_clip_pytorch_model.bin", **preprocess):
    """A folder as the hub has them; returns the model whose weights are in it."""
    path.mkdir(exist_ok=True)
    document = {"model_cfg": config, "preprocess_cfg": preprocess}
    (path / "open_clip_config.json").write_text(json.dumps(document))
    clip = built(config)
    torch.save(clip.state_dict(), path / weights)
    return clip


def in_open_clips_tables(monkeypatch):
    """open_clip with small models and tags of ours in its tables; returns the module of tags."""
    from open_clip import factory, pretrained

    models = {
        "tiny": TINY,
        "tiny-quickgelu": changed(quick_gelu=True),
        "tiny-64": changed(vision_cfg__image_size=64),
        "tiny-half": changed(),
    }
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", {**factory._MODEL_CONFIGS, **models})
    row = pretrained._pcfg(hf_hub="someone/tiny/")
    half = {**row, "mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    tags = {"good": row, "quick": row | {"quick_gelu": True}}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-half", {"a": half, "b": dict(half)})
    return pretrained
