"""The gradient of a small CLIP on a CPU, written out.

Reading order: `tower` (blocks, forward and backward), `packing` (captions in rows), `towers` (both
towers with their ends), `weights` (one flat vector), `step` (parts of a batch side by side), `macs`.
"""
