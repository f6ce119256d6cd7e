"""Tests of stickyproxy/connector."""
