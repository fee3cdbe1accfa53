"""Results on disk: complete or absent, locked while they are made, verified by a manifest, resumable."""
