"A checkpoint's config.json may hold anything: what does not fit is named with the file, in one line."
import json

import pytest
import torch

from hierseg.decoding.heads import LeafHead
from hierseg.taxonomy.tree import Taxonomy
from hierseg.training.start import start_checkpoint
from strategies import PERSON


@pytest.mark.parametrize('change,message', [
    (dict(_model_class=['Unet']), 'lacks _model_class'), (dict(encoder_name=5), 'encoder_name must be a name, got 5'),
    (dict(in_channels='3'), "in_channels must be a whole number, got '3'"), (dict(encoder_depth='x'), 'cannot be built'),
    (dict(in_channels=[3]), 'in_channels must be a whole number'), (dict(decoder_channels={'a': 1}), 'cannot be built'),
    (dict(encoder_name=None), 'encoder_name must be a name, got None'), (dict(decoder_channels=[10**8]*5), 'parameters'),
])
def test_wrong_types_in_a_checkpoint(change, message, tmp_path):
    good = dict(_model_class='Unet', encoder_name='resnet18', in_channels=3, classes=2)
    (tmp_path/'config.json').write_text(json.dumps({**good, **change}))
    torch.save({'x': torch.ones(1)}, tmp_path/'pytorch_model.bin')
    with pytest.raises(ValueError, match=message) as e: start_checkpoint(tmp_path, LeafHead(Taxonomy(PERSON)))
    assert 'config.json' in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 500
