"""The core of InstaChat: accept → log → drain → SQL → publish → index (see docs/architecture.md)."""
