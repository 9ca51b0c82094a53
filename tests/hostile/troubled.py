"""Storages that are slow and fail at random, as real ones do: before, during and after an operation."""

import errno
import os
import random
import threading
import time
import uuid

import fsspec
from fsspec.implementations.local import LocalFileSystem

SLOW_S = 0.3


class Weather:
    """Decides when a storage fails and how long it takes. Seeded, but the order of threads is not."""

    def __init__(self, seed, fails=0.08, slow=0.1):
        self._rng, self._lock = random.Random(seed), threading.Lock()
        self.fails, self.slow = fails, slow
        self.failures = 0

    def calm(self):
        self.fails = self.slow = 0.0

    def drawn(self):
        with self._lock:
            return self._rng.random()

    def wait(self):
        time.sleep(SLOW_S * self.drawn() if self.drawn() < self.slow else 0.0)

    def strike(self):
        """Fail at random."""
        if self.drawn() < self.fails:
            self.failures += 1
            raise OSError(errno.EIO, "the storage does not answer")

    def around(self, call, *args, **options):
        """Do the operation, fail before it, or do it and report a failure."""
        self.wait()
        self.strike()
        found = call(*args, **options)
        self.strike()
        return found


class _Bucket(fsspec.AbstractFileSystem):
    """A bucket's file system that passes the operations of `Artifacts` on to a real one."""

    cachable = False
    inner: fsspec.AbstractFileSystem
    weather: Weather

    def makedirs(self, path, exist_ok=False):
        self.inner.makedirs(path, exist_ok=exist_ok)

    def invalidate_cache(self, path=None):
        self.inner.invalidate_cache(path)

    def pipe_file(self, path, value, **options):
        self.weather.around(self.inner.pipe_file, path, value, **options)

    def cat_file(self, path, **options):
        return self.weather.around(self.inner.cat_file, path, **options)

    def ls(self, path, detail=True, **options):
        return self.weather.around(self.inner.ls, path, detail=detail, **options)

    def exists(self, path, **options):
        return self.weather.around(self.inner.exists, path, **options)

    def rm(self, path, recursive=False, maxdepth=None):
        _remove(self.weather, self.inner, path, recursive)


class _Folder(LocalFileSystem):
    """A local folder whose writes are slow and fail where disks do: when they are flushed (`troubled_disk`)."""

    cachable = False
    weather: Weather

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).partition("://")[2] if "://" in str(path) else path)

    def cat_file(self, path, **options):
        return self.weather.around(super().cat_file, path, **options)

    def ls(self, path, detail=False, **options):
        return self.weather.around(super().ls, path, detail=detail, **options)

    def rm(self, path, recursive=False, maxdepth=None):
        _remove(self.weather, LocalFileSystem(), path, recursive)


def _remove(weather, inner, path, recursive):
    """Remove a folder; may fail half way, when some files are gone."""
    weather.wait()
    try:
        weather.strike()
    except OSError:
        for file in inner.find(path):
            if weather.drawn() < 0.5:
                inner.rm_file(file)
        raise
    inner.rm(path, recursive=recursive)
    weather.strike()


def bucket(inner, weather):
    """Register and return a protocol that opens a real bucket as a troubled one."""
    return _registered(type("TroubledBucket", (_Bucket,), {"inner": inner, "weather": weather}))


def folder(weather, monkeypatch):
    """Register and return a protocol that opens a local folder as a troubled one."""
    flush = os.fsync

    def troubled_disk(descriptor):
        weather.wait()
        weather.strike()
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", troubled_disk)
    return _registered(type("TroubledFolder", (_Folder,), {"weather": weather}))


def _registered(kind):
    kind.protocol = f"troubled{uuid.uuid4().hex[:8]}"
    fsspec.register_implementation(kind.protocol, kind)
    return kind.protocol
