"""Draws the transition table: `python -m sgg_store.state_drawing > docs/states.svg` (or `make pictures`). Pure.

Only places and bends are chosen here; which arrows there are, and their labels, is the table's.
"""

from __future__ import annotations

import math

from sgg_store.job_state import TERMINAL, TRANSITIONS, JobStatus

SIZE = (800, 400)
BOX = (120, 46)
PLACES = {
    JobStatus.QUEUED: (80, 110),
    JobStatus.RUNNING: (430, 110),
    JobStatus.PAUSED: (315, 245),
    JobStatus.SUCCEEDED: (730, 35),
    JobStatus.FAILED: (730, 110),
    JobStatus.CANCELLED: (730, 300),
}
COLOURS = {
    JobStatus.QUEUED: ("#eff6ff", "#3b82f6"),
    JobStatus.RUNNING: ("#fefce8", "#ca8a04"),
    JobStatus.PAUSED: ("#faf5ff", "#9333ea"),
    JobStatus.SUCCEEDED: ("#ecfdf5", "#059669"),
    JobStatus.FAILED: ("#fef2f2", "#dc2626"),
    JobStatus.CANCELLED: ("#f1f5f9", "#64748b"),
}
BENDS = {
    (JobStatus.QUEUED, JobStatus.RUNNING): 26,
    (JobStatus.RUNNING, JobStatus.QUEUED): 26,
    (JobStatus.QUEUED, JobStatus.PAUSED): -26,
    (JobStatus.PAUSED, JobStatus.QUEUED): -14,
    (JobStatus.QUEUED, JobStatus.CANCELLED): -165,
}
"""How far an arrow's middle lies to the left of the straight way; 0 for those that are not named."""

Point = tuple[float, float]


def drawing() -> str:
    """The graph as SVG: one box per status, one labelled arrow per transition."""
    names = ", ".join(JobStatus)
    width, height = SIZE
    arrows = [_arrow(PLACES[pair[0]], PLACES[pair[1]], BENDS.get(pair, 0)) for pair in TRANSITIONS]
    labels = [_label(middle, text) for (_, middle), text in zip(arrows, TRANSITIONS.values(), strict=True)]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="DejaVu Sans, Verdana, sans-serif" font-size="13" role="img" '
            f'aria-label="States of a job: {names}">',
            '  <defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0L10 5L0 10z" fill="#475569"/></marker></defs>',
            f'  <rect width="{width}" height="{height}" fill="#ffffff"/>',
            '  <g stroke="#475569" stroke-width="1.5" fill="none" marker-end="url(#tip)">',
            *(f"    {path}" for path, _ in arrows),
            "  </g>",
            *(line for status in JobStatus for line in _box(status)),
            '  <g font-size="11.5" fill="#334155" text-anchor="middle" stroke="#ffffff" stroke-width="4" '
            'paint-order="stroke">',
            *(f"    {label}" for label in labels),
            "  </g>",
            "</svg>\n",
        ]
    )


def _box(status: JobStatus) -> list[str]:
    (x, y), (width, height), (fill, stroke) = PLACES[status], BOX, COLOURS[status]
    outline = (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="{height / 2:g}"'
    )
    weight = 2.6 if status in TERMINAL else 1.4  # a final status has the thicker rim
    return [
        f'  {outline} fill="{fill}" stroke="{stroke}" stroke-width="{weight}"/>',
        f'  <text x="{x}" y="{y + 4}" font-weight="bold" text-anchor="middle" fill="#0f172a">{status}</text>',
    ]


def _arrow(source: Point, target: Point, bend: float) -> tuple[str, Point]:
    """A quadratic curve between the rims of two boxes, and its middle."""
    (x1, y1), (x2, y2) = source, target
    length = math.hypot(x2 - x1, y2 - y1)
    left = ((y2 - y1) / length, (x1 - x2) / length)
    control = ((x1 + x2) / 2 + 2 * bend * left[0], (y1 + y2) / 2 + 2 * bend * left[1])
    (ax, ay), (bx, by) = _rim(source, control, 0), _rim(target, control, 4)
    middle = (ax / 4 + control[0] / 2 + bx / 4, ay / 4 + control[1] / 2 + by / 4)
    return f'<path d="M{ax:.0f} {ay:.0f}Q{control[0]:.0f} {control[1]:.0f} {bx:.0f} {by:.0f}"/>', middle


def _rim(centre: Point, towards: Point, gap: float) -> Point:
    """Where the way from a box's centre leaves the box, `gap` farther out."""
    dx, dy = towards[0] - centre[0], towards[1] - centre[1]
    length = math.hypot(dx, dy)
    inside = min((BOX[0] / 2) * length / abs(dx or 1e-9), (BOX[1] / 2) * length / abs(dy or 1e-9))
    part = (inside + gap) / length
    return centre[0] + dx * part, centre[1] + dy * part


def _label(place: Point, text: str) -> str:
    return f'<text x="{place[0]:.0f}" y="{place[1] + 4:.0f}">{text}</text>'


if __name__ == "__main__":
    print(drawing(), end="")
