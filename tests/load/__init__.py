"""The load tool, held against a small server that is honest, or faulty on purpose."""
