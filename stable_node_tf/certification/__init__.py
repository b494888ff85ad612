"""What is proven about whole classifiers."""
