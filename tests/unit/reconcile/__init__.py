"""Tests of backend/reconcile that need no engine."""
