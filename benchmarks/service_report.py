"""The tables and the picture of what `service.py` measured."""

import re
from statistics import median

OURS = "toolkit"
CLIENTS = (16, 64, 256)
BOUND = "bare processes"


def written(rounds, about, docs):
    """Return the tables as Markdown; put them and the picture into the folder `docs`, if any.

    Args:
        rounds: of each the X-rays a second of the `bound`, and by name what each contender did.
        about: a line on what was measured with what.
        docs: the folder, or None.
    """
    text = "\n".join([about, "", *goodput(rounds), "", *latency(rounds), "", *trouble(rounds)])
    if docs:
        page = docs / "service.md"
        old = page.read_text()
        new = re.sub(
            r"(<!-- figures -->\n).*(<!-- /figures -->)",
            lambda found: f"{found[1]}{text}\n{found[2]}",
            old,
            flags=re.DOTALL,
        )
        page.write_text(new)
        drawn(rounds, docs / "service.svg")
    return text


def middle(rounds, name, clients, value):
    """Return the median over the rounds of one value; None where no round has it."""
    found = [each[name][clients][value] for each in rounds]
    there = [each for each in found if each is not None]
    return median(there) if there else None


def share(rounds, name, clients):
    """Return the median of a contender's goodput against the bound of its round."""
    return median(each[name][clients]["goodput"] / each["bound"] for each in rounds)


def against(rounds, name):
    """Return the median of our goodput for 16 clients against a contender's in the same round."""
    return median(
        each[OURS][16]["goodput"] / max(each[name][16]["goodput"], 1e-9) for each in rounds
    )


def contenders(rounds):
    """Return the names of those that are asked."""
    return [name for name in rounds[0] if name != "bound"]


def goodput(rounds):
    """Yield a table of right answers a second, and of their share of the bound."""
    yield from head("right answers a second", *[f"{each} clients" for each in CLIENTS], "ours / it")
    bound = median(each["bound"] for each in rounds)
    yield row(BOUND, f"{bound:.0f} without any", "", "", f"{share(rounds, OURS, 16):.2f}")
    for name in contenders(rounds):
        cells = [
            f"{middle(rounds, name, each, 'goodput'):.0f} ({share(rounds, name, each):.0%})"
            for each in CLIENTS
        ]
        yield row(name, *cells, "" if name == OURS else f"{against(rounds, name):.2f}")


def latency(rounds):
    """Yield a table of times, of what was not answered right, and of memory."""
    yield from head(
        "p50 / p99, ms", *[f"{each} clients" for each in CLIENTS], "not 200", "wrong", "MB"
    )
    for name in contenders(rounds):
        cells = [
            f"{shown(middle(rounds, name, each, 'p50'))} / "
            f"{shown(middle(rounds, name, each, 'p99'))}"
            for each in CLIENTS
        ]
        counts = [each[name][clients]["outcomes"] for each in rounds for clients in CLIENTS[:2]]
        wrong = sum(each.get("wrong", 0) for each in counts)
        bad = sum(sum(each.values()) - each.get("good", 0) for each in counts) - wrong
        memory = [median(each[name][when] for each in rounds) for when in ("before", "after")]
        yield row(name, *cells, bad, wrong, " → ".join(f"{each:.0f}" for each in memory))


def trouble(rounds):
    """Yield a table of what this service does in trouble."""
    peak = [max(each[OURS][clients]["goodput"] for clients in CLIENTS[:2]) for each in rounds]
    yield from head(
        "this service", "right answers a second", "against", "refused with 503", "p99 of a 503, ms"
    )
    for title, case in (
        ("256 clients that wait as they are told", 256),
        ("256 clients that ask again at once", "heedless"),
    ):
        ratio = median(
            each[OURS][case]["goodput"] / most for each, most in zip(rounds, peak, strict=True)
        )
        refused = median(
            each[OURS][case]["outcomes"].get("503", 0) / sum(each[OURS][case]["outcomes"].values())
            for each in rounds
        )
        rate = f"{middle(rounds, OURS, case, 'goodput'):.0f}"
        late = shown(middle(rounds, OURS, case, "refused_p99"))
        yield row(title, rate, f"{ratio:.0%} of the peak", f"{refused:.0%}", late)
    kept = median(each[OURS]["slow"]["goodput"] / each[OURS][16]["goodput"] for each in rounds)
    rate = f"{middle(rounds, OURS, 'slow', 'goodput'):.0f}"
    yield row("16 clients beside 200 slow ones", rate, f"{kept:.0%} of without them", "", "")
    processor = [f"{middle(rounds, OURS, each, 'processor'):.1%}" for each in CLIENTS]
    yield ""
    yield f"The clients themselves took {', '.join(processor)} of the cores' time at this service."


def shown(milliseconds):
    """Return a time as text."""
    return "-" if milliseconds is None else f"{milliseconds:.0f}"


def head(*cells):
    """Yield the head of a Markdown table."""
    yield row(*cells)
    yield "|---" * len(cells) + "|"


def row(*cells):
    """Return a row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def drawn(rounds, path):
    """Draw each contender's share of the bound by the number of clients."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "service"
    from matplotlib import pyplot

    names = contenders(rounds)
    figure, axes = pyplot.subplots(figsize=(7.5, 3.4), layout="constrained")
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        shares = [100 * share(rounds, name, each) for each in CLIENTS]
        where = [index + (place - (len(names) - 1) / 2) * width for index in range(len(CLIENTS))]
        grey = 0.4 + 0.5 * place / len(names)
        colour = {OURS: "#1b5e9b", f"{OURS}, int8": "#7fa8cf"}.get(name, f"{grey:.2f}")
        bars = axes.bar(where, shares, 0.92 * width, label=name, color=colour)
        axes.bar_label(bars, fmt="%.0f", fontsize=8)
    axes.axhline(100, color="black", linewidth=0.8)
    axes.set_xticks(range(len(CLIENTS)), [f"{each} clients" for each in CLIENTS])
    axes.set_ylabel("right answers a second,\n% of bare processes")
    axes.set_ylim(0, 135)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, 1.15))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
