"""The Celery edge: owns a job while it runs."""
