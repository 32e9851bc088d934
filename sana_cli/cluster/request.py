"""Read and check the options of `sana generate --ray` before a model is opened. No torch, no Ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sana_cli.cluster.connection import find_address, require_ray
from sana_cli.cluster.locations import is_url
from sana_cli.cluster.manifest import require_name
from sana_cli.cluster.sizing import parse_workers
from sana_cli.errors import usage_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options about the cluster, checked before anything is opened."""

    address: str | None  # None: Ray is started here
    workers: tuple[int, int] | None
    manifest: str | None

    @classmethod
    def of(
        cls,
        ray: str | None,
        workers: str | None,
        manifest: str | None,
        others: Mapping[str, object],
    ) -> Self | None:
        """Read the options; None without `--ray`. `others` are options that make no sense with it, where they were given.

        SanaError (usage) for these, and where Ray is missing or does not answer.
        """
        if ray is None:
            for name, value in (("--workers", workers), ("--manifest", manifest)):
                if value is not None:
                    raise usage_error(f"{name} needs --ray", f"add --ray auto, or omit {name}")
            return None
        if not others["--prompts"]:
            raise usage_error(
                "--ray draws a file of prompts, and there is no --prompts",
                "write the prompts into a file: --prompts FILE",
            )
        for name, given in others.items():
            if given and name != "--prompts":
                raise usage_error(f"--ray does not go with {name}", f"omit {name}, or draw here without --ray")  # fmt: skip
        count = parse_workers(workers) if workers is not None else None
        if manifest is not None and not is_url(manifest):
            require_name(Path(manifest))
        require_ray()
        return cls(address=find_address(ray), workers=count, manifest=manifest)
