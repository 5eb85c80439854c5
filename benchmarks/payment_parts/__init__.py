"""The parts of ``benchmarks/payments.py``: the server, the load, the single steps, the ledger."""
