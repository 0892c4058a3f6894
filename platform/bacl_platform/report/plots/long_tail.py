"""The picture of a long tail, in the style of the report's."""

from matplotlib.figure import Figure

from bacl.datasets.stats import Stats
from bacl_platform.report.plots.style import (
    COLOURS,
    MOST_NAMES,
    name_groups,
    named,
    plain_axes,
    shade_groups,
)


def long_tail(stats: Stats) -> Figure:
    """Training instances and images and validation instances of each category, on a log scale.

    Categories go by what their groups go by, most first; bands and names are the groups'.
    """
    rows = sorted(stats.categories, key=lambda c: (-getattr(c, stats.grouped_by), -c.instances))
    many = len(rows) > MOST_NAMES
    figure = Figure(figsize=(8, 4.5 if many else 5.5), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    groups = [row.group for row in rows]
    shade_groups(axes, groups, [group.name for group in stats.groups])
    name_groups(axes, groups, {g.name: f"{g.name}\n({g.categories})" for g in stats.groups})
    places = range(len(rows))
    instances = [row.instances for row in rows]
    axes.bar(
        places, instances, width=1 if many else 0.8, color="#bbbbbb", label="training instances"
    )
    images = [row.images for row in rows]
    axes.step(places, images, where="mid", color=COLOURS[0], linewidth=1.4, label="training images")
    axes.plot(
        places,
        [row.val_instances for row in rows],
        linestyle="none",
        marker=".",
        markersize=4 if many else 6,
        color=COLOURS[1],
        clip_on=False,  # those at 0
        label="validation instances",
    )
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    # room above the highest bar for the groups' names
    axes.set_ylim(0, 12 * max([*instances, *(row.val_instances for row in rows), 1]))
    axes.set_xlim(-0.5, len(rows) - 0.5)
    if not many:
        axes.set_xticks(places, [named(row.name) for row in rows], rotation=90, fontsize=7)
    ranges = ", ".join(f"{group.name}: {group.range}" for group in reversed(stats.groups))
    axes.set_xlabel(f"{len(rows):,} categories by training {stats.grouped_by} ({ranges})")
    axes.set_ylabel("number")
    title = f"{stats.train.instances:,} training instances in {stats.train.images:,} images"
    if ratio := stats.imbalance["instances"]:
        title += f"; most to least frequent {ratio:,.0f} : 1"
    axes.set_title(title)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
