"""Money on channels: access, vouchers, deposits, quotes, metering."""
