"""The table and the Pareto figure of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from methods.studies import MIXTURES

from t2ialign.report.comparison import in_points

SHOWN = ("faithfulness", "all_right", "taste", "taste_satisfied", "mean_of_both")


def table(found: Mapping[str, Any], head: str, scales: Mapping[int, Mapping[str, float]] | None = None) -> str:
    """Means of base, then a line a study and other model: differences in points with 95 % intervals.

    Args:
        found: what `measuring.compare` returns.
        head: the line above.
        scales: seed -> model -> its own guidance scale, shown where each model has its own.
    """
    columns = [*(key.replace("_", " ") for key in SHOWN), "diversity", *(["guidance"] if scales else [])]
    lines = [head, "", f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    base = found["base"]
    means = [
        f"{base[key]:.1%}" if key in base else f"{(base['faithfulness'] + base['taste']) / 2:.1%}" for key in SHOWN
    ]
    lines.append(f"| base | {' | '.join([*means, '1', *_own(scales, 'base')])} |")
    for name, one in found.items():
        for other, shifts in {} if name == "base" else one["over"].items():
            ratio = one["diversity"]
            spread = f"{ratio['mean']:.2f}" if ratio and other == "base" else ""
            told = found[other]["what"] if other != "base" else "base"
            values = [*(in_points(shifts[key]) for key in SHOWN), spread, *_own(scales, name)]
            lines.append(f"| {one['what']} − {told} | {' | '.join(values)} |")
    return "\n".join(lines) + "\n"


def _own(scales: Mapping[int, Mapping[str, float]] | None, name: str) -> list[str]:
    return [", ".join(f"{own[name]:g}" for own in scales.values())] if scales else []


def pareto(found: dict[str, Any]) -> str:
    """An SVG of faithfulness over taste: soups of two adapters, and adapters trained on weighted labels."""
    lines = {
        "labels weighted": ("#1b6ca8", ["taste_only", *(f"weighted_{w:g}" for w in MIXTURES), "faithful_only"]),
        "LoRA soup": ("#c8553d", ["taste_only", *(f"soup_{w:g}" for w in MIXTURES), "faithful_only"]),
    }
    points = {
        name: [100 * one["means"][key] for key in ("taste", "faithfulness")]
        for name, one in found.items()
        if name != "base"
    }
    base = [100 * found["base"][key] for key in ("taste", "faithfulness")]
    lines = {label: (color, [name for name in names if name in points]) for label, (color, names) in lines.items()}
    used = [base, *(points[name] for _, names in lines.values() for name in names)]
    low, high = ([pick(point[i] for point in used) for i in (0, 1)] for pick in (min, max))

    def place(point: Sequence[float]) -> tuple[float, float]:
        x, y = ((value - a) / (b - a) for value, a, b in zip(point, low, high, strict=True))
        return 60 + 460 * x, 300 - 250 * y

    text = '<text x="{:.0f}" y="{:.0f}" font-size="12" fill="{}">{}</text>'
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 360" font-family="sans-serif">']
    parts.append('<rect width="640" height="360" fill="white"/>')
    for row, (label, (color, names)) in enumerate(lines.items()):
        placed = [place(points[name]) for name in names]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        for name, (x, y) in zip(names, placed, strict=True):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
            share = {"taste_only": "0", "faithful_only": "1"}.get(name, name.rpartition("_")[2])
            parts.append(text.format(x + 6, y - 6 + 18 * row, color, share))
        parts.append(text.format(70, 320 + 16 * row, color, f"{label} (weight of faithfulness)"))
    x, y = place(base)
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#555"/>', text.format(x + 6, y - 6, "#555", "base")]
    parts.append(text.format(330, 20, "#222", f"across: taste, {low[0]:.1f} to {high[0]:.1f} %"))
    parts.append(text.format(330, 36, "#222", f"upwards: faithfulness, {low[1]:.1f} to {high[1]:.1f} %"))
    return "\n".join([*parts, "</svg>"]) + "\n"
