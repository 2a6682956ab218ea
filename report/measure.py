"""The reference run: everything that the report is made of, but the pictures and the text (write.py).

    python report/measure.py                     # all of it, some five hours on two cores
    python report/measure.py sweep unseen        # or only some parts

sweep     sections 2 to 6 of the assignment with training.py, eight seeds: results.json and its figures
unseen    its models at their last epoch on UCI's 370 test sequences
inside    what the proximal step does to the states of its ProxLSTM models
spikes    300 epochs of the base model: loss spikes, and what might cure them
search    cross-validation of the base model's settings and of the placements, within the training sequences
tune      training.py --tune adv and --tune prox
best      companions/best.py: the search for the recipe, and its test with eight seeds
peers     benchmarks/accuracy.py (requirements-benchmarks.txt)
amp       companions/amp.py: ε and ζ by cross-validation, then eight seeds (requirements-companions.txt)
attacks   companions/attacks.py on the sweep's, amp's and the best recipe's models (requirements-companions.txt)
word2vec  companions/word2vec.py: learning rates, then eight seeds; nothing should run beside it (requirements-companions.txt)
texts     companions/embeddings.py: ε by cross-validation, then eight seeds
gan       companions/gan.py with eight seeds, then at MNIST's width (requirements-companions.txt)
others    training.py on two other data sets that come with aeon (requirements-data.txt)

What the programs write comes to checkpoints/report/ and from there to this folder; where there is something already, the
sweep, tune and others go on from it: remove that folder to start over. unseen, inside, spikes and search write NAME.json.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import joblib
import torch
from torch.nn import functional as F
from tqdm import tqdm

REPORT = Path(__file__).resolve().parent
ROOT = REPORT.parent
sys.path.insert(0, str(ROOT))

from Classifier import PLACEMENTS, LSTMClassifier  # noqa: E402
from load_data import load_data, sequences_of, targets_of  # noqa: E402
from ProxLSTM import ConjugateGradients  # noqa: E402
from runs import read_checkpoint, read_results, write  # noqa: E402
from training import (BEST_EPSILON, EVALUATION_BATCH, eval_model, fold_batches, get_args, hyperparameters,  # noqa: E402
                      run_name, stratified_folds, train_model, train_run)

OUTPUT = ROOT / 'checkpoints' / 'report'
OTHERS = 'BasicMotions', 'PickupGestureWiimoteZ'
SEEDS = 8
DROPOUT = [place for place in PLACEMENTS if place != 'conv']  # before the ReLU it does exactly what it does behind it
SWEEP = ['--seeds', str(SEEDS), '--output-dir', str(OUTPUT),
         '--adv-epsilons', '0.01', '0.1', '0.3', '1', '2', '10', '30', '150',
         '--prox-epsilons', '0.1', '0.5', '1', '2', '10', '30', '150',
         '--dropout', *(f'{place}=0.5' for place in DROPOUT), '--batch-norm', *PLACEMENTS]


def in_parallel(function, tasks, description):
    """function(**task) of each task, in order."""
    parallel = joblib.Parallel(n_jobs=joblib.cpu_count(), return_as='generator')
    return list(tqdm(parallel(joblib.delayed(function)(**task) for task in tasks), total=len(tasks), desc=description))


def program(*command):
    if status := subprocess.run([sys.executable, *map(str, command)]).returncode:
        sys.exit(status)


def resume(output):
    return ['--resume'] if list((output / 'checkpoints').glob('*.pt')) else []


def keep(*paths):
    for path in paths:
        shutil.copyfile(path, REPORT / path.name)


def swept_runs():
    path = OUTPUT / 'plots' / 'results.json'
    try:
        return read_results(path)[1]
    except FileNotFoundError:
        print(f'{path}: missing, which python report/measure.py sweep writes', file=sys.stderr)
        sys.exit(2)


def write_records(name, records):
    lines = ',\n'.join(json.dumps(record, allow_nan=False) for record in records)
    write(REPORT / f'{name}.json', f'[\n{lines}\n]\n'.encode())


def load_model(path):
    checkpoint = read_checkpoint(path)
    return model_of(checkpoint), checkpoint


def model_of(checkpoint):
    model = LSTMClassifier(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
    return model.eval()


# ---------------------------------------------------------------------------------------------- sweep

def sweep():
    program(ROOT / 'training.py', *SWEEP, *resume(OUTPUT))
    keep(*(OUTPUT / 'plots' / name for name in ('results.json', 'base.png', 'AdvLSTM.png', 'ProxLSTM.png')))


# ---------------------------------------------------------------------------------------------- unseen

def unseen():
    """Accuracy on UCI's 370. AdvLSTM's epsilons are trained for 50 epochs: so are, here, two that the sweep trains for 100."""
    runs = swept_runs()
    train, _ = load_data(ROOT / 'data' / 'JV_data.mat')
    _, uci = load_data(ROOT / 'data' / 'JV_uci.mat', EVALUATION_BATCH)
    shorter = [{'run': run, 'base': OUTPUT / 'checkpoints' / f'base_seed{run["seed"]}.pt', 'train': train, 'test': uci}
               for run in runs if run['mode'] == 'AdvLSTM' and run['diverged'] is None
               and run['epsilon'] in (0, BEST_EPSILON['AdvLSTM'])]
    checkpoints = [OUTPUT / 'checkpoints' / f'{run_name(run)}.pt' for run in runs if run['diverged'] is None]
    write_records('unseen', in_parallel(evaluate, [{'path': path, 'test': uci} for path in checkpoints], 'unseen')
                  + in_parallel(train_shorter, shorter, 'unseen, AdvLSTM after 50 epochs'))


def evaluate(path, test):
    torch.set_num_threads(1)
    model, checkpoint = load_model(path)
    return record_of(checkpoint, test, model)


def train_shorter(run, base, train, test):
    base = read_checkpoint(base)
    checkpoint = train_run(run['mode'], run['epsilon'], run['seed'], '', base['arguments'],
                           {**run['hyperparameters'], 'epochs': 50}, base['state_dict'], train, test,
                           torch.ones(sum(len(b.targets) for b in test), dtype=torch.bool), 'cpu')
    return record_of(checkpoint, test, model_of(checkpoint))


def record_of(checkpoint, test, model):
    run = checkpoint['run']
    epsilon = run['epsilon'] if run['mode'] == 'ProxLSTM' else None
    return {**{key: run[key] for key in ('mode', 'variant', 'epsilon', 'seed')}, 'epochs': run['hyperparameters']['epochs'],
            'accuracy': eval_model(model, test, run['mode'], epsilon)[1]}


# ---------------------------------------------------------------------------------------------- inside

def inside():
    """Averages over all valid steps but each sequence's last, whose state nothing reads."""
    runs = swept_runs()
    train, _ = load_data(ROOT / 'data' / 'JV_data.mat', EVALUATION_BATCH)
    tasks = [{'path': OUTPUT / 'checkpoints' / f'{run_name(run)}.pt', 'batches': train} for run in runs
             if run['mode'] == 'ProxLSTM' and run['variant'] == '' and run['diverged'] is None]
    write_records('inside', in_parallel(look_inside, tasks, 'inside'))


@torch.no_grad()
def look_inside(path, batches):
    torch.set_num_threads(1)
    model, checkpoint = load_model(path)
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
            gates = F.linear(v[:, t], lstm.weight_ih_l0, lstm.bias_ih_l0) + F.linear(h, lstm.weight_hh_l0, lstm.bias_hh_l0)
            (i, f, o), g = (gates.chunk(4, 1)[k].sigmoid() for k in (0, 1, 3)), gates.chunk(4, 1)[2].tanh()
            s = f * c + i * g
            alpha = torch.stack([g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)], 1)
            G = torch.einsum('bxh,xhd->bhd', alpha, W)
            lambda_max = torch.linalg.eigvalsh(G @ G.mT)[:, -1]
            out = c, _, _ = torch.empty_like(s), torch.empty_like(v[:, t]), s.new_empty(len(s), 3 * s.shape[1])
            solver.solve(alpha, solver.scale(alpha[:, 2]), s, out)
            h = o * s.tanh()
            moved = (c - s).norm(dim=1) / s.norm(dim=1)
            valid = t < last
            values.append(torch.stack([moved, lambda_max, torch.full_like(moved, solver.iterations)], 1)[valid])
    moved, lambda_max, iterations = torch.cat(values).double().mean(0).tolist()
    return {'epsilon': epsilon, 'seed': checkpoint['run']['seed'],
            'moved': moved, 'lambda_max': lambda_max, 'iterations': iterations}


# ---------------------------------------------------------------------------------------------- spikes

CURES = {'as in training.py': {}, 'gradient clipped by norm, to 1': {'clip_norm': 1.0},
         'cosine schedule to 0': {'schedule': True}, 'weights averaged': {'averaged': True}, 'AMSGrad': {'amsgrad': True},
         'no weight decay': {'weight_decay': 0.0}}


def spikes():
    tasks = [{'cure': cure, 'seed': seed} for cure in CURES for seed in range(SEEDS)]
    write_records('spikes', in_parallel(train_long, tasks, 'spikes'))


def train_long(cure, seed, epochs=300):
    """The base model for 300 epochs: after each the training loss, accuracy on UCI's 370, and how far the weights moved.

    `averaged`: both are taken at an exponential moving average of the weights (0.99 a minibatch, ten minibatches an epoch).
    """
    torch.set_num_threads(1)
    settings = {'clip_norm': None, 'schedule': False, 'averaged': False, 'amsgrad': False, 'weight_decay': 1e-3} | CURES[cure]
    train, _ = load_data(ROOT / 'data' / 'JV_data.mat')
    large, test = load_data(ROOT / 'data' / 'JV_uci.mat', EVALUATION_BATCH)
    record = {'cure': cure, 'seed': seed, 'loss': [], 'accuracy': [], 'moved': []}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LSTMClassifier()
        average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=settings['weight_decay'],
                                     amsgrad=settings['amsgrad'])
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs) if settings['schedule'] else None
        if settings['clip_norm']:
            optimizer.register_step_pre_hook(lambda optimizer, *_: clip(optimizer, settings['clip_norm']))
        optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
        for _ in range(epochs):
            before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
            train_model(model, train, optimizer, clip_value=math.inf if settings['clip_norm'] else 0.1)
            after = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
            if scheduler:
                scheduler.step()
            evaluated = average.module if settings['averaged'] else model
            record['loss'].append(float(f'{eval_model(evaluated, large)[0]:.6g}'))
            record['accuracy'].append(eval_model(evaluated, test)[1])
            record['moved'].append(float(f'{(after - before).norm().item():.6g}'))
    return record


def clip(optimizer, norm):
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]['params'], norm)


# ---------------------------------------------------------------------------------------------- search

def search():
    """Five-fold, three times. One setting is changed at a time; the placements are trained on from their fold's base."""
    _, args = get_args([])
    train, _ = load_data(ROOT / 'data' / 'JV_data.mat')
    sequences, labels = sequences_of(train), targets_of(train)
    changes = {'as in training.py': {}}
    changes |= {f'hidden_size {n}': {'hidden_size': n} for n in (25, 100)}
    changes |= {f'out_channels {n}': {'out_channels': n} for n in (32, 128)}
    changes |= {f'kernel_size {n}': {'kernel_size': n} for n in (1, 5)}
    changes |= {f'lr {x:g}': {'lr': x} for x in (3e-4, 3e-3)}
    changes |= {f'weight_decay {x:g}': {'weight_decay': x} for x in (0, 1e-2)}
    changes |= {f'batch_size {n}': {'batch_size': n} for n in (9, 54)}
    changes |= {f'epochs {n}': {'epochs': n} for n in (50, 200)}
    changes |= {f'batch norm {place}': {'batch_norm': [place]} for place in PLACEMENTS}
    changes |= {f'dropout {place} 0.5': {'dropout': {place: 0.5}} for place in DROPOUT}
    folds = list(enumerate(stratified_folds(labels, args.folds, args.repeats)))
    tasks = [{'name': name, 'change': change, 'fold': fold, 'held_out': held_out, 'sequences': sequences, 'labels': labels,
              'settings': hyperparameters(args, 'plain', args.epochs)}
             for name, change in changes.items() for fold, held_out in folds]
    write_records('search', in_parallel(validate, tasks, 'search'))


def validate(name, change, fold, held_out, sequences, labels, settings):
    settings = {key: change.get(key, value) for key, value in settings.items()}
    arguments = {key: value for key, value in change.items() if key not in settings}
    train, test = fold_batches(sequences, labels, held_out, settings['batch_size'])
    checkpoint = train_run('plain', 0.0, fold, '', arguments, settings, None, train, test,
                           torch.zeros(int(held_out.sum()), dtype=torch.bool), 'cpu')
    if checkpoint['run']['diverged'] is not None:
        raise RuntimeError(f'{name}: diverged on fold {fold}')
    return {'change': name, 'fold': fold, 'accuracy': checkpoint['run']['history']['test_accuracy'][-1]}


# ---------------------------------------------------------------------------------------------- other programs

def tune():
    for name in 'adv', 'prox':
        program(ROOT / 'training.py', '--tune', name, '--output-dir', OUTPUT / 'tune', *resume(OUTPUT / 'tune'))
        keep(*((OUTPUT / 'tune' / 'plots' / f'tune_{name}').with_suffix(suffix) for suffix in ('.json', '.png')))


def best():
    program(ROOT / 'companions' / 'best.py', '--tune', '--output-dir', OUTPUT)
    program(ROOT / 'companions' / 'best.py', '--seeds', str(SEEDS), '--output-dir', OUTPUT)
    keep(*(OUTPUT / 'plots' / f'{name}.json' for name in ('tune_best', 'best')))


def peers():
    program(ROOT / 'benchmarks' / 'accuracy.py', '--output', OUTPUT / 'accuracy.json')
    keep(OUTPUT / 'accuracy.json')


def amp():
    program(ROOT / 'companions' / 'amp.py', '--tune', '--output-dir', OUTPUT)
    program(ROOT / 'companions' / 'amp.py', '--seeds', str(SEEDS), '--output-dir', OUTPUT)
    keep(*(OUTPUT / 'plots' / name for name in ('tune_amp.json', 'amp.json', 'amp.png')))


def attacks():
    program(ROOT / 'companions' / 'attacks.py', '--seeds', str(SEEDS), '--output-dir', OUTPUT)
    keep(*sorted((OUTPUT / 'plots').glob('attacks_*')))


def word2vec():
    program(ROOT / 'companions' / 'word2vec.py', '--tune', '--seeds', '2', '--output-dir', OUTPUT)
    program(ROOT / 'companions' / 'word2vec.py', '--seeds', str(SEEDS), '--output-dir', OUTPUT)
    keep(*(OUTPUT / 'plots' / name
           for name in ('tune_word2vec.json', 'word2vec.json', 'word2vec.png', 'word2vec_vectors.png')))


def texts():
    program(ROOT / 'companions' / 'embeddings.py', '--tune', '--output-dir', OUTPUT)
    program(ROOT / 'companions' / 'embeddings.py', '--seeds', str(SEEDS), '--output-dir', OUTPUT)
    keep(*(OUTPUT / 'plots' / name for name in ('tune_embeddings.json', 'embeddings.json', 'embeddings.png')))


def gan():
    """At MNIST's width for as many epochs as take about the same time."""
    program(ROOT / 'companions' / 'gan.py', '--seeds', str(SEEDS), '--output-dir', OUTPUT)
    keep(*(OUTPUT / 'plots' / name for name in ('gan.json', 'gan_samples.png', 'gan_curves.png', 'gan_figures.png')))
    wide = OUTPUT / 'gan_wide'
    program(ROOT / 'companions' / 'gan.py', '--widths', '256', '1024', '--epochs', '80', '--loss', 'non-saturating',
            '--seeds', str(SEEDS), '--output-dir', wide)
    shutil.copyfile(wide / 'plots' / 'gan.json', REPORT / 'gan_wide.json')


def others():
    """Three seeds, the settings of Japanese Vowels."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for name in OTHERS:
        data, output = OUTPUT / f'{name}.mat', OUTPUT / name
        program(ROOT / 'data' / 'from_aeon.py', name, '--output', data)
        program(ROOT / 'training.py', '--data', data, '--output-dir', output, *resume(output))
        shutil.copyfile(output / 'plots' / 'results.json', REPORT / f'{name}.json')


PARTS = {function.__name__: function for function in (sweep, unseen, inside, spikes, search, tune, best, peers, amp, attacks,
                                                      word2vec, texts, gan, others)}


def main():
    parser = argparse.ArgumentParser(description='The reference run of the report.')
    parser.add_argument('parts', nargs='*', metavar='PART', help=f'any of {", ".join(PARTS)} (default: all)')
    args = parser.parse_args()
    for name in args.parts:
        if name not in PARTS:
            parser.error(f'PART is {name!r}, expected one of {", ".join(PARTS)}')
    for name in args.parts or PARTS:
        PARTS[name]()


if __name__ == '__main__':
    main()
