"""Handle the money on channels: access tokens, vouchers, deposits, quotes, metering, receipts."""
