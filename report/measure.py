"""Train and measure everything the report shows; write.py writes its text and figures.

    python -m report.measure                     # all parts, about three hours on two cores
    python -m report.measure sweep uci           # or only some of them: the functions in PARTS

Results are written to report/results/, checkpoints to checkpoints/report/, from which sweep, tune
and shoulder resume; delete that folder to start over. uci, alternatives and inside need the sweep.
"""

import argparse
import json
import math
from pathlib import Path

import joblib
import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, parameters_to_vector

import training
from Classifier import PLACEMENTS, LSTMClassifier
from data import from_seglearn
from load_data import DEFAULT_PATH, EVALUATION_BATCH, UCI_PATH, load_data, targets_of
from ProxLSTM import ConjugateGradients
from report.alternatives import ALTERNATIVES, fine_tune
from report.analysis import LAST_WEIGHTS, TESTED_AS_LSTM, UNCHANGED
from support.checkpoints import load_checkpoint, write_json
from support.options import AVERAGE_DECAY, CHOSEN_EPSILON, OPTIMIZER
from support.pages import load_results
from support.parallel import parallel_map, seeded
from support.program import import_optional, run_program
from support.sweep import Run
from support.tuning import best_epsilon, fold_batches, stratified_folds

RESULTS = Path(__file__).parent / 'results'
OUTPUT = Path(__file__).resolve().parents[1] / 'checkpoints' / 'report'
DROPOUT = [place for place in PLACEMENTS if place != 'conv']  # equal before and after the ReLU
DECAYS = 0.9, 0.95, 0.98, 0.99, 0.995, 0.998
# Of the seeds, 32 train what the assignment asks for, and 16 also other epsilons and placements.
SWEEP = ['--first-seed', '100', '--seeds', '32', '--dropout', '--batch-norm']
WIDE_SWEEP = ['--first-seed', '100', '--seeds', '16',
              '--adv-epsilons', '0.01', '0.1', '0.3', '1', '2', '5', '10', '30', '150',
              '--prox-epsilons', '0.1', '0.5', '1', '2', '5', '10', '30', '150',
              '--dropout', *(f'{place}=0.5' for place in DROPOUT), '--batch-norm', *PLACEMENTS]
SHOULDER_EPSILONS = ['0.3', '1', '3', '10', '30']


def run_training(output, name, *arguments):
    """Run training.py, or resume it; return the content of its plots/NAME.json."""
    training.main(training.get_args(['--output-dir', str(output), '--resume', *arguments]))
    return json.loads((output / 'plots' / f'{name}.json').read_text(encoding='utf-8'))


def write_results(name, results):
    """Write results/NAME.json, with six digits of every fraction."""
    results = json.loads(json.dumps(results), parse_float=lambda x: float(f'{float(x):.6g}'))
    write_json(RESULTS / f'{name}.json', {'config': results['config']}, results['runs'])


def measure(name, function, tasks):
    """Write function(**task) of each task, computed in parallel, to results/NAME.json."""
    write_json(RESULTS / f'{name}.json', {'part': name},
               parallel_map(function, tasks, joblib.cpu_count(), name))


def sweep():
    """Train sections 2 to 6 of the assignment with training.py."""
    results, wide = (run_training(OUTPUT, 'results', *arguments)
                     for arguments in (SWEEP, WIDE_SWEEP))
    seen = set(map(key_of, results['runs']))
    results['runs'] += [run for run in wide['runs'] if key_of(run) not in seen]
    write_results('results', results)


def key_of(run):
    return run['mode'], run['variant'], run['epsilon'], run['seed']


def tune():
    """Choose epsilon by cross-validation with training.py."""
    for name in 'tune_adv', 'tune_prox':
        write_results(name, run_training(OUTPUT, name, '--tune', name.removeprefix('tune_')))


def shoulder():
    """Train on the shoulder exercises, with epsilons chosen within the training subjects."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    from_seglearn.main(from_seglearn.get_args([str(OUTPUT)]))
    results = run_training(OUTPUT / 'shoulder_tune', 'results', '--epochs', '20', '--data',
                           str(OUTPUT / 'shoulder_tune.mat'), '--adv-epsilons', *SHOULDER_EPSILONS,
                           '--prox-epsilons', *SHOULDER_EPSILONS, '--dropout', '--batch-norm')
    write_results('shoulder_tune', results)
    accuracies = {}
    for run in results['runs']:
        if run['epsilon']:  # even if none above 0 helps, the best of them is compared with 0
            accuracies.setdefault(run['mode'], {}).setdefault(run['epsilon'], []).append(
                None if run['diverged'] is not None
                else run['history']['averaged_test_accuracy'][-1])
    best = {mode: str(best_epsilon(values)) for mode, values in accuracies.items()}
    write_results('shoulder', run_training(
        OUTPUT / 'shoulder', 'results', '--epochs', '20', '--data', str(OUTPUT / 'shoulder.mat'),
        '--adv-epsilon', best['AdvLSTM'], '--adv-epsilons', '1',
        '--prox-epsilon', best['ProxLSTM'], '--prox-epsilons', '1', '--dropout'))


def sweep_checkpoints():
    """Return {run: path of its checkpoint} of the sweep's runs that did not diverge."""
    runs = [Run(entry['mode'], entry['epsilon'], entry['seed'], entry['variant'],
                epochs=entry['hyperparameters']['epochs'])
            for entry in load_results(RESULTS / 'results.json')['runs']
            if entry['diverged'] is None]
    paths = {run: OUTPUT / 'checkpoints' / f'{run.name}.pt' for run in runs}
    for path in paths.values():
        if not path.exists():
            raise ValueError(f'{path}: missing, python -m report.measure sweep writes it')
    return paths


def uci():
    """Evaluate the sweep's models on UCI's 370; AdvLSTM's of 100 epochs also after 50."""
    paths = sweep_checkpoints()
    tasks = [{'run': run, 'path': path} for run, path in paths.items()]
    tasks += [{'run': Run('AdvLSTM', run.epsilon, run.seed, epochs=50), 'train': True,
               'path': paths[Run('plain', seed=run.seed)]}
              for run in paths if run.mode == 'AdvLSTM' and run.epochs == 100]
    measure('uci', evaluate, tasks)


def evaluate(run, path, train=False):
    """Return the accuracies of the saved `run`, or with `train` of `run` trained from that base."""
    checkpoint = load_checkpoint(path)
    if train:
        batches, _ = load_data(DEFAULT_PATH)
        data = batches, batches[:1], torch.zeros(len(batches[0].targets), dtype=bool)
        checkpoint = training.train(run, training.get_args([]), data, checkpoint)
    return record(run, load_models(checkpoint), run.mode)


def load_models(checkpoint):
    """Return the models of a checkpoint's last and of its averaged weights."""
    return [LSTMClassifier.from_checkpoint(checkpoint, averaged) for averaged in (False, True)]


def record(run, models, mode):
    """Return the accuracy on UCI's 370, in `mode`, of a run's last and averaged weights."""
    _, test_set = load_data(UCI_PATH, EVALUATION_BATCH)
    accuracy, averaged = (training.eval_model(model, test_set, mode)[1] for model in models)
    return {'mode': run.mode, 'variant': run.variant, 'epsilon': run.epsilon, 'seed': run.seed,
            'epochs': run.epochs, 'accuracy': accuracy, 'averaged_accuracy': averaged}


def alternatives():
    """Train the alternatives from the sweep's base models; test ProxLSTM as a plain LSTM, too."""
    paths, chosen = sweep_checkpoints(), CHOSEN_EPSILON['ProxLSTM']
    tasks = [{'run': Run(name, CHOSEN_EPSILON[mode], run.seed), 'path': path}
             for name, (mode, _) in ALTERNATIVES.items()
             for run, path in paths.items() if run == Run('plain', seed=run.seed)]
    tasks += [{'run': Run(TESTED_AS_LSTM, chosen, run.seed), 'path': path}
              for run, path in paths.items() if run == Run('ProxLSTM', chosen, run.seed)]
    measure('alternatives', evaluate_alternative, tasks)


def evaluate_alternative(run, path):
    if run.mode in ALTERNATIVES:
        models = fine_tune(run.mode, path, run.seed, run.epochs)
    else:
        models = load_models(path)
    return record(run, models, 'plain')


def inside():
    """Measure what the proximal step does to the states of the sweep's ProxLSTM models."""
    train_set, _ = load_data(DEFAULT_PATH, EVALUATION_BATCH)
    measure('inside', measure_proximal_steps, [
        {'path': path, 'batches': train_set} for run, path in sweep_checkpoints().items()
        if run.mode == 'ProxLSTM' and not run.variant])


@torch.no_grad()
def measure_proximal_steps(path, batches):
    """Return averages over all valid steps except each sequence's last, whose state is never read.

    'moved' is ‖c − s‖/‖s‖, 'lambda_max' the largest eigenvalue of G Gᵀ, and 'iterations' those of
    the solver in PyTorch.
    """
    checkpoint = load_checkpoint(path)
    model = LSTMClassifier.from_checkpoint(checkpoint).train()  # so that it keeps v
    epsilon, lstm, values = checkpoint['run']['epsilon'], model.lstm, []
    H = lstm.hidden_size
    W = lstm.weight_ih_l0[:3 * H].unflatten(0, (3, H))
    for inputs, _, lengths in batches:
        model(inputs, lengths)
        B, _, D = model.v.shape
        last = (lengths - model.kernel_size) // model.stride
        solver = ConjugateGradients(lstm.weight_ih_l0, torch.tensor(epsilon), B)
        h, c = W.new_zeros(2, B, H)
        for t in range(last.max()):
            gates = (F.linear(model.v[:, t], lstm.weight_ih_l0, lstm.bias_ih_l0)
                     + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)).chunk(4, 1)
            (i, f, o), g = (gates[k].sigmoid() for k in (0, 1, 3)), gates[2].tanh()
            s = f * c + i * g
            alpha = torch.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], 1)
            G = torch.einsum('bxh,xhd->bhd', alpha, W)
            lambda_max = torch.linalg.eigvalsh(G @ G.mT)[:, -1]
            out = c, _, _ = [W.new_empty(B, size) for size in (H, D, 3 * H)]
            solver.solve(alpha, s, out)
            h = o * s.tanh()
            moved = (c - s).norm(dim=1) / s.norm(dim=1)
            iterations = torch.full_like(moved, solver.iterations)
            values.append(torch.stack([moved, lambda_max, iterations], 1)[t < last])
    moved, lambda_max, iterations = torch.cat(values).double().mean(0).tolist()
    return {'epsilon': epsilon, 'seed': checkpoint['run']['seed'],
            'moved': moved, 'lambda_max': lambda_max, 'iterations': iterations}


MITIGATIONS = {
    UNCHANGED: {},
    'gradient clipped by norm (1), not value': {'clip_norm': 1.0, 'clip_value': math.inf},
    'cosine schedule to 0': {'schedule': True}, 'weights averaged': {'averaged': True},
    'AMSGrad': {'amsgrad': True}, 'no weight decay': {'weight_decay': 0.0}}


def spikes():
    """Train the base model for 300 epochs, with each mitigation for its loss spikes."""
    measure('spikes', train_long, [{'mitigation': mitigation, 'seed': seed}
                                   for mitigation in MITIGATIONS for seed in range(8)])


def train_long(mitigation, seed, epochs=300):
    """Train the base model with a mitigation of MITIGATIONS.

    Returns, for every epoch, the training loss, the accuracy on UCI's 370 and how far the weights
    moved. With 'averaged', loss and accuracy are those of an exponential moving average of the
    weights (`AVERAGE_DECAY` per minibatch, ten minibatches an epoch).
    """
    settings = {**OPTIMIZER['plain'], 'clip_value': 0.1, 'clip_norm': math.inf,
                **MITIGATIONS[mitigation]}
    train_set, _ = load_data(DEFAULT_PATH)
    large_batches, test_set = load_data(UCI_PATH, EVALUATION_BATCH)
    record = {'mitigation': mitigation, 'seed': seed, 'loss': [], 'accuracy': [], 'moved': []}
    with seeded(seed):
        model = LSTMClassifier()
        optimizer = torch.optim.Adam(model.parameters(), settings['lr'],
                                     weight_decay=settings['weight_decay'],
                                     amsgrad='amsgrad' in settings)
        averaged = training.average_weights(model, optimizer, AVERAGE_DECAY)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

        def clip_norm(*_):
            clip_grad_norm_(model.parameters(), settings['clip_norm'])

        optimizer.register_step_pre_hook(clip_norm)
        evaluated = averaged.module if 'averaged' in settings else model
        for _ in range(epochs):
            before = parameters_to_vector(model.parameters()).detach()
            training.train_model(model, train_set, optimizer, clip_value=settings['clip_value'])
            moved = (parameters_to_vector(model.parameters()) - before).norm().item()
            if 'schedule' in settings:
                scheduler.step()
            loss = training.eval_model(evaluated, large_batches)[0]
            record['loss'].append(float(f'{loss:.6g}'))
            record['accuracy'].append(training.eval_model(evaluated, test_set)[1])
            record['moved'].append(float(f'{moved:.6g}'))
    return record


def search():
    """Cross-validate the base model with one change at a time."""
    options = {'hidden_size': (25, 100), 'out_channels': (32, 128), 'kernel_size': (1, 5),
               'base_lr': (3e-4, 3e-3), 'base_weight_decay': (0, 1e-2), 'batch_size': (9, 54),
               'epochs': (50, 200)}
    changes = {UNCHANGED: {}}
    changes |= {f'{option.removeprefix("base_")} {value:g}': {option: value}
                for option, values in options.items() for value in values}
    variants = [f'batch norm {place}' for place in PLACEMENTS]
    variants += [f'dropout {place} 0.5' for place in DROPOUT]
    changes |= {variant: {'variant': variant} for variant in variants}
    args = training.get_args([])
    measure('search', validate, [{'name': name, 'change': change, 'fold': fold}
                                 for name, change in changes.items()
                                 for fold in range(args.folds * args.repeats)])


def validate(name, change, fold, accuracy='test_accuracy'):
    """Train a changed base model on a fold; return its accuracy on the held-out sequences."""
    args = argparse.Namespace(**{**vars(training.get_args([])), **change})
    run = Run('plain', seed=fold, variant=change.get('variant', ''), epochs=args.epochs)
    train_set, _ = load_data(DEFAULT_PATH)
    held_out = list(stratified_folds(targets_of(train_set), args.folds, args.repeats))[fold]
    batches = fold_batches(train_set, held_out, args.batch_size)
    data = *batches, torch.zeros(held_out.sum(), dtype=bool)
    entry = training.train(run, args, data)['run']
    if entry['diverged'] is not None:
        raise ValueError(f'{name}: the loss was not finite on fold {fold}')
    return {'change': name, 'fold': fold, 'accuracy': entry['history'][accuracy][-1]}


def averages():
    """Cross-validate the decay of the base model's averaged weights, beside its last weights."""
    args = training.get_args([])
    folds = range(args.folds * args.repeats)
    tasks = [{'name': LAST_WEIGHTS, 'change': {}, 'fold': fold} for fold in folds]
    tasks += [{'name': f'{decay:g}', 'change': {'average_decay': decay}, 'fold': fold,
               'accuracy': 'averaged_test_accuracy'} for decay in DECAYS for fold in folds]
    measure('averages', validate, tasks)


PARTS = {part.__name__: part for part in (tune, sweep, uci, alternatives, inside, spikes, search,
                                          averages, shoulder)}


def main(args):
    parts = PARTS if 'all' in args.parts else args.parts
    if 'shoulder' in parts:
        import_optional('seglearn', 'shoulder')  # fails now, not after hours
    for name in parts:
        PARTS[name]()


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Train and measure what the report is made of.')
    parser.add_argument('parts', nargs='*', choices=['all', *PARTS], default='all', metavar='PART',
                        help=f'all (the default), or any of {", ".join(PARTS)}')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
