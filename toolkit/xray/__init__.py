"""An X-ray: from a file or its bytes to grey pixels, with its grade, patient and part."""
