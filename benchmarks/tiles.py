"""Memory and time of a large prediction, and what tiling costs beside the bare model.

    python benchmarks/run.py --only tiles                  # the rows below
    python benchmarks/tiles.py large 20000 --image tif     # peak memory and seconds, in a process of its own
    python benchmarks/tiles.py ratio 8000                  # tiled beside the bare model at another size

The bare model gets the same tiles, normalised as the predictor does, and its scores are reduced to classes: what
anybody has to do. Not in its time: reading rows, blending, summing up the tree, areas, writing the mask.
The model is a UNet of 8, 16, 32 channels with seven leaves on three levels, random weights: the less a network does,
the more the tiling shows.
"""
import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pairs import Row, compare, device, missing, set_up

CHANNELS, TILE, OVERLAP, BATCH = [8, 16, 32], 512, 128, 4


def predictor(channels, where='cpu'):
    "A small network with random weights, as a predictor of pictures at their own size."
    import torch

    from hierseg.decoding.heads import LeafHead
    from hierseg.evaluation import tiles  # noqa: F401  (adds predict_to_file)
    from hierseg.evaluation.engine import TorchEngine
    from hierseg.evaluation.predictor import HierPredictor
    from hierseg.models.unet import UNet
    from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
    torch.manual_seed(0)
    tree = Taxonomy(PERSON_TREE)
    how = dict(channels_array=channels, bottleneck_channels=channels[-1], block_depth=1)
    stats = dict(mean=[.485, .456, .406], std=[.229, .224, .225])
    engine = TorchEngine(UNet(3, tree.n_leaves, **how), LeafHead(tree), stats, where)
    return HierPredictor(engine, dict(size=None, resample='lanczos'), 'simple', 'tiny')


def noise(n):
    "A picture of n x n pixels: noise that repeats."
    tile, count = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), -(-n // 256)
    return np.tile(tile, (count, count, 1))[:n, :n]


def write_image(path, n):
    "The same as a file; a TIFF is written tile by tile."
    if path.suffix != '.tif':
        import cv2
        options = [cv2.IMWRITE_PNG_COMPRESSION, 1] if path.suffix == '.png' else []
        cv2.imwrite(str(path), noise(n), options)
        return
    import tifffile
    tile, count = noise(256), (-(-n // 256))**2
    form = dict(shape=(n, n, 3), dtype=np.uint8, photometric='rgb', tile=(256, 256), compression='zlib')
    tifffile.imwrite(path, (np.roll(tile, i, 1) for i in range(count)), **form)


def bare(p, x):
    "The classes of every tile by the model alone, batched as the predictor batches."
    import torch

    from hierseg.evaluation.tiles import tile_starts
    starts, out = tile_starts(len(x), TILE, OVERLAP), []
    with torch.no_grad():
        for y in starts:
            row = [x[y:y + TILE, s:s + TILE] for s in starts]
            for i in range(0, len(row), BATCH):
                some = row[i:i + BATCH]
                for shape in dict.fromkeys(t.shape for t in some):
                    batch = torch.stack([p.engine.tensor(t) for t in some if t.shape == shape]).to(p.engine.device)
                    chosen = p.engine.head.leaf_scores(p.engine.model(batch)).max(1).indices
                    out.extend(chosen.cpu().numpy().astype(np.uint8))
    return out


def tiled(p, x):
    "The mask of the whole, written as it is made."
    with tempfile.TemporaryDirectory() as d:
        return p.predict_to_file(x, Path(d) / 'mask.png', tile=TILE, overlap=OVERLAP, bs=BATCH)


def ratio(n, channels, quick=False, **more):
    "A row: tiled beside the bare model on the same tiles."
    from hierseg.evaluation.tiles import tile_starts
    p, x = predictor(channels, device()), noise(n)
    name = f'predict_to_file, {n}×{n}, {len(tile_starts(n, TILE, OVERLAP))**2} tiles of {TILE}, UNet {channels}'
    pair = lambda: tiled(p, x), lambda: bare(p, x)
    return compare(name, 'the model alone on the same tiles', *pair, '<= 1.1', quick, **more)


def large(image, out, channels):
    "Peak memory and seconds of one picture: printed, and returned as (MiB, seconds)."
    p, start = predictor(channels), time.time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    p.predict_to_file(image, out, bs=BATCH, progress=lambda i, n: print(f'{i}/{n}', end='\r', file=sys.stderr))
    peak, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, time.time() - start
    print(f'{image.suffix}: peak {peak:.0f} MiB, of which {before:.0f} MiB before the picture; '
          f'{seconds:.0f} s; mask of {out.stat().st_size / 2**20:.0f} MB')
    return peak, seconds


def in_a_process(n, image, channels):
    "`large` in a process of its own, for memory has a peak once; what it printed."
    here, kinds = Path(__file__).resolve(), ','.join(map(str, channels))
    with tempfile.TemporaryDirectory() as d:
        write = f'import sys; sys.path.insert(0, {str(here.parent)!r}); import tiles, pathlib; ' \
                f'tiles.write_image(pathlib.Path({d!r}) / "image.{image}", {n})'
        subprocess.run([sys.executable, '-c', write], check=True)
        one = [sys.executable, str(here), 'one', str(n), '--image', image, '--folder', d, '--channels', kinds]
        return subprocess.run(one, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def rows(quick: bool):
    "What tiling costs, and the memory that a picture of 20,000 x 20,000 needs."
    yield ratio(600 if quick else 2000, CHANNELS, quick, limit_s=60)
    yield ratio(600 if quick else 2000, [32, 64, 128] if not quick else CHANNELS, quick, limit_s=120)
    name, bound = 'predict_to_file, 20,000×20,000 TIFF, peak memory', '<= 2048'
    if quick or os.environ.get('HIERSEG_LARGE') != '1':
        yield missing(name, '2 GiB', 'takes many minutes: HIERSEG_LARGE=1, or benchmarks/tiles.py large 20000', bound)
        return
    said = in_a_process(20_000, 'tif', CHANNELS)
    peak = float(said.split('peak ')[1].split()[0])
    yield Row(name, '2 GiB', peak / 2048, peak, 2048, '<= 1', said, 'MiB')


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('what', choices=['large', 'ratio', 'one'])
    a.add_argument('n', type=int)
    a.add_argument('--image', default='tif')
    a.add_argument('--folder', type=Path)
    a.add_argument('--rounds', type=int, default=5)
    a.add_argument('--threads', type=int, default=1)
    a.add_argument('--channels', type=lambda s: [int(o) for o in s.split(',')], default=CHANNELS)
    args = a.parse_args()
    set_up('cpu', args.threads)
    if args.what == 'ratio':
        r = ratio(args.n, args.channels, rounds=args.rounds, limit_s=1e6, warm=0)
        print(f'{r.name}: {r.ours_ms / 1e3:.1f} s, {r.beside} {r.theirs_ms / 1e3:.1f} s, ratio {r.ratio:.3f}')
    elif args.what == 'one':
        large(args.folder / f'image.{args.image}', args.folder / 'mask.png', args.channels)
    else:
        print(in_a_process(args.n, args.image, args.channels))
