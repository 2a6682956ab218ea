"""The numbers and pictures of this folder's page: python -m companions.pages embeddings"""

from pathlib import Path

from companions.embeddings.experiment import (NORMS, VECTORS, accuracies, plot_comparison,
                                              results_table, tuning_table)
from support.figures import markdown_table, plus_minus
from support.pages import load_results
from support.statistics import Effect, correct, format_p

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'
PAIRS = (('adversarial', 'plain'), ('adversarial', 'random'), ('random', 'plain'),
         ('posted', 'plain'), ('posted, tuned', 'plain'), ('adversarial', 'posted, tuned'))


def names():
    """Return what page.md uses."""
    results, spans, tuning, span_tuning = (load_results(RESULTS / f'{name}.json') for name in (
        'embeddings', 'embeddings_spans', 'tune_embeddings', 'tune_embeddings_spans'))

    def accuracy(vectors, method, norm=0.0, runs=results['runs']):
        """Per cent, of each seed, on test texts perturbed by an r of that norm."""
        return 100 * accuracies(runs, vectors, method)[:, NORMS.index(norm)]

    def epsilon(runs):
        """Return the ε of adversarial training with frozen vectors."""
        return next(r['epsilon'] for r in runs
                    if (r['vectors'], r['method']) == ('frozen', 'adversarial'))

    def compare(runs, vectors):
        return correct([Effect((name, *pair), *(accuracy(name, method, runs=runs)
                                                for method in pair))
                        for name in vectors for pair in PAIRS])

    effects, span_effects = compare(results['runs'], VECTORS), compare(spans['runs'], ['frozen'])
    gains = {vectors: against_plain(effects, vectors) for vectors in VECTORS}
    against_tuned = describe(effects['word2vec', 'adversarial', 'posted, tuned'])
    return {'results': results, 'accuracy': accuracy, 'gains': gains, 'epsilon': epsilon,
            'against_tuned': against_tuned, 'table': results_table, 'tuning_table': tuning_table,
            'tuning': tuning, 'spans': spans, 'span_tuning': span_tuning,
            'span_gains': against_plain(span_effects, 'frozen'), 'comparisons': len(effects),
            'gains_table': gains_table(effects), 'span_gains_table': gains_table(span_effects)}


def against_plain(effects, vectors):
    """Format {method: difference from plain training, p}."""
    return {method: describe(e) for (name, method, other), e in effects.items()
            if (name, other) == (vectors, 'plain')}


def describe(effect):
    return f'{effect.mean:+.1f} points, {format_p(effect.p_holm)}'


def gains_table(effects):
    rows = [(VECTORS[vectors], f'{method} minus {other}', plus_minus(e.difference, sign='+'),
             format_p(e.p_holm)) for (vectors, method, other), e in effects.items()]
    return markdown_table(('vectors', 'compared', 'difference (points)', 'p, corrected'), rows)


def draw_figures():
    for name in ('embeddings', 'embeddings_spans'):
        plot_comparison(RESULTS / f'{name}.png', load_results(RESULTS / f'{name}.json')['runs'])
