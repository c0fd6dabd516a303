"""Every protocol that a trained model is tested by, on the icons and on anyone's data.

Reading order: `tasks` and `images` (what is tested on), `icon_tasks` and `wds` (where it comes from),
`blocks` and `features` (towers to unit vectors), `zero_shot`, `similarity` and `retrieval` (unit vectors
to ranks), `outcomes` (the file of ranks), `ranks`, `metrics` and `robustness` (ranks to numbers),
`icons` and `suite` (a whole evaluation), `probe` (linear probes, full and few-shot).
"""

from cliplib.evaluate.icon_tasks import POOL, concept_codes, retrieval_pool, validation_pool
from cliplib.evaluate.icons import covered_concepts, evaluate, icon_rows, rank_everything
from cliplib.evaluate.outcomes import Ranked, unpack
from cliplib.evaluate.ranks import clustered_mean, top_k
from cliplib.evaluate.retrieval import retrieve

__all__ = [
    "POOL", "Ranked", "clustered_mean", "concept_codes", "covered_concepts", "evaluate", "icon_rows",
    "rank_everything", "retrieval_pool", "retrieve", "top_k", "unpack", "validation_pool",
]  # fmt: skip
