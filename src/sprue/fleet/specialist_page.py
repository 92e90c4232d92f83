"""The page of a specialist: figures and plots laid into the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from sprue import __version__
from sprue.fleet import plots
from sprue.fleet.plots import figure, line_key, share, times
from sprue.proof import network_plots, page
from sprue.proof.form import asked, percent, size
from sprue.proof.intervals import CONFIDENCE, Estimate
from sprue.proof.network_plots import Cost
from sprue.usage import words

if TYPE_CHECKING:
    from sprue.fleet.specialist import Compared, SpecialistReport

_HEADS = ("text", "passages", "full model", "specialist", "ratio", "95% interval", "kept at least")
_FILES = 5  # that are named


def render(report: SpecialistReport) -> str:
    """The page as HTML, with everything in it that it shows."""
    return page.template("specialist.html", "sprue.fleet").render(
        css=Markup(page.file("report.css")),
        version=__version__,
        capability=words.named(report.capability),
        mood="passed" if report.admitted else "failed",
        pill="Admitted" if report.admitted else "NOT admitted",
        statement=words.plain(report.statement),
        lead=_lead(report),
        tiles=_tiles(report),
        notes=_notes(report),
        lessons=_lessons(report),
        plots=[_forgotten(report), _left(report)],
        text_heads=_HEADS,
        texts=_texts(report),
        shape_heads=("", "full model", "specialist", "left"),
        shape=_shape(report),
        method=_method(report),
        used=_used(report),
        cut=_cut(report),
    )


def _lead(report: SpecialistReport) -> str:
    a, b = report.nbytes
    f, s = report.flops
    return (
        f"{words.plain(str(report.out))} is what {words.named(report.capability)} needs of "
        f"{words.plain(report.model)}: {share(b / a)} of its bytes, {share(s / f)} of its FLOPs."
    )


def _tiles(report: SpecialistReport) -> list[dict[str, str]]:
    (a, b), (f, s) = report.nbytes, report.flops
    own = report.own
    tiles = [
        (f"of tensors, {share(b / a)} of the full model's {size(a)}", size(b)),
        (
            f"FLOPs for a token, {share(s / f)} of the full model's {words.amount(f)}",
            words.amount(s),
        ),
        (f"of the quality kept at least; {asked(report.keep)} asked for", percent(own.at_least)),
        ("minutes to cut, teach and quantize", f"{report.seconds / 60:.1f}"),
    ]
    return [{"name": name, "value": value} for name, value in tiles]


def _notes(report: SpecialistReport) -> list[str]:
    whole, skipped = report.told.get("whole_vocabulary"), report.told.get("skipped_lines", 0)
    notes = [f"The vocabulary was left whole: {words.plain(str(whole))}"] if whole else []
    if skipped:
        notes.append(f"{words.many(skipped, 'line')} of the logs could not be read: left out.")
    return notes


def _lessons(report: SpecialistReport) -> list[dict[str, Any]]:
    found = []
    if report.looks:
        caption = (
            "The full model's perplexity over the specialist's, on text held back from the "
            "training, before quantization. Ring: the best, which was kept."
        )
        legend = {
            "the full model, 100%": line_key("rule"),
            f"asked for, {asked(report.keep)}": line_key("rule dashed"),
        }
        drawing = plots.kept(report.looks, report.keep)
        found.append(figure("Quality kept", caption, drawing, legend))
    if report.losses:
        caption = (
            "Of every step: the divergence from the full model's distributions, on true text mixed "
            "with the cross-entropy. Strong line: the mean of those around."
        )
        found.append(figure("Loss", caption, plots.losses(report.losses)))
    return found


def _forgotten(report: SpecialistReport) -> dict[str, Any]:
    own = report.own
    rows = [plots.Row(_own_name(report), own.ratio, own.at_most, strong=True)]
    rows += [plots.Row(words.named(t.name), t.ratio, t.at_most) for t in report.forgotten]
    caption = (
        "Perplexity of the specialist over the full model's: 1 is as good, 10 ten times as unsure. "
        "Dot: measured, with its 95% interval. Upright bar: the bound that the verdict rests on."
    )
    legend = {
        "the full model": plots.upright_key("rule"),
        f"allowed on its own: {times(1 / report.keep)}": plots.upright_key("rule dashed"),
    }
    title = "What it has forgotten" if report.forgotten else "What it keeps"
    below = "specialist's perplexity over the full model's, logarithmic"
    drawing = plots.ratios(title, rows, 1 / report.keep, below)
    return figure(title, caption, drawing, legend)


def _own_name(report: SpecialistReport) -> str:
    return f"{words.named(report.own.name)}, its own"


def _left(report: SpecialistReport) -> dict[str, Any]:
    pairs = {"bytes": report.nbytes, "FLOPs of a token": report.flops, **report.shape}
    found = [Cost(words.clipped(name, 17), _exact(b / a)) for name, (a, b) in pairs.items() if a]
    caption = "As shares of the full model's, which is the line."
    return figure("What is left of it", caption, network_plots.left(found))


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _texts(report: SpecialistReport) -> list[tuple[str, ...]]:
    rows = [_text(_own_name(report), report.own)]
    before = report.told.get("before_quantization")
    if before:
        rows.append(_before(before))
    return rows + [_text(words.named(one.name), one) for one in report.forgotten]


def _text(name: str, one: Compared) -> tuple[str, ...]:
    return _row(name, one.needs, (one.full, one.specialist), one.ratio, one.at_least)


def _before(told: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = Estimate(*(told["ratio"][key] for key in ("value", "low", "high")))
    both = told["perplexity"]
    pair = both["full"], both["specialist"]
    return _row(str(told["name"]), told["needs"], pair, ratio, told["kept_at_least"])


def _row(
    name: str, needs: int, perplexity: tuple[float, float], ratio: Estimate, at_least: float
) -> tuple[str, ...]:
    return (
        name,
        f"{needs:,}",
        *(f"{value:,.3f}" for value in perplexity),
        times(ratio.value),
        f"{times(ratio.low)} to {times(ratio.high)}",
        percent(at_least),
    )


def _shape(report: SpecialistReport) -> list[tuple[str, ...]]:
    pairs = {"bytes of tensors": report.nbytes, "FLOPs of a token": report.flops, **report.shape}
    return [
        (words.named(name), f"{a:,}", f"{b:,}", share(b / a) if a else "")
        for name, (a, b) in pairs.items()
    ]


def _method(report: SpecialistReport) -> list[str]:
    sure, least = f"{100 * CONFIDENCE:.0f}%", asked(report.keep)
    gone = [words.named(name) for name, (a, b) in report.shape.items() if b < a]
    learned = report.looks or report.losses
    cut = f"Cut from the full model: {', '.join(gone)}." if gone else "No part was cut out."
    taught = (
        "taught by the full model on text of the capability and on text that it wrote itself, "
        if learned
        else ""
    )
    spelled = (
        f" {words.percent(report.outside)} of the tokens of the capability's text left with the "
        "vocabulary, and are spelled in smaller ones."
    )
    return [
        f"{cut} What stayed was fitted by least squares, {taught}and quantized."
        f"{spelled if report.outside else ''}",
        f"Both models read the same {report.own.needs:,} passages of the capability that nothing "
        "else has seen, each in tokens of its own, and say how likely they find the text that "
        "truly follows. Perplexities are over the tokens of the full model. Differences are taken "
        "passage by passage; the intervals are Student's t over passages.",
        f"Kept is the full model's perplexity over the specialist's. The specialist is admitted "
        f"where the one-sided lower bound of that, with {sure} confidence, reaches {least}. The "
        "other texts decide nothing: they tell what a request pays that comes here by mistake.",
        "FLOPs are counted from the shapes of the matrices, for a token of an answer: all linears "
        "and the head, without attention.",
    ]


def _used(report: SpecialistReport) -> list[tuple[str, str]]:
    told = report.told
    files = [words.plain(str(name)) for name in told.get("files", ())]
    shown = ", ".join(files[:_FILES])
    shown += f" and {len(files) - _FILES:,} more" if len(files) > _FILES else ""
    documents = [
        (f"Documents {what}", f"{count:,}") for what, count in told.get("documents", {}).items()
    ]
    found = [
        ("Capability", words.named(report.capability)),
        ("Full model", words.plain(report.model)),
        ("Specialist", words.plain(str(report.out))),
    ]
    return [*found, *([("Files", shown)] if files else []), *documents]


def _cut(report: SpecialistReport) -> list[tuple[str, str]]:
    told = report.told
    found = [("Tokens spelled in smaller ones", words.percent(report.outside))]
    if "layers" in told:
        found.append(("Layers that stayed", _listed(told["layers"])))
    if told.get("kl_nats_before_teaching") is not None:
        nats = told["kl_nats_before_teaching"]
        found.append(("Divergence before teaching", f"{nats:.3f} nats per token"))
    if report.losses:
        found.append(("Steps of training", f"{len(report.losses):,}"))
    if "seed" in told:
        found.append(("Seed", str(told["seed"])))
    if "full_sha256" in told:
        found.append(("sha256 of the full model", str(told["full_sha256"])))
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"
