"""The service: a job store, a worker between it and the engine, and HTTP over both."""
