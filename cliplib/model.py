"""An open_clip CLIP for a rung: built, run fast on a CPU, saved so that open_clip itself can read it.

The model and its weights are open_clip's. Two things differ when *we* run it, and neither changes a
weight's name, shape or meaning: attention is written out (:class:`PlainAttention`) where that is the
faster way, and captions are not padded beyond the longest in the batch (the text tower is causal, so
tokens after end-of-text cannot change what comes before).

Shapes: B pairs, L tokens, H heads, W width, E embedding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cliplib import InputError
from cliplib.ladder import EOS_ID, VOCAB_SIZE, Rung, model_config

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from tokenizers import Tokenizer

TOKENIZER = Path(__file__).parent / "tokenizer"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"

PAD, START, END = "<pad>", "<start>", "<end>"  # ids 0, 1, EOS_ID

#: Icons are drawn in black or colour on white: these centre their grey levels and scale them to about one.
MEAN = (0.75, 0.75, 0.75)
STD = (0.35, 0.35, 0.35)


# ------------------------------------------------------------------------------ precision, attention


@dataclass(frozen=True)
class Numerics:
    """How the arithmetic is done, and why.

    Attributes:
        precision: "bf16" or "fp32" of matrix products.
        attention: "plain" or "fused", where open_clip's modules run.
        path: how training computes a step: "fast" (`cliplib.fast`) or "torch" (autograd).
        reason: one clause.
    """

    precision: str
    attention: str
    path: str
    reason: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of matrix products; weights, optimiser state and loss stay in float32."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


#: The one visible table (hardware -> numerics). Rows are tried from the top.
NUMERICS = {
    "cuda": Numerics("bf16", "fused", "torch", "tensor cores; torch's fused attention"),
    "cpu-bf16": Numerics(
        "bf16", "plain", "fast", "bf16 matmuls in hardware; fused bf16 backward is slow"
    ),
    "cpu": Numerics("fp32", "plain", "fast", "no bf16 matmuls in hardware"),
}


def numerics(precision: str | None = None) -> Numerics:
    """The row of :data:`NUMERICS` for this machine, or the same with ``precision`` forced.

    Raises:
        InputError: ``precision`` is neither "bf16" nor "fp32".
    """
    if precision not in (None, "bf16", "fp32"):
        raise InputError(f"precision {precision!r} is not known: use bf16 or fp32")
    if torch.cuda.is_available():
        row = NUMERICS["cuda"]
    else:
        can = torch.cpu.get_capabilities()
        row = NUMERICS["cpu-bf16" if can.get("avx512_bf16") or can.get("amx_bf16") else "cpu"]
    return row if precision is None else replace(row, precision=precision, reason="as asked for")


class PlainAttention(nn.Module):
    """Self-attention as matmul, softmax, matmul, on the parameters of an ``nn.MultiheadAttention``.

    Parameter names and values are shared with the module it stands for, so a state dict of one loads
    into the other. Only what CLIP uses: batch first, no dropout, an additive mask.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight = original.in_proj_weight
        self.in_proj_bias = original.in_proj_bias
        self.out_proj = original.out_proj
        self.num_heads = original.num_heads

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor,
        v_x: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """(B, L, W) -> (B, L, W), and no weights."""
        B, L, W = q_x.shape
        qkv = F.linear(q_x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3W)
        q, k, v = (
            qkv.view(B, L, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (B, H, L, W/H)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, H, L, L)
        if attn_mask is not None:
            scores = scores + attn_mask
        mixed = scores.softmax(-1) @ v
        return self.out_proj(mixed.transpose(1, 2).reshape(B, L, W)), None


def use_plain_attention(model: CLIP) -> CLIP:
    """Swap every block's attention for :class:`PlainAttention`, in place; weights are untouched."""
    for tower in (model.visual.transformer, model.transformer):
        for block in tower.resblocks:
            if isinstance(block.attn, nn.MultiheadAttention):
                block.attn = PlainAttention(block.attn)
    return model


# -------------------------------------------------------------------------------------------- model


def create(rung: Rung, seed: int, attention: str = "plain") -> CLIP:
    """A freshly initialised open_clip CLIP of this rung; equal seeds give equal weights."""
    from open_clip.model import CLIP

    config = model_config(rung)
    config["text_cfg"].pop("hf_tokenizer_name", None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIP(**config)
    return use_plain_attention(model) if attention == "plain" else model


class Towers(nn.Module):
    """Both towers of a CLIP in one call, as ``DistributedDataParallel`` wants it."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 3, px, px) and tokens (B, L) -> unit vectors (B, E) twice, in float32, and the scale."""
        image = encode_image(self.clip, images)
        return image, encode_text(self.clip, tokens), self.clip.logit_scale.exp()


def encode_image(clip: CLIP, images: Tensor) -> Tensor:
    """Normalised images (B, 3, px, px) -> unit vectors (B, E), float32."""
    return F.normalize(clip.visual(images).float(), dim=-1)


def encode_text(clip: CLIP, tokens: Tensor) -> Tensor:
    """Token ids (B, L), padded, L at most the context -> unit vectors (B, E), float32.

    The same numbers as ``clip.encode_text(tokens padded to the context, normalize=True)``.
    """
    length = tokens.shape[1]
    if length == clip.context_length or clip.attn_mask is None:
        return F.normalize(clip.encode_text(tokens).float(), dim=-1)
    x = clip.token_embedding(tokens) + clip.positional_embedding[:length]  # (B, L, W)
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    end = ends(clip, tokens)
    pooled = x[torch.arange(len(x), device=x.device), end] @ clip.text_projection
    return F.normalize(pooled.float(), dim=-1)


def ends(clip: CLIP, tokens: Tensor) -> Tensor:
    """Where each caption ends: (B,) places of end-of-text in tokens (B, L), as open_clip finds them."""
    if clip.text_pool_type == "argmax":  # CLIP's own vocabulary: the highest id
        return tokens.argmax(dim=-1)
    return (tokens == clip.text_eos_id).int().argmax(dim=-1)


def normalise(
    images: np.ndarray | Tensor,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> Tensor:
    """Grey levels (B, px, px, 3) uint8 -> network input (B, 3, px, px) float32."""
    x = torch.as_tensor(images).permute(0, 3, 1, 2).float().div_(255)
    centre, spread = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (mean, std))
    return x.sub_(centre).div_(spread).contiguous()


def statistics(rung: Rung) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of the colours that a rung's pictures are normalised by: icons', or CLIP's."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    if rung.vocab_size == VOCAB_SIZE:
        return MEAN, STD
    return tuple(OPENAI_DATASET_MEAN), tuple(OPENAI_DATASET_STD)


# ---------------------------------------------------------------------------------------- tokenizer


@cache
def tokenizer() -> Tokenizer:
    """The committed tokenizer of the icon text: byte pairs, lower case, about 4,000 pieces."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(TOKENIZER / TOKENIZER_FILES[0]))


def tokens_for(rung: Rung, captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Captions -> token ids (n, context) in the rung's vocabulary, and their lengths (n,) to the end."""
    if rung.vocab_size == VOCAB_SIZE:
        ids, end = tokenize(captions, rung.context_length), EOS_ID
    else:
        ids = _clip_tokenizer()(list(captions), rung.context_length).numpy()
        end = rung.vocab_size - 1
    return ids, (ids == end).argmax(1) + 1


@cache
def _clip_tokenizer() -> Any:
    """CLIP's own tokenizer, which comes with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def tokenize(captions: Sequence[str], context_length: int = 16) -> np.ndarray:
    """Captions -> token ids (n, context_length) int16: start, pieces, end, padding.

    A caption that is too long is cut and still ends with end-of-text. Equal to what open_clip's own
    tokenizer gives for a saved checkpoint.
    """
    ids = np.zeros((len(captions), context_length), dtype=np.int16)
    for row, encoding in zip(ids, tokenizer().encode_batch(list(captions))):
        pieces = encoding.ids[:context_length]
        row[: len(pieces)] = pieces
        if pieces and pieces[-1] != EOS_ID:
            row[len(pieces) - 1] = EOS_ID
    return ids


def train_tokenizer(captions: Sequence[str], folder: Path, vocab_size: int = VOCAB_SIZE) -> None:
    """Train the tokenizer on ``captions`` and write its two files (done once; the result is committed)."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE(unk_token=None))
    bpe.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(captions, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 1), (END, EOS_ID)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / TOKENIZER_FILES[0]))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PAD, "bos_token": START, "eos_token": END,
        "model_max_length": 16, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / TOKENIZER_FILES[1]).write_text(json.dumps(settings, indent=1) + "\n")


# -------------------------------------------------------------------------------------- save, load


def save(clip: CLIP, rung: Rung, folder: Path) -> None:
    """Write weights, configuration and tokenizer so that ``open_clip`` opens ``local-dir:folder``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", copy=True).contiguous()
        for name, value in clip.state_dict().items()
    }
    aside = folder / f".{WEIGHTS}.tmp"
    save_file(weights, aside)
    aside.replace(folder / WEIGHTS)
    config = model_config(rung)
    if rung.vocab_size == VOCAB_SIZE:
        for name in TOKENIZER_FILES:
            shutil.copyfile(TOKENIZER / name, folder / name)
        config["text_cfg"]["hf_tokenizer_name"] = "icon-bpe"  # set: open_clip looks in the folder
    mean, std = statistics(rung)
    how = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
    document = {"model_cfg": config, "preprocess_cfg": how}
    (folder / CONFIG).write_text(json.dumps(document, indent=1) + "\n")


def load(folder: Path, attention: str = "plain") -> CLIP:
    """Open a folder written by :func:`save`.

    Raises:
        InputError: the folder holds no checkpoint, or weights that do not fit its configuration.
    """
    from open_clip.model import CLIP
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG).read_text())["model_cfg"]
        config["text_cfg"].pop("hf_tokenizer_name", None)
        clip = CLIP(**config)
        clip.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{folder}: no usable checkpoint ({reason}); train the run again"
        ) from None
    return use_plain_attention(clip) if attention == "plain" else clip
