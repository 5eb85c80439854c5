"""The creator's commands: content, license and wallet."""
