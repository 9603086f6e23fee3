"""One module per server: its batches as Requests, our Answers in its own way."""
