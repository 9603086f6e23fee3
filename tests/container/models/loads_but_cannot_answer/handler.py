"""A handler whose model loads and whose every answer is an error."""


def handle(data, _context):
    if data is None:
        return
    raise ValueError("cannot answer anything")
