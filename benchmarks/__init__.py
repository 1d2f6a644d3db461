"""Measurements of what the package costs: each module is a command, `python -m benchmarks.NAME`, run from a clone.

    perceptual_loss   time, memory and exactness of the loss against the floor of three bare decoder passes
    pieces            convolutions, normalisations, masks and distances, each against the plain way
    scaling           cost against samples, pixels and the share of samples that pass the gate
    training          throughput and memory of training with the loss, as ratios to training without; meant for a GPU
    step              where the time of training, encoding, sampling and evaluation goes

`docs/performance.md` says how they measure and what they gave.
"""
