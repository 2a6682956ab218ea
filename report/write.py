"""Write the report and the companions' page: tables and figures from the files of the reference run, text from templates.

    python report/write.py                   # both pages and the figures of this folder anew
    python report/write.py --check           # status 1 if a page is not what the files give

template.md and template_companions.md are the texts, written by hand; every measured number in them stands as an expression in
{{ }}, evaluated here with the names of `names()` and `names_of_companions()`. measure.py writes the files.
"""

import argparse
import functools
import json
import math
import sys
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student
from scipy.stats import ttest_1samp

REPORT = Path(__file__).resolve().parent
ROOT = REPORT.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'companions'), str(ROOT / 'benchmarks')]

import amp  # noqa: E402
import attacks  # noqa: E402
import embeddings  # noqa: E402
import gan  # noqa: E402
import word2vec  # noqa: E402
from accuracy import accuracy_table, comparisons, holm  # noqa: E402
from best import search_table  # noqa: E402
from measure import OTHERS  # noqa: E402
from runs import read_results, write  # noqa: E402
from training import BEST_EPSILON, closing_table, plot_accuracy, save_figure, spread, tuning_table  # noqa: E402

TESTS = {'all': "the course's 351", 'unseen': 'the 291 not in training', 'uci': "UCI's 370"}


@functools.cache
def load(name):
    return json.loads((REPORT / f'{name}.json').read_text(encoding='utf-8'))


CONFIG, RUNS = read_results(REPORT / 'results.json')
RUNS = {(run['mode'], run['variant'], run['epsilon'], run['seed']): run for run in RUNS}
UCI = {(r['mode'], r['variant'], r['epsilon'], r['epochs'], r['seed']): r['accuracy'] for r in load('unseen')}
SEEDS = range(CONFIG['seeds'])
EPSILONS = {mode: sorted({epsilon for m, variant, epsilon, _ in RUNS if m == mode and variant == ''})
            for mode in BEST_EPSILON}
VARIANTS = sorted({variant for _, variant, *_ in RUNS if variant}, key=lambda name: (name.startswith('batch'), name))
EPOCHS = {'AdvLSTM': 50, 'ProxLSTM': 100}  # after which epsilons are compared


# ---------------------------------------------------------------------------------------------- figures in the text

def values(mode, epsilon=0.0, variant='', epochs=100, test='uci'):
    """Accuracy after `epochs` epochs, in per cent: an array over seeds, NaN where a run diverged before."""
    if test == 'uci':
        return 100 * np.array([math.nan if RUNS[mode, variant, epsilon, seed]['diverged'] else
                               UCI[mode, variant, epsilon, epochs, seed] for seed in SEEDS])
    histories = [RUNS[mode, variant, epsilon, seed]['history'][{'all': 'test', 'unseen': 'unseen'}[test] + '_accuracy']
                 for seed in SEEDS]
    return 100 * np.array([history[epochs - 1] if len(history) >= epochs else math.nan for history in histories])


def steady(mode, epsilon=0.0, variant='', epochs=100, window=10):
    """Accuracy on the 291, averaged over the last `window` epochs, in per cent: over seeds. A late spike weighs less in it."""
    histories = [RUNS[mode, variant, epsilon, seed]['history']['unseen_accuracy'][:epochs] for seed in SEEDS]
    return 100 * np.array([np.mean(history[-window:]) if len(history) == epochs else math.nan for history in histories])


def before_spikes(mode, epsilon, epochs=75):
    """steady(), of a method against its control, up to an epoch before which no spike is seen."""
    return Effect('', steady(mode, epsilon, epochs=epochs), steady(mode, epochs=epochs))


def mean(*args, **kwargs):
    accuracy = values(*args, **kwargs)
    return spread(accuracy[np.isfinite(accuracy)] / 100, of=len(accuracy))


class Effect:
    """A paired difference over seeds, in points: mean, deviation, 95 % interval and p of Student's t.

    `steadily` is another reading of the same comparison, see steady().
    """

    def __init__(self, label, with_it, without, steadily=None):
        difference = np.round(with_it - without, 6)  # so that equal numbers of sequences are equal differences
        self.label, self.difference = label, difference[np.isfinite(difference)]
        n = len(self.difference)
        self.mean, self.deviation = self.difference.mean(), self.difference.std(ddof=1)
        margin = student.ppf(0.975, n - 1) * self.deviation / math.sqrt(n)
        self.low, self.high = self.mean - margin, self.mean + margin
        self.p = ttest_1samp(self.difference, 0).pvalue if self.deviation > 0 else float(self.mean == 0)
        self.p_holm = None  # set by corrected()
        self.steadily = steadily

    def __str__(self):
        return f'{self.mean:+.1f} points (95 % interval {self.low:+.1f} to {self.high:+.1f}, {p_text(self.p_holm)})'


def p_text(p):
    return f'p = {p:.2f}' if p >= 0.095 else f'p = {p:.1g}' if p >= 1e-4 else 'p < 0.0001'


def corrected(effects):
    """The same effects, by label, with their p corrected together."""
    for effect, p in zip(effects, holm([effect.p for effect in effects])):
        effect.p_holm = p
    return {effect.label: effect for effect in effects}


def sweep_effects(mode):
    """Every epsilon of `mode` against its control, after as many epochs; the chosen one after all its epochs last."""
    epochs = EPOCHS[mode]
    effects = [compare(f'ε = {epsilon:g}', (mode, epsilon, '', epochs), (mode, 0.0, '', epochs))
               for epsilon in EPSILONS[mode] if epsilon]
    best = BEST_EPSILON[mode]
    if epochs < 100:
        effects.append(compare(f'ε = {best:g}, 100 epochs', (mode, best), (mode,)))
    return corrected(effects)


def compare(label, with_it, without):
    """The effect of one run's settings against another's, each as values() takes them."""
    return Effect(label, values(*with_it), values(*without), Effect(label, steady(*with_it), steady(*without)))


def placement_effects():
    best = BEST_EPSILON['ProxLSTM']
    effects = []
    for variant in VARIANTS:
        name = variant.removesuffix(' 0.5')
        alone, both = ('ProxLSTM', 0.0, variant), ('ProxLSTM', best, variant)
        effects += [compare(f'{name}, without Prox', alone, ('ProxLSTM',)),
                    compare(f'{name}, added to Prox', both, ('ProxLSTM', best)),
                    compare(f'Prox, added to {name}', both, alone)]
    return corrected(effects)


EFFECTS = {mode: sweep_effects(mode) for mode in BEST_EPSILON} | {'placements': placement_effects()}


def effects_table(effects):
    lines = ['| | difference (points) | 95 % interval | p | p, corrected | last ten epochs, the 291 (points) |',
             '|---|---|---|---|---|---|']
    for e in effects.values():
        lines.append(f'| {e.label} | {e.mean:+.2f} ± {e.deviation:.2f} | {e.low:+.2f} to {e.high:+.2f} | {e.p:.2g} | '
                     f'{e.p_holm:.2g} | {e.steadily.mean:+.2f} ± {e.steadily.deviation:.2f} |')
    return '\n'.join(lines)


def accuracy_rows(rows):
    """Markdown: for each (label, mode, epsilon, variant, epochs) accuracy on the three test sets."""
    lines = [f'| | epochs | {" | ".join(f"{name} (%)" for name in TESTS.values())} |', '|---|---|---|---|---|']
    for label, *key, epochs in rows:
        cells = ' | '.join(mean(*key, epochs, test) for test in TESTS)
        lines.append(f'| {label} | {epochs} | {cells} |')
    return '\n'.join(lines)


def base_table():
    return accuracy_rows([('base', 'plain', 0.0, '', 100)])


def sweep_table(mode):
    best, epochs = BEST_EPSILON[mode], EPOCHS[mode]
    rows = [(f'ε = {epsilon:g}{", the control" if not epsilon else ", chosen" if epsilon == best else ""}', mode, epsilon, '',
             epochs) for epsilon in EPSILONS[mode]]
    if epochs < 100:
        rows += [('ε = 0, the control', mode, 0.0, '', 100), (f'ε = {best:g}, chosen', mode, best, '', 100)]
    return accuracy_rows(rows)


def placement_table():
    best = BEST_EPSILON['ProxLSTM']
    rows = [(f'{variant or "neither"}, {"Prox, ε = %g" % epsilon if epsilon else "no Prox"}', 'ProxLSTM', epsilon, variant,
             100) for variant in ('', *VARIANTS) for epsilon in (0.0, best)]
    return accuracy_rows(rows)


def best_epoch():
    """The base model's best epoch on the course's test set, chosen with that set in sight: per cent."""
    return spread([max(RUNS['plain', '', 0.0, seed]['history']['test_accuracy']) for seed in SEEDS])


def best_epoch_gain():
    return np.mean([100 * max(RUNS['plain', '', 0.0, seed]['history']['test_accuracy']) for seed in SEEDS]
                   - values('plain', test='all'))


def control_change(mode):
    """By how many points training on without the method changes the base model."""
    return np.nanmean(values(mode) - values('plain'))


def effect_range(kind, places, without='batch norm output'):
    """The smallest and the largest mean difference among the placements' effects of a kind."""
    means = [e.mean for label, e in EFFECTS['placements'].items()
             if kind in label and without not in label and (not places or label.startswith(places))]
    return f'{min(means):+.1f} to {max(means):+.1f}'


def leading_movement(epsilon):
    """‖c − s‖/‖s‖ of a state along the leading eigenvector of G Gᵀ, as large as it is on average at this epsilon."""
    strength = epsilon * dict(inside_records())[epsilon]['lambda_max'].mean()
    return strength / (1 + strength)


def time_ratio():
    """Seconds an epoch of AdvLSTM over those of ProxLSTM, each at its chosen epsilon, evaluation included."""
    adv, prox = (sum(RUNS[mode, '', epsilon, seed]['seconds'] for seed in SEEDS) for mode, epsilon in BEST_EPSILON.items())
    return adv / prox


def fold_factor(folds, repeats):
    """How much larger the standard error of repeated cross-validation is if the folds' overlap counts (Nadeau, Bengio)."""
    return math.sqrt(1 + folds * repeats / (folds - 1))


def leak(*args):
    """By how many points the sequences that are also in training raise the accuracy."""
    return np.nanmean(values(*args, test='all') - values(*args, test='unseen'))


def settings_table():
    settings = {'batch_size': 'sequences', 'hidden_size': 'units', 'epochs': '', 'out_channels': '', 'kernel_size': 'steps',
                'stride': 'steps', 'base_lr': 'Adam', 'base_weight_decay': 'L2', 'clip_value': 'each gradient entry',
                'adv_lr': 'AdvLSTM', 'adv_weight_decay': 'AdvLSTM', 'adv_epsilon': 'AdvLSTM, chosen',
                'prox_lr': 'ProxLSTM', 'prox_weight_decay': 'ProxLSTM', 'prox_epsilon': 'ProxLSTM, chosen'}
    return '\n'.join(['| setting | value | |', '|---|---|---|',
                      *(f'| {key} | {CONFIG[key]:g} | {words} |' for key, words in settings.items())])


# ---------------------------------------------------------------------------------------------- search, inside, spikes

def searched():
    """Accuracy on the held-out folds, in per cent, by change."""
    folds = {}
    for record in load('search'):
        folds.setdefault(record['change'], []).append(100 * record['accuracy'])
    return {change: np.array(x) for change, x in folds.items()}


def change(name):
    """What a change does to that accuracy: mean ± standard error."""
    difference = searched()[name] - searched()['as in training.py']
    return f'{difference.mean():+.2f} ± {difference.std(ddof=1) / math.sqrt(len(difference)):.2f}'


def change_table():
    lines = ['| change | accuracy on held-out folds (%) | minus none (mean ± standard error) |', '|---|---|---|']
    for name, x in searched().items():
        lines.append(f'| {name} | {x.mean():.1f} ± {x.std(ddof=1):.1f} | {change(name)} |')
    return '\n'.join(lines)


def inside_records():
    """(epsilon, {'moved', 'lambda_max', 'iterations'}: array over seeds), ascending."""
    by_epsilon = {}
    for record in load('inside'):
        by_epsilon.setdefault(record['epsilon'], []).append(record)
    return [(epsilon, {key: np.array([r[key] for r in records]) for key in ('moved', 'lambda_max', 'iterations')})
            for epsilon, records in sorted(by_epsilon.items())]


def inside_table():
    lines = ['| ε | ‖c − s‖ / ‖s‖ | λ_max(G Gᵀ) | iterations |', '|---|---|---|---|']
    for epsilon, x in inside_records():
        moved = '0 | ' if not epsilon else f'{x["moved"].mean():.3f} ± {x["moved"].std(ddof=1):.3f} | '
        iterations = '' if not epsilon else f'{x["iterations"].mean():.1f}'
        lines.append(f'| {epsilon:g} | {moved}{x["lambda_max"].mean():.2f} ± {x["lambda_max"].std(ddof=1):.2f} | '
                     f'{iterations} |')
    return '\n'.join(lines)


def find_spikes(loss, first=100, window=20, factor=3):
    """The epochs, counted from 0, at which a spike begins: the loss is over `factor` times the median of the `window` before.

    A spike lasts until the loss is at most `factor` times that median again, or 100 epochs. Returns (begin, end) pairs.
    """
    spikes, epoch = [], first
    while epoch < len(loss):
        limit = factor * np.median(loss[epoch - window:epoch])
        begin = epoch
        while epoch < min(len(loss), begin + 100) and loss[epoch] > limit:
            epoch += 1
        if epoch > begin:
            spikes.append((begin, epoch))
        epoch += 1
    return spikes


SPIKES = {}
for _record in load('spikes'):
    SPIKES.setdefault(_record['cure'], []).append(_record)


def spike_stretch(cure='as in training.py'):
    """How much further than usual the weights move in the epoch in which a spike begins: the median ratio over spikes."""
    ratios = [record['moved'][epoch] / np.median(record['moved'][epoch - 20:epoch])
              for record in SPIKES[cure] for epoch, _ in find_spikes(record['loss'])]
    return float(np.median(ratios))


def spike_height(cure='as in training.py'):
    """How many times the usual loss a spike reaches: the median over spikes."""
    return float(np.median([max(r['loss'][begin:end]) / np.median(r['loss'][begin - 20:begin])
                            for r in SPIKES[cure] for begin, end in find_spikes(r['loss'])]))


def spike_length(cure='as in training.py'):
    return float(np.median([end - begin for r in SPIKES[cure] for begin, end in find_spikes(r['loss'])]))


def first_spike(cure='as in training.py'):
    """The epoch, counted from 1, of the earliest spike of all seeds."""
    return 1 + min(begin for record in SPIKES[cure] for begin, _ in find_spikes(record['loss']))


def spiky(cure):
    """How many seeds had a spike."""
    return sum(bool(find_spikes(record['loss'])) for record in SPIKES[cure])


def last_accuracy(cure):
    return np.array([100 * record['accuracy'][-1] for record in SPIKES[cure]])


def lowest_accuracy(cure):
    return np.array([100 * min(record['accuracy'][100:]) for record in SPIKES[cure]])


def spike_cost(cure):
    """What a cure does to the accuracy of the last epoch."""
    return Effect(cure, last_accuracy(cure), last_accuracy('as in training.py'))


def spike_table():
    lines = ["| base model, 300 epochs | seeds with a spike | spikes a seed | largest loss after epoch 100, median | lowest "
             'accuracy after epoch 100 (%) | last epoch (%) | difference (points) | p, corrected |',
             '|---|---|---|---|---|---|---|---|']
    last = {cure: last_accuracy(cure) for cure in SPIKES}
    plain = next(iter(SPIKES))
    effects = corrected([spike_cost(cure) for cure in SPIKES if cure != plain])
    for cure, records in SPIKES.items():
        count = np.mean([len(find_spikes(r['loss'])) for r in records])
        lowest = lowest_accuracy(cure)
        comparison = f'{effects[cure].mean:+.2f} ± {effects[cure].deviation:.2f} | {effects[cure].p_holm:.2g}' \
            if cure != plain else ' | '
        lines.append(f'| {cure} | {spiky(cure)} of {len(records)} | {count:.1f} | '
                     f'{np.median([max(r["loss"][100:]) for r in records]):.3f} | {lowest.mean():.1f} ± '
                     f'{lowest.std(ddof=1):.1f} | {last[cure].mean():.1f} ± {last[cure].std(ddof=1):.1f} | {comparison} |')
    return '\n'.join(lines)


# ---------------------------------------------------------------------------------------------- pictures

def plot_epsilon(path):
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    for ax, (mode, name) in zip(figure.subplots(1, 2, sharey=True), (('AdvLSTM', 'adv'), ('ProxLSTM', 'prox'))):
        epsilons = [epsilon for epsilon in EPSILONS[mode] if epsilon]
        effects = [EFFECTS[mode][f'ε = {epsilon:g}'] for epsilon in epsilons]
        ax.axhline(0, color='grey', linewidth=0.8)
        ax.errorbar(epsilons, [e.mean for e in effects], [e.mean - e.low for e in effects], fmt='ko-', capsize=3,
                    label=f"test, UCI's 370: mean and 95 % interval over {len(SEEDS)} seeds")
        records = load(f'tune_{name}')['runs']
        control = {(r['repeat'], r['fold']): r['accuracy'] for r in records if r['epsilon'] == 0}
        grid = sorted({r['epsilon'] for r in records if r['epsilon']})
        gains = [100 * np.array([r['accuracy'] - control[r['repeat'], r['fold']] for r in records
                                 if r['epsilon'] == epsilon]) for epsilon in grid]
        ax.errorbar(grid, [x.mean() for x in gains], [x.std(ddof=1) / math.sqrt(len(x)) for x in gains], fmt='s:',
                    color='tab:blue', markerfacecolor='white', capsize=3,
                    label='cross-validation in the training set: mean and standard error')
        ax.axvline(BEST_EPSILON[mode], color='tab:red', linestyle='--', linewidth=1, label='chosen by cross-validation')
        ax.set(xscale='log', title=f'{mode}, {EPOCHS[mode]} epochs', xlabel='ε')
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel('accuracy minus that at ε = 0 (points)')
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside lower center')
    save_figure(path, figure)


def plot_inside(path):
    figure = Figure(figsize=(11, 3.6), layout='constrained')
    records = [(epsilon, x) for epsilon, x in inside_records() if epsilon]
    titles = {'moved': '‖c − s‖ / ‖s‖', 'lambda_max': 'λ_max(G Gᵀ)', 'iterations': "the solver's iterations"}
    for ax, (key, title) in zip(figure.subplots(1, 3), titles.items()):
        ax.errorbar([epsilon for epsilon, _ in records], [x[key].mean() for _, x in records],
                    [x[key].std(ddof=1) for _, x in records], fmt='ko-', capsize=3)
        if key == 'iterations':
            ax.set(yscale='log')
        else:
            ax.set(ylim=(0, None))
        ax.set(xscale='log', title=title, xlabel='ε')
        ax.grid(alpha=0.3)
    save_figure(path, figure)


def plot_spikes(path):
    figure = Figure(figsize=(11, 6), layout='constrained')
    for ax, (cure, records) in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, SPIKES.items()):
        for record in records:
            ax.plot(range(1, 1 + len(record['loss'])), record['loss'], linewidth=0.8)
        ax.set(yscale='log', title=cure)
        ax.grid(alpha=0.3)
    figure.supxlabel('epoch')
    figure.supylabel('training loss, a line a seed')
    save_figure(path, figure)


def plot_placements(path):
    """Accuracy against epoch at the two places that training.py tries by default; all of them would be sixteen curves."""
    curves = [(f'{variant or "neither"}, ε = {epsilon:g}', [RUNS['ProxLSTM', variant, epsilon, seed] for seed in SEEDS])
              for variant in ('', 'batch norm conv', 'dropout lstm_input 0.5') for epsilon in (0.0, BEST_EPSILON['ProxLSTM'])]
    plot_accuracy(path, 'ProxLSTM with dropout and batch normalisation, and without Prox', curves, True)


def plot_effects(path, effects):
    figure = Figure(figsize=(8, 1 + 0.28 * len(effects)), layout='constrained')
    ax = figure.subplots()
    rows = list(reversed(effects.values()))
    ax.axvline(0, color='grey', linewidth=0.8)
    ax.errorbar([e.mean for e in rows], range(len(rows)), xerr=[e.mean - e.low for e in rows], fmt='none', ecolor='black',
                capsize=3)
    for k, e in enumerate(rows):
        ax.plot(e.mean, k, 'o', color='black', markerfacecolor='black' if e.p_holm < 0.05 else 'white')
    ax.set_yticks(range(len(rows)), [e.label for e in rows])
    ax.set(xlim=(-10, 10), xlabel="difference on UCI's 370 (points), 95 % interval; filled: corrected p < 0.05")
    ax.grid(alpha=0.3, axis='x')
    save_figure(path, figure)


# ---------------------------------------------------------------------------------------------- the page

def names():
    """What template.md can use."""
    best, accuracy = load('best'), load('accuracy')
    tunings = {name: tuning_table(load(f'tune_{name}')['runs'])[0] for name in ('adv', 'prox')}
    best_values = [run['accuracy'] for run in best['runs']]
    compared = comparisons(accuracy['runs'])

    def peer(ours, theirs):
        difference, p = compared[ours, theirs]
        return f'{difference.mean():+.2f} points (p = {p:.2g})'

    def peer_overlap(ours, theirs):
        """The same difference with the error that overlapping resamples call for (Nadeau and Bengio 2003)."""
        difference, _ = compared[ours, theirs]
        n, ratio = len(difference), 370 / 270
        error = difference.std(ddof=1) * math.sqrt(1 / n + ratio)
        return f'{difference.mean():+.2f} ± {error:.2f}'

    def peer_fresh(ours, theirs):
        """The mean difference on those test sequences that are in UCI's own test set."""
        fresh = {name: np.array([r['fresh_accuracy'] for r in accuracy['runs'] if r['classifier'] == name])
                 for name in (ours, theirs)}
        return f'{100 * (fresh[ours] - fresh[theirs]).mean():+.2f}'


    return globals() | {
        'tuning': tunings, 'best': best, 'best_mean': spread(best_values), 'peer': peer, 'peer_overlap': peer_overlap,
        'peer_fresh': peer_fresh,
        'best_low': f'{100 * min(best_values):.1f}', 'best_high': f'{100 * max(best_values):.1f}',
        'best_seconds': np.median([run['seconds'] for run in best['runs']]),
        'best_search': search_table(load('tune_best')['runs']),
        'accuracy': accuracy, 'peers': accuracy_table(accuracy['runs']),
        'others': {name: closing_table(read_results(REPORT / f'{name}.json')[1]) for name in OTHERS}}


# ---------------------------------------------------------------------------------------------- the companions' page

def names_of_companions():
    """What template_companions.md can use."""
    return {'p_text': p_text, **names_of_attacks(), **names_of_words(), **names_of_texts(), **names_of_gan()}


def names_of_attacks():
    pictures, sequences = load('attacks_images')['runs'], load('attacks_sequences')['runs']
    compared, tuned = load('amp'), load('tune_amp')['runs']

    methods = [model for model in attacks.CONTROLS if model != 'best recipe']

    def picture(meaning, attack, epsilon, what='accuracy'):
        """Of the digits under an attack: accuracy, or the share that is readable, in per cent, or the change's mean L2 size."""
        point = attacks.over_seeds(pictures, meaning=meaning, attack=attack)[epsilon]
        return point.moved if what == 'moved' else 100 * getattr(point, what)

    def legible(meaning, attack):
        """The largest ε of the grid up to which the pictures stay readable."""
        return max(epsilon for epsilon, point in attacks.over_seeds(pictures, meaning=meaning, attack=attack).items()
                   if point.readable >= attacks.READABLE)

    def sequence(model, on, attack, epsilon):
        return 100 * attacks.accuracies(sequences, model, on, attack, epsilon)

    def weakest(epsilon):
        """The lowest and the highest mean accuracy of any model on either input under the attack of that size."""
        means = [values.mean() for model in (*attacks.MODELS, *methods) for on in ('normalised', 'raw')
                 if len(values := sequence(model, on, 'PGD', epsilon))]
        return min(means), max(means)

    def gain(model, on, attack, epsilon, control=None):
        return Effect(f'{model}, {on}, {epsilon:g}', sequence(model, on, attack, epsilon),
                      sequence(control or attacks.CONTROLS[model], on, attack, epsilon))

    epsilons = sorted({r['epsilon'] for r in sequences if r['attack'] == 'PGD'})
    gains = corrected([gain(model, on, 'PGD', epsilon) for model in methods for on in ('normalised', 'raw')
                       for epsilon in epsilons])

    def gains_table():
        lines = [f'| | input | {" | ".join(f"ε = {epsilon:g}" for epsilon in epsilons)} |', '|---' * (2 + len(epsilons)) + '|']
        for model in methods:
            for on in ('normalised', 'raw'):
                cells = [gains[f'{model}, {on}, {epsilon:g}'] for epsilon in epsilons]
                cells = [f'{e.mean:+.1f} ± {e.deviation:.1f}, {p_text(e.p_holm)}' for e in cells]
                lines.append(f'| {model} minus {attacks.CONTROLS[model]} | {on} | {" | ".join(cells)} |')
        return '\n'.join(lines)

    def comparison(job, method, what, against='plain'):
        runs = {(r['method'], r['seed']): r for r in compared['runs'] if r['job'] == job}
        seeds = sorted({seed for _, seed in runs})
        return Effect(method, *(100 * np.array([amp.measured(runs[m, seed])[0][what] for seed in seeds])
                                for m in (method, against)))

    def before_spikes_of(method, epochs=75, window=10):
        """AMP or SAM against plain training, on the mean accuracy of the ten epochs to the 75th; see before_spikes()."""
        runs = sorted((r for r in compared['runs'] if r['job'] == 'sequences'), key=lambda r: r['seed'])
        curves = {m: np.array([np.mean(r['history'][epochs - window:epochs]) for r in runs if r['method'] == m])
                  for m in (method, 'plain')}
        return Effect(method, 100 * curves[method], 100 * curves['plain'])

    def lowest(method):
        """The lowest accuracy of any seed after the fiftieth epoch, in per cent."""
        return 100 * min(min(r['history'][50:]) for r in compared['runs'] if r['job'] == 'sequences' and r['method'] == method)

    def flatness(job, method, radius):
        """Training loss at that distance from the weights, the median over seeds."""
        return np.median([amp.measured(r)[1][(0, *amp.RADII).index(radius)] for r in compared['runs']
                        if r['job'] == job and r['method'] == method])

    return {'picture': picture, 'legible': legible, 'sequence': sequence, 'weakest': weakest,
            'gains_table': gains_table, 'images_table': attacks.images_table(pictures), 'comparison': comparison,
            'flatness': flatness, 'before_spikes': before_spikes_of, 'lowest': lowest,
            'seeds': len(sequence('base', 'raw', 'none', 0.0)),
            'sequences_table': {on: attacks.sequences_table(sequences, on) for on in ('normalised', 'raw')},
            'masking_table': attacks.masking_table(sequences),
            'amp_table': {job: amp.comparison_table(compared['runs'], job) for job in ('sequences', 'digits')},
            'amp_tuning': {job: amp.tuning_table(tuned, job) for job in ('sequences', 'digits')}}


def names_of_words():
    learnt = load('word2vec')
    records = learnt['runs']
    steps, = word2vec.of_job(records, 'steps')
    ceiling, = word2vec.of_job(records, 'ceilings')
    example, = word2vec.of_job(records, 'examples')
    ratios = [record['ratio'] for record in word2vec.of_job(records, 'speed')]

    def vectors(method):
        return sorted((r for r in word2vec.of_job(records, 'vectors') if r['method'] == method), key=lambda r: r['seed'])

    def mrr(method, group=None):
        """The mean reciprocal rank of each seed in per cent, over all pairs or one group of counts, 0 the rarest."""
        return 100 * np.array([r['mrr'] if group is None else r['by_count'][group][3] for r in vectors(method)])

    def mrr_gains():
        """Skip-gram against CBOW in each group of counts, and against gensim's over all pairs; corrected together."""
        groups = range(len(vectors('CBOW')[0]['by_count']))
        return corrected([Effect(group, mrr('skip-gram', group), mrr('CBOW', group)) for group in groups]
                         + [Effect('gensim', mrr('skip-gram'), mrr('gensim skip-gram'))])

    def predictor(name):
        """The accuracy of SkipGram or CBOW after the last epoch, of each seed in per cent."""
        return 100 * np.array([r['accuracy'][-1] for r in word2vec.of_job(records, 'accuracy') if r['method'] == name])

    return {'words': learnt, 'vector_table': word2vec.vector_table(records), 'mrr': mrr, 'mrr_gains': mrr_gains(),
            'rate_table': word2vec.rate_table(load('tune_word2vec')['runs']), 'predictor': predictor, 'ceilings': ceiling,
            'steps': steps, 'speed': (np.median(ratios), min(ratios), max(ratios)), 'example': example,
            'bias': {r['direction']: r for r in word2vec.of_job(records, 'bias')},
            'bias_report': {r['direction']: word2vec.bias_report(r) for r in word2vec.of_job(records, 'bias')}}


def names_of_texts():
    records = load('embeddings')['runs']

    def text_accuracy(vectors, method, size=0.0):
        """Of each seed, in per cent, on test texts moved by an r of that norm."""
        return 100 * embeddings.accuracies(records, vectors, method)[:, embeddings.SIZES.index(size)]

    gains = corrected([Effect((vectors, method, against), text_accuracy(vectors, method), text_accuracy(vectors, against))
                       for vectors in embeddings.VECTORS for method, against in
                       (('adversarial', 'plain'), ('adversarial', 'random'), ('random', 'plain'))])

    def gains_table():
        lines = ['| vectors | compared | difference (points) | p, corrected |', '|---|---|---|---|']
        for (vectors, method, against), e in gains.items():
            lines.append(f'| {embeddings.VECTORS[vectors]} | {method} minus {against} | {e.mean:+.1f} ± {e.deviation:.1f} '
                         f'| {p_text(e.p_holm)} |')
        return '\n'.join(lines)

    return {'texts': load('embeddings'), 'text_accuracy': text_accuracy, 'text_gains': gains,
            'text_gains_table': gains_table(), 'text_table': embeddings.comparison_table(records),
            'text_tuning': embeddings.tuning_table(load('tune_embeddings')['runs'])}


def names_of_gan():
    files = {'default': load('gan'), 'wide': load('gan_wide')}

    def drawn(figure, loss='non-saturating', beta1=0.5, network='default'):
        """The judge's figure at the last epoch, or the discriminator's final loss, of each seed."""
        return np.array([gan.final_loss(r) if figure == 'loss' else r['evaluations'][-1][figure]
                         for r in files[network]['runs'] if (r['loss'], r['beta1']) == (loss, beta1)])

    def failed(beta1, network='default', how='collapsed'):
        runs = [r for r in files[network]['runs'] if r['beta1'] == beta1]
        return f'{sum(r[how] for r in runs)} of {len(runs)}'

    return {'drawn': drawn, 'failed': failed, 'gan_real': files['default']['real'], 'digits': files['default'],
            'gan_table': gan.table(files['default']['runs'], files['default']['real']),
            'gan_wide_table': gan.table(files['wide']['runs'], {})}


PAGES = {REPORT / 'README.md': ('template.md', names),
         ROOT / 'companions' / 'README.md': ('template_companions.md', names_of_companions)}


def render(page):
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template, names_of_page = PAGES[page]
    return environment.from_string((REPORT / template).read_text(encoding='utf-8')).render(names_of_page())


def main():
    parser = argparse.ArgumentParser(description='Write report/README.md, companions/README.md and their figures.')
    parser.add_argument('--check', action='store_true', help='write nothing; status 1 if a page would change')
    args = parser.parse_args()
    pages = {path: render(path) for path in PAGES}
    if args.check:
        changed = [str(path.relative_to(ROOT)) for path, page in pages.items() if path.read_text(encoding='utf-8') != page]
        sys.exit(f'{" and ".join(changed)}: not what the files give, run python report/write.py' if changed else 0)
    plot_epsilon(REPORT / 'epsilon.png')
    plot_inside(REPORT / 'inside.png')
    plot_spikes(REPORT / 'spikes.png')
    plot_effects(REPORT / 'placements.png', EFFECTS['placements'])
    plot_placements(REPORT / 'dropout_batch_norm.png')
    for path, page in pages.items():
        write(path, page.encode())


if __name__ == '__main__':
    main()
