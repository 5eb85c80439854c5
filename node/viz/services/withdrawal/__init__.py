"""End what may no longer be used: withdrawals, destruction with certificates, and notices."""
