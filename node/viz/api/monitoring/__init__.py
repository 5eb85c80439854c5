"""Health, and metrics for Prometheus."""
