"""Train and measure what the report is made of: everything but its text and figures (write.py).

    python -m report.measure                     # all parts, about two hours on two cores
    python -m report.measure sweep uci           # or only some of them

sweep     sections 2 to 6 of the assignment with training.py and eight seeds
uci       its models at their last epoch on UCI's 370 test sequences
inside    what the proximal step does to the states of its ProxLSTM models
spikes    300 epochs of the base model: loss spikes, and what might prevent them
search    cross-validation of the base model's settings and of the placements of section 6
tune      training.py --tune adv and --tune prox
others    training.py on two data sets of the package aeon (requirements-extra.txt)

uci and inside need the sweep. Checkpoints are written to checkpoints/report/, from where the
sweep, tune and others resume (delete that folder to start over), results to report/results/.
"""

import argparse
import dataclasses
import math
import shutil
from pathlib import Path

import joblib
import torch
from torch.nn import functional as F

import training
from Classifier import PLACEMENTS, LSTMClassifier
from data import from_aeon
from data.make_jv_data import import_aeon_datasets
from load_data import DEFAULT_PATH, UCI_PATH, load_data, sequences_of, targets_of
from ProxLSTM import ConjugateGradients
from support.checkpoints import load_checkpoint, write_json
from support.options import CHOSEN_EPSILON, OPTIMIZER
from support.pages import load_results
from support.parallel import parallel_map, seeded
from support.program import run_program
from support.sweep import Run
from support.tuning import EVALUATION_BATCH, fold_batches, stratified_folds

RESULTS = Path(__file__).parent / 'results'
OUTPUT = Path(__file__).resolve().parents[1] / 'checkpoints' / 'report'
OTHERS = 'BasicMotions', 'PickupGestureWiimoteZ'
SEEDS = 8
DROPOUT = [place for place in PLACEMENTS if place != 'conv']  # equal before and after the ReLU
SWEEP = ['--seeds', str(SEEDS),
         '--adv-epsilons', '0.01', '0.1', '0.3', '1', '2', '10', '30', '150',
         '--prox-epsilons', '0.1', '0.5', '1', '2', '10', '30', '150',
         '--dropout', *(f'{place}=0.5' for place in DROPOUT), '--batch-norm', *PLACEMENTS]


def run_training(output, *arguments):
    """Run training.py, or resume what it has saved in that folder."""
    training.main(training.get_args(['--output-dir', str(output), '--resume', *arguments]))


def measure(name, function, tasks):
    """Write function(**task) of each task, computed in parallel, to results/NAME.json."""
    write_json(RESULTS / f'{name}.json', {'part': name},
               parallel_map(function, tasks, joblib.cpu_count(), name))


def checkpoint_path(run):
    return OUTPUT / 'checkpoints' / f'{run.name}.pt'


def sweep_runs():
    """Return the runs of the sweep that did not diverge."""
    path = OUTPUT / 'plots' / 'results.json'
    if not path.exists():
        raise ValueError(f'{path}: missing, python -m report.measure sweep writes it')
    return [Run(entry['mode'], entry['epsilon'], entry['seed'], entry['variant'],
                epochs=entry['hyperparameters']['epochs'])
            for entry in load_results(path)['runs'] if entry['diverged'] is None]


def sweep():
    run_training(OUTPUT, *SWEEP)
    shutil.copyfile(OUTPUT / 'plots' / 'results.json', RESULTS / 'results.json')


def tune():
    for name in 'adv', 'prox':
        run_training(OUTPUT, '--tune', name)
        shutil.copyfile(OUTPUT / 'plots' / f'tune_{name}.json', RESULTS / f'tune_{name}.json')


def others():
    """Use the settings of Japanese Vowels, and three seeds."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in OTHERS:
        data = str(OUTPUT / f'{name}.mat')
        from_aeon.main(from_aeon.get_args([name, '--output', data]))
        run_training(OUTPUT / name, '--data', data)
        shutil.copyfile(OUTPUT / name / 'plots' / 'results.json', RESULTS / f'{name}.json')


# ------------------------------------------------------------------------------------------- uci

def uci():
    """Measure AdvLSTM's two runs of 100 epochs, chosen and control, after 50 too, as the others."""
    runs = sweep_runs()
    shorter = [dataclasses.replace(run, epochs=50) for run in runs if run.mode == 'AdvLSTM'
               and not run.variant and run.epsilon in (0, CHOSEN_EPSILON['AdvLSTM'])]
    train_set, _ = load_data(DEFAULT_PATH)
    _, test_set = load_data(UCI_PATH, EVALUATION_BATCH)
    tasks = [{'run': run, 'path': checkpoint_path(run)} for run in runs]
    tasks += [{'run': run, 'path': checkpoint_path(Run('plain', seed=run.seed)),
               'train_set': train_set} for run in shorter]
    measure('uci', evaluate, [{**task, 'test_set': test_set} for task in tasks])


def evaluate(run, path, test_set, train_set=None):
    """Return the accuracy of the run saved at `path`; with `train_set`, train it from that base."""
    checkpoint = load_checkpoint(path)
    if train_set is not None:
        data = train_set, test_set, torch.zeros(sum(len(b.targets) for b in test_set), dtype=bool)
        checkpoint = training.train(run, training.get_args([]), data, checkpoint)
    model = LSTMClassifier.from_checkpoint(checkpoint)
    _, accuracy, _ = training.eval_model(model, test_set, run.mode)
    return {'mode': run.mode, 'variant': run.variant, 'epsilon': run.epsilon, 'seed': run.seed,
            'epochs': run.epochs, 'accuracy': accuracy}


# ---------------------------------------------------------------------------------------- inside

def inside():
    train_set, _ = load_data(DEFAULT_PATH, EVALUATION_BATCH)
    measure('inside', look_inside, [{'path': checkpoint_path(run), 'batches': train_set}
                                    for run in sweep_runs()
                                    if run.mode == 'ProxLSTM' and not run.variant])


@torch.no_grad()
def look_inside(path, batches):
    """Return averages over all valid steps but each sequence's last, whose state is never read.

    'moved' is ‖c − s‖/‖s‖, 'lambda_max' the largest eigenvalue of G Gᵀ, and 'iterations' those of
    the solver.
    """
    checkpoint = load_checkpoint(path)
    model = LSTMClassifier.from_checkpoint(checkpoint)
    epsilon, lstm, values = checkpoint['run']['epsilon'], model.lstm, []
    W = lstm.weight_ih_l0[:3 * lstm.hidden_size].unflatten(0, (3, -1))
    for inputs, _, lengths in batches:
        inputs_of_lstm = []
        hook = lstm.register_forward_pre_hook(lambda _, args: inputs_of_lstm.append(args[0]))
        model(inputs, lengths, mode='ProxLSTM')
        hook.remove()
        v = inputs_of_lstm[0]
        last = (lengths - model.kernel_size) // model.stride
        solver = ConjugateGradients(lstm.weight_ih_l0, epsilon, len(v))
        h, c = v.new_zeros(2, len(v), lstm.hidden_size)
        for t in range(last.max()):
            gates = (F.linear(v[:, t], lstm.weight_ih_l0, lstm.bias_ih_l0)
                     + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)).chunk(4, 1)
            (i, f, o), g = (gates[k].sigmoid() for k in (0, 1, 3)), gates[2].tanh()
            s = f * c + i * g
            alpha = torch.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], 1)
            G = torch.einsum('bxh,xhd->bhd', alpha, W)
            lambda_max = torch.linalg.eigvalsh(G @ G.mT)[:, -1]
            out = c, _, _ = (torch.empty_like(s), torch.empty_like(v[:, t]),
                             s.new_empty(len(s), 3 * s.shape[1]))
            solver.solve(alpha, solver.scale(alpha[:, 2]), s, out)
            h = o * s.tanh()
            moved = (c - s).norm(dim=1) / s.norm(dim=1)
            iterations = torch.full_like(moved, solver.iterations)
            values.append(torch.stack([moved, lambda_max, iterations], 1)[t < last])
    moved, lambda_max, iterations = torch.cat(values).double().mean(0).tolist()
    return {'epsilon': epsilon, 'seed': checkpoint['run']['seed'],
            'moved': moved, 'lambda_max': lambda_max, 'iterations': iterations}


# ---------------------------------------------------------------------------------------- spikes

CURES = {'as in training.py': {},
         'gradient clipped by norm, to 1': {'clip_norm': 1.0, 'clip_value': math.inf},
         'cosine schedule to 0': {'schedule': True}, 'weights averaged': {'averaged': True},
         'AMSGrad': {'amsgrad': True}, 'no weight decay': {'weight_decay': 0.0}}


def spikes():
    measure('spikes', train_long, [{'cure': cure, 'seed': seed}
                                   for cure in CURES for seed in range(SEEDS)])


def train_long(cure, seed, epochs=300):
    """Train the base model with a cure of CURES.

    Returns, for every epoch, the training loss, the accuracy on UCI's 370 and how far the weights
    moved. With 'averaged', loss and accuracy are those of an exponential moving average of the
    weights (0.99 per minibatch, ten minibatches an epoch).
    """
    settings = OPTIMIZER['plain'] | {'clip_value': 0.1, 'amsgrad': False} | CURES[cure]
    train_set, _ = load_data(DEFAULT_PATH)
    large_batches, test_set = load_data(UCI_PATH, EVALUATION_BATCH)
    record = {'cure': cure, 'seed': seed, 'loss': [], 'accuracy': [], 'moved': []}
    with seeded(seed):
        model = LSTMClassifier()
        average = torch.optim.swa_utils.AveragedModel(
            model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
        adam = {key: settings[key] for key in ('lr', 'weight_decay', 'amsgrad')}
        optimizer = torch.optim.Adam(model.parameters(), **adam)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)

        def clip_norm(*_):
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings['clip_norm'])

        if 'clip_norm' in settings:
            optimizer.register_step_pre_hook(clip_norm)
        optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
        evaluated = average.module if 'averaged' in settings else model
        for _ in range(epochs):
            before = weights(model)
            training.train_model(model, train_set, optimizer, clip_value=settings['clip_value'])
            moved = (weights(model) - before).norm().item()
            if 'schedule' in settings:
                scheduler.step()
            loss = training.eval_model(evaluated, large_batches)[0]
            record['loss'].append(float(f'{loss:.6g}'))
            record['accuracy'].append(training.eval_model(evaluated, test_set)[1])
            record['moved'].append(float(f'{moved:.6g}'))
    return record


def weights(model):
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()


# ---------------------------------------------------------------------------------------- search

def search():
    """Cross-validate one change at a time."""
    args = training.get_args([])
    changes = {'as in training.py': {}}
    for option, values in (('hidden_size', (25, 100)), ('out_channels', (32, 128)),
                           ('kernel_size', (1, 5)), ('base_lr', (3e-4, 3e-3)),
                           ('base_weight_decay', (0, 1e-2)), ('batch_size', (9, 54)),
                           ('epochs', (50, 200))):
        changes |= {f'{option.removeprefix("base_")} {value:g}': {option: value}
                    for value in values}
    variants = [f'batch norm {place}' for place in PLACEMENTS]
    variants += [f'dropout {place} 0.5' for place in DROPOUT]
    changes |= {variant: {'variant': variant} for variant in variants}
    train_set, _ = load_data(DEFAULT_PATH)
    data = {'sequences': sequences_of(train_set), 'labels': targets_of(train_set)}
    folds = list(enumerate(stratified_folds(data['labels'], args.folds, args.repeats)))
    measure('search', validate, [
        {'name': name, 'change': change, 'fold': fold, 'held_out': held_out, **data}
        for name, change in changes.items() for fold, held_out in folds])


def validate(name, change, fold, held_out, sequences, labels):
    """Train a changed base model on a fold; return its accuracy on the held-out sequences."""
    args = argparse.Namespace(**{**vars(training.get_args([])), **change})
    run = Run('plain', seed=fold, variant=change.get('variant', ''), epochs=args.epochs)
    batches = fold_batches(sequences, labels, held_out, args.batch_size)
    data = *batches, torch.zeros(int(held_out.sum()), dtype=bool)
    entry = training.train(run, args, data)['run']
    if entry['diverged'] is not None:
        raise ValueError(f'{name}: the loss was not finite on fold {fold}')
    return {'change': name, 'fold': fold, 'accuracy': entry['history']['test_accuracy'][-1]}


PARTS = {part.__name__: part for part in (sweep, uci, inside, spikes, search, tune, others)}


def main(args):
    parts = PARTS if 'all' in args.parts else args.parts
    if 'others' in parts:
        import_aeon_datasets()  # fails now, not after hours
    for name in parts:
        PARTS[name]()


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Train and measure what the report is made of.')
    parser.add_argument('parts', nargs='*', choices=['all', *PARTS], default='all', metavar='PART',
                        help=f'all (the default), or any of {", ".join(PARTS)}')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
