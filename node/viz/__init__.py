"""Viz: a node that licenses works, trains adapters on them, and sells their answers."""

import os

# OpenMP threads that spin while they wait take the CPU from each other if the machine has other
# work too (training, a test run): products were measured 13 times slower on two busy cores. The
# OpenMP runtime reads this variable once, when torch loads it, so it is set before any module of
# this package can import torch.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
