"""Labels do not overlap, and query words are marked."""

import numpy as np

from companions.word2vec import fast, figures


def test_query_words_are_bold_and_no_word_is_shown_twice(monkeypatch, tmp_path):
    """Also if one is the nearest of another."""
    drawn = []
    monkeypatch.setattr(figures, 'save_figure', lambda path, figure: drawn.append(figure))
    words = ['film', 'actor', 'story', *(f'other{k}' for k in range(40))]
    text = fast.Text(words, np.full(43, 9), np.arange(43), np.zeros(43, int))
    table = np.random.default_rng(0).standard_normal((43, 5))
    table[:3] = 1 + 0.01 * table[:3]
    figures.plot_vectors(tmp_path / 'x.png', text, table)
    shown = [(label.get_text(), label.get_weight()) for label in drawn[0].axes[0].texts]
    assert len({word for word, _ in shown}) == len(shown) > 20
    assert {'film', 'actor', 'story'} <= {word for word, weight in shown if weight == 'bold'}
    assert sum(weight == 'bold' for _, weight in shown) == 8


def test_labels_do_not_overlap():
    points = np.random.default_rng(0).normal(200, 40, (40, 2))
    labels = ['word' * (1 + k % 3) for k in range(40)]
    middles = points + figures.place_labels(points, labels, 9)
    half = np.array([[0.31 * 9 * len(label), 0.65 * 9] for label in labels])
    apart = (np.abs(middles[:, None] - middles) >= half[:, None] + half - 1e-9).any(2)
    assert apart[~np.eye(40, dtype=bool)].all()
    assert (np.abs(points[:, None] - middles) >= half).any(2).all()
