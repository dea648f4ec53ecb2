"""Memory and time of a large prediction, and what tiling costs beside the bare model.

    python benchmarks/tiles.py large 20000 --image tif     # peak memory and seconds, in a process of its own
    python benchmarks/tiles.py ratio 8000                  # tiled / the bare model on the same tiles, in turn

The model is a UNet of 8, 16, 32 channels with seven leaves on three levels, random weights: the less a network does,
the more the tiling shows.
"""
import argparse
import itertools
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pairs import compare


def predictor(channels, threads=2):
    import torch
    from hierseg.evaluation.engine import TorchEngine
    from hierseg.evaluation.predictor import HierPredictor
    from hierseg.evaluation import tiles  # noqa: F401  (adds predict_tiled and predict_to_file)
    from hierseg.models.unet import UNet
    from hierseg.decoding.heads import LeafHead
    from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    tax = Taxonomy(PERSON_TREE)
    model = UNet(3, tax.n_leaves, channels_array=channels, bottleneck_channels=channels[-1], block_depth=1)
    stats = dict(mean=[.485, .456, .406], std=[.229, .224, .225])
    engine = TorchEngine(model, LeafHead(tax), stats)
    return HierPredictor(engine, dict(size=None, resample='lanczos'), 'simple', 'tiny')


def write_image(path, n):
    "A picture of n x n pixels, written by rows: noise that repeats."
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    if path.suffix == '.tif':
        import tifffile
        count = (-(-n // 256))**2
        tiles = (np.roll(tile, i, 1) for i in range(count))
        how = dict(photometric='rgb', tile=(256, 256), compression='zlib')
        tifffile.imwrite(path, tiles, shape=(n, n, 3), dtype=np.uint8, **how)
    else:
        import cv2
        how = [cv2.IMWRITE_PNG_COMPRESSION, 1] if path.suffix == '.png' else []
        cv2.imwrite(str(path), np.tile(tile, (-(-n // 256), -(-n // 256), 1))[:n, :n], how)


def large(image, out, channels):
    p, start = predictor(channels), time.time()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    p.predict_to_file(image, out, bs=4, progress=lambda i, n: print(f'{i}/{n}', end='\r', file=sys.stderr))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f'{image.suffix}: peak {peak / 2**20:.2f} GB, of which {base / 2**20:.2f} GB before the picture; '
          f'{time.time() - start:.0f} s; mask of {out.stat().st_size / 2**20:.0f} MB')


def same_size(tiles):
    "Lists of neighbours of one shape: what can be one batch."
    return [list(g) for _, g in itertools.groupby(tiles, key=lambda t: t.shape)]


def sides(n, channels, threads=2):
    "Tiled prediction to a file, the bare model on the same tiles, and how many tiles these are."
    import torch
    from hierseg.evaluation.tiles import tile_starts
    p = predictor(channels, threads)
    square = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    x = np.tile(square, (-(-n // 256), -(-n // 256), 1))[:n, :n]
    starts = tile_starts(n, 512, 128)

    def bare():
        with torch.no_grad():
            for y in starts:
                for i in range(0, len(starts), 4):
                    for group in same_size([x[y:y + 512, s:s + 512] for s in starts[i:i + 4]]):
                        batch = torch.stack([p.engine._tensor(t) for t in group])
                        p.engine.head.leaf_scores(p.engine.model(batch)).max(1)

    def tiled():
        with tempfile.TemporaryDirectory() as d:
            p.predict_to_file(x, Path(d) / 'mask.png', bs=4)
    return tiled, bare, len(starts)**2


def ratio(n, channels, rounds=5):
    tiled, bare, n_tiles = sides(n, channels)
    row = compare(f'{n} x {n}, {n_tiles} tiles, channels {channels}', '', tiled, bare, rounds=rounds, limit_s=1e9)
    print(f'{row.name}: bare {row.theirs_ms / 1e3:.1f} s, tiled {row.ours_ms / 1e3:.1f} s, ratio {row.ratio:.3f}')


def rows(quick):
    "One row; 8,000 pixels take minutes."
    import torch
    n = 700 if quick else 8000
    tiled, bare, n_tiles = sides(n, [8, 16, 32], torch.get_num_threads())
    yield compare(f'tiled prediction, {n:,}×{n:,}, {n_tiles} tiles', 'the bare model on the same tiles', tiled, bare,
                  '<= 1.1', quick, rounds=5, limit_s=120, warm=0)


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('what', choices=['large', 'ratio', 'one'])
    a.add_argument('n', type=int)
    a.add_argument('--image', default='tif')
    a.add_argument('--folder', type=Path)
    a.add_argument('--rounds', type=int, default=5)
    a.add_argument('--channels', type=lambda s: [int(o) for o in s.split(',')], default=[8, 16, 32])
    args = a.parse_args()
    if args.what == 'ratio':
        ratio(args.n, args.channels, args.rounds)
    elif args.what == 'one':
        large(args.folder / f'image.{args.image}', args.folder / 'mask.png', args.channels)
    else:
        with tempfile.TemporaryDirectory() as d:
            draw = (f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import tiles, pathlib; '
                    f'tiles.write_image(pathlib.Path({d!r}) / "image.{args.image}", {args.n})')
            subprocess.run([sys.executable, '-c', draw], check=True)
            subprocess.run([sys.executable, __file__, 'one', str(args.n), '--image', args.image, '--folder', d,
                            '--channels', ','.join(map(str, args.channels))], check=True)
