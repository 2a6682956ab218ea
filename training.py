"""Adversarial training on sequence classification: the assignment, section by section.

    python training.py                           # train, save, load, sweep epsilon, plot
    python training.py --dry-run                 # the same in two epochs, into a temporary folder
    python training.py --resume                  # resume a sweep that was interrupted
    python training.py --tune adv                # choose epsilon by cross-validation
    python training.py --data data/JV_uci.mat --seeds 8 --output-dir uci

main() at the end follows sections 2 to 6. Every sweep over epsilon includes its control, the same
run at epsilon = 0, because further training alone changes the accuracy. Plots and results.json are
written to plots/, every model to checkpoints/, from where two lines load it:

    from Classifier import LSTMClassifier
    model = LSTMClassifier.from_checkpoint('checkpoints/base_seed0.pt')
"""

import copy
import dataclasses
import math
import time

import torch
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from Classifier import LSTMClassifier
from load_data import EVALUATION_BATCH, Batch, load_data, seen_in_training
from support.checkpoints import restore_training_state, training_state, write_json
from support.figures import plot_runs, results_table
from support.options import (check_args, chosen_epsilon, config_of, epochs_by_epsilon, get_args,
                             hyperparameters, model_arguments, prepare_output_dir, variants)
from support.parallel import seeded
from support.program import run_program
from support.sweep import HISTORY, Run, Sweep, new_entry
from support.tuning import tune


def compute_perturbation(loss, model):
    """Return r = g / ‖g‖₂, the direction in which each sequence's loss rises fastest.

    g is the gradient of `loss` with respect to `model.v` [B, T', C], with one norm per sequence,
    over all its steps and channels. r has the shape of `model.v` and norm 1 for each sequence, 0
    where g is 0. It is a constant: no gradient flows through it. The graph of `loss` stays usable.
    (Miyato, Dai and Goodfellow, arXiv:1605.07725.)
    """
    g, = torch.autograd.grad(loss, model.v, retain_graph=True)
    peak = g.abs().amax(dim=(1, 2), keepdim=True)
    g = g / peak  # first, because the squares of a confident prediction's gradient underflow
    r = g / torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, r, 0)


def train_model(model, train_iter, optimizer, mode='plain', epsilon=None, clip_value=0.1):
    """Train for one epoch in `mode`, with each gradient entry clipped to ±`clip_value`.

    In mode 'AdvLSTM' the loss is F(v) + F(v + εr); in mode 'ProxLSTM' epsilon is the recurrence's
    (None: its own). The pass at v + εr is a forward pass of its own: dropout draws again, and batch
    normalization counts it too. Returns the loss F(v) and the accuracy at v, both means over
    sequences. The targets of a minibatch are classes, int64 [B], or their probabilities,
    float [B, C].

    Raises ValueError for mode 'AdvLSTM' without an epsilon, and for 'plain' with one above 0.
    """
    if mode == 'AdvLSTM' and epsilon is None:
        raise ValueError("mode 'AdvLSTM' needs an epsilon")
    model.train()
    total_loss, correct, count = 0.0, 0, 0
    for inputs, targets, lengths in train_iter:
        optimizer.zero_grad()
        logits = model(inputs, lengths, mode=mode, epsilon=None if mode == 'AdvLSTM' else epsilon)
        loss = F.cross_entropy(logits, targets)
        objective = loss
        if mode == 'AdvLSTM':  # add the adversarial training term to the loss
            r = compute_perturbation(loss, model)
            perturbed = model(inputs, lengths, r=epsilon * r, mode=mode)
            objective = loss + F.cross_entropy(perturbed, targets)
        objective.backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), clip_value)
        optimizer.step()
        total_loss += loss.item() * len(targets)
        classes = targets.argmax(1) if targets.dim() == 2 else targets
        correct += (logits.argmax(1) == classes).sum().item()
        count += len(targets)
    return total_loss / count, correct / count


@torch.no_grad()
def eval_model(model, test_iter, mode='plain', epsilon=None):
    """Return loss and accuracy, means over sequences, and bool [N]: which are correct.

    Mode 'AdvLSTM' perturbs nothing here; in mode 'ProxLSTM' epsilon is the recurrence's (None: its
    own).
    """
    model.eval()
    logits = torch.cat([model(inputs, lengths, mode=mode, epsilon=epsilon)
                        for inputs, _, lengths in test_iter])
    targets = torch.cat([targets for _, targets, _ in test_iter])
    correct = logits.argmax(1) == targets
    return F.cross_entropy(logits, targets).item(), correct.sum().item() / len(correct), correct


def evaluate(model, test_iter, mode, unseen):
    """Return loss, accuracy, and accuracy on the sequences of the mask `unseen`, None if empty.

    ProxLSTM's epsilon is the model's own.
    """
    loss, accuracy, correct = eval_model(model, test_iter, mode)
    return loss, accuracy, (correct[unseen].sum().item() / unseen.sum().item() if unseen.any()
                            else None)


def average_weights(model, optimizer, decay):
    """Return an `AveragedModel`, the exponential moving average over the optimizer's coming steps.

    It follows weights and buffers; its `module` is a model like `model`.
    """
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    optimizer.register_step_post_hook(lambda *_: averaged.update_parameters(model))
    return averaged


def train(run, args, data, start=None, saved=None, epochs=None):
    """Train the model of one `Run` and evaluate it after every epoch.

    A function of its arguments alone: on one machine's CPU, equal arguments give equal numbers.

    Args:
        run, args: what to train, see support/sweep.py, and the options of the command line.
        data: (training batches, test batches, bool mask of the test sequences not in training).
        start: the checkpoint whose weights the model starts from; None: new ones.
        saved: an earlier result of this function, to continue; the numbers equal those of an
            uninterrupted run.
        epochs: how many epochs to train now; None: all that are left.

    Returns the checkpoint: 'arguments' and 'state_dict' of the model; 'averaged', the exponential
    moving average of its weights and running statistics over minibatches; 'run', its entry for
    results.json; and what is needed to continue, unless it is finished. A run ends as 'diverged' in
    the epoch in which a loss is not finite.
    """
    started = time.perf_counter()
    train_iter, test_iter = ([Batch(*(x.to(args.device) for x in batch)) for batch in batches]
                             for batches in data[:2])
    unseen = data[2]
    settings, arguments = hyperparameters(args, run), model_arguments(args, run, train_iter)
    entry = copy.deepcopy(saved['run']) if saved else new_entry(run, args)
    history = entry['history']
    with seeded(run.seed, args.device):
        model = LSTMClassifier(**arguments).to(args.device)
        if start is not None:  # Section 3: load the saved base model into Adv_model or Prox_model
            model.load_state_dict(start['state_dict'], strict=True)
        optimizer = torch.optim.Adam(model.parameters(), settings['lr'],
                                     weight_decay=settings['weight_decay'])
        averaged = average_weights(model, optimizer, args.average_decay)
        if saved is not None:
            restore_training_state(saved, model, averaged, optimizer, args.device)
        done = len(history['train_loss'])
        for epoch in range(done + 1, min(run.epochs, done + (epochs or run.epochs)) + 1):
            loss, accuracy = train_model(model, train_iter, optimizer, run.mode, run.epsilon,
                                         args.clip_value)
            test_loss, *accuracies = evaluate(model, test_iter, run.mode, unseen)
            _, *averaged_accuracies = evaluate(averaged.module, test_iter, run.mode, unseen)
            if not math.isfinite(loss + test_loss):
                entry['diverged'] = epoch
                break
            values = loss, accuracy, *accuracies, *averaged_accuracies
            for key, value in zip(HISTORY, values, strict=True):
                history[key].append(value)
        state = training_state(model, averaged, optimizer, args.device)
    if entry['diverged'] is not None or len(history['train_loss']) == run.epochs:
        state = {key: state[key] for key in ('state_dict', 'averaged')}
    entry['seconds'] = round(entry['seconds'] + time.perf_counter() - started, 2)
    return {'arguments': arguments, **state, 'run': entry}  # Section 3: Sweep.save writes this


def main(args):
    train_set, test_set = load_data(args.data, args.batch_size, args.kernel_size, EVALUATION_BATCH)
    check_args(args, train_set)
    prepare_output_dir(args, 'training')
    if args.tune:
        return tune(train, args, train_set)

    unseen = ~seen_in_training(train_set, test_set)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    with Sweep(train, lambda run: (train_set, test_set, unseen), args) as sweep:
        # Section 2: train the base model, once for each seed.
        base = {seed: Run('plain', seed=seed, epochs=args.epochs) for seed in seeds}
        sweep.train(base.values(), 'base model')

        # Section 3: save and load. Sweep.save has written every base model to checkpoints/.
        # Sweep.load reads it; train() loads it, with strict=True, into Adv_model and Prox_model.

        # Section 4: train Adv_model for each epsilon. epsilon = 0 is its control.
        sweep.train([Run('AdvLSTM', epsilon, seed, epochs=epochs, start=base[seed])
                     for epsilon, epochs in epochs_by_epsilon(args, 'AdvLSTM').items()
                     for seed in seeds], 'Adv_model')

        # Section 5: train Prox_model for each epsilon. epsilon = 0 is its control.
        sweep.train([Run('ProxLSTM', epsilon, seed, epochs=epochs, start=base[seed])
                     for epsilon, epochs in epochs_by_epsilon(args, 'ProxLSTM').items()
                     for seed in seeds], 'Prox_model')

        # Section 6: train Prox_model and its control with dropout, then with batch normalization.
        # The latter has weights of its own, so it starts from a base model that has them too.
        sweep.train([Run('ProxLSTM', epsilon, seed, variant, epochs=args.epochs,
                         start=dataclasses.replace(base[seed], variant=variant)
                         if variant.startswith('batch norm') else base[seed])
                     for variant in variants(args)
                     for epsilon in (0.0, chosen_epsilon(args, 'ProxLSTM'))
                     for seed in seeds], 'Prox_model, dropout and batch norm')

    plots, runs = args.output_dir / 'plots', [sweep.entries[run] for run in sweep.runs]
    write_json(plots / 'results.json', {'config': config_of(args)}, runs)
    chosen = {mode: chosen_epsilon(args, mode) for mode in ('AdvLSTM', 'ProxLSTM')}
    plot_runs(plots, runs, chosen)
    print(f'\n{results_table(runs)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
