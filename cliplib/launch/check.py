"""Is the model that a run would train the published one? Built on torch's meta device: no memory.

Three counts of a rung are compared: the parameters of the model that open_clip builds with our formula
and the published number; the multiply-accumulates that torch counts in one forward pass with our
formula; our formula with the published GMACs, to the last printed digit.
"""

from __future__ import annotations

from dataclasses import dataclass

from cliplib.ladder import Rung, gmacs, model_config, params, rung


@dataclass(frozen=True)
class ModelCheck:
    """One architecture, counted. Parameters in units, GMAC for one pair, None where not published.

    ``counted_gmacs`` are torch's: products only, as ``product_gmacs`` of our formula (the published
    convention also counts 5 operations per element of a LayerNorm, ``gmacs`` does).
    """

    rung: str
    params_built: int
    params: int
    params_published_m: float | None
    counted_gmacs: float
    product_gmacs: float
    gmacs: float
    gmacs_published: float | None

    @property
    def agrees(self) -> bool:
        """Whether all counts agree, the published ones in every printed digit."""
        return (
            self.params_built == self.params
            and _prints_as(self.params / 1e6, self.params_published_m)
            and abs(self.counted_gmacs / self.product_gmacs - 1) < 1e-9
            and _prints_as(self.gmacs, self.gmacs_published)
        )


def check_model(name: str) -> ModelCheck:
    """Build the rung as open_clip does, without memory, and count. Vision transformers only.

    Raises:
        InputError: unknown rung, or a ResNet.
    """
    from cliplib.paper.bill import norm_gmacs

    r = rung(name)
    products = gmacs(r) - norm_gmacs(name)
    built, counted = _count(r)
    published = _published().get(name, {})
    return ModelCheck(
        name, built, params(r), published.get("params_m"), counted, products,
        gmacs(r), published.get("gmacs_per_sample"),
    )  # fmt: skip


def _count(r: Rung) -> tuple[int, float]:
    """Parameters, and the GMACs that torch counts in a forward pass over one pair."""
    import torch
    from open_clip.model import CLIP
    from torch.utils.flop_counter import FlopCounterMode

    from cliplib.model import use_plain_attention

    with torch.device("meta"), torch.no_grad():
        clip = use_plain_attention(CLIP(**model_config(r)))  # torch does not count the fused kernel
        with FlopCounterMode(display=False) as counter:
            clip.encode_image(torch.zeros(1, 3, r.image_px, r.image_px))
            clip.encode_text(torch.zeros(1, r.context_length, dtype=torch.long))
    return sum(p.numel() for p in clip.parameters()), counter.get_total_flops() / 2e9


def _published() -> dict[str, dict[str, float]]:
    from cliplib.published import architectures

    columns = ("params_m", "gmacs_per_sample")
    table = architectures().set_index("arch")
    return {
        str(arch): {name: float(row[name]) for name in columns} for arch, row in table.iterrows()
    }


def _prints_as(value: float, printed: float | None) -> bool:
    from cliplib.paper.bill import ROUNDING

    return printed is None or abs(value - printed) <= ROUNDING + 1e-9
