"""The chain backend: one RPC connection, one sender per key, typed contracts, a log watcher."""
