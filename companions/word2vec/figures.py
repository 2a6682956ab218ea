"""The pictures and tables of `study`, from its records."""

import numpy as np
from matplotlib.figure import Figure

from companions.word2vec.vectors import find_nearest, normalize_rows
from support.figures import draw_band, markdown_table, mean_std, save_figure

QUERIES = ('matrix file plot probability thread integer error gradient film actor story music king '
           'priest mother bread sword river wisdom lion').split()
COLORS = {'SkipGram': 'C0', 'CBOW': 'C1', 'SkipGram joint': 'C2'}


def select(records, job, method=None):
    return [r for r in records if r['job'] == job and (method is None or r['method'] == method)]


def methods(records):
    return list(dict.fromkeys(record['method'] for record in records))


def query_words(text, count=8):
    """Return words to show: the most frequent of QUERIES, then of all of four letters or more."""
    known = [word for word in text.words if word in QUERIES]
    frequent = [word for word in text.words if len(word) > 3]
    return list(dict.fromkeys(known + frequent + text.words))[:count]


def plot_vectors(path, text, table):
    """Draw query words and their neighbors among 3000 frequent words on two principal axes."""
    unit, index = normalize_rows(table), text.index
    queries = [index[word] for word in query_words(text)]
    rows, colors, shown = [], [], {*queries}
    for k, row in enumerate(queries):
        near = find_nearest(unit[:3000], unit[row], 8, [other for other in shown if other < 3000])
        rows += [row, *near.tolist()]
        colors += [f'C{k}'] * (1 + len(near))
        shown |= {*rows}
    centered = unit[rows] - unit[rows].mean(0)
    _, s, axes = np.linalg.svd(centered, full_matrices=False)
    points, labels = centered @ axes[:2].T, [text.words[row] for row in rows]
    share = 100 * (s[:2] ** 2).sum() / (s ** 2).sum()
    figure = Figure(figsize=(12, 9), layout='constrained')
    ax = figure.subplots()
    ax.scatter(*points.T, c=colors, s=12)
    ax.set(xlabel='first principal component', ylabel='second principal component',
           title=f'Words (bold) and their nearest neighbors: {share:.0f} % of the variance is in '
                 'this plane')
    ax.margins(0.12)
    figure.draw_without_rendering()
    offsets = place_labels(ax.transData.transform(points) * 72 / figure.dpi, labels, 9)
    for point, row, label, offset, color in zip(points, rows, labels, offsets, colors):
        line = {'arrowstyle': '-', 'lw': 0.4, 'shrinkA': 0, 'shrinkB': 0, 'color': color}
        ax.annotate(label, point, offset, textcoords='offset points', fontsize=9, color=color,
                    weight='bold' if row in queries else 'normal', ha='center', va='center',
                    arrowprops=line if np.hypot(*offset) > 20 else None)
    save_figure(path, figure)


def place_labels(points, labels, size):
    """Return offsets [n, 2] of labels from their points, in 1/72 inch, so that none overlap.

    Each gets the nearest place, on a spiral, that is free of other points and earlier labels.
    """
    boxes, offsets = [], []
    for point, label in zip(points, labels):
        half = np.array([0.31 * size * len(label), 0.65 * size])
        for step in range(400):
            angle, radius = 2.4 * step, 9 + 1.2 * step
            offset = np.array([(radius + half[0]) * np.cos(angle), radius * np.sin(angle)])
            middle = point + offset
            free = all((np.abs(middle - other) >= half + wide).any() for other, wide in boxes)
            if free and (np.abs(points - middle) >= half + 1.5).any(1).all():
                break
        boxes.append((middle, half))
        offsets.append(offset)
    return np.array(offsets)


def plot_forms(path, panels):
    """Draw the MRR of the vectors against the word's count; panels: {title: records}."""
    figure = Figure(figsize=(1 + 5 * len(panels), 4.2), layout='constrained')
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (title, records) in zip(axes, panels.items()):
        finite = [record for record in select(records, 'vectors') if record['by_count']]
        for k, method in enumerate(methods(finite)):
            y = np.array([[row[3] for row in run['by_count']]
                          for run in select(finite, 'vectors', method)])
            draw_band(ax, 100 * y, method, {'color': f'C{k}', 'marker': 'o'})
        if finite:
            names = [count_range(row) for row in finite[0]['by_count']]
            ax.set_xticks(range(1, 1 + len(names)), names)
            ax.legend()
        ax.set(title=title, xlabel='count of the rarer form')
        ax.grid(alpha=0.3)
    axes[0].set_ylim(0)  # of all panels, once all are drawn
    axes[0].set_ylabel('rank of the other form of a word:\nmean reciprocal rank (%)')
    save_figure(path, figure)


def plot_predictors(path, records):
    """Draw the predictors' loss and accuracy on their training windows, and their bounds."""
    figure = Figure(figsize=(11, 4.6), layout='constrained')
    bounds, = select(records, 'ceilings')
    for ax, key, scale in zip(figure.subplots(1, 2), ('loss', 'accuracy'), (1, 100)):
        for name, color in COLORS.items():
            y = np.array([record[key] for record in select(records, 'accuracy', name)])
            style = {'color': color, 'linestyle': '--' if name.endswith('joint') else '-'}
            draw_band(ax, scale * y, name, style)
        for name, bound in bounds[key].items():
            ax.axhline(scale * bound, color=COLORS[name], linestyle=':')
        ax.set(xlabel='epoch', ylim=(0, None))
        ax.grid(alpha=0.3)
    figure.axes[0].set(title='loss; dotted: lower bounds', ylabel='loss (nats per word)')
    figure.axes[1].set(title='accuracy; dotted: upper bounds', ylabel='accuracy (%)',
                       ylim=(0, 102))
    figure.axes[1].legend()
    save_figure(path, figure)


def count_range(row):
    return f'{row[0]}–{row[1] - 1}' if row[1] else f'≥ {row[0]}'


def rate_table(records):
    """Return Markdown: the MRR on the pairs for tuning at each learning rate."""
    rates, rows = sorted({record['learning_rate'] for record in records}), []
    for method in methods(records):
        values = [[r['mrr'] for r in records if (r['method'], r['learning_rate']) == (method, rate)]
                  for rate in rates]
        rows.append([method, *map(mean_of, values)])
    return markdown_table(['vectors', *(f'rate {rate:g}' for rate in rates)], rows)


def mean_of(values):
    """Format fractions as mean ± deviation; None is a run that diverged."""
    return mean_std([value for value in values if value is not None], of=len(values))


def vector_table(records):
    """Return Markdown: the evaluation of the vectors; empty if the corpus has no pairs of forms."""
    records, rows = select(records, 'vectors'), []
    groups = next((record['by_count'] for record in records if record['by_count']), None)
    if groups is None:
        return ''
    for method in methods(records):
        runs = select(records, 'vectors', method)
        finite = [run for run in runs if run['by_count']]
        rows.append([method, f'{np.mean([run["seconds"] for run in runs]):.0f}',
                     mean_of([run['mrr'] for run in runs]),
                     mean_std([run['top10'] for run in finite]),
                     mean_std([run['analogies'] for run in finite if run['analogies'] is not None]),
                     *(mean_std([run['by_count'][k][3] for run in finite])
                       for k in range(len(groups)))])
    columns = [f'count {count_range(row)} ({row[2]} pairs)' for row in groups]
    header = 'vectors', 'seconds', 'MRR', 'in the top ten', 'analogies', *columns
    return markdown_table(header, rows)


def bias_table(records):
    """Return Markdown: what debiasing along each direction does; empty if there is none."""
    rows = []
    for record in select(records, 'bias'):
        for kind, values in record.get('debiased', {}).items():
            mrr = '' if values['mrr'] is None else mean_std([values['mrr']])
            rows.append([record['direction'], kind, f'{values["bias"]:.4f}',
                         f'{values["pairs_apart"]:.3f}', mrr])
    header = ('direction', 'vectors', 'mean absolute cosine of neutral words with it',
              'difference of a pair along it', 'MRR (%)')
    return markdown_table(header, rows) if rows else ''


def report(records):
    """Return the main results as Markdown."""
    (ceilings,), (examples,) = (select(records, job) for job in ('ceilings', 'examples'))
    parts = [vector_table(records), bias_table(records)]
    parts += [f'{record["direction"]}: {len(record["pairs"])} of {record["of"]} pairs are in the '
              'vocabulary.' for record in select(records, 'bias')]
    for name, highest in ceilings['accuracy'].items():
        last = [record['accuracy'][-1] for record in select(records, 'accuracy', name)]
        parts.append(f'{name}: accuracy {mean_std(last)} % of at most {100 * highest:.1f} %.')
    parts += [f'{word}: {", ".join(near)}' for word, near in examples['neighbors'].items()]
    ratios = [record['ratio'] for record in select(records, 'speed')]
    parts.append(f"Speed: {np.median(ratios):.2f} times gensim's." if ratios else
                 'gensim is not installed, so there is no comparison with it.')
    return '\n\n'.join(filter(None, parts))
