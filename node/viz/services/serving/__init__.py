"""Which adapters are sold, who is admitted, and the paid stream."""
