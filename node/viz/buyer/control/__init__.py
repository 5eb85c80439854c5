"""The commands of a channel, for whichever process holds it."""
