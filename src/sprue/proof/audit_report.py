"""What an audit found: the same figures for a program, a terminal and a browser."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sprue.proof import audit_page, audit_table
from sprue.proof.audit_table import share_of
from sprue.proof.machine import Machine
from sprue.structure.findings import SPARE, Findings, LayerFindings, Option

_BEST = 12  # options that a terminal shows


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    Attributes:
        model: as it was given.
        task: of the network.
        data: the files.
        fingerprint: sha256 over what was read of them.
        findings: the figures.
        machine: what it ran on.
        tokens: of a window of text, which is an example of a language model; None of others.
    """

    model: str
    task: str
    data: tuple[str, ...]
    fingerprint: str
    findings: Findings
    machine: Machine
    tokens: int | None = None

    @property
    def statement(self) -> str:
        """The most important figures, in a few sentences."""
        found = self.findings
        spare = share_of(found.spare / max(found.parameters, 1))
        if not found.measured:
            return (
                f"{spare} of the parameters are spare: so say the weights alone, which take all "
                f"inputs to be alike. Nothing was run on examples, and no damage is predicted."
            )
        words = (
            f"{spare} of the parameters are spare: without them, and with the rest refitted, each "
            f"layer still gives all but {share_of(found.error)} of its outputs."
        )
        if SPARE in found.offered():
            cost = found.everywhere(SPARE)
            words += (
                f" All of it at once is predicted to cost {cost.nats:.2g} nats for {self.example}."
            )
        if found.idle:
            count = sum(n for _, n in found.idle)
            words += f" {count:,} of them are in layers that never run."
        return words

    @property
    def example(self) -> str:
        """What damages are told for."""
        return "an example" if self.tokens is None else f"a window of {self.tokens} tokens"

    def as_dict(self) -> dict[str, Any]:
        """Every figure, ready for JSON."""
        found = self.findings
        return {
            "model": self.model,
            "task": self.task,
            "data": {
                "files": list(self.data),
                "sha256": self.fingerprint,
                "fitted_to": found.examples[0],
                "held_out": found.examples[1],
                "tokens": self.tokens,
            },
            "statement": self.statement,
            "asked": {"error": found.error, "share": found.share, "r2": found.r2},
            "parameters": {
                "all": found.parameters,
                "in_layers": found.seen,
                "spare": found.spare,
            },
            "macs": found.macs,
            "techniques": {t: _option(found.everywhere(t)) for t in found.offered()},
            "layers": [_layer(layer) for layer in found.layers],
            "idle": [{"layer": name, "parameters": count} for name, count in found.idle],
            "best": [_option(o) for o in found.options],
            "draws": found.draws,
            "seed": found.seed,
            "machine": asdict(self.machine),
        }

    def table(self) -> str:
        """For a terminal: layers, techniques, and what pays best."""
        found = self.findings
        layers = [audit_table.layer_row(layer) for layer in found.layers]
        parts = [self.statement, audit_table.aligned(audit_table.LAYER_HEADS, layers)]
        if found.measured:
            best = [audit_table.option_row(o) for o in found.options[:_BEST]]
            techniques = audit_table.technique_rows(found)
            parts += [
                audit_table.aligned(audit_table.TECHNIQUE_HEADS, techniques),
                audit_table.aligned(audit_table.OPTION_HEADS, best),
                f"{found.examples[0]} examples of {', '.join(self.data)} fitted to, "
                f"{found.examples[1]} held out; damages are predicted, in nats for {self.example}, "
                "with their standard error",
            ]
        return "\n\n".join(parts)

    def html(self) -> str:
        """One page with everything in it: it asks the network for nothing."""
        return audit_page.render(self)


def _layer(layer: LayerFindings) -> dict[str, Any]:
    found = asdict(layer) | {
        "spare": layer.spare,
        "spare_by_inputs": layer.spare_by_inputs,
        "spare_by_rank": layer.spare_by_rank,
        "spare_kind": layer.spare_kind,
        "options": [_option(o) for o in layer.options],
    }
    return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}


def _option(option: Option) -> dict[str, Any]:
    return asdict(option) | {"bytes_per_nat": option.worth}
