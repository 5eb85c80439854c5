"""The trustless gateway: blobs as bytes, as raw blocks and as CAR files."""
