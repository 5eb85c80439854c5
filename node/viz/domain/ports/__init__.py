"""Define the Protocols through which services use other packages.

These are chain, storage, ledger and engine and, for the lower packages of services, the services
above them (``services.py``). A Protocol whose implementations are all in its user's package is
defined there instead.

This package has no names of its own: import from its modules. Each Protocol of the outside has a
real implementation (``viz.chain``, ``viz.storage``, ``viz.store``, ``viz.engine``) and one in
``tests/fakes``, and the same tests run on both: ``test_blob_stores.py`` in
tests/integration/storage, ``test_behaviour.py`` in tests/unit/store and tests/unit/engine, and
``test_chain_behaviour.py`` in tests/integration/services (Settlement's channels only: the fake
chain has no works; the fake of ``OpenedChannels`` is in ``test_new_ledger.py``). Every method that
waits is async, bounded in time, and raises only classes of ``viz.errors``.
"""
