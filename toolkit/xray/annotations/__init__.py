"""What is said of X-rays beside what their folder shows: classes, patients, parts."""
