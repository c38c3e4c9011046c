"""Scores and layouts of embeddings on arrays that one can compute by hand, and the figures made of them."""

import io
import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from synthetic import Made, config, fill, frame

from analysis import embeddings
from analysis.plots import embeddings as drawing
from analysis.plots import projections
from analysis.plots.classes import look
from analysis.plots.projections import Embedding
from analysis.plots.style import save
from analysis.trials import load
from search_spaces import Selection
from study.ledger.artifacts import Artifacts
from study.ledger.ledger import Ledger
from trainables.trial import TrialConfig

A4 = (8.27, 11.69)
"""Width and height in inches."""


def embedding(values: npt.ArrayLike, labels: Sequence[int], arm: str = "ce") -> Embedding:
    return Embedding(
        arm=arm, values=np.asarray(values), labels=np.asarray(labels), index=np.arange(len(labels))
    )


def clusters(arm: str = "ce", *, classes: int = 3, each: int = 10, seed: int = 0) -> Embedding:
    """Some images of each class around a centre that all panels share."""
    centres = np.random.default_rng(0).normal(size=(classes, 6))
    labels = np.tile(np.arange(classes), each)
    noise = np.random.default_rng(seed).normal(size=(len(labels), 6))
    return embedding(centres[labels] + 0.2 * noise, labels, arm)


@pytest.fixture
def panels() -> list[Embedding]:
    """Three clusters, and the same turned, mirrored and scaled."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 20)
    centres = np.array([[9.0, 0, 0, 0], [0, 6.0, 0, 0], [-9.0, -6.0, 0, 0]])
    h = centres[labels] + random.normal(size=(60, 4)) * 0.1
    turn, _ = np.linalg.qr(random.normal(size=(4, 4)))
    return [embedding(h, labels), embedding(-2 * h @ turn, labels, "siamese-0.01")]


FLAWED = {
    "siamese-0.1": (np.ones((60, 4)), "collapsed: all features alike"),
    "siamese-1": (np.full((60, 4), np.inf), "features are not finite"),
    "siamese-10": (np.arange(60.0)[:, None], "too few images or features"),
}


@pytest.fixture
def flawed() -> list[Embedding]:
    return [embedding(values, np.repeat(np.arange(3), 20), arm) for arm, (values, _) in FLAWED.items()]


# What is shown


def test_the_seed_shown_is_the_lowest_common_one() -> None:
    accuracies = {"ce": [0.5, 0.6, 0.7], "0": [0.8, 0.9, None], "0.01": [None] * 3}
    trials = {config(arm, seed): v for arm, row in accuracies.items() for seed, v in enumerate(row)}
    assert projections.shown_seed(frame(trials)) == 0
    lacking = {config("ce", 0): 0.5, config("ce", 1): 0.5, config("0", 0): None, config("0", 1): 0.5}
    assert projections.shown_seed(frame(lacking)) == 1
    assert projections.shown_seed(frame({config("ce", 0): None})) is None


def test_the_seed_of_a_page_is_one_that_every_cell_has_finished() -> None:
    cells = {config("ce", seed, augmentations=("rrc",)): 0.5 for seed in range(3)}
    cells |= {config("ce", seed, augmentations=()): 0.5 if seed else None for seed in range(3)}
    assert projections.shown_seed(frame(cells)) == 1


class Folders(Artifacts):
    """A folder a run."""

    def path(self, run_id: str, name: str) -> Path:
        return self.root / run_id / name


class Kept(Ledger):
    """A ledger of which artifacts alone are asked for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.artifacts = Folders(self.store, self.artifact_root)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(uri="", experiment="", artifact_root=tmp_path)


def artifact(trial: TrialConfig, index: npt.ArrayLike = range(6)) -> bytes:
    """`embeddings.npz` of 6 images with 2 features, all the trial's seed, and one z of its γ."""
    arrays: dict[str, npt.NDArray] = {}
    for split in projections.SPLITS:
        arrays[f"{split}_h"] = np.full((6, 2), trial.seed, dtype=np.float16)
        arrays[f"{split}_labels"] = np.arange(6) % 2
        arrays[f"{split}_index"] = np.asarray(index)
        if trial.gamma:
            arrays[f"{split}_z"] = np.full((6, 1), trial.gamma, dtype=np.float16)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def keep(kept: Kept, trials: pd.DataFrame, artifacts: Sequence[bytes]) -> None:
    for run_id, content in zip(trials["run_id"], artifacts, strict=True):
        (kept.artifact_root / run_id).mkdir()
        (kept.artifact_root / run_id / "embeddings.npz").write_bytes(content)


@pytest.mark.parametrize(
    ("space", "h", "z"),
    [
        (
            ["0.01", "0", "ce", "0.001"],
            ["ce", "siamese-0.01", "siamese-0", "siamese-0.001"],
            ["siamese-0.01", "siamese-0.001"],
        ),
        (["0.01", "0"], ["siamese-0", "siamese-0.01"], ["siamese-0.01"]),
        (["ce", "0"], ["ce", "siamese-0"], []),
    ],
)
def test_the_baseline_is_first_and_z_is_read_where_it_is_kept(
    kept: Kept, space: list[str], h: list[str], z: list[str]
) -> None:
    configs = [config(arm, seed) for arm in space for seed in (0, 3)]
    trials = frame(dict.fromkeys(configs, 0.5))
    keep(kept, trials, [artifact(trial) for trial in configs])
    read = projections.read(trials, 3, "train", kept)
    assert [panel.arm for panel in read] == h
    for panel in read:
        np.testing.assert_array_equal(panel.values, np.full((6, 2), 3))
    assert read[0].labels.tolist() == [0, 1, 0, 1, 0, 1]
    read = projections.read(trials, 3, "test", kept, what="z")
    assert [panel.arm for panel in read] == z
    for panel in read:
        gamma = np.float16(panel.arm.removeprefix("siamese-"))
        np.testing.assert_array_equal(panel.values, np.full((6, 1), gamma))


def test_what_cannot_be_read(kept: Kept) -> None:
    configs = [config("ce", 0), config("0", 0)]
    trials = frame(dict.fromkeys(configs, 0.5))
    with pytest.raises(ValueError, match=r"^what: got 'y'; allowed: h, z$"):
        projections.read(trials, 0, "train", kept, what="y")
    with pytest.raises(FileNotFoundError):
        projections.read(trials, 0, "train", kept)
    keep(kept, trials, [artifact(configs[0]), artifact(configs[1], index=range(1, 7))])
    with pytest.raises(ValueError, match="the trials of a cell kept different images"):
        projections.read(trials, 0, "train", kept)


# Scores


def silhouette_by_definition(panel: Embedding) -> float:
    """(b - a) / max(a, b) of each image, one by one; 0 for an image alone in its class."""
    values = np.asarray(panel.values, dtype=np.float64)
    scores = []
    for i, own in enumerate(panel.labels):
        to_class: dict[int, list[float]] = {}
        for j, other in enumerate(panel.labels):
            cosine = values[i] @ values[j] / np.linalg.norm(values[i]) / np.linalg.norm(values[j])
            if i != j:
                to_class.setdefault(other, []).append(1 - cosine)
        a = np.mean(to_class.pop(own)) if own in to_class else None
        b = min(np.mean(distances) for distances in to_class.values())
        scores.append(0 if a is None else (b - a) / max(a, b))
    return float(np.mean(scores))


def test_silhouette_is_the_definition() -> None:
    """With features of any length, in half precision, one class of a single image."""
    random = np.random.default_rng(0)
    values = random.normal(size=(30, 5)) * random.uniform(0.1, 10, size=(30, 1))
    panel = embedding(values.astype(np.float16), [*([0] * 9), *([2] * 11), *([5] * 9), 7])
    assert projections.silhouette(panel) == pytest.approx(silhouette_by_definition(panel), abs=1e-12)


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        # Classes at right angles: a = 0, b = 1. Lengths do not count.
        ([[1, 0], [5, 0], [0, 1], [0, 3]], [0, 0, 1, 1], 1),
        # Each image opposite its class: a = 1, b = (0 + 1) / 2.
        ([[1, 0], [1, 0], [0, 1], [0, 1]], [0, 1, 0, 1], -0.5),
        # Zeros have no direction, so they lie at distance 1 from all: 1 and 1, then 0 and 0.
        ([[1, 0], [1, 0], [0, 0], [0, 0]], [0, 0, 1, 1], 0.5),
        # One direction alone, at distance 0 but for rounding.
        ([[1, 2, 5], [3, 6, 15], [5, 10, 25], [7, 14, 35], [11, 22, 55]], [0, 0, 1, 1, 1], 0),
        ([[1, 0], [1, 0], [0, 1], [0, 1]], [3, 3, 3, 3], None),
        ([[1, 0], [1, 0], [0, 1], [0, 1]], [0, 1, 2, 3], None),
    ],
)
def test_silhouette_by_hand(values: list[list[float]], labels: list[int], expected: float | None) -> None:
    score = projections.silhouette(embedding(np.array(values, dtype=np.float16), labels))
    assert score == (None if expected is None else pytest.approx(expected))


def test_knn_accuracy_is_the_definition() -> None:
    """Each image by the votes of its 20 nearest others, sorted by cosine one image at a time."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, size=70)
    values = (random.normal(size=(4, 5))[labels] + random.normal(size=(70, 5))).astype(np.float16)
    values *= random.uniform(0.1, 10, size=(70, 1)).astype(np.float16)  # near by cosine, not by distance
    exact = values.astype(np.float64)
    directions = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    right = 0
    for i, label in enumerate(labels):
        by_cosine = sorted((j for j in range(70) if j != i), key=lambda j: -directions[i] @ directions[j])
        right += np.bincount(labels[by_cosine[:20]]).argmax() == label
    assert 10 < right < 60
    assert projections.knn_accuracy(embedding(values, labels)) == pytest.approx(right / 70)


def test_knn_accuracy_by_hand() -> None:
    """With fewer than 21 images all others vote; of classes with equal votes the lowest wins."""
    values = np.random.default_rng(0).normal(size=(5, 3))
    # 0 is voted on by 0 0 1 1 and wins the tie, three times; 1 by 0 0 0 1.
    assert projections.knn_accuracy(embedding(values, [0, 0, 0, 1, 1])) == 0.6
    # Now 1 is voted on by 0 0 1 1 and loses the tie, three times; 0 by 0 1 1 1.
    assert projections.knn_accuracy(embedding(values, [0, 0, 1, 1, 1])) == 0
    assert projections.knn_accuracy(embedding(np.vstack([values, np.zeros((1, 3))]), [4] * 6)) == 1


def test_21_images_have_20_neighbours() -> None:
    """22 images: two opposite heaps of 11; each image has 10 of its own, and 10 of the 11 of the others."""
    values = np.repeat([[1.0, 0.0], [-1.0, 0.0]], 11, axis=0)
    labels = np.repeat([1, 0], 11)
    # 10 votes to 10: the tie goes to class 0, so that the heap of class 1 is wrong.
    assert projections.knn_accuracy(embedding(values, labels)) == 0.5
    # Without one of class 0, all others vote: 10 to 10 for class 1, and 11 to 9 against class 0.
    assert projections.knn_accuracy(embedding(values[:-1], labels[:-1])) == 0


def test_what_has_a_flaw_has_no_scores(flawed: list[Embedding]) -> None:
    for panel in flawed:
        assert panel.flaw == FLAWED[panel.arm][1]
        assert projections.silhouette(panel) is None
        assert projections.knn_accuracy(panel) is None


def test_half_precision_at_its_limits_is_no_flaw() -> None:
    """Differences of such numbers are infinite in half precision."""
    values = np.array([[65504, -65504], [-65504, 65504], [1, 0], [0, 1]], dtype=np.float16)
    panel = embedding(values, [0, 1, 0, 1])
    assert panel.flaw is None
    ((points, variance),) = projections.pca_layouts([panel])
    assert np.isfinite(points).all()
    assert variance == pytest.approx(1)


# Layouts


@pytest.mark.parametrize("shape", [(4, 2), (4, 9), (9, 3), (12, 4), (50, 30), (30, 50)])
def test_principal_components_are_those_of_the_singular_values(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape) + 5
    ((points, variance),) = projections.pca_layouts([embedding(values, [0] * len(values))])
    u, s, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), atol=1e-9)
    assert variance == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())
    ((again, _),) = projections.pca_layouts([embedding(values, [0] * len(values))])
    np.testing.assert_array_equal(points, again)


def test_explained_variance_by_hand() -> None:
    """Variances of 9, 4 and 1: the first two components have 13 parts of 14."""
    values = np.diag([3.0, 2.0, 1.0])
    ((_, variance),) = projections.pca_layouts([embedding(np.vstack([values, -values]), [0] * 6)])
    assert variance == pytest.approx(13 / 14)


def test_one_direction_alone_has_a_layout() -> None:
    values = np.outer(np.arange(10.0), [1, 2, 2, 4])
    ((points, variance),) = projections.pca_layouts([embedding(values, [0] * 10)])
    np.testing.assert_allclose(points[:, 1], 0, atol=1e-9)
    np.testing.assert_allclose(np.abs(np.diff(points[:, 0])), 5)
    assert variance == pytest.approx(1)


def test_pca_panels_are_turned_onto_the_first(panels: list[Embedding]) -> None:
    (first, variance), (second, same) = projections.pca_layouts(panels)
    np.testing.assert_allclose(second, 2 * first, atol=1e-9)
    assert variance == pytest.approx(same)
    assert 0.99 < variance <= 1


def test_pca_of_other_directions_is_turned_too() -> None:
    """A cross, longer in one direction and then in the other: each image stays on its own side."""
    cross = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    crosses = [embedding(values, [0] * 4) for values in (cross, cross / [3, 1 / 3], -cross)]
    (first, _), (second, _), (third, _) = projections.pca_layouts(crosses)
    np.testing.assert_allclose(np.abs(first), np.abs(cross), atol=1e-9)
    np.testing.assert_allclose(second, first / [3, 1 / 3], atol=1e-9)
    np.testing.assert_allclose(third, first, atol=1e-9)


def test_pca_is_turned_onto_a_layout_that_is_given(panels: list[Embedding]) -> None:
    (first, _), _ = projections.pca_layouts(panels)
    quarter = first @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    for (points, _), scale in zip(projections.pca_layouts(panels, onto=quarter), (1, 2), strict=True):
        np.testing.assert_allclose(points, scale * quarter, atol=1e-9)


def test_tsne_is_repeatable_and_begins_from_the_first(panels: list[Embedding]) -> None:
    first, second = projections.tsne_layouts(panels)
    again, _ = projections.tsne_layouts(panels)
    np.testing.assert_array_equal(first, again)
    centre = [[layout[panels[0].labels == c].mean(0) for c in range(3)] for layout in (first, second)]
    # Neighbours were kept, so the clusters stay where the first panel has them.
    for c in range(3):
        nearest = np.argmin([np.linalg.norm(centre[1][c] - other) for other in centre[0]])
        assert nearest == c
    assert projections.tsne_layouts([]) == []


def test_every_tsne_has_one_seed_and_perplexity_and_a_small_start(
    panels: list[Embedding], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    class SearchState:
        """Stays where it begins."""

        def __init__(self, **options: object) -> None:
            made.append(options)

        def fit_transform(self, values: npt.NDArray) -> npt.NDArray:
            return made[-1]["init"] * (1 + len(made))

    monkeypatch.setattr("sklearn.manifold.TSNE", SearchState)
    start, *_ = projections.tsne_layouts([*panels, panels[0]])
    assert [(options["perplexity"], options["random_state"]) for options in made] == [(59 / 3, 0)] * 3
    for options in made:
        assert options["init"].std() == pytest.approx(1e-4)
    (first, _), _ = projections.pca_layouts(panels)
    np.testing.assert_allclose(made[0]["init"], first / first.std() * 1e-4)
    for options in made[1:]:
        np.testing.assert_allclose(options["init"], start / start.std() * 1e-4)


# Figures


def drawn_texts(figure: Figure) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


def test_a_figure_has_a_panel_an_arm(panels: list[Embedding]) -> None:
    figure = drawing.draw(panels)
    assert [axes.get_title() for axes in figure.axes] == ["CE", "γ = 10⁻²", "", ""]
    assert [axes.get_ylabel() for axes in figure.axes] == ["PCA", "", "t-SNE", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1", "2"]
    layouts = [points for points, _ in projections.pca_layouts(panels)] + projections.tsne_layouts(panels)
    for axes, layout in zip(figure.axes, layouts, strict=True):
        shown = np.ma.getdata(axes.collections[0].get_offsets())
        np.testing.assert_allclose(shown[np.lexsort(shown.T)], layout[np.lexsort(layout.T)])
        assert all(points.get_rasterized() for points in axes.collections)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ([0, 0, 1, 1], "silhouette 1.00 · kNN 0.0 %\n100 % of variance"),
        ([0, 1, 0, 1], "silhouette −0.50 · kNN 0.0 %\n100 % of variance"),
        ([2, 2, 2, 2], "silhouette – · kNN 100.0 %\n100 % of variance"),
    ],
)
def test_scores_stand_below_the_pca(labels: list[int], told: str) -> None:
    """Four images at two right angles. All three others vote, of which two are of the other class."""
    figure = drawing.draw([embedding([[1.0, 0], [1, 0], [0, 1], [0, 1]], labels)])
    assert [axes.get_xlabel() for axes in figure.axes] == [told, ""]


def test_points_have_the_colour_of_their_class(panels: list[Embedding]) -> None:
    """Each point of the PCA is found again by its place."""
    axes = drawing.draw(panels).axes[0]
    (layout, _), _ = projections.pca_layouts(panels)
    looks = {label: look(label)[0] for label in range(3)}
    offsets = np.ma.getdata(axes.collections[0].get_offsets())
    for place, colour in zip(offsets, axes.collections[0].get_facecolors(), strict=True):
        label = panels[0].labels[np.linalg.norm(layout - place, axis=1).argmin()]
        np.testing.assert_allclose(colour, to_rgba(looks[label]))


def test_no_class_is_always_on_top() -> None:
    """Points are drawn one over the other: the two halves of the order have as many of each class, about."""
    labels = np.repeat([0, 1], 100)
    axes = drawing.draw([embedding(np.random.default_rng(0).normal(size=(200, 3)), labels)]).axes[0]
    second = to_rgba(look(1)[0])
    halves = np.split((axes.collections[0].get_facecolors() == second).all(axis=1), 2)
    assert [40 < half.sum() < 60 for half in halves] == [True, True]


def test_a_flawed_arm_is_told_and_the_others_drawn(panels: list[Embedding], flawed: list[Embedding]) -> None:
    """t-SNE of equal points ends the process; half precision overflows to infinity."""
    figure = drawing.draw([*flawed, *panels])
    reasons = [[reason] for _, reason in FLAWED.values()]
    named = ["0", "1", "2"]
    assert drawn_texts(figure) == [*reasons, named, named, *reasons, named, named]
    assert len(figure.legends[0].get_texts()) == 3
    assert drawing.draw(flawed).legends == []


def test_more_classes_than_colours_are_drawn_with_other_markers() -> None:
    axes = drawing.draw([clusters(classes=30, each=2)]).axes[0]
    (points,) = axes.collections
    drawn = [tuple(map(tuple, path.vertices)) for path in points.get_paths()]
    looks = {(tuple(colour), path) for colour, path in zip(points.get_facecolors(), drawn, strict=True)}
    assert (len(drawn), len(looks), len(set(drawn))) == (60, 30, 4)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize(("classes", "rows"), [(2, 1), (10, 1), (13, 2), (30, 3)])
def test_the_legend_names_all_classes_on_the_page(classes: int, rows: int, columns: int) -> None:
    panels = [clusters(f"siamese-{i}", classes=classes, each=2 if classes > 2 else 4) for i in range(columns)]
    for figure in (drawing.draw(panels), drawing.multiples([("rrc", panels)])):
        figure.draw_without_rendering()
        (legend,) = figure.legends
        texts, handles = legend.get_texts(), legend.legend_handles
        boxes = {int(text.get_text()): text.get_window_extent() for text in texts}
        assert sorted(boxes, key=lambda c: (-round(boxes[c].y0), boxes[c].x0)) == list(range(classes))
        assert len({round(box.y0) for box in boxes.values()}) == rows
        box = legend.get_window_extent()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        for text, handle in zip(texts, handles, strict=True):
            assert (handle.get_color(), handle.get_marker()) == look(int(text.get_text()))


def test_a_hundred_classes_are_drawn_without_a_legend() -> None:
    figure = drawing.draw([clusters(classes=100, each=2)])
    assert figure.legends == []
    assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == 200


def test_points_are_pixels_in_a_pdf_and_text_is_text(tmp_path: Path) -> None:
    """No point is in the file on its own: ten times as many make it no larger than pixels are."""
    for each in (10, 100):
        figure = drawing.multiples([("rrc", [clusters(each=each)])])
        _, pdf = save(figure, tmp_path, f"{each}")
        content = pdf.read_bytes()
        assert content.count(b"/Subtype /Image") == 1 + content.count(b"/SMask")
        assert b"/Type /Font" in content
    few, many = ((tmp_path / f"{each}.pdf").stat().st_size for each in (10, 100))
    assert many < few + 20_000


# Small multiples

ARMS = ["ce", "siamese-0", "siamese-0.001", "siamese-0.01", "siamese-0.1"]
SUBSETS = [
    "+".join(subset) or "none (views alike)"
    for size in range(5)
    for subset in itertools.combinations(("rrc", "hflip", "grayscale", "solarize"), size)
]


def page(rows: int, columns: int) -> list[tuple[str, list[Embedding]]]:
    return [
        (subset, [clusters(arm, classes=10, each=2, seed=17 * i + j) for j, arm in enumerate(ARMS[:columns])])
        for i, subset in enumerate(SUBSETS[:rows])
    ]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Texts of a figure that cover each other, or leave the page."""
    figure.draw_without_rendering()
    texts = [
        text
        for axes in figure.axes
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        if text.get_text()
    ]
    texts += figure.legends[0].get_texts()
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    page = figure.bbox
    off = [
        (text, "the page")
        for text, box in boxes
        if box.x0 < page.x0 or box.x1 > page.x1 or box.y0 < page.y0 or box.y1 > page.y1
    ]
    pairs = itertools.combinations(boxes, 2)
    return off + [(a, b) for (a, one), (b, other) in pairs if one.overlaps(other)]


@pytest.mark.parametrize(("rows", "columns"), [(16, 5), (16, 4), (2, 3), (1, 1)])
def test_a_page_of_small_multiples_is_readable_and_fits_a4(rows: int, columns: int) -> None:
    figure = drawing.multiples(page(rows, columns))
    width, height = figure.get_size_inches()
    assert width < A4[0]
    assert height < A4[1]
    assert overlapping(figure) == []
    grid = np.array(figure.axes).reshape(rows, columns)
    assert [axes.get_title() for axes in grid[0]] == ["CE", "γ = 0", "γ = 10⁻³", "γ = 10⁻²", "γ = 0.1"][
        :columns
    ]
    labels = [axes.get_ylabel().replace("\n", " ").replace(" + ", "+") for axes in grid[:, 0]]
    assert labels == SUBSETS[:rows]
    boxes = [axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()) for axes in grid.flat]
    assert all(1.2 < box.width < 3.0 for box in boxes)
    assert all(0.4 < box.height < 1.6 for box in boxes)
    assert len(figure.legends) == 1


def test_eight_arms_do_not_cover_each_other() -> None:
    arms = [*ARMS, "siamese-1e-05", "siamese-1", "siamese-0.01 lambd=0.1"]
    figure = drawing.multiples([("rrc", [clusters(arm, classes=10, each=2) for arm in arms])])
    assert overlapping(figure) == []
    assert figure.axes[-1].get_title() == "γ = 10⁻²\n(lambd=0.1)"


def test_small_panels_have_scores_and_say_what_is_missing() -> None:
    angles = [[1.0, 0], [1, 0], [0, 1], [0, 1]]
    alike = embedding(np.ones((4, 2)), [0, 0, 1, 1], "siamese-0.1")
    figure = drawing.multiples(
        [
            ("none", []),
            ("rrc", [embedding(angles, [0, 0, 1, 1], "siamese-0"), alike]),
            (
                "hflip",
                [
                    embedding(angles, [0, 1, 0, 1], arm)
                    for arm in ("siamese-0.01", "siamese-0", "ce", "siamese-0.1")
                ],
            ),
        ]
    )
    # The longest row has the order of columns, but for the baseline.
    assert [axes.get_title() for axes in figure.axes[:4]] == ["CE", "γ = 10⁻²", "γ = 0", "γ = 0.1"]
    texts = [text.replace("\n", " ") for panel in drawn_texts(figure) for text in panel or [""]]
    assert texts == [
        *["no result"] * 4,
        *("no result", "no result", "", "collapsed: all features alike"),
        *[""] * 4,
    ]
    scores = [axes.get_xlabel() for axes in figure.axes]
    assert scores == [*[""] * 6, "silhouette 1.00 · kNN 0.0 %", "", *["silhouette −0.50 · kNN 0.0 %"] * 4]


def test_rows_are_turned_onto_the_first() -> None:
    """A cross of four images, longer in one direction; then turned and mirrored; then longer in the other."""
    cross = np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    longer = np.array([[1.0, 0], [-1, 0], [0, 3], [0, -3]])
    first = embedding(cross, [0, 0, 1, 1])
    others = Embedding(arm="ce", values=longer, labels=first.labels, index=first.index + 1)
    rows = [cross, -cross[:, ::-1], longer]
    figure = drawing.multiples(
        [
            *((f"{i}", [embedding(values, [0, 0, 1, 1])]) for i, values in enumerate(rows)),
            ("others", [others]),
        ]
    )
    shown = [np.ma.getdata(axes.collections[0].get_offsets()) for axes in figure.axes]
    np.testing.assert_allclose(shown[1], shown[0], atol=1e-9)
    np.testing.assert_allclose(np.ptp(shown[2], axis=0), [2, 6])
    # Of other images nothing says how they should be turned: their first component stays the first.
    np.testing.assert_allclose(np.ptp(shown[3], axis=0), [6, 2])


# Captions, files and the command line


def test_the_caption_tells_what_is_shown(panels: list[Embedding]) -> None:
    assert drawing.caption(panels, "train", 2) == (
        "PCA and t-SNE of the features h of 60 augmented training images, the same images in the same views"
        " for every arm, coloured by class; seed 2, the lowest that every arm has finished. Numbers stand at"
        " the median of their class. The principal"
        " components of each panel are rotated or mirrored onto those of the first, and each t-SNE begins"
        " from the first panel's layout (perplexity 20). Silhouette (cosine distance) and kNN accuracy"
        " (k = 20, cosine, each image classified by the others shown) are of all dimensions, not of the two"
        " that are drawn."
    )
    large = embedding(np.zeros((2000, 2)), [0] * 2000)
    told = drawing.caption([large], "test", 0)
    assert "features h of 2,000 clean test images, the same images for every arm" in told
    assert "perplexity 30" in told
    few = embedding(np.zeros((10, 2)), [0] * 10)
    assert "(k = 9, cosine" in drawing.caption([few], "test", 0)


def study(store: Path, folder: Path) -> tuple[Selection, list[str]]:
    """A ledger of two subsets with three arms, and of another network alone; returns the run ids."""
    fields = {"feature_dim": 6, "embedding_dim": 4}
    configs = [
        *(
            config(arm, 0, augmentations=names, **fields)
            for names in ((), ("rrc",))
            for arm in ("0.01", "0", "ce")
        ),
        config("ce", 0, backbone="vgg16", **fields),
        config("ce", 0, backbone="vgg16", augmentations=(), **fields),
    ]
    made = [
        Made(config=trial, metrics={"test_acc": 0.5}, artifacts={"embeddings.npz": kept_by(trial)})
        for trial in configs[:-1]
    ]
    shutil.copy(store, folder / "mlflow.db")
    run_ids = fill(folder / "mlflow.db", folder / "mlartifacts", made)
    return Selection(space="test", trials=tuple(configs), steps=("a test",)), run_ids


def kept_by(trial: TrialConfig) -> bytes:
    arrays: dict[str, npt.NDArray] = {}
    for split in projections.SPLITS:
        panel = clusters(seed=len(trial.augmentations))
        h = np.asarray(panel.values, dtype=np.float16)
        arrays |= {f"{split}_h": h, f"{split}_labels": panel.labels, f"{split}_index": panel.index}
        if trial.gamma:
            arrays[f"{split}_z"] = h[:, :4]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_files_of_cells_and_of_groups(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projections, "_tsne", lambda values, start: start)  # other tests have it
    selection, run_ids = study(empty_store, tmp_path)
    ledger = Ledger(
        uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="test", artifact_root=tmp_path / "mlartifacts"
    )
    trials = load(selection, ledger.trials())
    said: list[str] = []
    written = embeddings.write(trials, ledger, tmp_path / "out", say=said.append)
    names = [
        f"embeddings-{split}-{part}.{ending}"
        for part in ("0", "1", "2", "subsets-0", "subsets-1")
        for split in ("train", "test")
        for ending in ("png", "pdf")
    ]
    assert [path.name for path in written] == names
    assert all(path.stat().st_size > 1000 for path in written)
    assert said[0] == (
        f"wrote {written[0]}: digits · convnet · none (views alike), augmented training images, seed 0"
    )
    assert "digits · vgg16 · none (views alike): no seed that every arm has finished" in said
    assert any(
        "subsets-0.pdf: digits · convnet · by augmentations, clean test images" in line for line in said
    )
    with Image.open(tmp_path / "out/embeddings-train-0.png") as image:
        assert image.width / image.height == pytest.approx(7.7 / (2 * 7.7 / 3 + 1.4), rel=0.01)

    said.clear()
    written = embeddings.write(trials, ledger, tmp_path / "z", what="z", say=said.append)
    assert [path.name for path in written] == [
        name.replace("embeddings", "embeddings-z")
        for name in names
        if not name[:-4].endswith(("-2", "subsets-1"))
    ]
    assert said.count("digits · vgg16 · rrc+hflip: no arm has kept z") == 2
    with Image.open(tmp_path / "z/embeddings-z-train-0.png") as image:
        assert image.width / image.height == pytest.approx(5.2 / 6.6, rel=0.01)  # γ = 0.01 alone

    (tmp_path / "mlartifacts" / run_ids[0] / "artifacts/embeddings.npz").unlink()
    said.clear()
    cell = trials[trials["cell"] == 0]
    assert embeddings.write(cell, ledger, tmp_path / "gone", say=said.append) == []
    assert len(said) == 2
    assert all(line.startswith("digits · convnet · none (views alike): ") for line in said)


def test_the_command_line(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    selection, _ = study(empty_store, tmp_path)
    monkeypatch.setattr("search_spaces.selection.SPACES", {"test": lambda: list(selection.trials[:3])})
    monkeypatch.chdir(tmp_path)
    common = ["--space", "test", "--output", str(tmp_path), "--experiment", "test"]
    assert embeddings.main([*common, "--what", "z"]) == 0
    files = sorted(path.name for path in (tmp_path / "reports/test/figures").iterdir())
    assert files == [f"embeddings-z-{split}-0.{end}" for split in ("test", "train") for end in ("pdf", "png")]
    assert capsys.readouterr().out.count("wrote ") == 4
    with pytest.raises(SystemExit):
        embeddings.main([*common, "--what", "x"])
    assert "--what: invalid choice: 'x'" in capsys.readouterr().err
