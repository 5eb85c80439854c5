"""What the services see of the outside: small Protocols and the values that cross them.

Holds no names of its own, so that each import names the part of the outside that is meant. Owns no
behaviour; the Store's Protocols are in ``viz.domain.ports.ledger`` and
``viz.domain.ports.settlement_ledger``. Each is implemented for real (``viz.chain``,
``viz.storage``, ``viz.store``, ``viz.engine``) and once in ``tests/fakes``, and one behaviour suite
runs on both: ``test_blob_stores.py`` in tests/integration/storage, ``test_behaviour.py`` in
tests/unit/store and tests/unit/engine, and ``test_chain_behaviour.py`` in
tests/integration/services (Settlement's channels alone: the fake chain knows no works). Every
method that waits on the outside is async, bounded in time, and raises only classes of
``viz.errors``.
"""
