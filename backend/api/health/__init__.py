"""The health of the installation: polling the engines, judging the figures, the status page, the metrics."""
