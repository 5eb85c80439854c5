"""The main job, end to end, on real parts: what `./scripts/demo` runs."""
