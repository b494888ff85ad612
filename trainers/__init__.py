"""Programs that train, attack and compare the models, and feed them data."""

import os

# Read once, when TensorFlow is first imported: no start-up chatter of its C++.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
