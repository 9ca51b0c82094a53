"""Storages that are slow and fail at random, in the ways of real ones: before, after and in the middle of what was asked."""

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
    """When a storage fails, and how long it takes. Seeded; threads come in their own order."""

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
        """Fail, perhaps."""
        if self.drawn() < self.fails:
            self.failures += 1
            raise OSError(errno.EIO, "the storage does not answer")

    def around(self, call, *args, **options):
        """Do what was asked, or fail before it, or do it and say that it failed."""
        self.wait()
        self.strike()
        found = call(*args, **options)
        self.strike()
        return found


class _Bucket(fsspec.AbstractFileSystem):
    """What `Artifacts` asks of a bucket, passed on to a real one."""

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
    """A folder of this machine. Its writes are slow and fail where disks do: when they are flushed (`troubled_disk`)."""

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
    """A removal may end in the middle: some files are gone."""
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
    """The protocol under which a real bucket can be opened as a troubled one."""
    return _registered(type("TroubledBucket", (_Bucket,), {"inner": inner, "weather": weather}))


def folder(weather, monkeypatch):
    """The protocol of a troubled folder on this machine's disk."""
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
