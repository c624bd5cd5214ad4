"""The HTTP side: health, metrics, jobs, pages."""
