"""For orchestrators and Prometheus: health and metrics."""
