"""The Celery side: scores jobs, writes reports and companions, delivers them."""
