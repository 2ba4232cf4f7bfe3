"""The service's settings: environment variables with the prefix LABRADOR_, read once.

Unknown variables with that prefix are refused, so a misspelt limit cannot go unnoticed.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.errors import BundleError, LabradorError
from models.preprocess import MEGAPIXELS_MAX
from models.store import CACHE_MB, DEFAULT_ROOT, Store, location

PREFIX = "LABRADOR_"
OF_TRAINING = (PREFIX + "CACHE",)  # may be set in the same shell, for `python -m training`
PARTS_MAX = 64  # parts of a multipart body, and so images of a request


class SettingsError(LabradorError):
    """An unknown setting or an invalid value."""


class Settings(BaseSettings):
    """Every setting with its default. MB means MiB; a megapixel is a million pixels."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    models: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="NAME or NAME:VERSION, comma-separated; empty: all in the store"
    )
    model_store: Path | str = Field(
        default=DEFAULT_ROOT,
        description="folder with the bundles, or a URL, `s3://BUCKET/PREFIX`, `gs://…` or `az://…`,"
        " from which versions are pulled to `$LABRADOR_CACHE` or `~/.cache/labrador`; needs"
        " the extra `object-store`, and the cloud's own variables or identity",
    )
    store_cache_mb: int = Field(
        default=CACHE_MB,
        ge=0,
        description="disk for versions pulled from a URL; those not used for longest are removed",
    )
    trust: Path | None = Field(
        default=None,
        description="PEM file, or folder of them, with public keys: only bundles that one of them"
        " has signed are served; needs the extra `signing`; none: no signature is required",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        default="auto",
        description="auto: CUDA if a GPU works, else the CPU; cuda: no fallback to the CPU",
    )
    precision: Literal["auto", "fp32", "fp16", "int8"] = Field(
        default="auto",
        description="variant of the network; auto: the fastest here of those that pass the golden"
        " images (fp32; fp16 on CUDA, int8 on a CPU), timed when the model is loaded. fp32 serves"
        " unless another answers 1.1 times as many images a second in full batches and is no slower"
        " with single images",
    )
    gpu_memory_mb: int = Field(
        default=0,
        ge=0,
        description="GPU memory that a model may use, and as much again while another form of it"
        " is timed or its next version is loaded; 0: no limit",
    )
    cores: int = Field(
        default=0,
        ge=0,
        description="CPU cores to use, divided among the workers; 0: the process's quota, or else"
        " all that it may run on",
    )
    reload_s: float = Field(
        default=0,
        ge=0,
        description="seconds between checks for newly released versions, which are then served;"
        " 0: never",
    )
    wait_for_models: bool = Field(
        default=False,
        description="start, though not ready, while a model is missing from the store, as an"
        " orchestrator wants; otherwise the server says what is missing and exits",
    )
    require_all_models: bool = Field(
        default=False,
        description="not ready unless every model is served; otherwise one that cannot be served"
        " leaves the others ready, and /readyz names it",
    )
    store_timeout_s: float = Field(
        default=10, gt=0, description="for one look at the store; what hangs is tried again"
    )
    max_body_mb: float = Field(default=10, gt=0, le=1024, description="largest request body")
    max_bodies_mb: float = Field(
        default=256,
        gt=0,
        description="request bodies that a worker holds at once; beyond it stuck uploads are"
        " refused first, then new requests",
    )
    max_megapixels: float = Field(
        default=25, gt=0, le=MEGAPIXELS_MAX, description="largest image, according to its header"
    )
    max_queue: int = Field(
        default=256, ge=PARTS_MAX, description="most images that a model holds, waiting or running"
    )
    max_batch: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="largest batch; 0: 32 on CUDA, 8 on a CPU, where larger ones gain nothing",
    )
    timeout_s: float = Field(
        default=30, gt=0, description="most seconds from a request's headers to its answer"
    )
    read_timeout_s: float = Field(
        default=10, gt=0, description="most seconds to read a request's body"
    )
    drain_s: float = Field(
        default=5, ge=0, description="seconds to keep serving, while not ready, after SIGTERM"
    )
    api_keys_file: Path | None = Field(
        default=None, description="file with one API key per line; none: no key is required"
    )

    access_log: Literal["off", "json"] = Field(
        default="off",
        description="json: a line on stdout for each request, with the time of each stage and the"
        " trace ID, without any text of a client",
    )
    page: bool = Field(
        default=True,
        description="on: a page at `/`, on which a person tries the models, with sample pictures"
        " from their bundles; off: neither",
    )
    capture: Path | None = Field(
        default=None,
        description="folder in which some of the images that are sent are kept, with the answers,"
        " to train on later; they may show people; none: no image is kept",
    )
    capture_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of the images that is kept for being unsure, and as many at random",
    )
    capture_images_per_h: int = Field(
        default=60,
        ge=1,
        description="images an hour that a worker keeps for each reason (unknown, unsure, random);"
        " as many at once after a quiet hour",
    )
    capture_max_mb: float = Field(
        default=1000,
        gt=0,
        description="most that the folder holds; the oldest captured images leave first",
    )
    capture_days: float = Field(
        default=30, gt=0, description="days after which a captured image is removed"
    )

    @field_validator("model_store", mode="before")
    @classmethod
    def _location(cls, value: object) -> object:
        try:
            return location(value) if isinstance(value, str) else value
        except BundleError as error:
            raise ValueError(str(error)) from error

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @field_validator("models")
    @classmethod
    def _distinct(cls, references: tuple[str, ...]) -> tuple[str, ...]:
        names = [reference.partition(":")[0] for reference in references]
        if len(set(names)) != len(names):
            raise ValueError("serve one version of a model at a time")
        return references

    @model_validator(mode="after")
    def _a_body_fits(self) -> Self:
        if self.max_bodies_mb < self.max_body_mb:
            raise ValueError(
                f"{PREFIX}MAX_BODIES_MB={self.max_bodies_mb:g}: use {PREFIX}MAX_BODY_MB"
                f" ({self.max_body_mb:g}) or more"
            )
        return self

    def store(self) -> Store:
        return Store(self.model_store, self.trust, self.store_cache_mb)


def read_settings() -> Settings:
    """The settings from the environment. Raises SettingsError, with a message of one line."""
    valid = [PREFIX + name.upper() for name in Settings.model_fields]
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in (*valid, *OF_TRAINING):
            raise SettingsError(f"unknown setting {name}; valid: {', '.join(valid)}")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:  # of several settings together
            raise SettingsError(message) from error
        name = PREFIX + str(first["loc"][0]).upper()
        raise SettingsError(f"{name}={first['input']}: {message}") from error


def read_api_keys(file: Path | None) -> tuple[bytes, ...]:
    """The keys in `file`, one per line. Raises SettingsError if it is unreadable or has none."""
    if file is None:
        return ()
    try:
        keys = tuple(filter(None, map(bytes.strip, file.read_bytes().splitlines())))
    except OSError as error:
        raise SettingsError(f"{PREFIX}API_KEYS_FILE={file}: {error.strerror}") from error
    if not keys:
        raise SettingsError(f"{PREFIX}API_KEYS_FILE={file} contains no key")
    return keys
