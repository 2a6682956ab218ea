"""The numbers and pictures of this folder's page: python -m companions.pages embeddings"""

from pathlib import Path

from companions.embeddings.experiment import (NORMS, VECTORS, accuracies, plot_comparison,
                                              results_table)
from support.figures import markdown_table
from support.pages import load_results
from support.statistics import Effect, correct, format_p

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    results = load_results(RESULTS / 'embeddings.json')

    def accuracy(vectors, method, norm=0.0):
        """Per cent, of each seed, on test texts perturbed by an r of that norm."""
        return 100 * accuracies(results['runs'], vectors, method)[:, NORMS.index(norm)]

    pairs = ('adversarial', 'plain'), ('adversarial', 'random'), ('random', 'plain')
    effects = correct([Effect((vectors, *pair), *(accuracy(vectors, method) for method in pair))
                       for vectors in VECTORS for pair in pairs])
    rows = [(VECTORS[vectors], f'{method} minus {other}', f'{e.mean:+.1f} ± {e.deviation:.1f}',
             format_p(e.p_holm)) for (vectors, method, other), e in effects.items()]
    gains = {vectors: f'{e.mean:+.1f} points, {format_p(e.p_holm)}'
             for (vectors, *pair), e in effects.items() if pair == ['adversarial', 'plain']}
    return {'results': results, 'accuracy': accuracy, 'gains': gains, 'table': results_table,
            'tuning': load_results(RESULTS / 'tune_embeddings.json'),
            'gains_table': markdown_table(
                ('vectors', 'compared', 'difference (points)', 'p, corrected'), rows)}


def draw_figures():
    plot_comparison(RESULTS / 'embeddings.png', load_results(RESULTS / 'embeddings.json')['runs'])
