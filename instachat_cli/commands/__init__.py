"""The commands, one module each; `instachat_cli.program` finds them by their names."""
