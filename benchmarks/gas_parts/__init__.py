"""The parts of ``benchmarks/gas.py``: the chain, the people and their moves, the scenes."""
