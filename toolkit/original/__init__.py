"""The published study's own checkpoint."""
