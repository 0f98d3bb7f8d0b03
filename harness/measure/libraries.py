"""Own what a measuring process loads for its key: the plugin, the BLAS provider, the library."""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness import native, package, plugin
from harness.backends import blas, registry
from harness.machine import environment as machine_environment
from harness.machine import pages
from harness.measure.process_key import ProcessKey
from harness.measure.protocol import Hello
from harness.records.facts import ProviderFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Hold what was loaded. facts: of the provider or the library, None where the key names neither.

    plugin: the source of the plugin, empty for none.
    """

    plugin: str
    provider: blas.Provider | None
    facts: ProviderFacts | None

    def hello(self) -> Hello:
        """Return what this process really loaded, as it says to the sweep."""
        variables = machine_environment.relevant_variables() if self.facts else {}
        return Hello(
            package=package.identify(), provider=self.facts, pools=blas.pools(), variables=variables,
            flush_to_zero=native.flush_to_zero(), cpus_allowed=len(os.sched_getaffinity(0)),
            huge_page_share=pages.measure_huge_page_share(),
            plugin_digest=plugin.digests().get(self.plugin, ""),
        )  # fmt: skip


def load(key: ProcessKey) -> Libraries:
    """Load what a key names.

    Raises UsageError where the plugin can't be loaded, UnavailableError where the provider can't.
    """
    if key.plugin:
        plugin.load(key.plugin)
    provider = blas.load(key.provider) if key.provider else None
    # Before the pools are looked at: a library brings its own.
    library = registry.library(key.library).load() if key.library else None
    facts = library or (provider.facts() if provider else None)
    return Libraries(plugin=key.plugin, provider=provider, facts=facts)
