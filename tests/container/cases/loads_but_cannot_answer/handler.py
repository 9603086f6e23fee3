"""A handler whose model loads and whose every answer is an error."""


def handle(data, context):
    if data is None:
        return None
    raise ValueError("cannot answer anything")
