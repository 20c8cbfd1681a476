"""Whether the installation is well: probes, the status page, its summary, and the metrics."""
