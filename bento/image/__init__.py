"""What a container image of a bento is made with."""
