"""Settings of a chat server, shared by the judge of a run and the models of an evaluation."""

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator

from socialr1_jax.config.sections import Real, Section, TextMap
from socialr1_jax.config.yaml_text import parse_yaml
from socialr1_jax.runtime.terminal import printable

_CLIENTS = ("model", "messages", "stream", "n")
_NUMBERS = ("max_tokens", "temperature", "top_p", "seed")
_LONG = 16  # this many letters and digits in a row make the name of an unset variable look like a key


class ServerConfig(Section):
    """A model on an OpenAI-compatible server."""

    model_config = ConfigDict(hide_input_in_errors=True)  # an address may contain a key

    model: str = Field("", description="name of the model")
    base_url: str = Field("", description="address of the server up to /v1, such as http://localhost:8000/v1")
    api_key_env: str = Field("OPENAI_API_KEY", description="environment variable that holds the server's key")
    options: TextMap = Field(
        {},
        description="request parameters to add ({reasoning_effort: low}), remove ({seed: }) or rename "
        "({max_tokens: max_completion_tokens})",
    )
    concurrency: int = Field(64, ge=1, description="most calls to the server at once")
    requests_per_minute: int = Field(0, ge=0, description="rate limit of calls; 0 = none")
    tokens_per_minute: int = Field(0, ge=0, description="rate limit, counting max_tokens for an answer; 0 = none")
    retries: int = Field(4, ge=0, description="retries after 429, 5xx, timeouts and broken connections")
    call_timeout: Real = Field(60.0, gt=0, description="timeout of one attempt in seconds")
    max_answer_bytes: int = Field(1_000_000, ge=1000, description="size limit of a response; a larger one fails")

    @property
    def local(self) -> bool:
        """Return whether the server is on this machine."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def api_key(self) -> str:
        """Return the API key, or "none" for a local server without one. Raises ValueError without printing the key."""
        key, variable = os.environ.get(self.api_key_env, "").strip(), self.api_key_env
        if not key and not self.local:
            raise ValueError(f"the environment variable {variable} is not set: set it to the server's key, or any text")
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise ValueError(
                f"{variable} contains characters that are not valid in an API key; set it to the key alone"
            )
        return key or "none"

    def parameters(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a request: `ours`, changed by `options`, whose values are YAML.

        An empty option removes a parameter. If the value of max_tokens, temperature, top_p or seed is a name, the
        parameter is sent under that name. Any other value replaces the parameter.
        """
        sent = dict(ours)
        for name, text in self.options.items():
            value = parse_yaml(text)
            if name not in _NUMBERS or not isinstance(value, str):
                sent[name] = value
            elif name in sent:
                sent[value] = sent.pop(name)
        return {name: value for name, value in sent.items() if value is not None}

    @field_validator("options", "judge_options", "partner_options", check_fields=False)
    @classmethod
    def _can_be_sent(cls, options: dict[str, str]) -> dict[str, str]:
        for name, text in options.items():
            if name in _CLIENTS:
                raise ValueError(f"may not hold {name!r}, which is set by the client")
            where, shown = printable(name, 100), printable(repr(text), 200)
            try:
                value = parse_yaml(text)
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                raise ValueError(f"{where}: {shown} is not a value that can be sent as JSON") from None
            if name in _NUMBERS and isinstance(value, str) and (value in _CLIENTS or not value.isidentifier()):
                raise ValueError(f"{where}: {shown} is not the name of a parameter")
            if name in _NUMBERS and isinstance(value, list | dict | bool):
                raise ValueError(f"{where}: {shown} is neither a number nor the name of a parameter")
        return options

    @field_validator("api_key_env", "judge_key_env", check_fields=False)
    @classmethod
    def _is_variable(cls, name: str) -> str:
        """Refuse a key in place of the name without printing it: the name appears in config.yaml and messages."""
        looks_like_key = any(len(part) >= _LONG for part in name.split("_")) and name not in os.environ
        if looks_like_key or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "not the name of an environment variable; set a variable such as OPENAI_API_KEY to the key, and give "
                "the variable's name here"
            )
        return name

    @field_validator("base_url", "partner_url", "judge_url", check_fields=False)
    @classmethod
    def _is_address(cls, url: str) -> str:
        """Refuse an invalid address without printing it: it would appear in config.yaml, results and messages."""
        try:
            address = urlsplit(url)
            whole = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:
            address, whole = urlsplit(""), False
        if "@" in address.netloc or any(c in url for c in "?#="):
            raise ValueError(
                "holds a user, password, query or fragment; put the key into OPENAI_API_KEY, or into the variable that "
                "api_key_env names"
            )
        if url and not (whole and url.isprintable() and " " not in url):
            raise ValueError("not of the form http://host:8000/v1")
        return url
