"""The auditor's commands: check what nodes and trainers claim by computing it again."""
