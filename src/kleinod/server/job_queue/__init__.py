"""Jobs from their acceptance to their end: the database, claims, workers, files and webhooks."""
