"""What an author writes, typed and checked: model.yaml, samples, handlers and requirements."""
