"""What vouches for an image: signatures, provenance and the bill of materials."""
