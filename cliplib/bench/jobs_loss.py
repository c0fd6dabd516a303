"""The loss at scale: memory and time of InfoNCE and its gradients as the batch grows.

The peer is open_clip's own loss on the same features. Each size runs in a process of its own, so
that the most memory a process ever held is that size's; the features themselves are not counted.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

from cliplib.bench.measure import Row, job, less_is_better

FITS = 12.0  # GB that the peer may take; what it would take beyond that is not tried
PEER_MATRICES = 4  # of B x B float32 that open_clip's loss holds at its peak, as measured

PROGRAM = """
import json, resource, sys, time
import torch
from torch.nn.functional import normalize

way, batch, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if way == "peer":
    from open_clip.loss import ClipLoss as Loss
    loss = Loss()
else:
    from cliplib.train.loss import info_nce as loss
torch.set_num_threads(1)
torch.manual_seed(0)


def features(n):
    vectors = [normalize(torch.randn(n, width)).requires_grad_() for _ in range(2)]
    return *vectors, torch.tensor(100.0, requires_grad=True)


def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


loss(*features(8)).backward()  # libraries take their own memory at the first call
image, text, scale = features(batch)
ballast, held = [], peak()
while peak() == held:  # imports held more for a moment: fill that up, so that all growth shows
    ballast.append(torch.ones(2**16))
held, begin = peak(), time.process_time()
value = loss(image, text, scale)
value.backward()
seconds = time.process_time() - begin
print(json.dumps({"bytes": peak() - held, "seconds": seconds, "loss": value.item()}))
"""


@job
def loss_memory(
    batches: Sequence[int] = (1024, 4096, 16_384, 65_536), width: int = 512, fits: float = FITS
) -> Iterator[Row]:
    """Peak memory and processor seconds of the loss and its gradients, at every batch size."""
    for batch in batches:
        ours = _measured("ours", batch, width)
        needed = PEER_MATRICES * 4 * batch**2 / 1e9
        peer = _measured("peer", batch, width) if needed <= fits else {}
        case = f"InfoNCE and its gradients, {batch:,} pairs of {width} features, one thread"
        if peer and abs(peer["loss"] - ours["loss"]) > 1e-4 * abs(peer["loss"]):
            raise ArithmeticError(f"{case}: losses {ours['loss']} and {peer['loss']} differ")
        if not peer:
            case += f"; open_clip's would take about {needed:.0f} GB: not tried"
        megabytes = peer["bytes"] / 1e6 if peer else None
        yield less_is_better("loss_memory", case, megabytes, ours["bytes"] / 1e6, "MB")
        yield less_is_better("loss_memory", case, peer.get("seconds"), ours["seconds"], "CPU s")


def _measured(way: str, batch: int, width: int) -> dict[str, float]:
    """Bytes, seconds and loss of one way at one size, in a fresh process.

    Raises:
        RuntimeError: the process failed; the message has its last line.
    """
    words = [sys.executable, "-c", PROGRAM, way, str(batch), str(width)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"{way} with {batch:,} pairs: {last}")
    found: dict[str, float] = json.loads(done.stdout)
    return found
