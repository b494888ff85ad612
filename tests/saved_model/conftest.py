import pytest
from classifiers import classifier

from stable_node_tf.saved_model import save_classifier


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A model, where it was saved, and the directory of the version."""
    directory = tmp_path_factory.mktemp("exported") / "a" / "model"
    model = classifier()
    return model, directory, save_classifier(model, directory)
