"""How the plots of generated pages look, as matplotlib's settings."""

STYLE = {
    "figure.figsize": (6.4, 3.6),
    "figure.dpi": 80,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "svg.hashsalt": "sheepfold",
    "svg.fonttype": "none",
}
