"""The domain: words, errors, the log's events, folding, and the JSON form. Imports no other package."""
