"""The chain backend: one RPC connection, one sender a key, typed contracts, a log watcher."""
