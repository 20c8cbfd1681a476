"""What commands read from and write to a terminal: output, tables, progress, questions, exit codes."""
