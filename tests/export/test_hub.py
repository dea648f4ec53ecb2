"Sharing an experiment: what is copied, what stays, and the hub library's own calls."
import json
from types import SimpleNamespace

import pytest
import yaml

hub = pytest.importorskip('huggingface_hub', reason="huggingface_hub is not installed: pip install 'hierseg[hub]'")

from hierseg.data.loaders import HierDataLoaders
from hierseg.evaluation.predictor import HierPredictor
from hierseg.core import ExperimentError
from hierseg.training.folder import ExperimentCallback
from hierseg.training.run import load_experiment, seed_everything
from hierseg.export.hub import SHARED, bundle, model_card, pretrained_folder, pull_from_hub, push_to_hub
from hierseg.data.files import find_pairs
from hierseg.evaluation.inference import predict_masks
from hierseg.evaluation.report import evaluate
from hierseg.training.learner import hier_learner
from hierseg.data.synthetic import make_synthetic, synthetic_sample


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    seed_everything(0)
    d = tmp_path_factory.mktemp('hub_secret_place')
    data = make_synthetic(d / 'data', n_train=8, n_valid=4, size=(32, 32), seed=0)
    dls = HierDataLoaders.from_folder(data, data / 'classes_hierarchy.yaml', size=32, bs=4, num_workers=0)
    learn = hier_learner(dls, 'unet', model_params=dict(channels_array=[8], bottleneck_channels=8, block_depth=1))
    with learn.no_bar(), learn.no_logging():
        keep = ExperimentCallback(folder=d / 'run', data=dict(path=str(data)), monitor='miou_level_1')
        learn.fit_one_cycle(1, 1e-2, cbs=keep)
    (d / 'run/scores.json').write_text(json.dumps(evaluate(learn, find_pairs(data)).report()))
    return d / 'run'


def same(a, b):
    x = synthetic_sample(1, (50, 40))[0]
    ours, theirs = HierPredictor.from_experiment(a).predict(x), HierPredictor.from_pretrained(b).predict(x)
    return all((p == q).all() for p, q in zip(ours.levels, theirs.levels))


def test_the_bundle_predicts_the_same_and_says_nothing_of_this_machine(run, tmp_path):
    out = bundle(run, tmp_path / 'b', 'me/people', 'apache-2.0', 'A note.')
    there = {f.name for f in out.iterdir()}
    assert same(run, out) and there <= {*SHARED}
    assert {'model.safetensors', 'best.safetensors', 'README.md', 'scores.json'} <= there
    for f in out.iterdir():
        assert b'hub_secret_place' not in f.read_bytes() and b'train_0' not in f.read_bytes(), f
        assert not f.read_bytes().startswith((b'\x80', b'PK')), f'{f} is a pickle or an archive'
    x = synthetic_sample(2, (40, 40))[0]
    [(_, a)], [(_, b)] = (predict_masks(load_experiment(o), [x]) for o in (run, out))
    assert all((p == q).all() for p, q in zip(a, b))
    with pytest.raises(ExperimentError, match='not empty'):
        bundle(run, out)


def test_the_card_holds_the_scores(run):
    card = model_card(run, 'me/people', 'mit', 'Not for surgery.')
    front = yaml.safe_load(card.split('---')[1])
    report = json.loads((run / 'scores.json').read_text())
    for s, r in report['selectors'].items():
        values = [v['miou'] for v in r['levels'].values()]
        assert f'| {s} | ' + ' | '.join(f'{v:.3f}' for v in values) + ' |' in card
        metrics = front['model-index'][0]['results'][0]['metrics']
        assert [m['value'] for m in metrics if f'({s})' in m['name']] == [round(v, 4) for v in values]
    assert front['license'] == 'mit' and front['library_name'] == 'hierseg'
    assert '# people' in card and 'Not for surgery.' in card
    assert "from_pretrained('me/people')" in card and 'upper_body' in card and '1 epochs' in card
    # the hub's own reader takes it
    assert hub.ModelCard(card).data.to_dict()['pipeline_tag'] == 'image-segmentation'


def test_the_card_says_what_the_training_went_on_from(run, tmp_path):
    import shutil
    assert 'HierarchicalLoss of ce' in model_card(run) and 'from the weights' not in model_card(run)
    shutil.copytree(run, tmp_path / 'r')
    cfg = yaml.safe_load((run / 'config.yaml').read_text())
    cfg['model_params'] |= {'start': {'from': str(tmp_path / 'mine/first'), 'head': 'head'}}
    cfg['loss'] = dict(__class__='FlatLoss', base_loss=dict(__class__='OhemLoss', top=.2))
    (tmp_path / 'r/config.yaml').write_text(yaml.safe_dump(cfg))
    card = model_card(tmp_path / 'r')
    assert 'FlatLoss of OhemLoss' in card and '1 epochs, from the weights of first.' in card and str(tmp_path) not in card


def test_without_scores_the_card_says_so(run, tmp_path):
    import shutil
    shutil.copytree(run, tmp_path / 'r')
    (tmp_path / 'r/scores.json').unlink()
    assert 'after the last epoch of the training' in model_card(tmp_path / 'r')
    (tmp_path / 'r/history.csv').unlink()
    assert 'It was not scored yet' in model_card(tmp_path / 'r') and 'model-index' not in model_card(tmp_path / 'r')


def test_push_makes_one_commit_with_the_librarys_calls(run, monkeypatch, tmp_path):
    calls, there = [], tmp_path / 'remote'

    class Api:
        def __init__(self, **kwargs): calls.append(('api', kwargs['token']))
        def create_repo(self, repo, private, exist_ok): calls.append(('create', repo, private, exist_ok))
        def upload_folder(self, repo_id, folder_path, commit_message, allow_patterns):
            import shutil
            shutil.copytree(folder_path, there)
            calls.append(('upload', repo_id, commit_message, set(allow_patterns) == {*SHARED}))
            return SimpleNamespace(commit_url='URL')
    monkeypatch.setattr(hub, 'HfApi', Api)
    assert push_to_hub(run, 'me/people', private=True, token='t', message='first') == 'URL'
    assert calls == [('api', 't'), ('create', 'me/people', True, True), ('upload', 'me/people', 'first', True)]
    assert same(run, there)
    asked = []
    def download(repo, **kwargs):
        asked.append((repo, kwargs['revision'], kwargs['allow_patterns']))
        return str(there)
    monkeypatch.setattr(hub, 'snapshot_download', download)
    assert pretrained_folder('me/people', revision='v1') == there and asked == [('me/people', 'v1', list(SHARED))]
    assert 'USER' not in (there / 'README.md').read_text()


def test_the_librarys_real_signatures_take_what_we_pass():
    import inspect
    api = hub.HfApi
    inspect.signature(api.__init__).bind(None, token=None, library_name='', library_version='')
    inspect.signature(api.create_repo).bind(None, 'a/b', private=True, exist_ok=True)
    inspect.signature(api.upload_folder).bind(None, repo_id='a/b', folder_path='', commit_message='', allow_patterns=[])
    given = dict(revision=None, cache_dir=None, token=None, allow_patterns=[], library_name='')
    inspect.signature(hub.snapshot_download).bind('a/b', **given)


def test_refusals(run, monkeypatch, tmp_path):
    for repo in ('no such folder', './none', '/none/here', 'a/b/c'):
        with pytest.raises(ExperimentError, match='neither a folder nor a repository'):
            HierPredictor.from_pretrained(repo)
    with pytest.raises(ExperimentError, match='USER/NAME'):
        push_to_hub(run, 'people')

    def fails(*args, **kwargs): raise OSError('no network')
    monkeypatch.setattr(hub, 'snapshot_download', fails)
    with pytest.raises(ExperimentError, match='me/people: cannot be had from the hub: no network'):
        HierPredictor.from_pretrained('me/people', cache_dir=tmp_path)


def test_a_copy_of_a_shared_experiment(run, tmp_path):
    shared = bundle(run, tmp_path / 'shared')
    copied = pull_from_hub(shared, tmp_path / 'copy')
    assert same(run, copied) and {f.name for f in copied.iterdir()} == {f.name for f in shared.iterdir()}
    with pytest.raises(ExperimentError, match='copy: is not empty'):
        pull_from_hub(shared, copied)
    with pytest.raises(ExperimentError, match='neither a folder nor a repository'):
        pull_from_hub('nothing', tmp_path / 'other')
    assert not (tmp_path / 'other').exists()
