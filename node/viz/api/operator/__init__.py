"""The operator's commands over HTTP."""
