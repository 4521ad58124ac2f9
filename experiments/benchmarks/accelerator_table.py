"""What ``experiments/accelerator.py`` found, as tables that fit into one message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOST = 11_500  # characters
GIB = 2**30


def markdown(found: Mapping[str, Any]) -> str:
    """The tables; what is too long is cut, and said."""
    parts = found["parts"]
    good = {name: part for name, part in parts.items() if "error" not in part}
    of = f"{found.get('devices')} x {found['device']}" if found.get("device") else "no device yet"
    lines = [f"# On an accelerator: {of}{', at toy size: a rehearsal' if found['toy'] else ''}", ""]
    lines += _device(good.get("device")) + _parity(good) + _steps(good) + _torch(good) + _runs(good)
    failed = [f"- {name}: {part['error']}" for name, part in parts.items() if "error" in part]
    lines += ["## Failed (again with --retry)", "", *failed, ""] if failed else []
    waiting = [f"- {name}: {why}" for name, why in found["left_out"].items()]
    lines += ["## Left out", "", *waiting, ""] if waiting else []
    text = "\n".join(lines).rstrip() + "\n"
    return text if len(text) <= MOST else text[:MOST].rpartition("\n")[0] + "\n... cut; all of it: accelerator.json\n"


def _device(facts: Mapping[str, Any] | None) -> list[str]:
    if facts is None:
        return []
    tera = [f"{name} {facts[f'matmul_{name}_flops'] / 1e12:,.4g}" for name in ("bfloat16", "tf32", "float32")]
    giga = [
        f"{words} {facts[f'{key}_bytes_per_second'] / 1e9:,.4g}"
        for key, words in (("copy", "its memory"), ("host_to_device", "from the host"), ("device_to_host", "to it"))
    ]
    versions = ", ".join(f"{name} {facts['versions'].get(name)}" for name in ("jax", "jaxlib"))
    driver = "; ".join(facts["cuda"].get("nvidia_smi", []))
    others = ", ".join(f"{name} {v}" for name, v in facts["cuda"].items() if name != "nvidia_smi")
    commit = (facts["commit"] or "not known")[:12]
    return [
        f"Matrix products, TFLOP/s: {', '.join(tera)}. Copies, GB/s: {', '.join(giga)}.",
        f"{versions}; {'; '.join(filter(None, (driver, others)))}; commit {commit}.",
        "",
    ]


def _parity(good: Mapping[str, Any]) -> list[str]:
    rows = []
    for part in (part for name, part in good.items() if name.startswith("parity_")):
        for method, one in part.items():
            if not isinstance(one, Mapping):
                continue
            if "largest" in one:
                rows.append(f"| {method} | {one['largest']:.1e} | | | |")
            elif "error" in one:
                rows.append(f"| {method} | {one['error'][:120].replace('|', '/')} | | | |")
            else:
                last = f"{one['losses'][-1]:.6g}, {one['losses_cpu'][-1]:.6g}"
                kept = "yes" if one["nan_leaves_state"] else "NO"
                rows.append(f"| {method} | {one['params']:.1e} | {one['model_state']:.1e} | {last} | {kept} |")
    if not rows:
        return []
    head = [
        "| method, 3 steps | parameters | statistics | last loss here, on the CPU | not-a-number leaves the state |"
    ]
    return ["## Against the CPU, float32", "", *head, "|---|---|---|---|---|", *rows, ""]


def _steps(good: Mapping[str, Any]) -> list[str]:
    steps = {name.removeprefix("step_"): part for name, part in good.items() if name.startswith("step_")}
    if not steps:
        return []
    lines = [
        "## Steps",
        "",
        "| program | batch | ms | a second | as one graph | ten to a program | views | MFU of peak: ",
    ]
    lines[-1] += "measured, nominal | memory GiB | roofline ms: measured, nominal | step over it |"
    lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
    detail = []
    for name, one in steps.items():
        if "+" in name:
            continue
        other = [steps.get(f"{name}+{variant}") for variant in ("graph", "dispatch")]
        variants = [f"{v['per_second']:,.0f}" if v else "" for v in other]
        views = f"{one['share_of_views']:.1%}" if "share_of_views" in one else ""
        peak = one["memory"].get("peak_bytes_in_use")
        known = [kind for kind in ("measured", "nominal") if f"mfu_{kind}" in one]
        cells = [", ".join(f"{one[f'mfu_{kind}']:.1%}" for kind in known), f"{peak / GIB:.2f}" if peak else ""]
        cells += [", ".join(f"{1e3 * one[f'roofline_seconds_{kind}']:.3g}" for kind in known)]
        cells += [", ".join(f"{one[f'measured_over_roofline_{kind}'] or 0:.2f}" for kind in known)]
        first = [name, one["batch"], f"{1e3 * one['seconds']:.2f}", f"{one['per_second']:,.0f} {one['unit']}"]
        lines.append("| " + " | ".join(map(str, [*first, *variants, views, *cells])) + " |")
        detail += _kinds(name, one, known)
    alone = [f"- {name}: {one['per_second']:,.0f} {one['unit']}/s" for name, one in steps.items() if "+" in name]
    alone = [line for line in alone if line[2:].partition("+")[0] not in steps]
    return [*lines, "", *alone, "By kind of kernel, ms a step, profile / roofline:", "", *detail, ""]


def _kinds(name: str, one: Mapping[str, Any], known: list[str]) -> list[str]:
    failed = [what for what in ("counted", "views", "profile") if isinstance(one.get(what), str)]
    gone = [f"- {name}: {what} {one[what]}" for what in failed]
    if "profile_kinds" not in one:
        return gone
    least = one[f"kinds_{known[-1]}"] if known else {}
    kinds = list(one["profile_kinds"].items())[:6]
    shown = [f"{kind} {1e3 * s:.2f} / {1e3 * least[kind]['seconds'] if kind in least else 0:.2f}" for kind, s in kinds]
    return [*gone, f"- {name}: {', '.join(shown) or 'no kernel was seen'}"]


def _torch(good: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, part in good.items():
        if name.startswith("torch_"):
            ours, torch = (part[which]["per_second"] for which in ("ours", "torch"))
            losses = ", ".join(f"{loss:.5g}" for loss in part["first_losses"])
            cells = [name.removeprefix("torch_"), f"{ours:,.0f}", f"{torch:,.0f}", f"{ours / torch:.2f}", losses]
            rows.append(f"| {' | '.join(cells)} |")
    head = ["| program | ours, images/s | torch | ratio | first losses |", "|---|---|---|---|---|"]
    return ["## The same step in PyTorch (views made beforehand)", "", *head, *rows, ""] if rows else []


def _runs(good: Mapping[str, Any]) -> list[str]:
    lines = []
    if killed := good.get("kill_and_resume"):
        for how, one in killed.items():
            if isinstance(one, Mapping):  # not what the part took
                same = "the same bits" if one["same"] else "OTHER BITS"
                same = same if one["kills"] else "NOT KILLED, it was through before"
                lines.append(f"- kill -9 and again, {how}: {same} ({one['seconds']:.0f} s)")
    for name in ("cifar10_simclr", "cifar10_moco"):
        if run := good.get(name):
            figures = ", ".join(f"{key} {value}" for key, value in run["scores"].items())
            lines.append(f"- {name}: {run['steps']} steps in {run['seconds_of_run']:.0f} s; {figures}")
    return ["## Runs", "", *lines, ""] if lines else []
