"""What strangers send, read within limits: URLs, bodies, uploads, references."""
