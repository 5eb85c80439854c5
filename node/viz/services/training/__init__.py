"""Train adapters on licensed works, one run at a time, and say what each was made from."""
