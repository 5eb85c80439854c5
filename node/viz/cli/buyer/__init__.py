"""The buyer's commands: channels, answers, spending and the proxy."""
