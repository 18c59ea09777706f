"""Training by what other models, the teachers, say of X-rays."""
