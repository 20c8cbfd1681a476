"""A value for each field that a client writes of a message: a new field fails tests until it has one here."""

MESSAGE_FIELDS = {"text": 'perhaps refused\t\\N\n\u2028"end'}
INVALID_FIELDS = {
    "text": ["", "a" * 10_001, "a\0b", "\ud800", 1, None],
}
