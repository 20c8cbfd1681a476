"""Records what many clients asked and were answered, and decides whether a correct server can say that."""
