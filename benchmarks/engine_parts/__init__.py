"""The parts of ``benchmarks/engine.py``: the machine, the material, this engine and its peers.

Every peer runs in a process of its own, in its own environment and with its own defaults, and is
stopped (SIGSTOP) while another contender runs; all are given the same number of threads.
"""
