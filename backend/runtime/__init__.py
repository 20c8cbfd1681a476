"""Process handling that the command line and the HTTP server share. Standard library only."""
