"""The operator's audit log: an append-only chain of hashes, and its verification."""
