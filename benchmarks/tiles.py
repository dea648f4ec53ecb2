"""Memory and time of a large prediction, and what tiling costs beside the bare model.

    python benchmarks/tiles.py large 20000 --image tif     # peak memory and seconds, in a process of its own
    python benchmarks/tiles.py ratio 8000                  # tiled / the bare model on the same tiles, medians of rounds in turn

The model is a UNet of 8, 16, 32 channels with seven leaves on three levels, random weights: the less a network does, the more the tiling shows.
"""
import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def predictor(channels):
    import torch
    from hierseg.evaluation.engine import TorchEngine
    from hierseg.evaluation.predictor import HierPredictor
    from hierseg.evaluation import tiles  # noqa: F401  (adds predict_tiled and predict_to_file)
    from hierseg.models.unet import UNet
    from hierseg.decoding.heads import LeafHead
    from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy
    torch.manual_seed(0)
    torch.set_num_threads(2)
    tax = Taxonomy(PERSON_TREE)
    model = UNet(3, tax.n_leaves, channels_array=channels, bottleneck_channels=channels[-1], block_depth=1)
    stats = dict(mean=[.485, .456, .406], std=[.229, .224, .225])
    return HierPredictor(TorchEngine(model, LeafHead(tax), stats), dict(size=None, resample='lanczos'), 'simple', 'tiny')


def write_image(path, n):
    "A picture of n x n pixels, written by rows: noise that repeats."
    rng = np.random.default_rng(0)
    tile = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    if path.suffix == '.tif':
        import tifffile
        count = (-(-n // 256))**2
        tifffile.imwrite(path, (np.roll(tile, i, 1) for i in range(count)), shape=(n, n, 3), dtype=np.uint8, photometric='rgb', tile=(256, 256), compression='zlib')
    else:
        import cv2
        cv2.imwrite(str(path), np.tile(tile, (-(-n // 256), -(-n // 256), 1))[:n, :n], [cv2.IMWRITE_PNG_COMPRESSION, 1] if path.suffix == '.png' else [])


def large(image, out, channels):
    p, start = predictor(channels), time.time()
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    p.predict_to_file(image, out, bs=4, progress=lambda i, n: print(f'{i}/{n}', end='\r', file=sys.stderr))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f'{image.suffix}: peak {peak / 2**20:.2f} GB, of which {base / 2**20:.2f} GB before the picture; {time.time() - start:.0f} s; mask of {out.stat().st_size / 2**20:.0f} MB')


def ratio(n, channels, rounds=5):
    from hierseg.evaluation.tiles import tile_starts
    p = predictor(channels)
    x = np.tile(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8), (-(-n // 256), -(-n // 256), 1))[:n, :n]
    starts = tile_starts(n, 512, 128)

    def bare():
        import torch
        with torch.no_grad():
            for y in starts:
                for i in range(0, len(starts), 4):
                    tiles = [x[y:y + 512, s:s + 512] for s in starts[i:i + 4]]
                    for group in ([t for t in tiles if t.shape == tiles[0].shape], [t for t in tiles if t.shape != tiles[0].shape]):
                        if group:
                            p.engine.head.leaf_scores(p.engine.model(torch.stack([p.engine._tensor(t) for t in group]))).max(1)

    def tiled():
        with tempfile.TemporaryDirectory() as d:
            p.predict_to_file(x, Path(d) / 'mask.png', bs=4)
    times = {bare: [], tiled: []}
    for _ in range(rounds):
        for f in times:
            start = time.time()
            f()
            times[f].append(time.time() - start)
    pairs = sorted(t / b for b, t in zip(times[bare], times[tiled]))
    print(f'channels {channels}, {n} x {n}, {len(starts)**2} tiles: bare {np.median(times[bare]):.1f} s, tiled {np.median(times[tiled]):.1f} s, ratio {pairs[len(pairs) // 2]:.3f} (rounds {", ".join(f"{r:.3f}" for r in pairs)})')


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
            subprocess.run([sys.executable, '-c', f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import tiles, pathlib; tiles.write_image(pathlib.Path({d!r}) / "image.{args.image}", {args.n})'], check=True)
            subprocess.run([sys.executable, __file__, 'one', str(args.n), '--image', args.image, '--folder', d, '--channels', ','.join(map(str, args.channels))], check=True)
