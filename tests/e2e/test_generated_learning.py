"""What the demo shows: generated X-rays are learned by both inputs, in little time."""

import pytest
import torch

from toolkit.train.dataset import generated
from toolkit.train.evaluation import predict
from toolkit.train.recipes import recipe
from toolkit.train.training import Training
from toolkit.xray.labels import label_map

EPOCHS, LAYER_SIZE, BATCH = 12, 16, 16


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    dataset = generated(800, label_map("study"))
    settings = recipe(
        "default", epochs=EPOCHS, layer_size=LAYER_SIZE, batch_size=BATCH, dropout=0.1
    )
    training = Training(dataset, settings, seed=0, device=torch.device("cpu"))
    training.run(tmp_path_factory.mktemp("state") / "x.resume.pt", lambda _: None)
    return training


def held_out(training, swap_image=False, swap_edges=False):
    """Accuracy on held-out patients, with an input taken from other X-rays where asked."""
    indices = training.dataset.parts["test"]
    pixels = training.dataset.pixels[indices]
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    image, edges = training.preprocessing(pixels)
    network = training.result.eval()
    with torch.no_grad():
        logits = network(
            image[order] if swap_image else image, edges[order] if swap_edges else edges
        )
    return (logits.argmax(1) == training.dataset.labels[indices]).double().mean().item()


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_generated_xrays_are_learned_to_above_85_percent_of_held_out_patients(trained):
    assert held_out(trained) > 0.85


@pytest.mark.full
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_both_inputs_matter_on_generated_xrays(trained):
    accuracy = held_out(trained)
    assert accuracy - held_out(trained, swap_image=True) >= 0.03
    assert accuracy - held_out(trained, swap_edges=True) >= 0.03


@pytest.mark.full
@pytest.mark.alone
def test_predictions_are_those_of_the_evaluation(trained):
    indices = trained.dataset.parts["test"]
    logits = predict(trained.classifier, trained.dataset.pixels[indices])
    accuracy = (logits.argmax(1) == trained.dataset.labels[indices]).double().mean().item()
    assert accuracy == pytest.approx(held_out(trained))
