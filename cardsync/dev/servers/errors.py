"""Errors of the embedded servers for development and tests."""

from __future__ import annotations

from cardsync.errors import CardsyncError


class ServiceError(CardsyncError):
    """An embedded server cannot be found, started or stopped; the text says why and where its log is."""


class DirectoryInUse(ServiceError):
    """Another process, or another object in this one, runs a server in the same directory."""
