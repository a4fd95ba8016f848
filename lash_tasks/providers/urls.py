"""Base URLs of model servers, checked before anything is sent to them."""

from __future__ import annotations

import httpx

from lash_tasks.errors import ConfigurationError


def checked_base_url(base_url: str, name: str, key_name: str) -> httpx.URL:
    """`base_url` parsed; ConfigurationError says what is wrong with `name`, and that a key belongs in `key_name`."""
    try:
        url = httpx.URL(base_url.strip())
    except (AttributeError, httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"{name}: must begin with http:// or https:// and name a host")
    if url.userinfo:
        raise ConfigurationError(f"{name}: must hold no user name or password; use {key_name}")
    return url


def beneath(base_url: httpx.URL, path: str) -> httpx.URL:
    """`base_url` with `path` behind its own; a query string stays."""
    return base_url.copy_with(path=base_url.path.rstrip("/") + path)
