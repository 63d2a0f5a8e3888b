"""Settings from the environment (prefix `ALPAGE_`); the only place that reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from alpage.core.errors import UsageError

ISAS = ("scalar", "avx2", "avx512", "avx512-direct", "neon", "neon-i8mm")


@dataclass(frozen=True, slots=True)
class Settings:
    """One field per variable: `home` is ALPAGE_HOME, and so on. None means the default."""

    home: Path | None = None
    """Folder of the model cache; the platform's cache folder by default."""
    isa: str | None = None
    """Force the native core's instruction set, one of `ISAS`."""
    threads: int | None = None
    """Threads of the native core; the processors of this process by default."""
    database: str | None = None
    """Address of the database of keys and usage; a file in the data folder by default."""
    debug: bool = False
    """Show Python tracebacks for expected errors too."""
    key: str | None = field(default=None, repr=False)
    """Key for a server, where a command asks one."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> "Settings":
        """Read and check every ALPAGE_ variable; an unknown one is a `UsageError`."""
        environ = os.environ if environ is None else environ
        known = {f"ALPAGE_{f.name.upper()}" for f in fields(cls)}
        given = {k: v for k, v in environ.items() if k.startswith("ALPAGE_")}
        for key in given:
            if key not in known:
                import difflib  # for a mistake only

                near = difflib.get_close_matches(key, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"unknown setting {key}{hint} Known: {', '.join(sorted(known))}")
        home, isa = given.get("ALPAGE_HOME"), given.get("ALPAGE_ISA")
        if isa and isa not in ISAS:
            raise UsageError(f"ALPAGE_ISA must be one of {', '.join(ISAS)}, not {isa!r}")
        return cls(
            home=Path(home).expanduser() if home else None,
            isa=isa or None,
            threads=_threads(given.get("ALPAGE_THREADS")),
            database=given.get("ALPAGE_DATABASE") or None,
            debug=given.get("ALPAGE_DEBUG", "0") not in ("", "0"),
            key=given.get("ALPAGE_KEY") or None,
        )


def _threads(value: str | None) -> int | None:
    if not value:
        return None
    if not value.isdigit() or not 1 <= int(value) <= 1024:
        raise UsageError(f"ALPAGE_THREADS must be between 1 and 1024, not {value!r}")
    return int(value)


def secret_from_environment(variable: str, environ: Mapping[str, str] | None = None) -> str:
    """The secret in an environment variable that a configuration names; a `UsageError` if none.

    The name may not begin with ALPAGE_, which is for settings.
    """
    value = (os.environ if environ is None else environ).get(variable, "").strip()
    if variable.startswith("ALPAGE_") or not value:
        raise UsageError(
            f"the environment variable {variable!r:.80} should hold a secret: it has to be set, "
            "and its name may not begin with ALPAGE_"
        )
    return value
