"""What the options of several commands are, and what they come to."""
