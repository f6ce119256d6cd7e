"""Tests of ``stickyproxy.handover``."""
