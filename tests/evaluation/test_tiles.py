"Tiles: the blend against the library tiler, the untiled answer, and rows read and written."
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hierseg.evaluation.engine import TorchEngine
from hierseg.evaluation.predictor import HierPredictor, Looks
from hierseg.evaluation.writing import write_predictions
from hierseg.evaluation.tiles import ALIGN, MaskRows, RawRows, TiffRows, blend_weights, blended, open_rows, tile_starts
from hierseg.core import DataError
from hierseg.data.files import read_mask
from hierseg.models.unet import UNet
from hierseg.decoding.heads import get_head
from hierseg.taxonomy.tree import PERSON_TREE, Taxonomy

TAX = Taxonomy(PERSON_TREE)


def predictor(head='leaf', selector='simple'):
    torch.manual_seed(0)
    head = get_head(head, TAX)
    model = UNet(3, head.n_channels, channels_array=[8, 8], bottleneck_channels=8, block_depth=1)
    torch.nn.init.normal_(model.head.weight, std=2.)
    return HierPredictor(TorchEngine(model, head, dict(mean=[.5] * 3, std=[.25] * 3)), dict(size=64), selector)


@pytest.fixture(scope='module')
def picture():
    coarse = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))      # 297 x 369


@given(st.integers(1, 3000), st.integers(1, 400), st.integers(0, 399))
def test_tiles_cover_a_side_and_share_their_overlap(n, tile, overlap):
    if overlap >= tile:
        with pytest.raises(ValueError, match='smaller than the tile'):
            tile_starts(n, tile, overlap)
        return
    starts = tile_starts(n, tile, overlap)
    ends = [min(s + tile, n) for s in starts]
    assert starts[0] == 0 and ends[-1] == n and (len(starts) == 1 or ends[-2] < n)
    assert all(e - s >= overlap for s, e in zip(starts[1:], ends)) and starts == sorted(set(starts))
    if tile - overlap >= ALIGN:
        assert all(s % ALIGN == 0 for s in starts)
    total = np.zeros(n)
    for s, w in zip(starts, blend_weights(starts, tile, overlap, n)):
        assert len(w) == min(tile, n - s) and (w >= 0).all()
        total[s:s + len(w)] += w
    np.testing.assert_allclose(total, 1, atol=1e-5)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 50), st.integers(0, 49), st.integers(1, 4))
def test_an_answer_that_knows_no_tiles_comes_back(h, w, tile, overlap, bs):
    overlap = min(overlap, tile - 1)
    x, seen, order = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8), np.zeros((h, w), int), []
    out = np.full((3, h, w), np.nan, np.float32)
    def channels(tiles): return [o.transpose(2, 0, 1).astype(np.float32) for o in tiles]
    for top, left, block in blended(channels, lambda a, b: x[a:b], (h, w), tile, overlap, bs):
        sl = np.s_[top:top + block.shape[1], left:left + block.shape[2]]
        out[:, sl[0], sl[1]] = block
        seen[sl] += 1
        order.append((top, left))
    assert (seen == 1).all() and order == sorted(order)
    np.testing.assert_allclose(out, x.transpose(2, 0, 1), atol=1e-3)


def test_the_blend_is_that_of_tiler():
    tiler = pytest.importorskip('tiler', reason='tiler is not installed')
    h, w, tile, overlap = 224, 320, 128, 32
    x = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    def lopsided(t):      # depends on where a tile lies
        return t.transpose(2, 0, 1).astype(np.float32) * np.linspace(0, 1, t.shape[1], dtype=np.float32)
    ours = np.empty((3, h, w), np.float32)
    def answer(tiles): return [lopsided(t) for t in tiles]
    for y, left, block in blended(answer, lambda a, b: x[a:b], (h, w), tile, overlap):
        ours[:, y:y + block.shape[1], left:left + block.shape[2]] = block
    t = tiler.Tiler((h, w, 3), (tile, tile, 3), overlap=overlap, channel_dimension=2)
    ramp = np.sin(np.pi / 2 * np.minimum(1, (np.arange(tile) + .5) / overlap))**2
    both = ramp * ramp[::-1]
    m = tiler.Merger(t, window=np.outer(both, both)[..., None].repeat(3, 2))
    for i, part in t(x):
        m.add(i, lopsided(part).transpose(1, 2, 0))
    theirs = m.merge(unpad=True).transpose(2, 0, 1)
    corners = [[y, left] for y in tile_starts(h, tile, overlap) for left in tile_starts(w, tile, overlap)]
    assert [t.get_tile_bbox(i)[0][:2].tolist() for i in range(len(t))] == corners
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize('head', ['leaf', 'levels'])
@pytest.mark.parametrize('selector', ['simple', 'smart', 'topdown'])
def test_one_tile_is_the_untiled_answer(picture, head, selector):
    p = predictor(head, selector)
    for scale, looks in ((1, None), (.6, None), (1, Looks((1, 1.3)))):
        how = dict(probs=True, scale=scale, looks=looks)
        a, b = p.predict_tiled(picture, tile=400, **how), p.predict(picture, **how)
        assert all((x == y).all() for x, y in zip(a.levels, b.levels))
        for x, y in zip(a.probs, b.probs):
            np.testing.assert_allclose(x, y, atol=1e-6)
    small = p.predict_tiled(picture[:64, :64].copy(), tile=64, overlap=16)
    same = p.predict(picture[:64, :64].copy())      # of the training's size: predict itself
    assert all((x == y).all() for x, y in zip(small.levels, same.levels))


@pytest.mark.parametrize('head', ['leaf', 'levels'])
def test_far_from_the_edges_of_tiles_the_answer_is_the_untiled_one(picture, head):
    p, tile, overlap, reach = predictor(head), 128, 64, 24      # the network sees no farther than 24 pixels
    a = p.predict_tiled(picture, tile=tile, overlap=overlap, probs=True, bs=3)
    b = p.predict(picture, probs=True, scale=1)
    near = [np.zeros(n, bool) for n in a.shape]
    for n, edge in zip(a.shape, near):
        starts = tile_starts(n, tile, overlap)
        assert len(starts) > 2
        for s in starts:
            if s: edge[s:s + reach] = True
            if s + tile < n: edge[s + tile - reach:s + tile] = True
    far = ~near[0][:, None] & ~near[1]
    assert far.mean() > .1
    for x, y in zip(a.probs, b.probs):
        np.testing.assert_allclose(x[:, far], y[:, far], atol=1e-5)
        assert np.abs(x - y).mean() < .02
    assert (a.levels[-1] != b.levels[-1]).mean() < .02


def test_batches_change_nothing(picture):
    p = predictor()
    a, b = (p.predict_tiled(picture, tile=96, overlap=32, bs=bs, probs=True) for bs in (1, 5))
    for x, y in zip(a.probs, b.probs):
        np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize('suffix', ['png', 'tif', 'npy'])
def test_a_mask_written_by_rows_is_the_one_in_memory(picture, tmp_path, suffix):
    p, told = predictor(selector='smart'), []
    how = dict(levels=True, tile=96, overlap=32, bs=2, progress=lambda i, n: told.append((i, n)))
    areas = p.predict_to_file(picture, tmp_path / f'm.{suffix}', **how)
    want = p.predict_tiled(picture, tile=96, overlap=32, bs=2)
    assert (read_mask(tmp_path / f'm.{suffix}') == want.mask()).all() and areas == want.area()
    for l in (0, 1):
        assert (read_mask(tmp_path / f'm_level_{l + 1}.{suffix}') == want.mask(l)).all()
    assert told[-1][0] == told[-1][1] and len(list(tmp_path.iterdir())) == 3


def test_rows_of_every_kind_of_file(picture, tmp_path, monkeypatch):
    grey = picture[..., 0].copy()
    tiff = dict(raw={}, strips=dict(compression='zlib', rowsperstrip=23),
                tiles=dict(compression='zlib', predictor=True, tile=(64, 48)))
    write = {f'{n}.tif': lambda f, how=how: tifffile.imwrite(f, picture, photometric='rgb', **how)
             for n, how in tiff.items()}
    wide, alpha = picture.astype(np.uint16) << 8, np.dstack([picture, grey])
    write |= {'a.npy': lambda f: np.save(f, picture), 'a.png': lambda f: Image.fromarray(picture).save(f),
              'lzw.tif': lambda f: Image.fromarray(picture).save(f, compression='tiff_lzw'),
              'wide.tif': lambda f: tifffile.imwrite(f, wide, photometric='rgb', byteorder='>'),
              'alpha.tif': lambda f: tifffile.imwrite(f, alpha, photometric='rgb', extrasamples=['unassalpha'])}
    for name, make in write.items():
        make(tmp_path / name)
        with open_rows(tmp_path / name) as rows:
            assert rows.shape == picture.shape[:2], name
            for a, b in ((0, 297), (0, 1), (31, 200), (296, 297)):
                assert (rows(a, b) == picture[a:b]).all(), name
    tifffile.imwrite(tmp_path / 'g.tif', grey, compression='zlib')
    with open_rows(tmp_path / 'g.tif') as rows:
        assert isinstance(rows, TiffRows) and (rows(5, 9) == grey[5:9, :, None]).all()
    monkeypatch.setattr('hierseg.evaluation.tiles.LARGE', 1000)
    with open_rows(tmp_path / 'a.png') as rows:
        assert isinstance(rows, RawRows) and (rows(40, 90) == picture[40:90]).all()
        spool = rows.path
    assert not spool.exists()


def test_files_that_are_no_pictures_are_named(tmp_path):
    (tmp_path / 'x.tif').write_bytes(b'no tiff')
    np.save(tmp_path / 'f.npy', np.zeros((4, 4)))
    np.save(tmp_path / 'cut.npy', np.zeros((40, 4, 3), np.uint8))
    (tmp_path / 'cut.npy').write_bytes((tmp_path / 'cut.npy').read_bytes()[:300])
    p = predictor()
    for name in ('x.tif', 'f.npy', 'cut.npy', 'none.png'):
        with pytest.raises(DataError, match=name):
            p.predict_tiled(tmp_path / name)
    with pytest.raises(DataError, match='written as .png'):
        p.predict_to_file(np.zeros((9, 9, 3), np.uint8), tmp_path / 'm.jpg')
    with pytest.raises(DataError, match='none/m.png: cannot be written'):
        p.predict_to_file(np.zeros((9, 9, 3), np.uint8), tmp_path / 'none/m.png')


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('suffix', ['png', 'tif', 'tiff', 'npy'])
def test_written_rows_read_back(tmp_path, dtype, suffix):
    mask = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (71, 35), dtype=dtype)
    with MaskRows(tmp_path / f'm.{suffix}', mask.shape, dtype) as out:
        for a, b in ((0, 1), (1, 30), (30, 71)):
            out.write(mask[a:b])
    assert (read_mask(tmp_path / f'm.{suffix}') == mask).all()
    with pytest.raises(RuntimeError):
        with MaskRows(tmp_path / f'n.{suffix}', mask.shape, dtype) as out:
            out.write(mask[:3])
            raise RuntimeError
    assert [f.name for f in tmp_path.iterdir()] == [f'm.{suffix}']


def test_png_and_jpeg_are_streamed_by_libvips(picture, tmp_path):
    pytest.importorskip('pyvips', reason='pyvips is not installed')
    from contextlib import ExitStack
    from hierseg.evaluation.tiles import spooled, vips_bands
    from hierseg.data.files import read_image
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / 'a.png')
    Image.fromarray(np.dstack([picture, picture[..., :1]])).save(tmp_path / 'alpha.png')
    Image.fromarray(picture[..., 0]).save(tmp_path / 'grey.png')
    Image.fromarray(picture).save(tmp_path / 'turned.jpg', exif=exif, quality=98, subsampling=0)
    for name in ('a.png', 'alpha.png', 'grey.png', 'turned.jpg'):
        want = np.asarray(read_image(tmp_path / name))
        assert vips_bands(tmp_path / name)[0] == want.shape[1::-1]
        with ExitStack() as stack:
            got = spooled(tmp_path / name, stack)(0, len(want))
        assert np.abs(got.astype(int) - want).max() <= (4 if name.endswith('jpg') else 0), name
        if Path('/proc/self/maps').is_file():
            assert str(tmp_path / name) not in Path('/proc/self/maps').read_text(), 'the whole file is still mapped'
    (tmp_path / 'x.png').write_bytes(b'none')
    with pytest.raises(DataError, match='x.png'):
        vips_bands(tmp_path / 'x.png')


def test_masks_alone_are_written_without_holding_a_picture(picture, tmp_path, monkeypatch):
    p = predictor(selector='smart')
    (tmp_path / 'in').mkdir()
    tifffile.imwrite(tmp_path / 'in/a.tif', picture, photometric='rgb', compression='zlib', rowsperstrip=23)
    cut = dict(levels=True, tile=96, overlap=32, bs=2)
    write_predictions(p, tmp_path / 'in', tmp_path / 'held', overlays=True, **cut)
    def whole(*args, **kwargs): raise AssertionError('the picture was held whole')
    monkeypatch.setattr(HierPredictor, 'predict_tiled', whole)
    monkeypatch.setattr('hierseg.evaluation.tiles.read_image', whole)
    assert write_predictions(p, tmp_path / 'in', tmp_path / 'banded', overlays=False, **cut).ok
    names = {f.name for f in (tmp_path / 'banded').iterdir()}
    assert names == {'a.png', *(f'a_level_{l}.png' for l in (1, 2, 3)), 'area.csv', 'classes.json'}
    for name in sorted(names):
        a, b = ((tmp_path / d / name) for d in ('banded', 'held'))
        assert (read_mask(a) == read_mask(b)).all() if name.endswith('png') else a.read_text() == b.read_text()


def test_a_tile_that_cannot_be_decoded_is_passed_over(picture, tmp_path):
    p, said = predictor(), []
    for name in ('a.tif', 'b.tif'):
        tifffile.imwrite(tmp_path / name, picture, photometric='rgb', compression='zlib', rowsperstrip=23)
    with tifffile.TiffFile(tmp_path / 'a.tif') as t:
        start = t.pages[0].dataoffsets[9]
    data = bytearray((tmp_path / 'a.tif').read_bytes())
    data[start:start + 40] = bytes(40)
    (tmp_path / 'a.tif').write_bytes(data)
    done = write_predictions(p, tmp_path, tmp_path / 'out', overlays=False, tile=96, overlap=32, say=said.append)
    assert [f.name for f in done.done] == ['b.tif'] and 'a.tif: cannot be read as image' in said[0]
    assert {f.name for f in (tmp_path / 'out').iterdir()} == {'b.png', 'area.csv', 'classes.json'}
