"""Request bodies into Python values and tensors, and answers back into bytes. Knows no network and no server."""
