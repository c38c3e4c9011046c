"""One table in several formats, and how numbers are written."""

import io

import pytest
from rich.console import Console

from analysis.render.page import to_page
from analysis.render.section import Report, Section
from analysis.render.table import Entry, Table, Ui, entries, to_latex, to_markdown, to_terminal
from analysis.render.text import arm_title, difference_title, format_points, interval, latex, p_value

TABLE = Table(
    name="a-table",
    title="digits · γ < 1",
    corner="Accuracy (%)",
    columns=("CE", "γ = 10⁻³, x_y=3"),
    rows=(
        ("Test", (Entry(text="1.0 ± 2.0", bold=True, runs=("a", "b")), Entry(text="–"))),
        ("Test", (Entry(text="<b>", runs=("c",)), Entry(text="−3 to +2"))),
    ),
    caption="50 % of a_b & more.",
)


def test_terminal() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(to_terminal(TABLE))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(part in text for part in ("digits · γ < 1", "1.0 ± 2.0", "<b>", "50 % of a_b"))


def test_markdown() -> None:
    text = to_markdown(TABLE)
    assert text.startswith("### digits · γ < 1\n\n| Accuracy (%)")
    assert "| **1.0 ± 2.0** |" in text
    assert text.endswith("50 % of a_b & more.\n")


def test_latex() -> None:
    text = to_latex(TABLE)
    assert r"\caption{digits $\cdot$ $\gamma$ $<$ 1. 50 \% of a\_b \& more.}" in text
    assert r"\label{tab:a-table}" in text
    assert r"\label{tab:pets:a-table}" in to_latex(TABLE, "pets")
    assert r"Accuracy (\%) & CE & $\gamma$ = 10$^{-3}$, x\_y=3 \\" in text
    assert r"Test & \textbf{1.0 $\pm$ 2.0} & -- \\" in text
    assert text.count("Test &") == 2
    assert text.isascii()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10⁻³", "10$^{-3}$"),
        ("a\\b{c}", r"a\textbackslash{}b\{c\}"),
        ("x^2 ~ $5 #1", r"x\textasciicircum{}2 \textasciitilde{} \$5 \#1"),
        ("é ± …", r"é $\pm$ \dots{}"),
        ("a\x1bb", "ab"),
        ("a☃b", "ab"),  # which LaTeX would stop at
    ],
)
def test_latex_of_any_text(text: str, expected: str) -> None:
    assert latex(text) == expected


def test_html_escapes_and_leads_to_runs() -> None:
    ui = Ui(address="http://127.0.0.1:5000", experiment_id="1")
    section = Section(title="a section", tables=(TABLE,))
    report = Report(
        kind="Study",
        name="s",
        question="",
        answers=(),
        front=Section(),
        lead="",
        warnings=(),
        findings=(),
        note="",
        sections=(section,),
    )
    text = to_page(report, ui)
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    page = ui.link(("a", "b"), "test_acc").replace("&", "&amp;")
    assert page.startswith("http://127.0.0.1:5000/#/metric?runs=%5B%22a%22%2C%22b%22%5D&amp;")
    assert f'<a href="{page}" title="2 runs in MLflow"><strong>1.0&nbsp;±&nbsp;2.0</strong></a>' in text
    run = "http://127.0.0.1:5000/#/experiments/1/runs/c?workflowType=machine_learning"
    assert f'<a href="{run}" title="run in MLflow">' in text
    assert "in MLflow" not in to_page(report, None)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        ("ce", "CE"),
        ("siamese-0", "γ = 0"),
        ("siamese-0.001", "γ = 10⁻³"),
        ("siamese-1e-05", "γ = 10⁻⁵"),
        ("siamese-0.005", "γ = 0.005"),
        ("siamese-1", "γ = 1"),
        ("siamese-0.01 hidden_dim=4", "γ = 10⁻² (hidden_dim=4)"),
    ],
)
def test_arm_names(label: str, text: str) -> None:
    assert arm_title(label) == text


def test_numbers_for_people() -> None:
    assert difference_title("siamese-0.001", "ce") == "γ = 10⁻³ − CE"
    assert [format_points(value) for value in (0.0123, -0.0123, -0.0001, float("nan"))] == [
        "+1.2",
        "−1.2",
        "+0.0",
        "–",
    ]
    assert interval(-0.01, 0.025) == "−1.0 to +2.5"
    assert interval(float("nan"), float("nan")) == "–"
    # Neither side of the level of significance is rounded to the other.
    assert [p_value(p) for p in (0.0004, 0.0123, 0.04996, 0.0504, 1.0)] == [
        *("< 0.001", "0.012", "0.0500", "0.0504", "1.000")
    ]
    assert entries("a", "b") == (Entry(text="a"), Entry(text="b"))
