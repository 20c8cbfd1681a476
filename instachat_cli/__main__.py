"""`python -m instachat_cli` is `instachat`."""

from instachat_cli.main import main

if __name__ == "__main__":
    main()
