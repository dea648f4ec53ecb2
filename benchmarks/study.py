"""What the tree buys: seeded trainings side by side, scored once, with paired intervals.

    python benchmarks/study.py run losses --data PASCAL_PART --out FOLDER [--budget 90] [--smallest]
    python benchmarks/study.py report losses --out FOLDER
    python benchmarks/study.py page

A plan is `benchmarks/study/NAME.yaml`: what is asked, the arms, the seeds, the contrasts; written before the runs.
`run` does what is missing and can be stopped at any time; `report` writes NAME.md and NAME.json beside the plan;
`page` puts them into the guide that shows them. Curves are drawn among the guide's images.
"""
from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import yaml

PLANS = Path(__file__).resolve().parent/'study'
PAGE = PLANS.parent.parent/'nbs/20a_guide.what_the_tree_buys.ipynb'
LEVELS, DRAWS = 3, 2000
PLUS_MINUS, PERCENT = '\u00a0±\u00a0', '\u00a0%'      # no line is broken inside a cell


# ---- plans

def read_plan(name: str) -> dict:
    "A plan with its defaults filled in; raises `SystemExit` in one line where there is none of that name."
    path = PLANS/f'{name}.yaml'
    if not path.exists():
        names = ', '.join(sorted(p.stem for p in PLANS.glob('*.yaml')))
        raise SystemExit(f'{path.name}: no such plan; there are {names}')
    plan = yaml.safe_load(path.read_text())
    for arm in plan['arms'].values():
        for k, v in plan['all'].items():
            arm.setdefault(k, v)
    return plan


def runs_of(plan: dict):
    "(arm, seed) of every run, one seed of all arms before the next, so that what is there can be paired."
    seeds = max(len(a['seeds']) for a in plan['arms'].values())
    for i in range(seeds):
        yield from ((name, a['seeds'][i]) for name, a in plan['arms'].items() if i < len(a['seeds']))


def result_file(out: Path, plan: str, arm: str, seed: int) -> Path:
    "Where a run's scores lie."
    return out/plan/f"{arm.replace(' ', '_')}__{seed}.json"


# ---- data

def person_tree():
    "The tree of the data set, with ids for what is known of a pixel whose part is not."
    import hierseg.all as hs
    return hs.Taxonomy(dict(hierarchy=hs.PERSON_TREE, coarse=dict(body=10, upper_body=11, lower_body=12)))


def split_of(data: Path):
    "Training, hold-out (a tenth of the training ids, always the same) and validation pairs."
    import hierseg.all as hs
    ids = [[i for i in (data/f'{n}_id.txt').read_text().split()] for n in ('train', 'val')]
    train, hold_out = hs.random_split(ids[0], len(ids[0]) // 10 / len(ids[0]), seed=0)
    return [hs.find_pairs(data, ids=s) for s in (train, hold_out, ids[1])]


def coarse_masks(pairs: list, tax, level: int, folder: Path):
    "The pairs with masks that name classes of one level only, written to a folder once."
    import cv2
    import hierseg.all as hs
    folder.mkdir(parents=True, exist_ok=True)
    node = {c: i for i, c in ((10, 'body'), (11, 'upper_body'), (12, 'lower_body'))}
    table = np.zeros(256, np.uint8)
    for c in tax.level_classes[level]:
        table[tax.ids_of(level, c)] = node.get(c, 0)
    out = []
    for p in pairs:
        f = folder/f'{p.stem}.png'
        if not f.exists():
            cv2.imwrite(str(f), table[hs.read_mask(p.mask)])
        out.append(p._replace(mask=f) if hasattr(p, '_replace') else type(p)(p.stem, p.image, f))
    return out


def train_pairs(arm: dict, pairs: list, tax, seed: int, out: Path):
    "What an arm is trained on: all pairs, or few fine ones with or without the others' coarse masks."
    if 'fine' not in arm:
        return pairs
    order = random.Random(seed).sample(range(len(pairs)), len(pairs))
    fine = sorted(order[:round(arm['fine'] * len(pairs))])
    if arm.get('others') == 'left out':
        return [pairs[i] for i in fine] * (len(pairs) // len(fine))          # as many steps as the other arms
    coarse = coarse_masks(pairs, tax, arm['coarse_level'], out/f"coarse_level_{arm['coarse_level'] + 1}")
    if 'fine_share' in arm:                                  # the fine ones again and again, beside fewer coarse ones
        often = round(arm['fine_share'] * len(pairs))
        again = [pairs[fine[k % len(fine)]] for k in range(often)]
        return again + [coarse[i] for i in order[len(fine):]][:len(pairs) - often]
    chosen = set(fine)
    return [pairs[i] if i in chosen else coarse[i] for i in range(len(pairs))]


# ---- a run

def learner_of(arm: dict, seed: int, split: list, out: Path):
    "A learner as an arm describes it."
    import hierseg.all as hs
    tax = person_tree()
    hs.seed_everything(seed)
    train = train_pairs(arm, split[0], tax, seed, out)
    dls = hs.HierDataLoaders.from_pairs(train, split[1], tax, size=arm['size'], resample=arm['resample'], bs=arm['bs'],
                                        augment=arm['augment'], seed=seed, num_workers=0, cache=str(out/'cache'),
                                        **arm.get('loaders', {}))
    model = {k: arm[k] for k in ('encoder', 'model_params') if k in arm}
    weighting = {k: arm[k] for k in ('level_weights', 'class_weights', 'base_loss') if k in arm}
    return hs.hier_learner(dls, arm.get('arch', 'unet'), loss=arm['loss'], wd=arm['wd'], **model, **weighting)


def callbacks_of(arm: dict):
    "Memory layout, epochs that depend on the seed alone, and what the arm asks for."
    import hierseg.all as hs
    from fastai.callback.channelslast import ChannelsLast
    cbs = [ChannelsLast()]
    if 'ema' in arm:
        cbs.append(hs.EMA(arm['ema']))
    if 'level_weights_end' in arm:
        cbs.append(hs.LevelWeightSchedule(arm['level_weights'], arm['level_weights_end']))
    return cbs


def fitted_selectors(learn, names: list, hold_out: list):
    "Selectors by the names of the tables; those that are fitted see the hold-out only, at the network's size."
    import hierseg.all as hs
    found = {n: hs.get_selector(n, learn.taxonomy, learn.head) for n in names if not n.startswith('iou')}
    for n in names:
        if n.startswith('iou'):
            learn.fit_selector('iou', hold_out, path=n == 'iou path')
            found[n] = learn.selector
    learn.selector = 'simple'
    return found


def score(learn, pairs: list, selectors: dict):
    "Every selector on the same probabilities, at the masks' own size."
    import hierseg.all as hs
    import torch
    conf = hs.LevelConfusion(learn.taxonomy, selectors, learn.head)
    for pair, (_, levels) in zip(pairs, hs.predict_probs(learn, [p.image for p in pairs])):
        target = torch.from_numpy(learn.taxonomy.encode(hs.read_mask(pair.mask), pair.mask))[None]
        conf.update({n: s.select(levels, log=False) for n, s in selectors.items()}, target)
    return conf


def sizes_by_image(conf, selector: str) -> dict:
    "Found pixels and unions of the foreground classes by image, (images, classes) for each level."
    out = {}
    for l in range(LEVELS):
        found, pred, true = conf._image_sizes(l, selector)
        out[f'{selector}|{l}|found'], out[f'{selector}|{l}|union'] = found, pred + true - found
    return out


def pixels_of(conf) -> dict:
    "Pixels that were scored, and those of them that are no background."
    total = conf.n_pixels
    return dict(all=total, foreground=total - round(conf.background()['true'] * total))


def summary(conf, selectors: dict) -> dict:
    "The scores of a run in plain values."
    levels = range(LEVELS)
    return {n: dict(miou=[round(float(conf.miou(l, selector=n)), 5) for l in levels],
                    background_iou=[round(float(conf.iou(l, n)[0]), 5) for l in levels],
                    inconsistent=round(float(conf.inconsistency(n)), 5),
                    iou={c: round(float(v), 5) for c, v in zip(conf.taxonomy.level_classes[-1], conf.iou(-1, n))})
            for n in selectors}


def train(learn, arm: dict, path: Path) -> dict:
    "Train, and keep the weights beside the result; where they are there already, only a new scoring is wanted."
    import hierseg.all as hs
    weights, notes = path.with_suffix('.safetensors'), path.with_suffix('.training')
    if weights.exists():
        hs.load_weights(learn.model, weights)
        return json.loads(notes.read_text())
    start = time.time()
    fit = learn.fit_one_cycle if arm['schedule'] == 'one-cycle' else learn.fit
    fit(arm['epochs'], arm['lr'], cbs=callbacks_of(arm))
    names = list(learn.recorder.metric_names)[1:-1]
    history = [dict(zip(names, map(float, v))) for v in learn.recorder.values]
    trained = dict(history=history, seconds=round(time.time() - start))
    hs.write_atomic(notes, json.dumps(trained))
    hs.save_weights(learn.model, weights)
    return trained


def run_one(plan: dict, name: str, arm_name: str, seed: int, data: Path, out: Path):
    "Train and score one arm with one seed; the result is written at the end, whole. Remove it to score again."
    import hierseg.all as hs
    import torch
    arm, split = plan['arms'][arm_name], split_of(data)
    if plan.get('smallest'):
        split, arm = [s[:n] for s, n in zip(split, (64, 16, 16))], {**arm, 'epochs': 1}
    path, learn = result_file(out, name, arm_name, seed), learner_of(arm, seed, split, out)
    with learn.no_bar(), learn.no_logging():
        trained = train(learn, arm, path)
        start = time.time()
        selectors = fitted_selectors(learn, plan['selectors'], split[1])
        val = score(learn, split[2], selectors)
    result = dict(plan=name, arm=arm_name, seed=seed, config=arm, **trained,
                  parameters=sum(p.numel() for p in learn.model.parameters()), val=summary(val, selectors),
                  images=[len(s) for s in (learn.dls.train_ds, *split[1:])], pixels=pixels_of(val),
                  device=str(learn.dls.device), scoring_seconds=round(time.time() - start),
                  threads=torch.get_num_threads(), date=f'{datetime.date.today()}', commit=commit(),
                  torch=torch.__version__)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {k: v.astype(np.int32) for n in selectors for k, v in sizes_by_image(val, n).items()}
    hs.write_atomic(path.with_suffix('.npz'), lambda tmp: np.savez_compressed(open(tmp, 'wb'), **arrays))
    hs.write_atomic(path, json.dumps(result, indent=1))
    return result


def commit() -> str:
    "The commit that is being measured, marked where the tree was changed."
    def git(*args): return subprocess.run(['git', *args], cwd=PLANS, capture_output=True, text=True).stdout.strip()
    return git('rev-parse', '--short', 'HEAD') + ('+' if git('status', '--porcelain', '--', '../../hierseg') else '')


def adopt_twin(plan: dict, name: str, arm: str, seed: int, out: Path) -> bool:
    "Copy the result of another plan that trained the same with the same seed, where it has the selectors asked for."
    import hierseg.core as core
    for other in sorted(out.glob(f'*/*__{seed}.json')):
        result = json.loads(other.read_text())
        same = {**result['config'], 'seeds': 0} == {**plan['arms'][arm], 'seeds': 0}
        if result['plan'] == name or not same or not set(plan['selectors']) <= set(result['val']):
            continue
        path = result_file(out, name, arm, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(other.with_suffix('.npz'), path.with_suffix('.npz'))
        core.write_atomic(path, json.dumps({**result, 'plan': name, 'arm': arm}, indent=1))
        return True
    return False


def run(names: list, data: Path, out: Path, budget: float, smallest: bool, only: str, seeds: int | None = None):
    "Whatever is missing of the plans, in order, as long as the next run is likely to end within the budget."
    end, longest = time.time() + 60 * budget, 0.
    for name in names:
        plan = {**read_plan(name), 'smallest': smallest}
        for arm, seed in runs_of(plan):
            path = result_file(out, name, arm, seed)
            beyond = seeds is not None and seed in plan['arms'][arm]['seeds'][seeds:]
            if path.exists() or beyond or only and only not in arm:
                continue
            if not smallest and adopt_twin(plan, name, arm, seed, out):
                continue
            if time.time() + longest > end:
                print('the budget is spent')
                return
            lock = path.with_suffix('.running')
            if not claim(lock):
                continue
            t = time.time()
            try:
                r = run_one(plan, name, arm, seed, data, out)
            finally:
                lock.unlink(missing_ok=True)
            longest = max(longest, time.time() - t)
            cells = '  '.join(f"{n} {' '.join(f'{v:.3f}' for v in s['miou'])}" for n, s in r['val'].items())
            print(f"{name} {arm} seed {seed}: {r['seconds']} + {r['scoring_seconds']} s  {cells}", flush=True)


def claim(lock: Path) -> bool:
    "Two processes may share an output folder: a run belongs to the one whose living process made this file."
    lock.parent.mkdir(parents=True, exist_ok=True)
    if lock.exists() and Path(f'/proc/{lock.read_text() or 0}').exists():
        return False
    lock.write_text(str(os.getpid()))
    return True


# ---- tables

def paired_interval(ours: list, theirs: list, level: int, seed: int = 0) -> tuple[float, float, float]:
    "Difference of pooled mIoU, and its 95 % interval over seeds and images, the same draws for both sides."
    rng = np.random.default_rng(seed)
    diffs = np.zeros((len(ours), DRAWS + 1))
    n_images = len(ours[0][0])
    weights = np.vstack([np.ones(n_images), rng.multinomial(n_images, np.full(n_images, 1 / n_images), DRAWS)])
    for i, (a, b) in enumerate(zip(ours, theirs)):
        diffs[i] = [1, -1] @ np.array([pooled(weights, *o) for o in (a, b)])
    n = len(ours)
    if n == 1:
        drawn = diffs[0, 1:]
    else:
        pick = rng.integers(n, size=(DRAWS, n))
        drawn = diffs[pick, np.arange(1, DRAWS + 1)[:, None]].mean(1)
        # few seeds show too little of their spread
        drawn = drawn.mean() + (drawn - drawn.mean()) * (n / (n - 1))**.5
    low, high = np.quantile(drawn, [.025, .975])
    return diffs[:, 0].mean(), low, high


def pooled(weights, found, union):
    "(draws,) mean over classes of summed found pixels through summed union."
    f, u = weights @ found, weights @ union
    with np.errstate(all='ignore'):
        return np.nanmean(np.where(u > 0, f / u, np.nan), -1)


def load(plan: dict, name: str, out: Path) -> dict:
    "(arm, seed) to result and arrays of what has been run."
    found = {}
    for arm, seed in runs_of(plan):
        path = result_file(out, name, arm, seed)
        if path.exists():
            found[arm, seed] = json.loads(path.read_text()), np.load(path.with_suffix('.npz'))
    return found


def table(header: list, rows: list) -> list[str]:
    "Lines of a markdown table."
    return [f"| {' | '.join(r)} |" for r in ([*map(str, header)], ['---'] * len(header), *rows)]


def pixels(found: dict) -> dict | None:
    "All pixels of the validation images and those of the foreground, the same for every run; None where none tells."
    return next((r['pixels'] for r, _ in found.values() if 'pixels' in r), None)


def share_of_background(arrays, selector: str, count: dict) -> float:
    "Share of the pixels that the leaves give to the background."
    # found + union of a class is what is true and what is predicted
    true_and_predicted = sum(arrays[f'{selector}|{LEVELS - 1}|{o}'].sum(dtype=np.int64) for o in ('found', 'union'))
    return 1 - (true_and_predicted - count['foreground']) / count['all']


def mean_rows(plan: dict, found: dict, split: str):
    "Arm and selector by level: mean over seeds, and the spread of the seeds."
    count = pixels(found)
    for arm in plan['arms']:
        for s in plan['selectors']:
            runs = [(r, arrays) for (a, _), (r, arrays) in found.items() if a == arm and s in r[split]]
            if not runs:
                continue
            got = [r for r, _ in runs]
            m = np.array([r[split][s]['miou'] for r in got])
            spread = m.std(0, ddof=1) if len(m) > 1 else [None] * LEVELS
            cells = [f'{v:.3f}' + (f'{PLUS_MINUS}{d:.3f}' if d is not None else '') for v, d in zip(m.mean(0), spread)]
            incon = np.mean([r[split][s]['inconsistent'] for r in got])
            back = np.mean([r[split][s]['background_iou'][-1] for r in got])
            shares = [share_of_background(a, s, count) for _, a in runs] if count else []
            share = f'{100 * np.mean(shares):.1f}{PERCENT}' if count else '–'
            yield [arm, s, str(len(got)), *cells, f'{back:.3f}', share, f'{100 * incon:.1f}{PERCENT}']


def best_epoch_rows(plan: dict, found: dict):
    "The leaves on the hold-out at the last epoch and at the best one, and the gap between the two losses at the end."
    for arm in plan['arms']:
        rows = []
        for history in [r['history'] for (a, _), (r, _) in found.items() if a == arm]:
            leaves = [h['miou_level_3'] for h in history]
            best = int(np.argmax(leaves))
            rows.append([leaves[-1], leaves[best], best + 1, history[-1]['valid_loss'] - history[-1]['train_loss']])
        if rows:
            last, top, epoch, gap = np.mean(rows, 0)
            epochs = f'{epoch:.0f} of {len(history)}'
            yield [arm, f'{last:.3f}', f'{top:.3f}', epochs, f'{top - last:+.3f}', f'{gap:+.3f}']


def contrast_rows(plan: dict, found: dict):
    "What is asked, as differences with intervals; undecided where the interval holds 0."
    for c in plan['contrasts']:
        (arm_a, sel_a), (arm_b, sel_b) = c['of'], c['beside']
        def has(arm, seed, sel): return (arm, seed) in found and sel in found[arm, seed][0]['val']
        seeds = [s for a, s in found if a == arm_a and has(arm_a, s, sel_a) and has(arm_b, s, sel_b)]
        if not seeds:
            continue
        cells = []
        for l in range(LEVELS):
            def side(arm, sel, l=l):
                arrays = [found[arm, s][1] for s in seeds]
                return [tuple(a[f'{sel}|{l}|{o}'].astype(float) for o in ('found', 'union')) for a in arrays]
            d, low, high = paired_interval(side(arm_a, sel_a), side(arm_b, sel_b), l)
            word = '' if low > 0 or high < 0 else ' undecided'
            # two selectors that decide alike on a level, by what they are
            cells.append('the same' if d == low == high == 0 else f'{d:+.3f} ({low:+.3f} to {high:+.3f}){word}')
        yield [c['asks'], f'{len(seeds)}', *cells]


def report(name: str, out: Path) -> str:
    "The tables of a plan as markdown."
    plan = read_plan(name)
    found = load(plan, name, out)
    if not found:
        return f"# {plan['title']}\n\nNothing has been run yet.\n"
    results = [r for r, _ in found.values()]
    first, levels = results[0], [f'level {l + 1}' for l in range(LEVELS)]
    dates, commits = [sorted({r[k] for r in results}) for k in ('date', 'commit')]
    about = (f"{len(results)} of {len(list(runs_of(plan)))} planned runs, {dates[0]} to {dates[-1]}, commits "
             f"{', '.join(commits)}, torch {first['torch']}, {first['device']} with {first['threads']} thread a run. "
             f"Trained on {first['images'][0]} images, {first['images'][1]} of the training ids held out, scored once "
             f"on the {first['images'][2]} of val_id: mIoU pooled over all pixels at native size, background excluded "
             "(its IoU on the leaves stands beside, and the share of the pixels that it is given).")
    count = pixels(found)
    if count:
        about += f" In truth it has {100 - 100 * count['foreground'] / count['all']:.1f} % of them."
    text = [f"# {plan['title']}", '', about, '',
            f"    python benchmarks/study.py run {name} --data PASCAL_PART --out FOLDER",
            f"    python benchmarks/study.py report {name} --out FOLDER", '', '## Asked before the runs', '',
            *(f'- {q}' for q in plan['hypotheses']), '', '## Differences', '',
            'Mean over seeds, with the 95 % interval of a bootstrap over seeds and images, the same draws on both '
            'sides; with one seed over images only.', '',
            *table(['', 'seeds', *levels], contrast_rows(plan, found)), '', '## Scores', '',
            'Mean over seeds ± standard deviation of a seed.', '',
            *table(['arm', 'selector', 'seeds', *levels, 'background', 'share', 'inconsistent'],
                   mean_rows(plan, found, 'val')), '']
    if plan.get('curves'):
        header = ['arm', 'last epoch', 'best', 'at epoch', 'best, over last', 'hold-out loss, over training loss']
        text += ['## The best epoch', '', 'Leaves on the hold-out, at the size of the network: what keeping the best '
                 'epoch would win, chosen on the images that it is measured on, so at most this.', '',
                 *table(header, best_epoch_rows(plan, found)), '']
    return '\n'.join(text)


def curves(found: dict):
    "The hold-out's leaf mIoU and both losses by epoch, one line an arm (the first seed)."
    from matplotlib.figure import Figure
    fig = Figure((9, 3.6), layout='constrained')
    first, columns = min(s for _, s in found), ('miou_level_3', 'train_loss', 'valid_loss')
    for ax, column in zip(fig.subplots(1, 3), columns):
        for (arm, seed), (r, _) in found.items():
            if seed == first:
                values = [h[column] for h in r['history']]
                ax.plot(range(1, len(values) + 1), values, label=arm)
        ax.set(xlabel='epoch', title={'miou_level_3': 'hold-out mIoU, leaves', 'train_loss': 'training loss',
                                      'valid_loss': 'hold-out loss'}[column])
        ax.spines[['top', 'right']].set_visible(False)
    fig.legend(*ax.get_legend_handles_labels(), loc='outside lower center', ncols=3, frameon=False)
    return fig


def write_report(name: str, out: Path):
    "NAME.md, and NAME.json with the scores of every run, beside the plan; the picture of curves for the guide."
    import hierseg.core as core
    plan = read_plan(name)
    found = load(plan, name, out)
    core.write_atomic(PLANS/f'{name}.md', report(name, out))
    core.write_atomic(PLANS/f'{name}.json', json.dumps([r for r, _ in found.values()], indent=1) + '\n')
    if plan.get('curves') and found:
        picture = PAGE.parent/f'images/study_{name}.png'
        picture.parent.mkdir(exist_ok=True)
        core.write_atomic(picture, lambda tmp: curves(found).savefig(tmp, format='png', dpi=110))
    print((PLANS/f'{name}.md').read_text())


def write_page(page: Path = PAGE):
    "The reports in the cells of the guide that begin with `<!-- study NAME -->`."
    import hierseg.core as core
    nb = json.loads(page.read_text())
    for cell in nb['cells']:
        first = ''.join(cell['source']).split('\n')[0]
        name = re.fullmatch('<!-- study ([a-z_]+) -->', first)
        if name and (PLANS/f'{name[1]}.md').exists():
            text = re.sub('^#', '##', (PLANS/f'{name[1]}.md').read_text().strip(), flags=re.MULTILINE)
            cell['source'] = f'{first}\n{text}'.splitlines(True)
    core.write_atomic(page, json.dumps(nb, indent=1, ensure_ascii=False) + '\n')


def main(argv: list | None = None):
    "The command line."
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('what', choices=['run', 'report', 'page'])
    p.add_argument('plan', nargs='*', help=f"of {', '.join(sorted(f.stem for f in PLANS.glob('*.yaml')))}")
    p.add_argument('--data', type=Path, default=os.environ.get('HIERSEG_PASCAL_PART'), help='folder of Pascal-part')
    p.add_argument('--out', type=Path, help='folder for results, outside the repository')
    p.add_argument('--budget', type=float, default=1e9, help='minutes; no run is begun that would go beyond')
    p.add_argument('--smallest', action='store_true', help='a few images and one epoch a run: does it work?')
    p.add_argument('--only', default='', help='arms whose name contains this')
    p.add_argument('--seeds', type=int, help='no more than so many of each arm')
    p.add_argument('--threads', type=int, default=1)
    args = p.parse_intermixed_args(argv)
    if args.what == 'page':
        write_page()
        return
    if not args.plan or args.out is None:
        p.error(f'{args.what} needs the names of plans, and --out')
    if args.what == 'report':
        for name in args.plan:
            write_report(name, args.out)
        return
    if args.data is None:
        p.error('name the folder of Pascal-part: --data, or HIERSEG_PASCAL_PART')
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE='1', NO_ALBUMENTATIONS_UPDATE='1',
                      MPLBACKEND='agg')
    import torch
    torch.set_num_threads(args.threads)
    run(args.plan, Path(args.data), args.out, args.budget, args.smallest, args.only, args.seeds)


if __name__ == '__main__':
    main()
