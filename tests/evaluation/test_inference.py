"Prediction and scores at native size, against torchmetrics and against doing it by hand."
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from hierseg.data.loaders import HierDataLoaders
from hierseg.training.run import seed_everything
from hierseg.data.files import find_pairs, read_mask
from hierseg.evaluation.inference import find_images, predict_masks, predict_probs, predict_to_folder
from hierseg.evaluation.report import evaluate, report_text
from hierseg.training.learner import hier_learner
from hierseg.taxonomy.tree import Taxonomy
from strategies import street_images

TREE = {'hierarchy': {'flat': {'road': 7, 'walk': 8}, 'vehicle': {'car': 24, 'two': {'bike': 33, 'moto': 32}}, 'sky': 23}, 'ignore': 255}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Images of different sizes with void; one class, moto, never occurs."
    return street_images(tmp_path_factory.mktemp('street'))


@pytest.fixture(scope='module')
def learn(folder):
    seed_everything(0)
    dls = HierDataLoaders.from_folder(folder, Taxonomy(TREE), size=(24, 32), bs=2, valid_pct=.4, num_workers=0)
    learn = hier_learner(dls, nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 1)))
    with learn.no_bar(), learn.no_logging():
        learn.fit(3, 1e-2)
    return learn


def by_hand(learn, path):
    "Level probabilities at native size, from scratch: PIL, the model, sums over the tree, bilinear."
    image, tax = Image.open(path).convert('RGB'), learn.taxonomy
    x = torch.tensor(np.asarray(image.resize((32, 24), Image.LANCZOS)) / 255.).permute(2, 0, 1)[None]
    x = (x - torch.tensor([.485, .456, .406]).view(1, 3, 1, 1)) / torch.tensor([.229, .224, .225]).view(1, 3, 1, 1)
    with torch.no_grad():
        probs = learn.model.eval()(x.float()).softmax(1)
    levels = [torch.stack([probs[:, tax.lift[l] == k].sum(1) for k in range(tax.n_classes[l])], 1) for l in range(tax.n_levels)]
    return [F.interpolate(p, image.size[::-1], mode='bilinear', align_corners=False) for p in levels]


def test_probabilities_at_native_size(learn, folder):
    files = find_images([folder / 'images'])
    for path, (item, levels) in zip(files, predict_probs(learn, files, bs=3)):
        assert item == path
        for got, want in zip(levels, by_hand(learn, path)):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(got.sum(1), torch.ones_like(got[:, 0]))


@pytest.mark.parametrize('selector', ['simple', 'smart'])
def test_scores_agree_with_torchmetrics(learn, folder, selector):
    tax, items = learn.taxonomy, find_pairs(folder)
    conf = evaluate(learn, items, bs=2)
    for level in range(tax.n_levels):
        k, total = tax.n_classes[level], 0
        for p in items:
            probs = by_hand(learn, p.image)
            leaf = probs[-1].argmax(1)[0]
            pred = probs[level].argmax(1)[0] if selector == 'smart' else torch.tensor(tax.lift[level])[leaf]
            truth = tax.encode(read_mask(p.mask))
            truth = torch.tensor(np.where(truth < 0, -100, tax.lift[level][np.maximum(truth, 0)]))
            total = total + multiclass_confusion_matrix(pred, truth, k, ignore_index=-100)
        assert conf.confusion(level, selector).tolist() == total.tolist()
        inter, union = total.diag(), total.sum(0) + total.sum(1) - total.diag()
        want = (inter[union > 0] / union[union > 0]).mean().item()
        assert conf.miou(level, selector=selector) == pytest.approx(want, abs=1e-6)


def test_predicted_masks_are_consistent_and_read_back(learn, folder, tmp_path):
    files = find_images([folder / 'images'])
    written = predict_to_folder(learn, files, tmp_path / 'out', levels=True, overlays=False, bs=2)
    assert len(written) == len(files) * 4
    for path, (_, levels) in zip(files, predict_masks(learn, files, bs=5)):
        back = learn.taxonomy.encode(read_mask(tmp_path / 'out' / f'{path.stem}.png'))
        assert (back == levels[-1]).all() and back.shape == Image.open(path).size[::-1]
        for level in range(3):
            assert (learn.taxonomy.lift[level][back] == levels[level]).all()


def test_batch_size_changes_nothing_but_rounding(learn, folder):
    files = find_images([folder / 'images'])
    one, five = (list(predict_probs(learn, files, bs=b)) for b in (1, 5))
    for (_, a), (_, b) in zip(one, five):
        for x, y in zip(a, b):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-5)


def test_exif_orientation_is_honoured(learn, folder, tmp_path):
    image = Image.open(folder / 'images/1.png')
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / 'turned.jpg', exif=exif, quality=98, subsampling=0)
    [(_, levels)] = predict_masks(learn, [tmp_path / 'turned.jpg'])
    assert levels[-1].shape == image.size[::-1]


@pytest.mark.parametrize('method', ['pad', 'crop'])
def test_other_fittings_answer_for_the_whole_photograph(learn, folder, method):
    dls = HierDataLoaders.from_folder(folder, learn.taxonomy, size=24, method=method, bs=2, num_workers=0)
    other = hier_learner(dls, nn.Conv2d(3, 6, 1))
    with torch.no_grad():
        other.model.weight.zero_(), other.model.bias.zero_()
        other.model.weight[2, 0], other.model.weight[0, 0] = 5, -5            # red is sky, the rest is road
    image = np.zeros((30, 60, 3), np.uint8)
    image[:, 45:, 0] = 255
    [(_, levels)] = predict_masks(other, [Image.fromarray(image)])
    right = learn.taxonomy.vocab.index('sky')
    assert levels[-1].shape == (30, 60) and (levels[-1][:, 50:] == right).mean() > .95 and (levels[-1][:, :40] == right).mean() < .05


def test_report_says_how_it_was_counted(learn, folder):
    text = report_text(evaluate(learn, find_pairs(folder)).report(), learn.taxonomy)
    assert 'pooled over all pixels' in text and 'native size' in text and '5 images' in text and 'background' not in text
    assert 'moto' in text


def test_refusals_name_the_file(learn, folder, tmp_path):
    from hierseg.core import DataError
    from hierseg.data.files import Pair
    Image.new('RGB', (20, 20)).save(tmp_path / 'a.png')
    Image.fromarray(np.full((10, 20), 7, np.uint8)).save(tmp_path / 'small.png')
    with pytest.raises(DataError, match='small.png.*same size'):
        evaluate(learn, [Pair('a', tmp_path / 'a.png', tmp_path / 'small.png')])
    (tmp_path / 'b').mkdir()
    Image.new('RGB', (20, 20)).save(tmp_path / 'b/a.png')
    with pytest.raises(DataError, match='same mask'):
        find_images([tmp_path / 'a.png', tmp_path / 'b'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(DataError, match='no images'):
        find_images([tmp_path / 'empty'])
    Image.new('RGB', (20, 20)).save(tmp_path / 'a_overlay.jpg')
    with pytest.raises(DataError, match='a_overlay.*different folders'):
        predict_to_folder(learn, [tmp_path / 'a.png', tmp_path / 'a_overlay.jpg'], tmp_path / 'out')
    with pytest.raises(DataError, match='one of the images'):
        predict_to_folder(learn, [tmp_path / 'a.png'], tmp_path)
    with pytest.raises(DataError, match='is a file'):
        predict_to_folder(learn, [tmp_path / 'a.png'], tmp_path / 'small.png')


def test_the_name_of_a_level_cannot_choose_the_folder(learn, folder, tmp_path, monkeypatch):
    out = tmp_path / 'a' / 'b' / 'c'
    named = Taxonomy(learn.taxonomy, levels=['/../../../ESC', '..', 'fine'])
    monkeypatch.setattr(learn.loss_func, 'taxonomy', named)
    files = predict_to_folder(learn, [folder / 'images' / '0.png'], out, levels=True)
    assert learn.taxonomy is named and any('ESC' in f.name for f in files)
    assert len(set(files)) == 5 and all(f.parent == out and f.is_file() for f in files)
    assert sorted(p for p in tmp_path.rglob('*') if p.is_file()) == sorted(files)
